package pooly

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Observer is told what a service does, as it happens: for traces, histograms, logs and tests. Set
// it in ServiceConfig.Observer. Each function may be nil. JoinObservers joins several into one.
//
// A function is called without a lock, in the goroutine in which the event happens. Often that is
// the goroutine of GetConn or Release. So it must not block, and must not end its goroutine. It may
// be called concurrently, and for several services. A panic is contained, and the first one is
// logged.
//
// Leased and Released slow each GetConn and Release down. LeaseSampleRate bounds that. The other
// functions add no cost to the lease of an idle connection.
type Observer struct {
	// Dialled is called when a dial has ended, also one in the background. As in PoolStats.Dials, a
	// dial of DialContext that another host's dial has beaten does not count.
	Dialled func(DialEvent)

	// Waited is called when a call has ended that found no idle connection, and waited. Calls of
	// TryLease and DialContext do not wait: Dialled tells of their dials.
	Waited func(WaitEvent)

	// Leased is called for each lease, just before its user gets it. Released is called when it
	// ends. A connection of DialContext is a lease, which lasts until its Close. Leases that Close
	// of the service cuts off are not released.
	Leased   func(LeaseEvent)
	Released func(ReleaseEvent)

	// Ejected is called when a host was ejected, and Restored when it takes traffic again. A host
	// that is ejected and restored at the same moment may be reported in the other order.
	Ejected  func(EjectEvent)
	Restored func(RestoreEvent)

	// Shed is called for each call that ServiceStats.Shed counts: it had to wait, and got
	// ErrOverloaded.
	Shed func(ShedEvent)

	// Retried is called for each retry that ServiceStats.Retries counts, before its lease.
	Retried func(RetryEvent)

	// LeaseSampleRate is the share of leases that Leased and Released are called for, in (0, 1].
	// They are called for the same leases. Default 1.
	LeaseSampleRate float64
}

// DialEvent is a dial that has ended.
type DialEvent struct {
	Service  string
	Address  string
	Context  context.Context // the dial's, without its timeout; DialContext: from the caller's
	Duration time.Duration
	Err      error // nil: it connected
	Probe    bool  // it was to find out whether an ejected host is back
}

// WaitEvent is a call that found no idle connection, from its first wait to its end.
type WaitEvent struct {
	Service  string
	Address  string          // of the host that served the call; empty if none did
	Context  context.Context // the caller's
	Duration time.Duration   // since it found nothing
	Err      error           // what the call returns; nil: a connection
}

// LeaseEvent is a lease that begins.
type LeaseEvent struct {
	Service string
	Address string
	Context context.Context // the caller's
	Wait    time.Duration   // how long the call took
	Score   float64         // the host's, as the strategy sees it
}

// ReleaseEvent is a lease that has ended.
type ReleaseEvent struct {
	Service string
	Address string
	Lasted  time.Duration
	Err     error   // what the lease ended with; nil also for an answer of the server, see Answered
	Score   float64 // how the lease rated its host; it counts only if Rated
	Rated   bool    // false also if exchanges of the lease were rated with Conn.Rate
	Closed  bool    // its connection is closed
}

// EjectEvent is an ejection.
type EjectEvent struct {
	Service string
	Address string
	Cause   error // of the dial that failed, or of the last lease that failed; nil: unknown
}

// RestoreEvent is the return of an ejected host.
type RestoreEvent struct {
	Service string
	Address string
}

// ShedEvent is a call that was turned away.
type ShedEvent struct {
	Service string
	Context context.Context // the caller's
	Waited  time.Duration
	Err     error // what the call returns
}

// RetryEvent is a request that is sent again.
type RetryEvent struct {
	Service string
	Address string          // of the host that failed the request last; empty if it is unknown
	Context context.Context // the caller's
	Err     error           // why it is sent again, see LeaseOptions.Cause; nil: unknown
}

// JoinObservers returns an Observer that calls the functions of each observer, in order. Observers
// that are nil are left out. The observers are copied.
//
// Each keeps its LeaseSampleRate. If the rates differ, Leased and Released of an observer with a
// lower rate than another see different leases. If a function panics, the observers after it miss
// the event.
func JoinObservers(observers ...*Observer) *Observer {
	joined := &Observer{}
	for _, o := range observers {
		if o.leases() {
			joined.LeaseSampleRate = max(joined.LeaseSampleRate, o.leaseRate())
		}
	}
	for _, o := range observers {
		if o == nil {
			continue
		}
		share := o.leaseRate() / joined.LeaseSampleRate
		join(&joined.Dialled, o.Dialled)
		join(&joined.Waited, o.Waited)
		join(&joined.Leased, sampled(o.Leased, share))
		join(&joined.Released, sampled(o.Released, share))
		join(&joined.Ejected, o.Ejected)
		join(&joined.Restored, o.Restored)
		join(&joined.Shed, o.Shed)
		join(&joined.Retried, o.Retried)
	}
	return joined
}

// leases reports whether o wants to know of leases.
func (o *Observer) leases() bool {
	return o != nil && (o.Leased != nil || o.Released != nil)
}

func (o *Observer) leaseRate() float64 {
	if o.LeaseSampleRate == 0 {
		return 1
	}
	return o.LeaseSampleRate
}

// join makes *all call f too.
func join[E any](all *func(E), f func(E)) {
	first := *all
	switch {
	case f == nil:
	case first == nil:
		*all = f
	default:
		*all = func(e E) {
			first(e)
			f(e)
		}
	}
}

// sampled returns a function that calls f for a share of the events.
func sampled[E any](f func(E), share float64) func(E) {
	if f == nil || !(share < 1) {
		return f
	}
	return func(e E) {
		if rand.Float64() < share {
			f(e)
		}
	}
}

// observer is a service's Observer. A Pool used alone has one without functions.
type observer struct {
	Observer // immutable
	service  string
	log      *slog.Logger
	panicked atomic.Bool
}

// notify calls f, a function of o, unless it is nil. Call it without a lock.
func notify[E any](o *observer, f func(E), event E) {
	if f != nil {
		defer contain[E](o)
		f(event)
	}
}

// contain ends the panic of a function that got an E.
func contain[E any](o *observer) {
	if v := recover(); v != nil && o.panicked.CompareAndSwap(false, true) {
		var event E
		_ = recovered(o.log, fmt.Sprintf("the Observer's function for a %T", event), v)
	}
}
