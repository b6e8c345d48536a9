package pooly

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// Pool holds the connections to one host. A Service has one for each of its hosts. A Pool can also
// be used alone, with NewPool, if there is only one host.
//
// Its methods may be called concurrently.
type Pool struct {
	*group // immutable

	// Hot fields first, see TestWhatAPairTouchesTakesFewCacheLines.
	mu      mutex        // guards the fields below; never held while calling the driver
	load    atomic.Int32 // leases, waiters in line and claims; changed under mu or queue.mu
	allowed int32        // upper bound of load; 0 while closed or ejected; see allowLocked
	quiet   bool         // a lease that ends well only needs to become idle
	ages    bool         // immutable; connections expire
	wary    bool         // immutable; PrepareConn is asked before a lease
	epoch   uint32       // counts restorations, so that older leases can be told apart
	idle    idleStack    // most recently used on top, so that surplus connections age at the bottom
	gets    uint64       // leases handed out
	owner   owner        // immutable; nil if the pool is used alone
	// written by the owner; nanoseconds, 0: never timed; here for the cache line
	latency atomic.Int64
	average atomic.Int64 // the same
	granted *waiter      // granted a connection but not woken, linked by next; see unlock
	line    line         // waiters that a dial is meant for; guarded by queue.mu too

	barred   bool // the host is ejected
	closed   bool
	doubt    doubt
	limiter  limiter
	relaxing *time.Timer   // calls relax; nil before the first limit
	outside  int32         // leases of DialContext, which the limit does not count
	conns    []*conn       // all connections: idle, leased and being closed
	open     int           // connections and dials in flight, at most MaxConns more than apart
	apart    int           // of these, connections of DialContext that MaxConns does not bound
	drained  chan struct{} // made by shut; closed when open is 0

	era   atomic.Uint32 // counts calls of Evict; changed under mu
	renew bool          // no connection was dialled since the last Evict

	gate     gate
	flights  []*dial       // dials in flight, without DialContext's
	dialing  int           // dials in flight
	stalled  int           // of these, the ones that have taken longer than FallbackDelay
	racing   int           // of these, DialContext's, which serve no waiter
	claimed  int           // of these, the ones for waiters of the queue; they count in load
	dialErr  error         // error of the last dial that ended; nil if it connected
	failedAt time.Duration // when a dial last failed; 0: never

	borrowed int           // idle connections that are taken out to be tested or pinged
	keeping  bool          // keepAlive runs
	fillAt   time.Duration // MinIdle needs no dial before this time

	dials        uint64 // dials that ended
	dialFailures uint64 // of these, the ones that failed
	cuts         uint64 // leases that Close has ended
	closings     ClosedStats
	pings        uint64 // that ended
	pingFailures uint64 // of these, the ones that failed

	waits   atomic.Uint64 // how often callers waited
	waited  atomic.Int64  // nanoseconds, of all callers together
	address string        // immutable
	ctx     context.Context
	cancel  context.CancelFunc // ends the dials in flight
}

// NewPool returns a pool of connections to address, to be used without a Service. It dials when the
// first caller needs a connection. A nil config means every default. The config is copied.
//
// It panics if config has an impossible value, with an error that names the field (see Validate).
func NewPool(address string, config *PoolConfig) *Pool {
	if config == nil {
		config = &PoolConfig{}
	}
	if err := config.Validate(); err != nil {
		panic(err)
	}
	g := newGroup(config.withDefaults(), slog.New(slog.DiscardHandler))
	g.busy.Store(true)
	g.up.Store(1)
	p := new(Pool)
	p.init(address, g, nil)
	itself := func(yield func(*Pool) bool) { yield(p) }
	startReaper(g, itself)
	g.leaks = newLeakFinder(g, slog.Default(), itself)
	return p
}

func newGroup(config PoolConfig, log *slog.Logger) *group {
	g := &group{config: config, clock: newClock(), log: log, patience: DefaultFallbackDelay}
	g.observer = &observer{}
	g.pinger, g.checker = pingerOf(config.Driver), checkerOf(config.Driver)
	g.queue = newQueue(g.clock, config.MaxWaiting)
	g.maxConns.Store(int32(config.MaxConns))
	return g
}

func (p *Pool) init(address string, g *group, o owner) {
	p.address, p.group, p.owner = address, g, o
	p.line.serve, p.line.total = p.serve, &p.load
	p.wary = g.config.Hooks.PrepareConn != nil
	p.ages = g.config.ConnIdleTimeout > 0 || g.config.MaxConnLifetime > 0
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mu.Lock()
	p.allowLocked()
	p.settleLocked()
	p.unlock()
}

// Address returns the address that the pool connects to.
func (p *Pool) Address() string {
	return p.address
}

// Get is GetContext without a context: only WaitTimeout bounds its wait.
func (p *Pool) Get() (*Conn, error) {
	return p.GetContext(context.Background())
}

// GetContext leases a connection. It takes the most recently used idle connection that is fit. If
// there is none, it takes whatever comes first: a connection that is released, or a new connection.
//
// Callers are served in the order in which they came, except in overload (see
// Service.GetConnContext).
//
// Its error is a *GetConnError. It wraps one of:
//   - ErrNoHostAvailable and the last cause: ConnRetries dials failed, and no lease came back
//     meanwhile;
//   - ErrOverloaded: MaxWaiting callers wait already;
//   - ErrOpTimeout: WaitTimeout passed;
//   - ctx.Err() and its cause;
//   - ErrPoolClosed;
//   - the error of Hooks.PrepareConn.
func (p *Pool) GetContext(ctx context.Context) (*Conn, error) {
	lease := (*Conn)(nil)
	if ctx.Err() == nil && !p.wary {
		lease = p.takeIdle()
	}
	if lease == nil {
		var err error
		if lease, err = p.wait(ctx); err != nil {
			return nil, err
		}
	}
	if _, ok := ctx.Deadline(); ok {
		lease.conn.start = p.clock.now()
	}
	p.leaks.leased(lease)
	return lease, nil
}

func (p *Pool) wait(ctx context.Context) (*Conn, error) {
	c := &call{group: p.group, ctx: ctx}
	lease, err := c.run(func(w *waiter) (*Conn, bool, error) {
		lease, waits := p.admit(w)
		return lease, waits, nil
	})
	if err == nil {
		return lease, nil
	}
	failure := &GetConnError{Pool: p.address, Reason: err}
	p.mu.Lock()
	if cause := p.dialErr; cause != nil {
		failure.Attempts = []Attempt{{p.address, cause}}
	}
	p.useLocked(&failure.Usage)
	p.mu.Unlock()
	failure.Usage.Waiting = int(p.queue.length.Load())
	return nil, failure
}

// Stats returns the pool's figures, all of one instant.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked()
}

func (p *Pool) statsLocked() PoolStats {
	inUse := p.inUseLocked()
	stats := PoolStats{
		InUse:        inUse,
		Idle:         p.idle.length,
		Dialing:      p.dialing,
		Open:         len(p.conns),
		Gets:         p.gets,
		Puts:         p.gets - p.cuts - uint64(inUse),
		Dials:        p.dials,
		Failures:     p.dialFailures,
		Closed:       p.closings,
		Pings:        p.pings,
		PingFailures: p.pingFailures,
		Waits:        p.waits.Load(),
		WaitDuration: time.Duration(p.waited.Load()),
		Leaked:       p.leakedLocked(),
	}
	if !p.closed {
		stats.MaxConns = p.most()
		stats.Limit = int(p.limiter.allowed(p.most()))
	}
	if inUse > 0 {
		stats.OldestLease = p.oldestLeaseLocked()
	}
	return stats
}

func (p *Pool) inUseLocked() int {
	p.queue.mu.Lock() // otherwise a waiter that leaves the line might be counted
	defer p.queue.mu.Unlock()
	return int(p.load.Load()-p.line.length.Load()) - p.claimed
}

// Close closes the pool. Callers that wait get ErrPoolClosed. Idle connections are closed at once,
// leased ones when they are released. Close returns when all are closed.
//
// After DefaultCloseDeadline, Close closes the connections that are still leased. Its error then
// wraps ErrOpTimeout and says how many they were. A second Close returns ErrPoolClosed.
func (p *Pool) Close() error {
	idle, first := p.shut()
	if !first {
		return named("pool", quoteAddress(p.address), ErrPoolClosed)
	}
	p.queue.close()
	p.reaper.stop()
	p.leaks.stop()
	p.destroyAll(idle, forRemoval)
	if err := closeAll([]*Pool{p}, DefaultCloseDeadline); err != nil {
		return named("pool", quoteAddress(p.address), err)
	}
	return nil
}

// useLocked adds the pool to u.
func (p *Pool) useLocked(u *Usage) {
	u.Hosts++
	if p.barred {
		u.Ejected++
	}
	u.MaxConns = p.most()
	most := int(p.limiter.allowed(u.MaxConns))
	if most < u.MaxConns && (u.Limit == 0 || most < u.Limit) {
		u.Limit = most
	}
	u.Leased += p.inUseLocked()
	u.Dialing += p.dialing
	u.OldestLease = max(u.OldestLease, p.oldestLeaseLocked())
}

// oldestLeaseLocked returns how long the lease that is out longest has lasted, by the coarse clock.
func (p *Pool) oldestLeaseLocked() (oldest time.Duration) {
	now := p.clock.now()
	for _, c := range p.conns {
		if c.lease != nil && c.since > 0 {
			oldest = max(oldest, now-time.Duration(c.since))
		}
	}
	return oldest
}
