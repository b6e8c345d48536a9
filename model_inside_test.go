package pooly

import (
	"fmt"
	"slices"
)

// Inside is what a service looks like from the inside while nothing moves. The model compares it
// with what it did.
type Inside struct {
	Fault  string // the first invariant that does not hold
	Queued int    // callers in the queue
	Lines  int    // callers in the lines of pools
	Up     int    // hosts that are not ejected
	Hosts  map[string]*InsideHost
}

// InsideHost sums up the pools of an address: the one in use, and those of former registrations
// that have connections.
type InsideHost struct {
	InUse   bool // the host is in use now
	Ejected bool
	Paused  bool // no dial may start for a while
	Full    bool // no further lease may be out, by MaxConns or by the limit
	Limited bool // the limit is below MaxConns

	Leased, Idle, Conns, Dialing int
}

// Used returns how many hosts are in use.
func (in Inside) Used() (n int) {
	for _, h := range in.Hosts {
		if h.InUse {
			n++
		}
	}
	return n
}

// LookInside checks the invariants of a service's state. Nothing else may run meanwhile.
func LookInside(s *Service) Inside {
	l := look{in: Inside{Hosts: make(map[string]*InsideHost)}}
	s.mu.Lock()
	defer s.mu.Unlock()
	var pools []*Pool
	for _, h := range s.order {
		l.of(h.address).InUse = true
		pools = append(pools, &h.Pool)
		l.host(h)
	}
	for h := range s.draining {
		pools = append(pools, &h.Pool)
		l.draining(h)
	}
	l.service(s)
	l.queue(s.queue, pools)
	for _, p := range pools {
		l.pool(p)
	}
	return l.in
}

// look collects what LookInside sees. Its methods take the locks that they need.
type look struct {
	in      Inside
	claimed int
}

func (l *look) failf(format string, args ...any) {
	if l.in.Fault == "" {
		l.in.Fault = fmt.Sprintf(format, args...)
	}
}

func (l *look) of(address string) *InsideHost {
	h := l.in.Hosts[address]
	if h == nil {
		h = new(InsideHost)
		l.in.Hosts[address] = h
	}
	return h
}

// service checks what a service knows of its hosts. It requires s.mu.
func (l *look) service(s *Service) {
	if int(s.up.Load()) != l.in.Up || int(s.size.Load()) != len(s.order) {
		if !s.closed {
			l.failf("%d of %d hosts are up, and the service counts %d of %d", l.in.Up, len(s.order), s.up.Load(), s.size.Load())
		}
	}
	if len(s.hosts) != len(s.order) {
		l.failf("%d hosts by name and %d in order", len(s.hosts), len(s.order))
	}
	for i, h := range s.order {
		if int(h.index) != i || s.hosts[h.address] != h {
			l.failf("%s has lost its place among the hosts", h.address)
		}
	}
	if (s.runningBuild != nil || s.nextBuild != nil) && !s.closed {
		l.failf("a snapshot is still being built")
	}
	v := s.snapshot.Load()
	if s.closed {
		if v != nil || len(s.order) > 0 {
			l.failf("a closed service has a snapshot or hosts")
		}
		return
	}
	if v == nil {
		return // the next call asks for one
	}
	if len(v.hosts) != l.in.Up {
		l.failf("the snapshot has %d hosts, and %d are up", len(v.hosts), l.in.Up)
	}
	for _, h := range v.hosts {
		if s.hosts[h.address] != h || !h.isUp() {
			l.failf("the snapshot has %s, which is ejected or removed", h.address)
		}
	}
}

// host checks the health of a host in use.
func (l *look) host(h *host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.status == ejected
	in := l.of(h.address)
	in.Ejected, in.Paused = out, h.gate.state == gatePaused
	in.Full, in.Limited = h.load.Load() >= h.allowed, int(h.limiter.allowed(h.most())) < h.most()
	if !out {
		l.in.Up++
	}
	switch {
	case h.closed:
		l.failf("%s is in use, and its pool is closed", h.address)
	case h.barred != out:
		l.failf("%s: barred is %v, ejected is %v", h.address, h.barred, out)
	case out && h.probe == nil:
		l.failf("%s is ejected and will not be probed", h.address)
	case out && h.cause == nil:
		l.failf("%s is ejected for no cause", h.address)
	case !out && (h.probe != nil || h.cause != nil):
		l.failf("%s is up, and has a probe or a cause of its ejection", h.address)
	case out && h.idle.length > 0:
		l.failf("%s is ejected and has %d idle connections", h.address, h.idle.length)
	}
}

// draining checks a host that was removed, or whose service was closed. It requires service.mu.
func (l *look) draining(h *host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.closed:
		l.failf("%s was removed, and its pool is open", h.address)
	case h.open == 0 && !h.cluster.keeper.(*Service).closed:
		l.failf("%s was removed, has no connection, and is not forgotten", h.address)
	case h.idle.length > 0 || h.line.length.Load() > 0 || h.claimed > 0:
		l.failf("%s was removed, and has idle connections or waiters", h.address)
	case h.probe != nil || h.gate.state == gatePaused:
		l.failf("%s was removed, and has timers", h.address)
	}
}

// pool checks the figures of one pool against each other, and against the queue.
func (l *look) pool(p *Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, in := p.address, l.of(p.address)
	leased, outside := l.conns(p)
	line := int(p.line.length.Load())
	in.Leased += leased
	in.Idle += p.idle.length
	in.Conns += len(p.conns)
	in.Dialing += p.dialing
	l.in.Lines += line
	for _, check := range []struct {
		what string
		ok   bool
	}{
		{"load is leases, line and claims", int(p.load.Load()) == leased+line+p.claimed},
		{"open is connections and dials", p.open == len(p.conns)+p.dialing},
		{"dials that connected are open or closed", p.dials-p.dialFailures == uint64(len(p.conns))+p.closings.Total()},
		{"nothing idle is beyond MaxConns", p.open >= 0 && (p.idle.length == 0 || p.surplusLocked(0) == 0)},
		{"outside is DialContext's leases", p.closed || int(p.outside) == outside},
		{"allowed follows from closed, barred, limit and outside", p.allowed == p.mayBeOut()},
		{"a pool that serves no one offers nothing", p.allowed > 0 || p.line.offer.Load() == 0},
		{"the limit is none, or from 1 to MaxConns",
			p.closed || p.limiter.limit == 0 || p.limiter.limit >= 1 && p.limiter.limit <= float64(p.most())},
		{"stalled dials are dials", p.stalled >= 0 && p.stalled <= p.dialing},
		{"dials of DialContext are dials", p.racing >= 0 && p.racing <= p.dialing},
		{"it is silent for a stalled dial", p.gate.state != gateSilent || p.stalled > 0},
		{"claims are of dials that may end soon", p.claimed >= 0 && p.claimed <= max(0, p.spareLocked())},
		{"a pool that serves no one has no claims and no line", p.allowed > 0 || p.claimed+line == 0},
		{"each in line has a dial", p.spareLocked() >= 0},
		{"nobody is in line while a connection is idle", line == 0 || p.idle.length == 0},
		{"a gate lets at most MaxConns dials start", p.closed || p.gate.most >= 0 && p.gate.most <= p.most()},
		{"a gate has a timer while it is paused", (p.gate.state == gatePaused) == (p.gate.timer != nil)},
		{"what it can serve is offered", p.closed || p.line.offer.Load() > 0 || !p.canServeLocked()},
		{"a quiet pool has nothing to do", !p.quiet ||
			p.line.offer.Load() > 0 && !p.doubt.failed && !p.ages && p.limiter.limit == 0 && line == 0},
	} {
		if !check.ok {
			l.failf("%s: not so: %s: %s", a, check.what, p.describeLocked())
		}
	}
	l.waiters(p)
}

func (p *Pool) describeLocked() string {
	return fmt.Sprintf("load %d, allowed %d, line %d, claimed %d, open %d, conns %d, idle %d, dialing %d, stalled %d, gate %+v, "+
		"outside %d, limit %g, offer %d, quiet %v, barred %v, closed %v, doubt %+v",
		p.load.Load(), p.allowed, p.line.length.Load(), p.claimed, p.open, len(p.conns), p.idle.length, p.dialing, p.stalled, p.gate,
		p.outside, p.limiter.limit, p.line.offer.Load(), p.quiet, p.barred, p.closed, p.doubt)
}

// mayBeOut says again what allowLocked computes.
func (p *Pool) mayBeOut() int32 {
	if p.closed || p.barred {
		return 0
	}
	n := int32(p.most())
	if p.limiter.limit != 0 {
		n = min(n, int32(p.limiter.limit))
	}
	return n + p.outside
}

// conns counts the leases of a pool, and checks that no idle connection has one. It requires p.mu.
func (l *look) conns(p *Pool) (leased, outside int) {
	for i, c := range p.conns {
		if int(c.index) != i || c.pool != p {
			l.failf("%s: a connection has lost its place", p.address)
		}
		if c.lease == nil {
			continue
		}
		if !c.cut {
			leased++
		}
		if c.outside {
			outside++
		}
	}
	n := 0
	for c := p.idle.top; c != nil; c = c.below {
		n++
		if c.lease != nil || c.spent != 0 || c.cut {
			l.failf("%s: an idle connection is leased, or had its last lease", p.address)
		}
		if int(c.index) >= len(p.conns) || p.conns[c.index] != c {
			l.failf("%s: an idle connection is not one of the pool's", p.address)
		}
	}
	if n != p.idle.length {
		l.failf("%s: %d idle connections, and the pool counts %d", p.address, n, p.idle.length)
	}
	return leased, outside
}

// queue checks the queue's figures, and its offers.
func (l *look) queue(q *queue, pools []*Pool) {
	for _, p := range pools {
		p.mu.Lock()
		l.claimed += p.claimed
		p.mu.Unlock()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.claimed != l.claimed {
		l.failf("%d dials are for the queue, and pools have claimed %d", q.claimed, l.claimed)
	}
	n := 0
	for _, own := range []*line{&q.waiting, &q.returned, &q.late} {
		if own.serve != nil {
			l.failf("a line of the queue belongs to a pool")
		}
		n += l.line(own)
	}
	l.in.Queued = n
	if int(q.length.Load()) != n {
		l.failf("%d callers are in the queue, and it counts %d", n, q.length.Load())
	}
	if q.closed && n > 0 {
		l.failf("%d callers are in a closed queue", n)
	}
	for w := q.waiting.front; w != nil && w.next != nil; w = w.next {
		if w.since > w.next.since {
			l.failf("a caller stands in the queue before one who came earlier")
		}
	}
	for i, own := range q.offers {
		if int(own.offer.Load()) != i+1 {
			l.failf("offer %d is not where it should be", i)
		}
	}
	for _, p := range pools {
		l.line(&p.line)
		if listed := slices.Contains(q.offers, &p.line); listed != (p.line.offer.Load() > 0) {
			l.failf("%s: offer %d, listed %v", p.address, p.line.offer.Load(), listed)
		}
		if p.closed && p.line.offer.Load() > 0 {
			l.failf("%s: a closed pool makes an offer", p.address)
		}
	}
}

// line counts the waiters of a line and checks its links. It requires queue.mu.
func (l *look) line(of *line) (n int) {
	var before *waiter
	for w := of.front; w != nil; w = w.next {
		n++
		if w.line != of || w.prev != before || len(w.ready) > 0 || w.lease != nil || w.err != nil {
			l.failf("a waiter is in a line, and answered or in another line")
		}
		before = w
	}
	if of.back != before || int(of.length.Load()) != n {
		l.failf("%d waiters are in a line, and it counts %d", n, of.length.Load())
	}
	return n
}

// waiters checks that nobody is in the queue for whom the pool has something. It requires p.mu.
func (l *look) waiters(p *Pool) {
	q := p.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.closed || !p.canServeLocked() {
		return
	}
	wanted := 0 // waiters that do not avoid the pool
	for _, own := range []*line{&q.waiting, &q.returned, &q.late} {
		for w := own.front; w != nil; w = w.next {
			if !slices.Contains(w.avoid, &p.line) {
				wanted++
			}
		}
	}
	switch {
	case wanted == 0:
	case p.idle.top != nil:
		l.failf("%s has %d idle connections, and %d callers in the queue would take one: %s",
			p.address, p.idle.length, wanted, p.describeLocked())
	case int(q.length.Load()) > q.claimed:
		l.failf("%s has room, and %d callers are in the queue for %d dials: %s",
			p.address, q.length.Load(), q.claimed, p.describeLocked())
	}
}

// RoundsRun reports whether the rounds run, or nobody needs them.
func RoundsRun(s *Service) bool {
	return s.dialling.Load() || !s.stranded()
}

// NothingIsLeft reports whether a closed service has nothing left: no caller, host, offer or timer.
func NothingIsLeft(s *Service) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(s.order)+len(s.draining)+len(s.hosts)+len(q.offers) == 0 && q.claimed == 0 && q.length.Load() == 0
}
