package pooly

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

var (
	errNilConn    = errors.New("the driver's Dial returned neither a connection nor an error")
	errDialHangs  = errors.New("the driver's Dial does not return")
	errReusedConn = errors.New("the driver's Dial returned a connection that it had returned before")
)

// dial is one dial in flight.
type dial struct {
	more    int           // how many connections to dial after this one, one after the other
	probe   bool          // a background dial that finds out whether an ejected host is back
	began   uint64        // the host's number of ejections when the dial began; 0: it was not ejected
	beganAt time.Duration // by the pool's clock
	ended   func()        // called without a lock when it has ended; nil: nobody wants to know
	stall   *time.Timer   // calls dialStalls; nil if there is no FallbackDelay
	watch   *time.Timer   // abandons a try if the driver ignores its context

	// Guarded by pool.mu.
	landed  bool // the driver has returned, or the dial was abandoned
	stalled bool // it has taken longer than FallbackDelay; counted in Pool.stalled
}

// prespawn dials n connections in the background, one after the other. So a host that is down costs
// one dial, and a host that has just come back is not overloaded.
func (p *Pool) prespawn(n int) {
	p.mu.Lock()
	defer p.unlock()
	if n > 0 && p.mayDialLocked() {
		p.startDialLocked(&dial{more: n - 1})
	}
}

// mayDialLocked reports whether one more dial may start.
func (p *Pool) mayDialLocked() bool {
	return p.open-p.apart < p.config.MaxConns && p.dialing < p.ramp &&
		!p.silent && p.paused == nil && !p.closed && !p.barred
}

// startDialLocked reserves a place in the pool and dials in a goroutine that ends with the dial.
func (p *Pool) startDialLocked(d *dial) {
	p.open++
	p.dialing++
	d.beganAt = p.clock.now()
	if p.fallback > 0 {
		d.stall = time.AfterFunc(p.fallback, func() { p.dialStalls(d) })
	}
	d.watch = time.AfterFunc(p.mostOfADial(), func() {
		if p.dialFailed(d, errDialHangs) {
			p.log.Warn("pooly: driver does not return from Dial", "address", p.address)
		}
	})
	go p.run(d)
}

// mostOfADial returns how long the driver's Dial may take until it is abandoned.
func (p *Pool) mostOfADial() time.Duration {
	return later(p.config.DialTimeout, closeGrace)
}

func (p *Pool) run(d *dial) {
	err := errExited
	defer func() {
		if err != nil {
			p.dialFailed(d, err)
		}
	}()
	ctx := p.ctx
	if d.began > 0 { // the host is ejected
		ctx = asProbe(ctx)
	}
	for try := 1; ; try++ {
		var c *conn
		if c, err = p.connect(ctx); err == nil {
			p.dialed(d, c)
			return
		}
		if p.owner != nil || try >= p.config.ConnRetries || !p.restAfter(d, err) {
			return
		}
	}
}

// restAfter waits for RetryDelay between two tries of a Pool used alone. It returns false if the
// pool is closed first, or if the dial was abandoned.
func (p *Pool) restAfter(d *dial, cause error) bool {
	p.mu.Lock()
	if d.landed {
		p.mu.Unlock()
		return false
	}
	d.watch.Reset(later(p.config.RetryDelay, p.mostOfADial()))
	p.counts.dials++
	p.counts.failures++
	p.counts.cause = cause
	p.mu.Unlock()
	t := time.NewTimer(p.config.RetryDelay)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// dialStalls records that a dial takes longer than FallbackDelay: the host may swallow connection
// requests. The pool's waiters move to the queue, and no other dial starts until one ends.
func (p *Pool) dialStalls(d *dial) {
	p.mu.Lock()
	if !d.landed {
		d.stalled = true
		p.stalled++
		p.silent = true
		p.queue.displace(&p.line)
		p.settleLocked()
	}
	p.unlock()
	p.queue.match()
}

// landLocked ends a dial. It reports false if the dial was already abandoned.
func (p *Pool) landLocked(d *dial) bool {
	if d.landed {
		return false
	}
	d.landed = true
	if d.stall != nil {
		d.stall.Stop()
	}
	d.watch.Stop()
	if d.stalled {
		p.stalled--
	}
	p.silent = false
	p.dialing--
	p.counts.dials++
	return true
}

// dialed puts a new connection into the place that its dial reserved.
func (p *Pool) dialed(d *dial, c *conn) {
	p.mu.Lock()
	if !p.landLocked(d) {
		p.unlock()
		p.callClose(&c.origin) // the place was given away
		return
	}
	p.adoptLocked(c)
	if p.closed {
		p.unlock()
		p.destroy(c)
		return
	}
	after := p.connectedLocked(d)
	c.fresh = true
	if p.barred { // its leases have ejected the host since the dial began
		p.unlock()
		d.done(after)
		p.destroy(c)
		return
	}
	p.pushIdleLocked(c)
	if d.more > 0 && p.mayDialLocked() {
		p.startDialLocked(&dial{more: d.more - 1})
	}
	p.settleLocked()
	if c.lease == nil {
		c.fresh = false // it may die while it is idle
	}
	unused := p.direct.Load() && p.idle.top == c
	if unused {
		p.idle.pop()
	}
	p.unlock()
	if unused {
		p.destroy(c)
	}
	d.done(after)
	p.queue.match() // a waiter that avoids the host needs a dial of another now
}

func (p *Pool) adoptLocked(c *conn) {
	c.index = len(p.conns)
	p.conns = append(p.conns, c)
	if c.share == nil {
		return
	}
	c.spent = c.share.over.Load()
	if old := c.share.replaces.Swap(nil); old != nil {
		p.endShareLocked(old)
	}
}

// connectedLocked records a dial that connected. A host that was down gets its dials like TCP's
// slow start: each connected dial allows one more at a time. So the clients of a host that comes
// back do not overload it together.
func (p *Pool) connectedLocked(d *dial) (after func()) {
	p.ramp = min(p.ramp+1, p.config.MaxConns)
	if !p.proven {
		p.proven, p.ramp = true, p.config.MaxConns
	}
	p.resumeLocked()
	p.pause = 0
	p.counts.cause = nil
	if p.owner != nil {
		after = p.owner.dialEnded(d, nil)
	}
	return after
}

// done reports the end of a dial. Call it without a lock.
func (d *dial) done(after func()) {
	if after != nil {
		after()
	}
	if d.ended != nil {
		d.ended()
	}
}

// dialFailed records a failed dial, frees its place and moves the pool's waiters to the queue. It
// reports false if the dial was already abandoned.
func (p *Pool) dialFailed(d *dial, err error) bool {
	p.mu.Lock()
	if !p.landLocked(d) {
		p.unlock()
		return false
	}
	p.open--
	p.counts.failures++
	var after func()
	if !p.closed {
		p.ramp = 1
		p.counts.cause, p.counts.failedAt = err, p.clock.now()
		p.queue.displace(&p.line)
		if p.owner != nil {
			after = p.owner.dialEnded(d, err)
		} else {
			p.dialFailedAloneLocked(d)
		}
	}
	drained := p.drainedLocked()
	p.settleLocked()
	p.unlock()
	d.done(after)
	p.queue.match()
	if drained {
		p.owner.drained()
	}
	return true
}

// dialFailedAloneLocked is for a Pool used alone. It fails all waiters, unless another dial is in
// flight or leases may come back.
func (p *Pool) dialFailedAloneLocked(d *dial) {
	switch {
	case p.dialing > 0: // another dial may connect
	case p.hopesLocked(d):
		p.pauseDialsLocked()
	default:
		p.queue.failAll(ErrNoHostAvailable)
	}
}

// hopesLocked reports whether leases are out that may come back although a dial failed. That is so
// if a server is at its own limit of connections. Hope ends when no lease has ended well for
// FallbackDelay.
func (p *Pool) hopesLocked(d *dial) bool {
	if p.inUseLocked() == 0 {
		return false
	}
	if !p.doubted || p.doubtedAt == 0 {
		p.doubted, p.doubtedAt = true, d.beganAt
	}
	return p.clock.now()-p.doubtedAt < p.fallbackOrDefault()
}

// pauseDialsLocked lets no dial start for a while: RetryDelay at first, then twice as long each
// time, up to FallbackDelay, until a dial connects. So a server at its own limit of connections is
// not dialled for each lease that it serves.
func (p *Pool) pauseDialsLocked() {
	p.resumeLocked()
	p.pause = max(p.config.RetryDelay, min(2*p.pause, p.fallbackOrDefault()))
	var t *time.Timer
	t = time.AfterFunc(p.pause, func() {
		p.mu.Lock()
		defer p.unlock()
		if p.paused == t {
			p.paused = nil
			p.settleLocked()
		}
	})
	p.paused = t
}

func (p *Pool) resumeLocked() {
	if p.paused != nil {
		p.paused.Stop()
		p.paused = nil
	}
}

// connect calls the driver's Dial and checks what it returns.
func (p *Pool) connect(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.config.DialTimeout)
	defer cancel()
	handle, err := p.callDial(ctx)
	switch {
	case err != nil:
		if handle != nil && handle.conn != nil && handle.conn.adopted.CompareAndSwap(false, true) {
			p.callClose(handle) // an error means that nobody gets the connection
		}
		return nil, err
	case handle == nil || handle.conn == nil:
		return nil, errNilConn
	case !handle.conn.adopted.CompareAndSwap(false, true):
		return nil, errReusedConn
	}
	c := handle.conn
	c.pool = p
	if lifetime := p.config.MaxConnLifetime; lifetime > 0 {
		jitter := time.Duration(lifetimeJitter * rand.Float64() * float64(lifetime))
		c.expires = later(p.clock.now(), lifetime-jitter)
	}
	return c, nil
}
