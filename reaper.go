package pooly

import (
	"iter"
	"sync/atomic"
	"time"
)

// reaper looks after the idle connections of all pools of a service. It closes connections that are
// too old, tests and pings connections that were idle for some time (see keepalive.go), and dials
// new connections to keep MinIdle (see minidle.go). It has one timer, which is set for whatever is
// due next.
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

// A sweep looks at every pool, so sweeps keep a distance: 1/64 of the shortest age or of KeepAlive,
// at most sweepGap. An idle connection is closed at most that much later than it expires. It is never
// handed out after it has expired.
const sweepGap = 100 * time.Millisecond

// startReaper gives a group its reaper.
func startReaper(g *group, pools iter.Seq[*Pool]) {
	r := &reaper{group: g, pools: pools, gap: sweepGap}
	for _, age := range [...]time.Duration{
		g.config.ConnIdleTimeout, g.config.MaxConnLifetime, g.config.KeepAlive,
	} {
		if age > 0 {
			r.gap = min(r.gap, age/64)
		}
	}
	r.next.Store(int64(forever))
	g.reaper = r
	if g.config.MinIdle > 0 {
		r.expect(g.clock.now())
	}
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
	next := forever
	for p := range r.pools {
		next = min(next, p.reap(now))
	}
	if r.group.config.MinIdle > 0 {
		next = min(next, later(now, fillLook))
	}
	if next < forever {
		r.expect(next)
	}
	if test {
		go r.test()
	}
}

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

func (r *reaper) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// reap closes idle connections that have expired. It keeps the others alive, and dials new ones to
// keep MinIdle. It returns when the pool needs the next sweep.
func (p *Pool) reap(now time.Duration) (next time.Duration) {
	var old, unused []*conn
	p.mu.Lock()
	next = forever
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
	next = min(next, p.keepLocked(now), p.fillLocked(now))
	p.settleLocked()
	p.unlock()
	p.destroyAll(old, forLifetime)
	p.destroyAll(unused, forIdle)
	return next
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
