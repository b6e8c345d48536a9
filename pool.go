package pooly

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// closeGrace is how long a pool waits for a driver's Close before it gives the connection's place away.
// It gives a Dial that does not heed its context as long.
const closeGrace = time.Second

// lifetimeJitter is the share of MaxConnLifetime by which a connection may live shorter.
const lifetimeJitter = 0.1

// Pool holds the connections to one host. A Service has one for each of its hosts; it may also be used alone,
// with NewPool, where there is only one host and nothing to choose.
//
// Its methods may be called concurrently.
//
// What a pair of Get and Release touches comes first, so that with what host puts before it, it takes two cache lines,
// one of the connection, and one of its leases. Over 10,000 hosts in random order that made 141 ns of 262, and when the
// window's newest slot came to the first of the two lines, 119 of 129.
type Pool struct {
	*poolEnv // immutable

	mu      sync.Mutex   // guards the fields below but ages and host; never held while calling the driver
	inUse   atomic.Int32 // leases out; changed under mu, read without it by strategies
	ages    bool         // immutable; connections expire, which takes the time of day at every step
	health  health
	closed  bool
	suspect bool         // a dial has stalled, and none has ended since: no more are started
	doubted bool         // something has gone wrong since a lease last ended well, so that the next one counts
	rated   bool         // the host's: it is among service.rated
	epoch   uint8        // counts restorations, so that a lease from before the last is told apart
	host    *host        // immutable; nil if the pool is used alone
	idle    idleStack    // the most recently used on top, so that the surplus ages at the bottom
	gets    uint64       // leases handed out
	granted *waiter      // who has been given a connection and not told yet, linked by next; nil whenever mu is free
	latency atomic.Int64 // the host's; nanoseconds, 0 if never timed; written under mu, read without it by strategies
	waiters waiterList   // FIFO: the callers that a dial in flight is meant for, never more than dialing
	counts  counts
	conns   []*conn       // all that are connected: idle, leased and being closed
	open    int           // connections and dials in flight, at most MaxConns
	dialing int           // dials in flight; of a pool used alone, the pauses between their tries too
	stalled int           // of these, the ones that have taken longer than FallbackDelay
	ramp    int           // dials that a healthy host may have in flight
	drained chan struct{} // made by shut; closed when open is 0

	waits   atomic.Uint64 // how often callers waited, and how long; apart from mu, for which others wait just then
	waited  atomic.Int64  // nanoseconds, by all callers together
	address string        // immutable
	ctx     context.Context
	cancel  context.CancelFunc // ends the dials in flight
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
	healthy               // as many as callers need, up to Pool.ramp
	ejected               // no traffic while another host has any, and one dial at a time
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
	p.idle.lease = &noLease
	p.ages = env.config.ConnIdleTimeout > 0 || env.config.MaxConnLifetime > 0
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
	if ctx.Err() == nil {
		if l := p.takeIdle(true); l != nil {
			return l, nil
		}
	}
	lease, cause, err := p.waitFor(ctx)
	if err != nil {
		failure := &GetConnError{Pool: p.address, Reason: err}
		if cause != nil {
			failure.Attempts = []Attempt{{p.address, cause}}
		}
		return nil, failure
	}
	return lease, nil
}

// waitFor leases a connection once there is one. Otherwise it returns why there is none, and if that is that it
// could not be dialled, the cause.
func (p *Pool) waitFor(ctx context.Context) (lease *Conn, cause, err error) {
	limit := newLimit(ctx, p.config.WaitTimeout)
	defer limit.stop()
	t := turn{env: p.poolEnv}
	defer t.done()
	defer t.end()
	for {
		if err := limit.err(); err != nil {
			return nil, nil, err
		}
		w := t.waiter()
		switch p.get(w, true) {
		case leased:
			return w.lease, nil, nil
		case gone:
			return nil, nil, ErrPoolClosed
		case waiting:
			t.stand(w)
		case busy:
			if !p.queue.push(w) {
				return nil, nil, ErrPoolClosed
			}
			t.stand(w)
			p.serve() // what came free since get looked
		}
		t.bury()
		w, err := t.await(&limit, 0, nil, p)
		switch {
		case err != nil:
			return nil, nil, err
		case w.err != nil:
			return nil, w.err, ErrNoHostAvailable
		case w.lease != nil && t.accept(w.lease):
			return w.lease, nil, nil
		}
	}
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
		Idle:         p.idle.length,
		Dialing:      p.dialing,
		Open:         len(p.conns),
		Gets:         p.gets,
		Puts:         p.gets - p.counts.cut - uint64(p.inUse.Load()),
		Dials:        p.counts.dials,
		Failures:     p.counts.failures,
		Waits:        p.waits.Load(),
		WaitDuration: time.Duration(p.waited.Load()),
	}
}

// Close closes the pool. Callers that wait get ErrPoolClosed, idle connections are closed at once, leased ones
// when they are released. It returns when all are closed; after DefaultCloseDeadline it closes those still
// leased, and returns an error that wraps ErrOpTimeout and says how many they were. A second Close returns
// ErrPoolClosed.
func (p *Pool) Close() error {
	idle, first := p.shut()
	if !first {
		return named("pool", quoteAddress(p.address), ErrPoolClosed)
	}
	p.queue.close()
	p.reaper.stop()
	p.destroyAll(idle)
	if err := closeAll([]*Pool{p}, DefaultCloseDeadline); err != nil {
		return named("pool", quoteAddress(p.address), err)
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
		p.mu.Lock()
		switch {
		case p.closed || p.health == ejected && !forced:
			p.mu.Unlock()
			return gone
		case p.idle.length > 0:
			p.mu.Unlock()
		case p.enlistLocked(w):
			w.pool, w.chosen = p, p
			p.mu.Unlock()
			return waiting
		default:
			p.mu.Unlock()
			return busy
		}
		if w.lease = p.takeIdle(forced); w.lease != nil {
			return leased
		}
	}
}

// takeIdle leases an idle connection that is fit for use; it returns nil if there is none.
func (p *Pool) takeIdle(forced bool) *Conn {
	for {
		now := p.ageNow()
		p.mu.Lock()
		if lease, more := p.takeLocked(now, forced); !more {
			return lease
		}
	}
}

// ageNow returns the time, 0 if connections do not expire.
func (p *Pool) ageNow() time.Duration {
	if p.ages {
		return p.clock.now()
	}
	return 0
}

// lockSpinning locks the pool for a caller who found it locked. Most others hold the lock for some 20 ns, and sync.Mutex
// waits for hundreds before it looks again: with epsilon-greedy over 3 hosts on two cores a pair takes 1.18 times as long
// as with a round-robin that waits at once, and 1.35 if it waits at once, too; 1.26 with 20 tries, and 200 gain no more.
// With all callers on one host it takes 199 ns instead of 237.
func (p *Pool) lockSpinning() {
	for range 60 {
		if p.mu.TryLock() {
			return
		}
	}
	p.mu.Lock()
}

// takeLocked leases the idle connection on top to a caller who has locked the pool, and unlocks it. It returns nil if there is
// none, and more if that one was unfit and is gone, but there may be others.
func (p *Pool) takeLocked(now time.Duration, forced bool) (lease *Conn, more bool) {
	if p.idle.length == 0 || p.health == ejected && !forced {
		p.mu.Unlock()
		return nil, false
	}
	c := p.idle.pop()
	expired := now > 0 && now >= p.expiry(c)
	lease = c.nextLease()
	p.lendLocked(c, lease)
	p.mu.Unlock()
	c.restock()
	if !expired && p.test(c, p.config.TestTimeout) == nil {
		return lease, false
	}
	if c := p.discard(lease); c != nil {
		go p.destroy(c) // the caller need not wait for the driver
	}
	return nil, true
}

// fit tests the connection of a lease just granted.
func (p *Pool) fit(l *Conn) bool {
	l.conn.restock()
	return p.test(l.conn, p.config.TestTimeout) == nil
}

// discard takes back a lease whose connection turned out unfit before the caller saw it. It returns the connection
// for the caller to destroy, nil if Close has done so.
func (p *Pool) discard(l *Conn) *conn {
	c := l.conn
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.revokeLocked(l) {
		return nil
	}
	return c
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
	p.unlock()
	if ours && !keep {
		go p.destroy(c) // the caller need not wait for the driver
	}
}

// putBack ends a lease that ended well. In the common case nothing but the score changes, no one waits for the connection, and
// it becomes idle.
//
// This way, and that of get and takeLocked, is apart from the general one for its speed. The compiler stores what a function
// needs after any of its calls, even those it seldom makes, and an atomic operation waits until all stores before it have left
// the processor. With few values and few calls a pair takes 45 ns, and took 65.
func (p *Pool) putBack(l *Conn, score float64) error {
	c, h := l.conn, p.host
	if c.start.Load() != 0 || p.ages {
		return p.put(l, outcome{score: score, rated: true})
	}
	if h != nil {
		h.service.touch()
	}
	if !p.mu.TryLock() {
		p.lockSpinning()
	}
	if c.lease != l || c.spent || p.closed || p.doubted || p.waiters.length > 0 || p.queue.length.Load() > 0 {
		return p.endLocked(l, outcome{score: score, rated: true}, 0)
	}
	c.lease = nil
	p.inUse.Add(-1)
	if h != nil {
		h.trialLocked(score)
	}
	p.idle.push(c)
	p.mu.Unlock()
	return nil
}

// put ends a lease, however it ended; see Conn.Release.
func (p *Pool) put(l *Conn, o outcome) error {
	var now time.Duration
	if l.conn.start.Load() != 0 || p.ages {
		now = p.clock.now()
	}
	if p.host != nil {
		p.host.service.touch()
	}
	p.mu.Lock()
	return p.endLocked(l, o, now)
}

// endLocked is put for a caller who has locked the pool, at a time that counts only if the lease is timed or the pool's
// connections expire. It unlocks it.
func (p *Pool) endLocked(l *Conn, o outcome, now time.Duration) error {
	c, h := l.conn, p.host
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
	newly := false
	if h != nil {
		h.rateLocked(c, o, now)
		if o.fatal || p.doubted {
			newly = h.judgeLocked(c, o)
		}
	}
	start := time.Duration(c.start.Load())
	sampled, lasted := c.sampled, now-start
	if start != 0 {
		c.start.Store(0)
		c.sampled = false
	}
	unfit := o.fatal || c.spent || p.closed || p.outlived(c, now)
	if !unfit {
		p.pushIdleLocked(c)
	}
	p.unlock()

	if newly {
		h.reportEjected(o.cause)
	}
	if sampled { // before the place is free, and Close may end
		h.service.metrics.leaseEnded(lasted)
	}
	if unfit {
		p.destroy(c)
	}
	return nil
}

// pushIdleLocked makes a connection idle, unless someone waits for it.
func (p *Pool) pushIdleLocked(c *conn) {
	p.idle.push(c)
	if p.waiters.length > 0 || p.queue.length.Load() > 0 {
		p.serveLocked()
		if c.lease != nil {
			return
		}
	}
	c.fresh = false
	if p.ages {
		c.idleSince = p.clock.now()
		p.reaper.expect(p.expiry(c))
	}
}

// leaseChunk is how many leases of a connection are allocated at once. With 16, which are 128 bytes, a pair takes 60.0 ns; with
// eight 63.2; with 32 no less than 58, for 128 bytes more of each connection. Each is handed out only once, as if it were
// allocated alone: reusing them would lose the detection of a second Release.
const leaseChunk = 16

// restock makes new leases once all are handed out, so that it need not be done under the lock when the next is.
func (c *conn) restock() {
	if c.used == leaseChunk {
		c.makeLeases()
	}
}

// makeLeases fills in the leases at once, so that granting one writes nothing to their cache line.
func (c *conn) makeLeases() {
	c.leases, c.used = new([leaseChunk]Conn), 0
	for i := range c.leases {
		c.leases[i].conn = c
	}
}

// nextLease returns a lease that was not handed out before. It compares with nil so that the compiler need not: it would
// do so by reading from the chunk, which takes 1.5 ns of 54 when the next atomic operation waits for that.
func (c *conn) nextLease() *Conn {
	if leases := c.leases; leases != nil && c.used < leaseChunk {
		c.used++
		return &leases[c.used-1]
	}
	c.makeLeases()
	c.used = 1
	return &c.leases[0]
}

// grantLocked makes a lease of a connection. It allocates only if restock has not done so, without the lock.
func (p *Pool) grantLocked(c *conn) *Conn {
	l := c.nextLease()
	p.lendLocked(c, l)
	return l
}

// lendLocked has a lease begin.
func (p *Pool) lendLocked(c *conn, l *Conn) {
	c.lease = l
	c.epoch = p.epoch
	c.load = p.inUse.Add(1)
	p.gets++
}

// revokeLocked undoes a grant that no caller has seen. It reports false if Close has cut the connection off.
func (p *Pool) revokeLocked(l *Conn) bool {
	c := l.conn
	c.lease = nil
	if c.cut {
		return false
	}
	p.inUse.Add(-1)
	p.gets--
	return true
}

// serve gives idle connections and room for dials to those who wait.
func (p *Pool) serve() {
	p.mu.Lock()
	p.serveLocked()
	p.unlock()
}

// unlock lets go of mu, and then tells those whom serveLocked has given a connection: to wake one takes longer than all
// that put does under the lock, for which others wait. With 64 callers for 4 connections a pair takes 930 ns instead of
// 1,050, and the 99th percentile of the waits is 75 µs instead of 89 (BenchmarkContended in bench/).
func (p *Pool) unlock() {
	w := p.granted
	if w == nil {
		p.mu.Unlock()
		return
	}
	p.granted = nil
	p.mu.Unlock()
	for w != nil {
		next := w.next
		w.next = nil
		w.ready <- w
		w = next
	}
}

// serveLocked hands idle connections to waiters, those for whom a dial is in flight first, and starts the dials
// that callers in the queue need. It must be called whenever a connection becomes idle or room comes free
// while callers wait, so that none waits while there is something for it, and be followed by unlock.
func (p *Pool) serveLocked() {
	if p.closed {
		return
	}
	queueWaits := p.health == ejected && p.host != nil && p.host.service.available.Load() > 0 // for hosts that are up
	for p.idle.length > 0 {
		w := p.waiters.front
		if w != nil {
			p.leaveLineLocked(w)
		} else if queueWaits {
			return
		} else if w = p.queue.pop(p); w == nil {
			return
		}
		w.lease = p.grantLocked(p.idle.pop())
		w.next = p.granted
		p.granted = w
	}
	if queueWaits {
		return
	}
	for p.waiters.length > p.promisingLocked() && p.mayDialLocked() { // for those whose dials have stalled
		p.startDialLocked(dialJob{tries: p.callerTries()})
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
	if p.waiters.length >= p.promisingLocked() {
		p.startDialLocked(dialJob{tries: p.callerTries()})
	}
	p.waiters.push(w)
	w.dialing = true
	return true
}

// hasRoomLocked reports whether one more caller can wait for a dial.
func (p *Pool) hasRoomLocked() bool {
	return !p.suspect && p.waiters.length < p.promisingLocked() || p.mayDialLocked()
}

// promisingLocked returns how many dials in flight may yet end soon.
func (p *Pool) promisingLocked() int {
	return p.dialing - p.stalled
}

// leaveLine takes w out of the pool's line; it reports false if w does not stand there any more.
func (p *Pool) leaveLine(w *waiter) bool {
	p.mu.Lock()
	defer p.unlock()
	if !w.dialing {
		return false
	}
	p.leaveLineLocked(w)
	p.serveLocked() // the dial that was meant for w may be meant for another
	return true
}

func (p *Pool) leaveLineLocked(w *waiter) {
	p.waiters.remove(w)
	w.dialing = false
}

// outlived reports whether a connection has passed MaxConnLifetime.
func (p *Pool) outlived(c *conn, now time.Duration) bool {
	return now >= c.expires && c.expires > 0
}

// expiry returns when an idle connection becomes too old to stay.
func (p *Pool) expiry(c *conn) time.Duration {
	at := forever
	if p.config.ConnIdleTimeout > 0 {
		at = c.idleSince + p.config.ConnIdleTimeout
	}
	if c.expires > 0 {
		at = min(at, c.expires)
	}
	return at
}
