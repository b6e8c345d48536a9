package pooly

import (
	"iter"
	"sync/atomic"
	"time"
)

// reaper closes idle connections that are too old, and tests those that were idle for some time, in
// all pools of a service. It has one timer, which is set for the next expiry or test.
type reaper struct {
	group *group
	pools iter.Seq[*Pool]
	gap   time.Duration // immutable; between two sweeps, see sweepGap

	next atomic.Int64 // when the timer fires, by group.clock; forever if it is not set

	mu      mutex // guards the fields below and writes to next; nothing is locked under it
	timer   *time.Timer
	swept   time.Duration // when the last sweep began
	testDue bool          // the next sweep also tests idle connections
	stopped bool

	testing atomic.Bool // a test is scheduled
}

// A sweep looks at every pool, so sweeps keep a distance: 1/64 of the shortest age, at most
// sweepGap. An idle connection is closed at most that much later than it expires. It is never
// handed out after it has expired.
const sweepGap = 100 * time.Millisecond

func newReaper(g *group, pools iter.Seq[*Pool]) *reaper {
	r := &reaper{group: g, pools: pools, gap: sweepGap}
	for _, age := range [...]time.Duration{g.config.ConnIdleTimeout, g.config.MaxConnLifetime} {
		if age > 0 {
			r.gap = min(r.gap, age/64)
		}
	}
	r.next.Store(int64(forever))
	return r
}

// expect schedules a sweep soon after the given time.
func (r *reaper) expect(expiry time.Duration) {
	if int64(expiry) >= r.next.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || int64(expiry) >= r.next.Load() {
		return
	}
	if r.swept > 0 {
		expiry = max(expiry, r.swept+r.gap)
	}
	r.next.Store(int64(expiry))
	delay := expiry - r.group.clock.now()
	if r.timer == nil {
		r.timer = time.AfterFunc(delay, r.sweep)
	} else {
		r.timer.Reset(delay)
	}
}

func (r *reaper) sweep() {
	now := r.group.clock.now()
	r.mu.Lock()
	r.swept = now
	r.next.Store(int64(forever))
	test := r.testDue
	r.testDue = false
	r.mu.Unlock()
	for p := range r.pools {
		p.reap(now)
	}
	if test {
		go r.test()
	}
}

// testPeriod is how often idle connections are tested while leases flow. testMost is how many are
// tested at a time.
const (
	testPeriod = time.Second
	testMost   = 256
)

// leased schedules a test of idle connections. It is called now and then while connections are
// leased.
func (r *reaper) leased() {
	if r.testing.Load() || r.testing.Swap(true) {
		return
	}
	r.mu.Lock()
	r.testDue = true
	r.mu.Unlock()
	r.expect(later(r.group.clock.now(), testPeriod))
}

// test tests connections that have been idle for some time. Without it, connections that the server
// has closed would stay half closed at the bottom of their stacks while fewer connections are in
// use.
func (r *reaper) test() {
	r.testing.Store(false)
	left := testMost
	for p := range r.pools {
		left -= p.testIdle(left)
		if left <= 0 {
			return
		}
	}
}

// testIdle tests up to most connections that have been idle for a while, except the one on top. It
// returns how many it has tested.
func (p *Pool) testIdle(most int) (tested int) {
	timeout := p.config.TestTimeout
	if timeout == 0 {
		timeout = forever // in a goroutine of its own, so that a test that ends it does not lose the rest
	}
	for ; tested < most; tested++ {
		c := p.borrowIdle()
		if c == nil {
			break
		}
		p.returnIdle(c, p.test(c, timeout) == nil)
	}
	return tested
}

// borrowIdle takes out a connection to test, one that has neither been used nor tested lately. It
// returns nil if there is none.
func (p *Pool) borrowIdle() (borrowed *conn) {
	p.mu.Lock()
	defer p.unlock()
	top, now := p.idle.top, p.clock.now()
	p.idle.filter(func(c *conn) bool {
		recent := now-time.Duration(max(c.since, c.tested)) < testPeriod/2
		if c == top || recent || borrowed != nil {
			return true
		}
		c.tested = int64(now)
		borrowed = c
		return false
	})
	return borrowed
}

// returnIdle puts a connection back that was tested, below all others, or closes it.
func (p *Pool) returnIdle(c *conn, fit bool) {
	p.mu.Lock()
	why := p.unfitLocked(c, 0)
	if !fit {
		why = forUnfit
	}
	if why == 0 {
		p.idle.pushBottom(c)
	}
	p.settleLocked()
	p.unlock()
	if why != 0 {
		p.destroy(c, why)
	}
}

func (r *reaper) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// reap closes idle connections that have expired, and schedules a sweep for the others.
func (p *Pool) reap(now time.Duration) {
	var old, unused []*conn
	p.mu.Lock()
	next := forever
	p.idle.filter(func(c *conn) bool {
		at := p.expiry(c)
		switch {
		case c.outlived(now):
			old = append(old, c)
			return false
		case at <= now:
			unused = append(unused, c)
			return false
		}
		next = min(next, at)
		return true
	})
	p.settleLocked()
	p.unlock()
	if next < forever {
		p.reaper.expect(next)
	}
	p.destroyAll(old, forLifetime)
	p.destroyAll(unused, forIdle)
}

// outlived reports whether a connection has passed MaxConnLifetime.
func (c *conn) outlived(now time.Duration) bool {
	return c.expires > 0 && now >= c.expires
}

// unfitness returns why a connection that was idle, and is expired or fails its test, is closed.
func (c *conn) unfitness(now time.Duration) reason {
	switch {
	case now == 0 || now < c.pool.expiry(c):
		return forUnfit
	case c.outlived(now):
		return forLifetime
	}
	return forIdle
}

// expiry returns when an idle connection expires.
func (p *Pool) expiry(c *conn) time.Duration {
	at := forever
	if p.config.ConnIdleTimeout > 0 {
		at = later(c.idleSince, p.config.ConnIdleTimeout)
	}
	if c.expires > 0 {
		at = min(at, c.expires)
	}
	return at
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
