// Package poolyprometheus gives the figures of services to Prometheus.
//
//	registry.MustRegister(
//		poolyprometheus.NewCollector(orders, users),
//		poolyprometheus.NewHostCollector(orders), // if the hosts are few
//	)
//
// They are what Service.Stats says at each scrape, so they cost GetConn nothing. Bytes of names and
// addresses that are not UTF-8 are written as \xNN.
//
// Histograms are filled by an Observer.
//
// The metrics of a service have the label service, its name:
//
//	pooly_connections{state}      gauge    connections: in_use, idle, closing, and dialing
//	pooly_connections_closed_total{reason} counter connections closed, see pooly.ClosedStats
//	pooly_hosts{state}            gauge    hosts in use: up, ejected; and draining, if there are
//	pooly_registered_hosts        gauge    hosts; with MaxHosts set, also those not in use
//	pooly_panic                   gauge    1 while hosts fail alike, so none is ejected for it
//	pooly_max_connections         gauge    connections that MaxConns allows, of all hosts together
//	pooly_lease_limit             gauge    leases that may be out at once
//	pooly_oldest_lease_seconds    gauge    how long the oldest lease has lasted so far
//	pooly_leaked_leases           gauge    leases that are out longer than LeakTimeout
//	pooly_waiting_callers         gauge    callers that wait because no host has room
//	pooly_gets_total              counter  GetConn calls that returned a connection
//	pooly_get_failures_total      counter  GetConn calls that returned an error
//	pooly_shed_calls_total        counter  calls turned away in overload
//	pooly_retries_total           counter  times Do ran a function again
//	pooly_retries_refused_total   counter  times Do did not, for want of budget
//	pooly_releases_total          counter  Release calls that ended a lease
//	pooly_dials_total             counter  dials that ended, the failed ones included
//	pooly_dial_failures_total     counter  dials that failed
//	pooly_waits_total             counter  times a caller found no idle connection and waited
//	pooly_wait_seconds_total      counter  how long callers waited, together
//
// The metrics of a host have the label address as well:
//
//	pooly_host_score              gauge    the score, in [0, 1]
//	pooly_host_ejected            gauge    1 while the host is ejected, else 0
//	pooly_host_draining           gauge    1 while the host is drained, else 0
//	pooly_host_ejections_total    counter  how often the host was ejected
//	pooly_host_next_probe_seconds gauge    how long until an ejected host is probed, else 0
//	pooly_host_latency_seconds    gauge    peak EWMA of lease times, if the strategy asks for it
//
// and, with the meaning that they have for a service:
//
//	pooly_host_connections{state}
//	pooly_host_max_connections
//	pooly_host_lease_limit
//	pooly_host_oldest_lease_seconds
//	pooly_host_leaked_leases
//	pooly_host_gets_total
//	pooly_host_releases_total
//	pooly_host_dials_total
//	pooly_host_dial_failures_total
//	pooly_host_waits_total
//	pooly_host_wait_seconds_total
//	pooly_host_connections_closed_total{reason}
package poolyprometheus

import (
	"fmt"
	"slices"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/internal/validutf8"
	"github.com/prometheus/client_golang/prometheus"
)

// collector reads services. It gives each T, a service or one of its hosts, to the families.
type collector[T any] struct {
	services []*pooly.Service
	families []family[T]
	things   func(pooly.ServiceStats) []T
	labels   func(T) []string // besides the service's name
}

// family is a metric with all values of its labels, but with only one state if it has the label
// state.
type family[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) float64
	last  string       // the value of its last label, state or reason; "": it has neither
	only  func(T) bool // nil: it is there for everything
}

// NewCollector returns a collector of the services' figures. It panics if two services have the same
// name, since their metrics would be the same.
func NewCollector(services ...*pooly.Service) prometheus.Collector {
	type stats = pooly.ServiceStats
	b := builder[stats]{prefix: "pooly_", labels: []string{"service"}}
	draining := b.state("hosts", "Hosts in use, by state.", "draining", func(s stats) float64 {
		return count(s, func(h pooly.HostStats) bool { return h.Draining })
	})
	draining.only = func(s stats) bool { return draining.value(s) > 0 }
	return &collector[stats]{
		services: distinct("NewCollector", services),
		things:   func(s stats) []stats { return []stats{s} },
		labels:   func(stats) []string { return nil },
		families: append(
			b.pool(func(s stats) pooly.PoolStats { return s.PoolStats }),
			b.state("hosts", "Hosts in use, by state.", "up", func(s stats) float64 {
				return count(s, func(h pooly.HostStats) bool { return !h.Ejected && !h.Draining })
			}),
			b.state("hosts", "Hosts in use, by state.", "ejected", func(s stats) float64 {
				return count(s, func(h pooly.HostStats) bool { return h.Ejected })
			}),
			draining,
			b.gauge("registered_hosts",
				"Hosts registered; with MaxHosts set, that may be more than are in use.",
				func(s stats) float64 { return float64(s.Registered) }),
			b.gauge("waiting_callers", "Callers that wait because no host has room.",
				func(s stats) float64 { return float64(s.Waiting) }),
			b.counter("get_failures_total", "GetConn calls that returned an error.",
				func(s stats) float64 { return float64(s.GetFailures) }),
			b.counter("shed_calls_total", "Calls turned away in overload.",
				func(s stats) float64 { return float64(s.Shed) }),
			b.counter("retries_total", "Times Do ran a function again.",
				func(s stats) float64 { return float64(s.Retries) }),
			b.counter("retries_refused_total",
				"Times Do did not run a function again for want of budget.",
				func(s stats) float64 { return float64(s.RetriesRefused) }),
			b.gauge("panic", "1 while hosts fail alike, so that none is ejected for it, else 0.",
				func(s stats) float64 { return truth(s.Panic) }),
		),
	}
}

// NewHostCollector returns a collector of the figures of each host of the services. For each address
// that is nineteen series, one more if the strategy asks for latencies, and one for each reason why
// connections were closed there. So use it if hosts are few or stay. It panics if two services have
// the same name.
func NewHostCollector(services ...*pooly.Service) prometheus.Collector {
	type stats = pooly.HostStats
	b := builder[stats]{prefix: "pooly_host_", labels: []string{"service", "address"}}
	latency := b.gauge("latency_seconds", "Peak EWMA of lease times, where the strategy asks for it.",
		func(h stats) float64 { return h.Latency.Seconds() })
	latency.only = func(h stats) bool { return h.Latency > 0 }
	score := b.gauge("score", "The host's score as the strategy sees it, in [0, 1].",
		func(h stats) float64 { return h.Score })
	score.only = func(h stats) bool { return !h.Draining }
	return &collector[stats]{
		services: distinct("NewHostCollector", services),
		things:   func(s pooly.ServiceStats) []stats { return s.Hosts },
		labels:   func(h stats) []string { return []string{validutf8.Escape(h.Address)} },
		families: append(
			b.pool(func(h stats) pooly.PoolStats { return h.PoolStats }),
			score,
			b.gauge("draining", "1 while the host is drained, else 0.",
				func(h stats) float64 { return truth(h.Draining) }),
			b.gauge("ejected", "1 while the host takes no traffic because it failed, else 0.",
				func(h stats) float64 { return truth(h.Ejected) }),
			b.gauge("next_probe_seconds",
				"How long until an ejected host is probed; 0 unless it is ejected.",
				func(h stats) float64 { return h.NextProbe.Seconds() }),
			latency,
			b.counter("ejections_total", "How often the host was ejected.",
				func(h stats) float64 { return float64(h.Ejections) }),
		),
	}
}

// builder makes families whose names begin alike and that have the same labels.
type builder[T any] struct {
	prefix string
	labels []string
}

func (b builder[T]) gauge(name, help string, value func(T) float64) family[T] {
	desc := prometheus.NewDesc(b.prefix+name, help, b.labels, nil)
	return family[T]{desc: desc, kind: prometheus.GaugeValue, value: value}
}

func (b builder[T]) counter(name, help string, value func(T) float64) family[T] {
	desc := prometheus.NewDesc(b.prefix+name, help, b.labels, nil)
	return family[T]{desc: desc, kind: prometheus.CounterValue, value: value}
}

func (b builder[T]) state(name, help, state string, value func(T) float64) family[T] {
	desc := prometheus.NewDesc(b.prefix+name, help, append(slices.Clone(b.labels), "state"), nil)
	return family[T]{desc: desc, kind: prometheus.GaugeValue, value: value, last: state}
}

// closed returns the counters of closed connections. For hosts, counters that are 0 are left out.
func (b builder[T]) closed(of func(T) pooly.PoolStats) (families []family[T]) {
	desc := prometheus.NewDesc(b.prefix+"connections_closed_total",
		"Connections that were closed, by reason.", append(slices.Clone(b.labels), "reason"), nil)
	for reason := range (pooly.ClosedStats{}).All() {
		f := family[T]{desc: desc, kind: prometheus.CounterValue, last: reason}
		f.value = func(t T) float64 {
			for name, n := range of(t).Closed.All() {
				if name == reason {
					return float64(n)
				}
			}
			return 0
		}
		if len(b.labels) > 1 {
			f.only = func(t T) bool { return f.value(t) > 0 }
		}
		families = append(families, f)
	}
	return families
}

// pool returns what a service and a host have in common.
func (b builder[T]) pool(of func(T) pooly.PoolStats) []family[T] {
	conns := func(state string, value func(pooly.PoolStats) int) family[T] {
		return b.state("connections", "Connections, by state.", state,
			func(t T) float64 { return float64(value(of(t))) })
	}
	counter := func(name, help string, value func(pooly.PoolStats) uint64) family[T] {
		return b.counter(name, help, func(t T) float64 { return float64(value(of(t))) })
	}
	type stats = pooly.PoolStats
	return append(b.closed(of),
		b.gauge("max_connections", "Connections that MaxConns allows.",
			func(t T) float64 { return float64(of(t).MaxConns) }),
		b.gauge("lease_limit", "Leases that may be out at once.",
			func(t T) float64 { return float64(of(t).Limit) }),
		b.gauge("oldest_lease_seconds", "How long the oldest lease has lasted so far.",
			func(t T) float64 { return of(t).OldestLease.Seconds() }),
		b.gauge("leaked_leases", "Leases that are out longer than LeakTimeout.",
			func(t T) float64 { return float64(of(t).Leaked) }),
		conns("in_use", func(s stats) int { return s.InUse }),
		conns("idle", func(s stats) int { return s.Idle }),
		conns("closing", func(s stats) int { return s.Open - s.InUse - s.Idle }),
		conns("dialing", func(s stats) int { return s.Dialing }),
		counter("gets_total", "Leases handed out.", func(s stats) uint64 { return s.Gets }),
		counter("releases_total", "Leases released.", func(s stats) uint64 { return s.Puts }),
		counter("dials_total", "Dials that ended, the failed ones included.",
			func(s stats) uint64 { return s.Dials }),
		counter("dial_failures_total", "Dials that failed.",
			func(s stats) uint64 { return s.Failures }),
		counter("waits_total", "Times a caller found no idle connection and waited.",
			func(s stats) uint64 { return s.Waits }),
		b.counter("wait_seconds_total", "How long callers waited, together.",
			func(t T) float64 { return of(t).WaitDuration.Seconds() }),
	)
}

func distinct(constructor string, services []*pooly.Service) []*pooly.Service {
	names := make(map[string]bool)
	for _, s := range services {
		if names[s.Name()] {
			panic(fmt.Errorf("%w: %s: two services are named %q",
				pooly.ErrInvalidArg, constructor, s.Name()))
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
				if f.only != nil && !f.only(t) {
					continue
				}
				values := labels
				if f.last != "" {
					values = append(slices.Clone(labels), f.last)
				}
				out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(t), values...)
			}
		}
	}
}

func count(s pooly.ServiceStats, is func(pooly.HostStats) bool) (n float64) {
	for _, h := range s.Hosts {
		if is(h) {
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
