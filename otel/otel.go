// Package poolyotel gives the figures of services to OpenTelemetry.
//
//	registration, err := poolyotel.Register(provider.Meter("orders"), orders, users)
//	…
//	defer registration.Unregister()
//
// The instruments are observable: they read Service.Stats when the SDK collects, so they cost
// GetConn nothing. They have the shape of the semantic conventions' db.client.connection.*. Their
// names have pooly in place of db, since what is pooled need not be a database.
//
// Spans and Histograms are Observers, for ServiceConfig.Observer.
//
// Bytes of names and addresses that are not UTF-8 are written as \xNN, since exporters take UTF-8
// only.
//
// The instruments of Register have the attribute pooly.client.connection.pool.name, the name of the
// service. The columns are name, unit, kind and meaning:
//
//	pooly.client.connection.count            {connection}  up-down  connections, by state
//	pooly.client.connection.max              {connection}  up-down  connections MaxConns allows
//	pooly.client.connection.limit            {lease}       up-down  leases that may be out
//	pooly.client.connection.oldest_lease     s             gauge    age of the oldest lease
//	pooly.client.connection.leaked           {lease}       up-down  leases out for LeakTimeout
//	pooly.client.connection.pending_requests {request}     up-down  callers waiting for room
//	pooly.client.connection.dialing          {connection}  up-down  dials in flight
//	pooly.client.connection.gets             {lease}       counter  leases handed out
//	pooly.client.connection.releases         {lease}       counter  leases released
//	pooly.client.connection.get_failures     {call}        counter  GetConn calls that failed
//	pooly.client.connection.shed             {call}        counter  calls turned away in overload
//	pooly.client.connection.retries          {retry}       counter  times Do ran a function again
//	pooly.client.connection.retries_refused  {retry}       counter  retries refused by the budget
//	pooly.client.connection.dials            {dial}        counter  dials that ended, also failed
//	pooly.client.connection.dial_failures    {dial}        counter  dials that failed
//	pooly.client.connection.closed           {connection}  counter  connections closed, by reason
//	pooly.client.connection.waits            {wait}        counter  times a caller waited
//	pooly.client.connection.waited           s             counter  how long callers waited
//	pooly.client.host.count                  {host}        up-down  hosts in use, by state
//	pooly.client.host.registered             {host}        up-down  hosts, also those not in use
//	pooly.client.host.panic                  1             gauge    1 while hosts fail alike, else 0
//
// The states of connections are used and idle, in pooly.client.connection.state. The states of
// hosts are up, ejected and, if there are any, draining, in pooly.client.host.state. The reasons
// why connections are closed, in pooly.client.connection.close_reason, are the names in
// pooly.ClosedStats. With MaxHosts set, more hosts may be registered than are in use.
//
// The instruments of RegisterHosts also have the conventions' server.address and server.port. An
// address that is not exactly host:port is the server.address as a whole:
//
//	pooly.client.host.score                  1             gauge    the score, in [0, 1]
//	pooly.client.host.ejected                1             gauge    1 while it is ejected, else 0
//	pooly.client.host.draining               1             gauge    1 while it is drained, else 0
//	pooly.client.host.ejections              {ejection}    counter  how often it was ejected
//	pooly.client.host.connection.count       {connection}  up-down  connections, by state
//	pooly.client.host.connection.closed      {connection}  counter  connections closed, by reason
//	pooly.client.host.limit                  {lease}       up-down  leases that may be out
//	pooly.client.host.oldest_lease           s             gauge    age of the oldest lease
//	pooly.client.host.gets                   {lease}       counter  leases handed out
//	pooly.client.host.dials                  {dial}        counter  dials that ended, also failed
//	pooly.client.host.dial_failures          {dial}        counter  dials that failed
package poolyotel

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/internal/validutf8"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	poolName  = attribute.Key("pooly.client.connection.pool.name")
	connState = attribute.Key("pooly.client.connection.state")
	hostState = attribute.Key("pooly.client.host.state")
	reason    = attribute.Key("pooly.client.connection.close_reason")

	serverAddress = attribute.Key("server.address")
	serverPort    = attribute.Key("server.port")
)

// instruments makes instruments, and remembers them and the first errors.
type instruments struct {
	meter metric.Meter
	all   []metric.Observable
	err   error
}

func (i *instruments) counter(name, unit, description string) metric.Int64Observable {
	c, err := i.meter.Int64ObservableCounter(name,
		metric.WithUnit(unit), metric.WithDescription(description))
	i.all, i.err = append(i.all, c), errors.Join(i.err, err)
	return c
}

func (i *instruments) seconds(name, description string) metric.Float64Observable {
	c, err := i.meter.Float64ObservableCounter(name,
		metric.WithUnit("s"), metric.WithDescription(description))
	i.all, i.err = append(i.all, c), errors.Join(i.err, err)
	return c
}

func (i *instruments) upDown(name, unit, description string) metric.Int64Observable {
	c, err := i.meter.Int64ObservableUpDownCounter(name,
		metric.WithUnit(unit), metric.WithDescription(description))
	i.all, i.err = append(i.all, c), errors.Join(i.err, err)
	return c
}

func (i *instruments) gauge(name, unit, description string) metric.Float64Observable {
	c, err := i.meter.Float64ObservableGauge(name,
		metric.WithUnit(unit), metric.WithDescription(description))
	i.all, i.err = append(i.all, c), errors.Join(i.err, err)
	return c
}

// Register reports the services' figures to a meter, until the registration is unregistered. Two
// services of the same name cannot be told apart.
func Register(meter metric.Meter, services ...*pooly.Service) (metric.Registration, error) {
	services = slices.Clone(services)
	i := &instruments{meter: meter}
	conns := i.upDown("pooly.client.connection.count", "{connection}", "Connections, by state.")
	most := i.upDown("pooly.client.connection.max", "{connection}",
		"Connections that MaxConns allows, of all hosts together.")
	limit := i.upDown("pooly.client.connection.limit", "{lease}", "Leases that may be out at once.")
	oldest := i.gauge("pooly.client.connection.oldest_lease", "s",
		"How long the oldest lease has lasted so far.")
	leaked := i.upDown("pooly.client.connection.leaked", "{lease}",
		"Leases that are out longer than LeakTimeout.")
	pending := i.upDown("pooly.client.connection.pending_requests", "{request}",
		"Callers that wait because no host has room.")
	dialing := i.upDown("pooly.client.connection.dialing", "{connection}", "Dials in flight.")
	gets := i.counter("pooly.client.connection.gets", "{lease}", "Leases handed out.")
	releases := i.counter("pooly.client.connection.releases", "{lease}", "Leases released.")
	getFailures := i.counter("pooly.client.connection.get_failures", "{call}",
		"GetConn calls that returned an error.")
	shed := i.counter("pooly.client.connection.shed", "{call}", "Calls turned away in overload.")
	retries := i.counter("pooly.client.connection.retries", "{retry}",
		"Times Do ran a function again.")
	refused := i.counter("pooly.client.connection.retries_refused", "{retry}",
		"Times Do did not run a function again for want of budget.")
	dials := i.counter("pooly.client.connection.dials", "{dial}",
		"Dials that ended, the failed ones included.")
	dialFailures := i.counter("pooly.client.connection.dial_failures", "{dial}",
		"Dials that failed.")
	closed := i.counter("pooly.client.connection.closed", "{connection}",
		"Connections that were closed, by reason.")
	waits := i.counter("pooly.client.connection.waits", "{wait}",
		"Times a caller found no idle connection and waited.")
	waited := i.seconds("pooly.client.connection.waited", "How long callers waited, together.")
	hosts := i.upDown("pooly.client.host.count", "{host}", "Hosts in use, by state.")
	registered := i.upDown("pooly.client.host.registered", "{host}",
		"Hosts registered; with MaxHosts set, that may be more than are in use.")
	panics := i.gauge("pooly.client.host.panic", "1",
		"1 while hosts fail alike, so that none is ejected for it, else 0.")
	if i.err != nil {
		return nil, i.err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range services {
			stats, name := s.Stats(), nameOf(s)
			service := metric.WithAttributes(name)
			ejected, draining := int64(0), int64(0)
			for _, h := range stats.Hosts {
				ejected += truth(h.Ejected)
				draining += truth(h.Draining)
			}
			state := func(s attribute.KeyValue) metric.MeasurementOption {
				return metric.WithAttributes(name, s)
			}
			o.ObserveInt64(conns, int64(stats.InUse), state(connState.String("used")))
			o.ObserveInt64(conns, int64(stats.Idle), state(connState.String("idle")))
			o.ObserveInt64(most, int64(stats.MaxConns), service)
			o.ObserveInt64(limit, int64(stats.Limit), service)
			o.ObserveFloat64(oldest, stats.OldestLease.Seconds(), service)
			o.ObserveInt64(leaked, int64(stats.Leaked), service)
			o.ObserveInt64(shed, int64(stats.Shed), service)
			o.ObserveInt64(retries, int64(stats.Retries), service)
			o.ObserveInt64(refused, int64(stats.RetriesRefused), service)
			o.ObserveFloat64(panics, float64(truth(stats.Panic)), service)
			o.ObserveInt64(pending, int64(stats.Waiting), service)
			o.ObserveInt64(dialing, int64(stats.Dialing), service)
			o.ObserveInt64(gets, int64(stats.Gets), service)
			o.ObserveInt64(releases, int64(stats.Puts), service)
			o.ObserveInt64(getFailures, int64(stats.GetFailures), service)
			o.ObserveInt64(dials, int64(stats.Dials), service)
			o.ObserveInt64(dialFailures, int64(stats.Failures), service)
			for why, n := range stats.Closed.All() {
				o.ObserveInt64(closed, int64(n), state(reason.String(why)))
			}
			o.ObserveInt64(waits, int64(stats.Waits), service)
			o.ObserveFloat64(waited, stats.WaitDuration.Seconds(), service)
			up := int64(len(stats.Hosts)) - ejected - draining
			o.ObserveInt64(hosts, up, state(hostState.String("up")))
			o.ObserveInt64(hosts, ejected, state(hostState.String("ejected")))
			if draining > 0 {
				o.ObserveInt64(hosts, draining, state(hostState.String("draining")))
			}
			o.ObserveInt64(registered, int64(stats.Registered), service)
		}
		return nil
	}, i.all...)
}

// RegisterHosts reports the figures of each host of the services. That is eleven series for each
// address, and one for each reason why connections were closed there. So use it if hosts are few or
// stay. SDKs drop what goes beyond their limit, by default 2,000 attribute sets per instrument.
func RegisterHosts(meter metric.Meter, services ...*pooly.Service) (metric.Registration, error) {
	services = slices.Clone(services)
	i := &instruments{meter: meter}
	score := i.gauge("pooly.client.host.score", "1",
		"The host's score as the strategy sees it, in [0, 1].")
	ejected := i.gauge("pooly.client.host.ejected", "1",
		"1 while the host takes no traffic because it failed, else 0.")
	draining := i.gauge("pooly.client.host.draining", "1", "1 while the host is drained, else 0.")
	ejections := i.counter("pooly.client.host.ejections", "{ejection}",
		"How often the host was ejected.")
	conns := i.upDown("pooly.client.host.connection.count", "{connection}",
		"Connections of the host, by state.")
	closed := i.counter("pooly.client.host.connection.closed", "{connection}",
		"Connections that were closed, by reason.")
	limit := i.upDown("pooly.client.host.limit", "{lease}", "Leases that may be out at once.")
	oldest := i.gauge("pooly.client.host.oldest_lease", "s",
		"How long the oldest lease has lasted so far.")
	gets := i.counter("pooly.client.host.gets", "{lease}", "Leases handed out.")
	dials := i.counter("pooly.client.host.dials", "{dial}",
		"Dials that ended, the failed ones included.")
	dialFailures := i.counter("pooly.client.host.dial_failures", "{dial}", "Dials that failed.")
	if i.err != nil {
		return nil, i.err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range services {
			for _, h := range s.Stats().Hosts {
				attributes := append(server(h.Address), nameOf(s))
				host := metric.WithAttributes(attributes...)
				with := func(more attribute.KeyValue) metric.MeasurementOption {
					return metric.WithAttributes(append(slices.Clone(attributes), more)...)
				}
				if !h.Draining {
					o.ObserveFloat64(score, h.Score, host)
				}
				for why, n := range h.Closed.All() {
					if n > 0 {
						o.ObserveInt64(closed, int64(n), with(reason.String(why)))
					}
				}
				o.ObserveFloat64(draining, float64(truth(h.Draining)), host)
				o.ObserveFloat64(ejected, float64(truth(h.Ejected)), host)
				o.ObserveInt64(ejections, int64(h.Ejections), host)
				o.ObserveInt64(conns, int64(h.InUse), with(connState.String("used")))
				o.ObserveInt64(conns, int64(h.Idle), with(connState.String("idle")))
				o.ObserveInt64(limit, int64(h.Limit), host)
				o.ObserveFloat64(oldest, h.OldestLease.Seconds(), host)
				o.ObserveInt64(gets, int64(h.Gets), host)
				o.ObserveInt64(dials, int64(h.Dials), host)
				o.ObserveInt64(dialFailures, int64(h.Failures), host)
			}
		}
		return nil
	}, i.all...)
}

func nameOf(s *pooly.Service) attribute.KeyValue {
	return poolName.String(validutf8.Escape(s.Name()))
}

// server returns the attributes of an address: its host and port if it is exactly host:port, else
// all of it as the address. Otherwise a:80, a:080 and [a]:80 would have the same attributes.
func server(address string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err == nil && net.JoinHostPort(host, strconv.FormatUint(n, 10)) == address {
			return []attribute.KeyValue{
				serverAddress.String(validutf8.Escape(host)), serverPort.Int(int(n)),
			}
		}
	}
	return []attribute.KeyValue{serverAddress.String(validutf8.Escape(address))}
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
