package pooly

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// group is what the pools of a service share. A Pool used alone has a group of its own.
type group struct {
	config   PoolConfig    // immutable, with its defaults filled in
	fallback time.Duration // immutable; FallbackDelay, 0: never
	patience time.Duration // immutable; FallbackDelay, or its default if that is off
	clock    clock         // immutable
	queue    *queue        // immutable
	reaper   *reaper       // immutable
	log      *slog.Logger  // immutable
	leaks    *leakFinder   // immutable; nil if LeakTimeout is off
	observer *observer     // immutable; without functions if there is no Observer
	pinger   Pinger        // immutable; the driver, nil if it is none
	checker  Checker       // immutable; the driver, nil if it is none
	direct   atomic.Bool   // DialContext was called: no unused connections are kept
	limited  bool          // immutable; MaxConns was set, so it bounds DialContext too

	maxConns atomic.Int32 // MaxConns, as Resize has left it

	size atomic.Int32 // hosts in use
	up   atomic.Int32 // hosts in use that are not ejected

	// The first call after a pause calls wake, so that the service keeps time while it is used. A
	// Pool used alone is always busy.
	busy       atomic.Bool
	wake       func() (due bool)
	timing     atomic.Bool   // leases are timed
	sparse     atomic.Bool   // there are so many that one in leaseChunk is timed
	vainWaits  atomic.Uint64 // waits that ended without a lease
	vainWaited atomic.Int64  // nanoseconds, all together

	// time of the last tick, by clock; right to about 100 ms while busy; 0 for a Pool used alone
	coarse atomic.Int64
}

// most returns MaxConns as it is now.
func (g *group) most() int {
	return int(g.maxConns.Load())
}

// An owner is told how a pool's leases and dials end. All methods but drained are called with the
// pool's lock held, and may call pool methods that need it. The functions that they return, unless
// nil, are called without the lock.
type owner interface {
	// rate records the score of a lease that ended well.
	rate(score float64)

	// leaseEnded records how a lease ended. now is 0 if nobody needs the time.
	leaseEnded(c *conn, o outcome, now time.Duration) (after func())

	// dialEnded records the end of a dial. err is nil if it connected.
	dialEnded(d *dial, err error) (after func())

	// pingFailed records that a new connection did not answer a ping.
	pingFailed(c *conn, cause error) (after func())

	// drained is called, without the lock, when a closed pool has no connection left.
	drained()
}
