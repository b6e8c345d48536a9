package pooly

import (
	"iter"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"
	"weak"
)

// leakFinder finds leases that are out longer than LeakTimeout. One timer looks at all connections
// while leases are out. A sample of leases leaves its stack, so that the log can tell whose it is.
type leakFinder struct {
	group *group
	log   *slog.Logger
	pools iter.Seq[*Pool]
	stackSampler

	armed atomic.Bool // a sweep is scheduled
	found atomic.Bool // a lease was out too long, so all leases leave their stack

	mu      mutex // guards the fields below; nothing is locked under it
	timer   *time.Timer
	stopped bool
}

const (
	// reportMost is how many leases a sweep logs one by one.
	reportMost = 10

	leastLeakGap = 10 * time.Millisecond
	mostLeakGap  = time.Minute
)

// newLeakFinder returns nil if LeakTimeout is 0.
func newLeakFinder(g *group, log *slog.Logger, pools iter.Seq[*Pool]) *leakFinder {
	if g.config.LeakTimeout == 0 {
		return nil
	}
	return &leakFinder{group: g, log: log, pools: pools}
}

// leased is called in the caller's goroutine, when a lease begins.
func (f *leakFinder) leased(l *Conn) {
	if f == nil || l == nil {
		return
	}
	if !f.armed.Load() {
		f.arm()
	}
	if f.found.Load() || f.draw() {
		l.leaveStack(f.group.clock)
	}
}

func (l *Conn) leaveStack(c clock) {
	began := c.now()
	var s stack
	s.depth = runtime.Callers(3, s.frames[:])
	p := l.conn.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.conn.lease != l || l.conn.cut {
		return // Close was faster
	}
	w := l.conn.watchLocked(l)
	w.stack = s
	w.began = c.now()
	w.cost = w.began - began
}

// unwatchLocked ends the watch over a lease that is about to end. The caller must call after, unless
// nil, without the lock.
func (p *Pool) unwatchLocked(l *Conn) (after func()) {
	c, w := l.conn, l.conn.watch
	if w == nil || c.lease != &w.stand || !w.isOf(l) {
		return nil
	}
	c.lease = l
	w.lease, w.weak = nil, weak.Pointer[Conn]{}
	w.lost.Stop()
	lasted := p.clock.now() - w.began
	if w.stack.depth > 0 {
		p.leaks.learn(w.cost, lasted)
	}
	if !w.logged {
		return nil
	}
	return func() {
		p.leaks.log.Warn("pooly: lease came back that was out longer than LeakTimeout",
			"address", p.address, "lasted", lasted.Round(time.Millisecond))
	}
}

// arm schedules a sweep.
func (f *leakFinder) arm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || f.armed.Load() {
		return
	}
	f.armed.Store(true)
	gap := min(max(f.group.config.LeakTimeout/4, leastLeakGap), mostLeakGap)
	if f.timer == nil {
		f.timer = time.AfterFunc(gap, f.sweep)
	} else {
		f.timer.Reset(gap)
	}
}

func (f *leakFinder) sweep() {
	f.armed.Store(false) // so that a lease that begins after its pool was looked at arms it again
	leased, reports, unlogged := false, reportMost, 0
	for p := range f.pools {
		out, found := p.findLeaks(reports)
		leased = leased || out
		reports -= len(found.logged)
		unlogged += found.more
		for _, report := range found.logged {
			f.log.Warn("pooly: lease is out longer than LeakTimeout",
				"address", p.address, "for", report.lasted.Round(time.Millisecond),
				"stack", report.stack.text())
		}
	}
	if unlogged > 0 {
		f.log.Warn("pooly: more leases are out longer than LeakTimeout", "leases", unlogged)
	}
	if leased {
		f.arm()
	}
}

func (f *leakFinder) stop() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	if f.timer != nil {
		f.timer.Stop()
	}
}

// overdue are the leases that a sweep found in a pool.
type overdue struct {
	logged []leak // those to log
	more   int    // the number of others
}

type leak struct {
	lasted time.Duration
	stack  stack
}

// findLeaks reports leases that are out longer than LeakTimeout, each once. It returns at most most
// to log. out says that a lease is out.
func (p *Pool) findLeaks(most int) (out bool, found overdue) {
	now := p.clock.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if c.lease == nil || c.cut || c.outside {
			continue
		}
		out = true
		w := c.overdueLocked(now, p.config.LeakTimeout)
		if w == nil {
			continue
		}
		p.leaks.found.Store(true)
		w.reported = true
		if len(found.logged) == most {
			found.more++
		} else {
			w.logged = true
			found.logged = append(found.logged, leak{now - w.began, w.stack})
		}
		if w.stack.depth > 0 {
			c.weakenLocked()
		}
	}
	return out, found
}

// overdueLocked returns the watch over the connection's lease if it has been out for the time limit
// and was not reported. A lease that left no stack is taken for as old as the first sweep that saw
// it.
func (c *conn) overdueLocked(now, limit time.Duration) *watch {
	if c.watch == nil {
		c.watch = &watch{stand: Conn{conn: c}}
	}
	w := c.watch
	switch {
	case c.lease == &w.stand:
		if w.reported || now-w.began < limit {
			return nil
		}
		return w
	case w.seen != c.lease:
		w.seen, w.seenAt = c.lease, now
		return nil
	case now-w.seenAt < limit:
		return nil
	}
	w = c.watchLocked(c.lease)
	w.began = w.seenAt
	if since := time.Duration(c.since); since > 0 {
		w.began = min(w.began, since)
	}
	return w
}

// weakenLocked lets the garbage collector take a reported lease whose user has lost it. Handles are
// allocated in chunks, so the connection lets go of the chunk, too. The lease must have left its
// stack: since then, its user no longer reads the connection's chunk.
func (c *conn) weakenLocked() {
	w, l := c.watch, c.watch.lease
	c.leases = nil
	w.lease, w.weak = nil, weak.Make(l)
	w.lost = runtime.AddCleanup(l, func(l lostLease) { go l.end() }, lostLease{c, w.count})
}

// lostLease is a lease that was garbage-collected.
type lostLease struct {
	conn  *conn
	count uint64 // count of its watch
}

// end gives the place of a lost lease back. It closes the connection, whose state nobody knows.
func (l lostLease) end() {
	c := l.conn
	p, w := c.pool, c.watch
	p.mu.Lock()
	if c.lease != &w.stand || w.count != l.count || w.lease != nil || c.cut {
		p.mu.Unlock()
		return
	}
	lasted, stack := p.clock.now()-w.began, w.stack
	w.weak = weak.Pointer[Conn]{}
	c.spent = forFailure
	p.cuts++
	_ = p.endLease(&w.stand, outcome{apart: true})
	p.leaks.log.Warn("pooly: lease was garbage-collected without Release; its connection is closed",
		"address", p.address, "lasted", lasted.Round(time.Millisecond), "stack", stack.text())
}

// leakedLocked returns how many leases are out longer than LeakTimeout.
func (p *Pool) leakedLocked() (n int) {
	if p.leaks == nil {
		return 0
	}
	for _, c := range p.conns {
		if w := c.watch; w != nil && c.lease == &w.stand && w.reported && !c.cut {
			n++
		}
	}
	return n
}
