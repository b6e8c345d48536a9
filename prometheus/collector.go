// Package poolyprometheus gives the figures of services to Prometheus.
//
//	registry.MustRegister(
//		poolyprometheus.NewCollector(orders, users),
//		poolyprometheus.NewHostCollector(orders), // if the hosts are few
//	)
//
// They are what Service.Stats says at each scrape, so they cost GetConn nothing. The metrics of a service have the label
// service, its name:
//
//	pooly_connections{state}     gauge    connections that are in_use, idle or closing, and those that are dialing
//	pooly_hosts{state}           gauge    hosts in use that are up or ejected
//	pooly_registered_hosts       gauge    hosts registered; with MaxHosts set, that may be more than are in use
//	pooly_waiting_callers        gauge    callers that wait because no host has room
//	pooly_gets_total             counter  GetConn calls that returned a connection
//	pooly_get_failures_total     counter  GetConn calls that returned an error
//	pooly_releases_total         counter  Release calls that ended a lease
//	pooly_dials_total            counter  dials that ended, the failed ones included
//	pooly_dial_failures_total    counter  dials that failed
//	pooly_waits_total            counter  times a caller found no idle connection and waited
//	pooly_wait_seconds_total     counter  how long callers waited, together
//
// Those of a host have the label address as well:
//
//	pooly_host_score             gauge    the score, in [0, 1]
//	pooly_host_ejected           gauge    1 while the host is ejected, else 0
//	pooly_host_ejections_total   counter  how often it was ejected
//	pooly_host_next_probe_seconds gauge   how long until an ejected host is probed; 0 unless it is ejected
//	pooly_host_latency_seconds   gauge    peak EWMA of lease times, where the strategy asks for it
//	pooly_host_connections{state}, pooly_host_gets_total, pooly_host_releases_total, pooly_host_dials_total,
//	pooly_host_dial_failures_total, pooly_host_waits_total, pooly_host_wait_seconds_total: as above
package poolyprometheus

import (
	"fmt"
	"slices"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/internal/validutf8"
	"github.com/prometheus/client_golang/prometheus"
)

// A family is a metric with all its labels' values.
type family[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) float64
	state string // the value of the label state, if there is one
	only  func(T) bool
}

// collector reads services, and gives each thing found there, the service or its hosts, to the families.
type collector[T any] struct {
	services []*pooly.Service
	families []family[T]
	things   func(pooly.ServiceStats) []T
	labels   func(T) []string // besides the service's name
}

// NewCollector returns a collector of the services' figures, eleven metrics for each. It panics if two services have the
// same name, since their metrics would be the same.
func NewCollector(services ...*pooly.Service) prometheus.Collector {
	c := &collector[pooly.ServiceStats]{
		services: distinct("NewCollector", services),
		things:   func(s pooly.ServiceStats) []pooly.ServiceStats { return []pooly.ServiceStats{s} },
		labels:   func(pooly.ServiceStats) []string { return nil },
	}
	pool := poolFamilies("pooly_", []string{"service"}, func(s pooly.ServiceStats) pooly.PoolStats { return s.PoolStats })
	hosts := describe("pooly_hosts", "Hosts in use, by state.", "service", "state")
	c.families = append(pool,
		family[pooly.ServiceStats]{desc: hosts, kind: prometheus.GaugeValue, state: "up",
			value: func(s pooly.ServiceStats) float64 { return float64(len(s.Hosts) - ejected(s)) }},
		family[pooly.ServiceStats]{desc: hosts, kind: prometheus.GaugeValue, state: "ejected",
			value: func(s pooly.ServiceStats) float64 { return float64(ejected(s)) }},
		family[pooly.ServiceStats]{
			desc: describe("pooly_registered_hosts", "Hosts registered; with MaxHosts set, that may be more than are in use.", "service"),
			kind: prometheus.GaugeValue, value: func(s pooly.ServiceStats) float64 { return float64(s.Registered) }},
		family[pooly.ServiceStats]{
			desc: describe("pooly_waiting_callers", "Callers that wait because no host has room.", "service"), kind: prometheus.GaugeValue,
			value: func(s pooly.ServiceStats) float64 { return float64(s.Waiting) }},
		family[pooly.ServiceStats]{
			desc: describe("pooly_get_failures_total", "GetConn calls that returned an error.", "service"), kind: prometheus.CounterValue,
			value: func(s pooly.ServiceStats) float64 { return float64(s.GetFailures) }},
	)
	return c
}

// NewHostCollector returns a collector of the figures of each host of the services: fifteen series for each address,
// so it is for hosts that are few or stay. It panics if two services have the same name.
func NewHostCollector(services ...*pooly.Service) prometheus.Collector {
	labels := []string{"service", "address"}
	c := &collector[pooly.HostStats]{
		services: distinct("NewHostCollector", services),
		things:   func(s pooly.ServiceStats) []pooly.HostStats { return s.Hosts },
		labels:   func(h pooly.HostStats) []string { return []string{validutf8.Escape(h.Address)} },
	}
	gauge := func(name, help string, value func(pooly.HostStats) float64) family[pooly.HostStats] {
		return family[pooly.HostStats]{desc: describe(name, help, labels...), kind: prometheus.GaugeValue, value: value}
	}
	latency := gauge("pooly_host_latency_seconds", "Peak EWMA of lease times, where the strategy asks for it.",
		func(h pooly.HostStats) float64 { return h.Latency.Seconds() })
	latency.only = func(h pooly.HostStats) bool { return h.Latency > 0 }
	c.families = append(
		poolFamilies("pooly_host_", labels, func(h pooly.HostStats) pooly.PoolStats { return h.PoolStats }),
		gauge("pooly_host_score", "The host's score as the strategy sees it, in [0, 1].",
			func(h pooly.HostStats) float64 { return h.Score }),
		gauge("pooly_host_ejected", "1 while the host takes no traffic because it failed, else 0.",
			func(h pooly.HostStats) float64 { return truth(h.Ejected) }),
		gauge("pooly_host_next_probe_seconds", "How long until an ejected host is probed; 0 unless it is ejected.",
			func(h pooly.HostStats) float64 { return h.NextProbe.Seconds() }),
		latency,
		family[pooly.HostStats]{
			desc: describe("pooly_host_ejections_total", "How often the host was ejected.", labels...), kind: prometheus.CounterValue,
			value: func(h pooly.HostStats) float64 { return float64(h.Ejections) }},
	)
	return c
}

// poolFamilies are what a service and a host have in common.
func poolFamilies[T any](prefix string, labels []string, of func(T) pooly.PoolStats) []family[T] {
	connections := describe(prefix+"connections", "Connections, by state.", append(slices.Clone(labels), "state")...)
	state := func(name string, value func(pooly.PoolStats) int) family[T] {
		return family[T]{desc: connections, kind: prometheus.GaugeValue, state: name,
			value: func(t T) float64 { return float64(value(of(t))) }}
	}
	counter := func(name, help string, value func(pooly.PoolStats) float64) family[T] {
		return family[T]{desc: describe(prefix+name, help, labels...), kind: prometheus.CounterValue,
			value: func(t T) float64 { return value(of(t)) }}
	}
	return []family[T]{
		state("in_use", func(p pooly.PoolStats) int { return p.InUse }),
		state("idle", func(p pooly.PoolStats) int { return p.Idle }),
		state("closing", func(p pooly.PoolStats) int { return p.Open - p.InUse - p.Idle }),
		state("dialing", func(p pooly.PoolStats) int { return p.Dialing }),
		counter("gets_total", "Leases handed out.", func(p pooly.PoolStats) float64 { return float64(p.Gets) }),
		counter("releases_total", "Leases released.", func(p pooly.PoolStats) float64 { return float64(p.Puts) }),
		counter("dials_total", "Dials that ended, the failed ones included.", func(p pooly.PoolStats) float64 { return float64(p.Dials) }),
		counter("dial_failures_total", "Dials that failed.", func(p pooly.PoolStats) float64 { return float64(p.Failures) }),
		counter("waits_total", "Times a caller found no idle connection and waited.", func(p pooly.PoolStats) float64 { return float64(p.Waits) }),
		counter("wait_seconds_total", "How long callers waited, together.", func(p pooly.PoolStats) float64 { return p.WaitDuration.Seconds() }),
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func distinct(constructor string, services []*pooly.Service) []*pooly.Service {
	names := make(map[string]bool)
	for _, s := range services {
		if names[s.Name()] {
			panic(fmt.Errorf("%w: %s: two services are named %q", pooly.ErrInvalidArg, constructor, s.Name()))
		}
		names[s.Name()] = true
	}
	return slices.Clone(services)
}

// Describe implements prometheus.Collector.
func (c *collector[T]) Describe(out chan<- *prometheus.Desc) {
	for _, f := range c.families {
		out <- f.desc // more than once for those with states, which is allowed
	}
}

// Collect implements prometheus.Collector. It costs one Stats of each service.
func (c *collector[T]) Collect(out chan<- prometheus.Metric) {
	for _, s := range c.services {
		name := validutf8.Escape(s.Name())
		for _, t := range c.things(s.Stats()) {
			labels := append([]string{name}, c.labels(t)...)
			for _, f := range c.families {
				switch {
				case f.only != nil && !f.only(t):
				case f.state != "":
					out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(t), append(slices.Clone(labels), f.state)...)
				default:
					out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(t), labels...)
				}
			}
		}
	}
}

func ejected(s pooly.ServiceStats) (n int) {
	for _, h := range s.Hosts {
		if h.Ejected {
			n++
		}
	}
	return n
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
