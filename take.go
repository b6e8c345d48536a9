package pooly

import (
	"fmt"
	"time"
)

// How leases begin and end.

// takeIdle leases an idle connection that is fit. It returns nil if there is none.
func (p *Pool) takeIdle() *Conn {
	for {
		now := p.ageNow()
		p.mu.Lock()
		if lease, other := p.take(now); other != again {
			return lease
		}
	}
}

// admit leases an idle connection, or has w wait in the pool's line for a dial. It does neither if
// the pool has nothing.
func (p *Pool) admit(w *waiter) (lease *Conn, waits bool) {
	for {
		now := p.ageNow()
		p.mu.Lock()
		if p.idle.top != nil {
			lease, other := p.take(now)
			if other == again {
				continue
			}
			return lease, false
		}
		waits = p.canServeLocked()
		if waits {
			if p.spareLocked() <= p.claimed {
				p.startDialLocked(&dial{values: w.values})
			}
			p.queue.mu.Lock()
			p.line.insert(p.line.back, w, nil)
			p.queue.mu.Unlock()
			p.settleLocked()
		}
		p.unlock()
		return nil, waits
	}
}

// ageNow returns the time, or 0 if connections do not expire.
func (p *Pool) ageNow() time.Duration {
	if p.ages {
		return p.clock.now()
	}
	return 0
}

// lockSlow locks a pool whose lock was taken. It spins before it blocks: the lock is held for much
// less time than a blocked Mutex sleeps.
func (p *Pool) lockSlow() {
	for range 60 {
		if p.mu.TryLock() {
			return
		}
	}
	p.mu.Lock()
}

// next says what a pool without a fit idle connection can do for the call.
type next int

const (
	room  next = iota // a dial may start, or a dial in flight has no waiter yet
	again             // the connection was unfit; there may be others
	full              // nothing
)

// take pops and leases the newest idle connection. It requires p.mu and releases it. now is used
// only if connections expire.
func (p *Pool) take(now time.Duration) (lease *Conn, other next) {
	if p.idle.top == nil || p.load.Load() >= p.allowed {
		if !p.canServeLocked() {
			other = full
		}
		p.mu.Unlock()
		return nil, other
	}
	c := p.idle.pop()
	expired := now > 0 && now >= p.expiry(c)
	lease = c.nextLease()
	p.lendLocked(c, lease)
	p.mu.Unlock()
	c.restock()
	c.fresh = false // it is tested now
	if !expired && p.test(c, lease) == nil {
		return lease, room
	}
	p.takeBack(lease, c.unfitness(now))
	return nil, again
}

// takeBack undoes a lease that its caller has not seen. If why is 0, the next caller gets the
// connection.
func (p *Pool) takeBack(l *Conn, why reason) {
	if c, why := p.undo(l, why); c != nil {
		p.destroy(c, why)
	}
}

// undo is takeBack, but leaves it to the caller to destroy the connection that it returns.
func (p *Pool) undo(l *Conn, why reason) (*conn, reason) {
	c := l.conn
	p.mu.Lock()
	defer p.unlock()
	if w := c.watch; w != nil && c.lease == &w.stand && w.lease == l {
		c.lease, w.lease = l, nil // its caller has waited for longer than LeakTimeout
	}
	if c.lease != l {
		return nil, 0
	}
	c.lease = nil
	if c.cut {
		return nil, 0 // Close has destroyed it
	}
	p.load.Add(-1)
	p.gets--
	if why == 0 {
		why = p.unfitLocked(c, 0)
	}
	if why == 0 {
		c.fresh = false // it may die while it is idle
		p.pushIdleLocked(c)
		c = nil
	}
	p.settleLocked()
	return c, why
}

// putBack ends a lease that ended well.
func (p *Pool) putBack(l *Conn, score float64) error {
	c := l.conn
	if !p.busy.Load() {
		p.wake()
	}
	if !p.mu.TryLock() {
		p.lockSlow()
	}
	if c.lease != l || c.spent != 0 || !p.quiet || p.queue.length.Load() > 0 {
		return p.endLease(l, outcome{score: score, rated: true})
	}
	if c.start != 0 {
		if c.measured(p) {
			return p.endLease(l, outcome{score: score, rated: true})
		}
		c.start = 0
	}
	// Fast path: few values and few calls. The next lock waits for whatever the compiler spills
	// here; see bench/NOTES.md.
	c.lease = nil
	p.load.Add(-1)
	if p.owner != nil {
		p.owner.rate(score)
	}
	p.idle.push(c)
	p.mu.Unlock()
	return nil
}

// measured reports whether the duration of a lease that ended well is wanted. Strategies that go by
// latency and the Observer want all. Otherwise a sample is enough for the limiter.
func (c *conn) measured(p *Pool) bool {
	return c.sampled || c.used == 1 || p.timing.Load() && !p.sparse.Load()
}

// put ends a lease with any outcome; see Conn.Release.
func (p *Pool) put(l *Conn, o outcome) error {
	if !p.busy.Load() {
		p.wake()
	}
	p.mu.Lock()
	return p.endLease(l, o)
}

// endLease finishes a release. It requires p.mu and releases it.
func (p *Pool) endLease(l *Conn, o outcome) error {
	c := l.conn
	logBack := p.unwatchLocked(l)
	if p.config.Hooks.AfterRelease != nil {
		l = p.afterReleaseLocked(l, o)
		if back := p.unwatchLocked(l); back != nil { // the hook has taken longer than LeakTimeout
			logBack = back
		}
	}
	if c.lease != l {
		p.unlock()
		return fmt.Errorf("%w: to %s", ErrConnReleased, quoteAddress(p.address))
	}
	if c.cut {
		c.lease = nil
		p.unlock()
		return fmt.Errorf("pooly: connection to %s closed under its lease: %w",
			quoteAddress(p.address), ErrPoolClosed)
	}
	var now, lasted time.Duration
	if c.start != 0 || p.ages {
		now = p.clock.now()
	}
	if c.start != 0 {
		lasted = max(1, now-c.start)
	}
	sampled := c.sampled
	p.judgeTimeLocked(c, &o, lasted, now)
	var after func()
	if p.owner != nil {
		after = p.owner.leaseEnded(c, o, now)
	} else if o.well() {
		p.doubt = doubt{}
	}
	c.lease, c.start, c.sampled = nil, 0, false
	p.load.Add(-1)
	if c.outside {
		p.outside--
		p.allowLocked()
	}
	if o.fatal && c.share != nil && p.excusesLocked(o) {
		o.fatal = false
	}
	if o.fatal && !c.outside {
		c.spent = forFailure
	}
	why := p.unfitLocked(c, now)
	if why == 0 {
		p.pushIdleLocked(c)
	}
	p.settleLocked()
	p.unlock()

	if logBack != nil {
		logBack()
	}
	if after != nil {
		after()
	}
	if sampled { // before the place becomes free, since Close may return then
		notify(p.observer, p.observer.Released, ReleaseEvent{
			Service: p.observer.service,
			Address: p.address,
			Lasted:  lasted,
			Err:     o.cause,
			Score:   o.score,
			Rated:   o.rated,
			Closed:  why != 0,
		})
	}
	if why == 0 {
		return nil
	}
	if !c.outside {
		p.destroy(c, why)
		return nil
	}
	freed := make(chan struct{})
	p.destroyFor(c, why, freed)
	<-freed // the client has called Close, and expects that it is closed
	return nil
}

// unfitLocked returns why a connection must not become idle, 0 if it may. now is 0 if connections
// do not expire.
func (p *Pool) unfitLocked(c *conn, now time.Duration) reason {
	switch {
	case c.spent != 0:
		return c.spent
	case p.closed:
		return forRemoval
	case p.barred:
		return forEjection
	case c.outlived(now):
		return forLifetime
	case p.surplusLocked(1) > 0:
		return forSurplus
	}
	return 0
}

// judgeTimeLocked has the limiter learn from a lease, or from one exchange of it. lasted is 0 if it
// was not timed. If a deadline left the host less time than its leases usually take, that says
// nothing about the host: o is then neither rated nor a failure.
func (p *Pool) judgeTimeLocked(c *conn, o *outcome, lasted, now time.Duration) {
	if c.outside {
		return
	}
	was := p.limiter.limit
	switch {
	case o.timeout:
		if lasted > 0 && p.limiter.hurried(lasted, now) {
			o.rated, o.failure = false, false
			break
		}
		p.limiter.cut(min(p.load.Load()-p.outside, int32(p.most())), p.clock.now())
	case o.well():
		if lasted > 0 {
			p.limiter.observe(lasted, now)
			p.queue.shortest.observe(lasted, now)
		}
		p.limiter.grow(p.load.Load()-p.outside, p.most(), p.clock)
	}
	if p.limiter.limit != was {
		p.allowLocked()
	}
	switch {
	case was > 0 || p.limiter.limit == 0 || p.closed:
	case p.relaxing == nil:
		p.relaxing = time.AfterFunc(limiterCalm, p.relax)
	default:
		p.relaxing.Reset(limiterCalm)
	}
}

// excusesLocked reports whether a shared client survives an outcome that is fatal: a timeout, while
// the host serves others over the same client.
func (p *Pool) excusesLocked(o outcome) bool {
	return o.timeout && p.limiter.endAt > 0 && p.clock.now()-p.limiter.endAt < usualMemory
}

// relax raises or lifts a limit from which too few leases tell.
func (p *Pool) relax() {
	p.mu.Lock()
	defer p.unlock()
	if p.closed || p.limiter.limit == 0 {
		return
	}
	p.limiter.relax(p.clock.now(), p.most())
	p.allowLocked()
	p.settleLocked()
	if p.limiter.limit > 0 {
		p.relaxing.Reset(limiterCalm)
	}
}

// allowLocked computes how many leases may be out.
func (p *Pool) allowLocked() {
	p.allowed = 0
	if !p.closed && !p.barred {
		p.allowed = p.limiter.allowed(p.most()) + p.outside
	}
}

// pushIdleLocked makes a connection idle.
func (p *Pool) pushIdleLocked(c *conn) {
	p.idle.push(c)
	if p.ages {
		c.idleSince = p.clock.now()
		p.reaper.expect(p.expiry(c))
	}
}

// lendLocked starts a lease.
func (p *Pool) lendLocked(c *conn, l *Conn) {
	c.lease = l
	c.epoch = p.epoch
	c.since = p.coarse.Load()
	c.load = p.load.Add(1)
	p.gets++
}

// restock makes new handles once all are handed out, so that the next lease need not do it under
// the lock.
func (c *conn) restock() {
	if c.used == leaseChunk {
		c.makeLeases()
	}
}

func (c *conn) makeLeases() {
	c.leases, c.used = new([leaseChunk]Conn), 0
	for i := range c.leases {
		c.leases[i].conn = c
	}
	c.pool.reaper.leased()
}

// nextLease returns a handle that was not handed out before. The explicit nil check spares an
// implicit one, which would read from the chunk.
func (c *conn) nextLease() *Conn {
	if leases := c.leases; leases != nil && c.used < leaseChunk {
		c.used++
		return &leases[c.used-1]
	}
	c.makeLeases()
	c.used = 1
	return &c.leases[0]
}
