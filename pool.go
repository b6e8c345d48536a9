package pooly

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// The defaults of PoolConfig.
const (
	DefaultMaxConns    = 30
	DefaultConnRetries = 3
	DefaultRetryDelay  = 10 * time.Millisecond
)

// closeGrace is how long a pool waits for a driver's Close before it gives the connection's place away.
const closeGrace = time.Second

// PoolConfig configures the pool of one host. The zero value of each field stands for its default.
type PoolConfig struct {
	// Driver connects, closes and judges connections. Default: NewNetDriver("tcp").
	Driver Driver

	// ConnIdleTimeout closes connections that have been idle for this long. Default 0: never.
	ConnIdleTimeout time.Duration

	// MaxConnLifetime closes connections this long after they were dialled, once they are not leased.
	// Default 0: never.
	MaxConnLifetime time.Duration

	// WaitTimeout bounds the time that one GetConn may wait, for a connection to come free, to be dialled, or
	// for the next round. Default 0: as long as its context lets it.
	WaitTimeout time.Duration

	// MaxConns is the most connections that a host may have at any time: those leased, idle, being dialled and
	// being closed. Default 30.
	MaxConns int

	// ConnRetries is how many times one address is dialled, RetryDelay apart, where there is no other host to go
	// to: in the background, and by a Pool used alone. Default 3.
	ConnRetries int

	// RetryDelay is the time between two dials of the same address, and between two rounds of GetConn.
	// Default 10 ms.
	RetryDelay time.Duration
}

// Validate reports the first impossible value with an error that wraps ErrInvalidArg and names the field. It is
// for those who read a configuration from outside, since NewPool panics with the same error.
func (c *PoolConfig) Validate() error {
	for _, field := range []struct {
		name  string
		value time.Duration
	}{
		{"ConnIdleTimeout", c.ConnIdleTimeout},
		{"MaxConnLifetime", c.MaxConnLifetime},
		{"WaitTimeout", c.WaitTimeout},
		{"MaxConns", time.Duration(c.MaxConns)},
		{"ConnRetries", time.Duration(c.ConnRetries)},
		{"RetryDelay", c.RetryDelay},
	} {
		if field.value < 0 {
			return negative(field.name, field.value)
		}
	}
	return nil
}

func (c PoolConfig) withDefaults() PoolConfig {
	if c.Driver == nil {
		c.Driver = NewNetDriver("tcp")
	}
	setDefault(&c.MaxConns, DefaultMaxConns)
	setDefault(&c.ConnRetries, DefaultConnRetries)
	setDefault(&c.RetryDelay, DefaultRetryDelay)
	return c
}

// Pool holds the connections to one host. A Service has one for each of its hosts; it may also be used alone,
// with NewPool, where there is only one host and nothing to choose.
//
// Its methods may be called concurrently.
type Pool struct {
	*poolEnv        // immutable
	address  string // immutable
	host     *host  // immutable; nil if the pool is used alone
	ctx      context.Context
	cancel   context.CancelFunc // ends the dials in flight

	inUse atomic.Int32 // leases out; changed under mu, read without it by strategies

	mu      sync.Mutex // guards the fields below; never held while calling the driver
	health  health
	closed  bool
	idle    []*conn    // stack: the most recently used on top, so that the surplus ages at the bottom
	conns   []*conn    // all that are connected: idle, leased and being closed
	open    int        // connections and dials in flight, at most MaxConns
	dialing int        // dials in flight, their pauses between retries included
	waiters waiterList // FIFO: the callers that a dial in flight is meant for, never more than dialing
	counts  counts
	waited  time.Duration // by all callers together
	drained chan struct{} // made by shut; closed when open is 0
}

// poolEnv is what all pools of a service share.
type poolEnv struct {
	config PoolConfig // with its defaults filled in
	clock  clock
	queue  *waitQueue
	reaper *reaper
	log    *slog.Logger
}

// health says what is known of a host from its last dial, and how many dials it may have in flight.
type health uint8

const (
	untried health = iota // no dial has ended yet: one at a time
	healthy               // the last dial connected: as many as callers need
	ejected               // the last dial failed: no traffic while another host has any, and one dial at a time
)

// NewPool returns a pool of connections to address, to be used without a Service. A nil config means every
// default; config is copied. It panics if config has an impossible value (see Validate). It dials when the
// first caller needs a connection.
func NewPool(address string, config *PoolConfig) *Pool {
	if config == nil {
		config = &PoolConfig{}
	}
	if err := config.Validate(); err != nil {
		panic(err)
	}
	env := &poolEnv{
		config: config.withDefaults(),
		clock:  newClock(),
		queue:  new(waitQueue),
		log:    slog.New(slog.DiscardHandler),
	}
	p := new(Pool)
	p.init(address, env, nil)
	env.reaper = newReaper(env, func(yield func(*Pool) bool) { yield(p) })
	return p
}

func (p *Pool) init(address string, env *poolEnv, h *host) {
	p.address, p.poolEnv, p.host = address, env, h
	p.ctx, p.cancel = context.WithCancel(context.Background())
}

// Address returns the address that the pool connects to.
func (p *Pool) Address() string {
	return p.address
}

// Get is GetContext without a context: only WaitTimeout bounds its wait.
func (p *Pool) Get() (*Conn, error) {
	return p.GetContext(context.Background())
}

// GetContext leases a connection: the most recently used idle one that is still fit, or else whichever comes
// first of one that is released and one that is dialled. Callers are served in the order in which they came.
//
// It fails with an error of type *GetConnError: when ConnRetries dials failed, and then it wraps the last cause
// and ErrNoHostAvailable; when ctx ended or WaitTimeout passed (ErrOpTimeout); or when the pool is closed
// (ErrPoolClosed).
func (p *Pool) GetContext(ctx context.Context) (*Conn, error) {
	lease := new(Conn)
	if ctx.Err() == nil && p.takeIdle(lease, true) {
		return lease, nil
	}
	limit := newLimit(ctx, p.config.WaitTimeout)
	defer limit.stop()
	for {
		if err := limit.err(); err != nil {
			return nil, &GetConnError{Reason: err}
		}
		w := newWaiter(lease)
		switch p.get(w, true) {
		case leased:
			return lease, nil
		case gone:
			return nil, &GetConnError{Reason: ErrPoolClosed}
		case busy:
			if !p.queue.push(w) {
				return nil, &GetConnError{Reason: ErrPoolClosed}
			}
			p.serve() // what came free since get looked
		}
		r, err := p.await(w, limit)
		switch {
		case err != nil:
			return nil, &GetConnError{Reason: err}
		case r.err != nil:
			return nil, &GetConnError{Reason: ErrNoHostAvailable, Attempts: []Attempt{{p.address, r.err}}}
		case r.pool != nil && p.usable(lease):
			return lease, nil
		}
	}
}

// countWait adds to the time that callers spent waiting.
func (p *Pool) countWait(d time.Duration) {
	p.mu.Lock()
	p.waited += d
	p.mu.Unlock()
}

// Stats returns the pool's figures, all of one instant.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statsLocked()
}

func (p *Pool) statsLocked() PoolStats {
	return PoolStats{
		InUse:        int(p.inUse.Load()),
		Idle:         len(p.idle),
		Dialing:      p.dialing,
		Open:         len(p.conns),
		Gets:         p.counts.gets,
		Puts:         p.counts.puts,
		Dials:        p.counts.dials,
		Failures:     p.counts.failures,
		Waits:        p.counts.waits,
		WaitDuration: p.waited,
	}
}

// Close closes the pool. Callers that wait get ErrPoolClosed, idle connections are closed at once, leased ones
// when they are released. It returns when all are closed; after DefaultCloseDeadline it closes those still
// leased, and returns an error that wraps ErrOpTimeout and says how many they were. A second Close returns
// ErrPoolClosed.
func (p *Pool) Close() error {
	idle, first := p.shut()
	if !first {
		return fmt.Errorf("pooly: pool %s: %w", quoteAddress(p.address), ErrPoolClosed)
	}
	p.queue.close()
	p.reaper.stop()
	p.destroyAll(idle)
	if err := closeAll([]*Pool{p}, DefaultCloseDeadline); err != nil {
		return fmt.Errorf("pooly: pool %s: %w", quoteAddress(p.address), err)
	}
	return nil
}

// The ways in which get may end.
type got int

const (
	leased  got = iota // an idle connection is the caller's
	waiting            // the caller stands in the pool's line, where a dial is meant for it
	busy               // every connection is in use, and no dial may start
	gone               // the pool is closed, or its host ejected and not forced
)

// get leases an idle connection to w, or has it wait for a dial. A dial starts only if more callers wait than
// dials are in flight. An ejected host is asked only if forced.
func (p *Pool) get(w *waiter, forced bool) got {
	for {
		if p.takeIdle(w.lease, forced) {
			return leased
		}
		p.mu.Lock()
		switch {
		case p.closed || p.health == ejected && !forced:
			p.mu.Unlock()
			return gone
		case len(p.idle) > 0: // put back since takeIdle looked
			p.mu.Unlock()
		case p.enlistLocked(w):
			w.pool = p
			p.mu.Unlock()
			return waiting
		default:
			p.mu.Unlock()
			return busy
		}
	}
}

// takeIdle leases an idle connection that is fit for use to l; it reports false if there is none.
func (p *Pool) takeIdle(l *Conn, forced bool) bool {
	var now time.Duration
	if p.ages() {
		now = p.clock.now()
	}
	for {
		p.mu.Lock()
		if len(p.idle) == 0 || p.health == ejected && !forced {
			p.mu.Unlock()
			return false
		}
		c := p.popIdleLocked()
		expired := now >= p.expiry(c)
		p.grantLocked(c, l)
		p.mu.Unlock()
		if expired {
			p.discard(l)
		} else if p.usable(l) {
			return true
		}
	}
}

// usable tests the connection of a lease just granted, and discards it if it fails.
func (p *Pool) usable(l *Conn) bool {
	c := l.conn
	if c.fresh {
		c.fresh = false
		return true
	}
	if err := p.testOnBorrow(c); err != nil {
		p.discard(l)
		return false
	}
	return true
}

// discard takes back a lease whose connection turned out unfit before the caller saw it. The connection is
// closed in the background, so that the caller need not wait for the driver.
func (p *Pool) discard(l *Conn) {
	c := l.conn
	p.mu.Lock()
	ours := p.revokeLocked(l)
	p.mu.Unlock()
	if ours {
		go p.destroy(c)
	}
}

// unget takes back a lease that came too late for its caller. Its connection goes to the next one.
func (p *Pool) unget(l *Conn) {
	c := l.conn
	p.mu.Lock()
	ours := p.revokeLocked(l)
	keep := ours && !p.closed
	if keep {
		p.pushIdleLocked(c)
	}
	p.mu.Unlock()
	if ours && !keep {
		p.destroy(c)
	}
}

// put ends a lease; see Conn.Release.
func (p *Pool) put(l *Conn, o outcome) error {
	var now time.Duration
	if l.start != 0 || p.ages() {
		now = p.clock.now()
	}
	h := p.host
	if h != nil {
		h.service.touch()
	}
	c := l.conn
	p.mu.Lock()
	if c.lease != l {
		p.mu.Unlock()
		return fmt.Errorf("%w: to %s", ErrConnReleased, quoteAddress(p.address))
	}
	c.lease = nil
	if c.cut {
		p.mu.Unlock()
		return fmt.Errorf("pooly: connection to %s closed under its lease: %w", quoteAddress(p.address), ErrPoolClosed)
	}
	p.inUse.Add(-1)
	p.counts.puts++
	if h != nil {
		h.rateLocked(l, o, now)
	}
	unfit := o.fatal || p.closed || p.outlived(c, now)
	if !unfit {
		p.pushIdleLocked(c)
	}
	p.mu.Unlock()

	if unfit {
		p.destroy(c)
	}
	if l.sampled {
		h.service.metrics.leaseEnded(now - l.start)
	}
	return nil
}

// pushIdleLocked makes a connection idle, unless someone waits for it.
func (p *Pool) pushIdleLocked(c *conn) {
	p.idle = append(p.idle, c)
	if p.waiters.length > 0 || p.queue.length.Load() > 0 {
		p.serveLocked()
		if c.lease != nil {
			return
		}
	}
	c.fresh = false
	if p.ages() {
		c.idleSince = p.clock.now()
		p.reaper.expect(p.expiry(c))
	}
}

func (p *Pool) popIdleLocked() *conn {
	top := len(p.idle) - 1
	c := p.idle[top]
	p.idle[top] = nil
	p.idle = p.idle[:top]
	return c
}

func (p *Pool) grantLocked(c *conn, l *Conn) {
	l.conn, c.lease = c, l
	l.load = p.inUse.Add(1)
	p.counts.gets++
}

// revokeLocked undoes a grant that no caller has seen. It reports false if Close has cut the connection off.
func (p *Pool) revokeLocked(l *Conn) bool {
	c := l.conn
	l.conn, c.lease = nil, nil
	if c.cut {
		return false
	}
	p.inUse.Add(-1)
	p.counts.gets--
	return true
}

// serve gives idle connections and room for dials to those who wait.
func (p *Pool) serve() {
	p.mu.Lock()
	p.serveLocked()
	p.mu.Unlock()
}

// serveLocked hands idle connections to waiters, those for whom a dial is in flight first, and starts the dials
// that callers in the queue need. It must be called whenever a connection becomes idle or room comes free
// while callers wait, so that none waits while there is something for it.
func (p *Pool) serveLocked() {
	if p.closed {
		return
	}
	for len(p.idle) > 0 {
		w := p.waiters.front
		if w != nil {
			p.leaveLineLocked(w)
		} else if w = p.queue.pop(p); w == nil {
			return
		} else {
			p.counts.waits++
		}
		p.grantLocked(p.popIdleLocked(), w.lease)
		w.ready <- result{pool: p}
	}
	if p.health == ejected && p.host != nil && p.host.service.available.Load() > 0 {
		return // the queue waits for hosts that are up
	}
	for p.hasRoomLocked() {
		w := p.queue.pop(p)
		if w == nil {
			return
		}
		p.enlistLocked(w)
	}
}

// enlistLocked puts w in line for a dial, and starts that dial unless one in flight is meant for no one yet.
// It reports false if there is no room for it.
func (p *Pool) enlistLocked(w *waiter) bool {
	if !p.hasRoomLocked() {
		return false
	}
	if p.waiters.length == p.dialing {
		p.startDialLocked(dialJob{tries: p.callerTries()})
	}
	p.waiters.push(w)
	w.dialing = true
	p.counts.waits++
	return true
}

// hasRoomLocked reports whether one more caller can wait for a dial.
func (p *Pool) hasRoomLocked() bool {
	return p.waiters.length < p.dialing || p.mayDialLocked()
}

// leaveLine takes w out of the pool's line; it reports false if w does not stand there any more.
func (p *Pool) leaveLine(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !w.dialing {
		return false
	}
	p.leaveLineLocked(w)
	return true
}

func (p *Pool) leaveLineLocked(w *waiter) {
	p.waiters.remove(w)
	w.dialing = false
}

// ages reports whether connections expire, which takes the time of day at every step.
func (p *Pool) ages() bool {
	return p.config.ConnIdleTimeout > 0 || p.config.MaxConnLifetime > 0
}

// outlived reports whether a connection has passed MaxConnLifetime.
func (p *Pool) outlived(c *conn, now time.Duration) bool {
	return p.config.MaxConnLifetime > 0 && now >= c.born+p.config.MaxConnLifetime
}

// expiry returns when an idle connection becomes too old to stay.
func (p *Pool) expiry(c *conn) time.Duration {
	at := forever
	if p.config.ConnIdleTimeout > 0 {
		at = c.idleSince + p.config.ConnIdleTimeout
	}
	if p.config.MaxConnLifetime > 0 {
		at = min(at, c.born+p.config.MaxConnLifetime)
	}
	return at
}
