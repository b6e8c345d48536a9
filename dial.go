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
	check   bool          // it finds out whether a host works that is up, see Pool.checkNew
	checked bool          // the driver's Check has passed
	ended   func()        // called without a lock when it has ended; nil: nobody waits for it
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
		c, err = p.connect(ctx)
		if err == nil && d.began > 0 && p.checker != nil {
			err = p.checkProbe(ctx, d, c)
		}
		if err == nil {
			p.dialed(d, c)
			return
		}
		if p.owner != nil || try >= p.config.ConnRetries || !p.restAfter(d, err) {
			return
		}
	}
}

// checkProbe asks the driver whether an ejected host that has accepted a connection is back. It
// closes the connection if not. Dial and Check together have DialTimeout.
func (p *Pool) checkProbe(ctx context.Context, d *dial, c *conn) error {
	left := later(d.beganAt, p.config.DialTimeout) - p.clock.now()
	err := p.callCheck(ctx, left, c)
	d.checked = err == nil
	if err != nil {
		p.callClose(&c.origin)
	}
	return err
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
	p.dials++
	p.dialFailures++
	p.dialErr = cause
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
		p.gate.become(gateSilent)
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
	if p.gate.state == gateSilent {
		p.gate.become(gateOpen)
	}
	p.dialing--
	p.dials++
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
	after := p.connectedLocked(d, c)
	if p.allowed == 0 { // closed since the dial began, or ejected because of its leases
		p.unlock()
		d.done(after)
		p.destroy(c)
		return
	}
	c.fresh = true
	p.pushIdleLocked(c)
	p.watchLocked(c)
	if d.more > 0 && p.mayDialLocked() {
		p.startDialLocked(&dial{more: d.more - 1})
	}
	p.settleLocked()
	if c.lease == nil {
		c.fresh = false // it may die while it is idle
	}
	idle := p.idle.top == c
	check := idle && d.check
	unused := idle && !check && p.direct.Load() && d.ended == nil
	switch {
	case check:
		p.borrowLocked(c)
	case unused:
		p.idle.pop()
	}
	p.unlock()
	if unused {
		p.destroy(c)
	}
	d.done(after)
	p.queue.match() // a waiter that avoids the host needs a dial of another now
	if check {
		p.checkNew(c)
	}
}

// connectedLocked records a dial that connected.
func (p *Pool) connectedLocked(d *dial, c *conn) (after func()) {
	c.index = int32(len(p.conns))
	p.conns = append(p.conns, c)
	if c.share != nil {
		c.spent = c.share.over.Load()
		if old := c.share.replaces.Swap(nil); old != nil {
			p.endShareLocked(old)
		}
	}
	if p.closed {
		return nil
	}
	p.gate.connected(p.config.MaxConns)
	p.dialErr = nil
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
	p.queue.displace(&p.line)
	after := p.failedLocked(d, err)
	p.freePlace()
	d.done(after)
	p.queue.match()
	return true
}

// failedLocked records a dial that failed.
func (p *Pool) failedLocked(d *dial, err error) (after func()) {
	p.dialFailures++
	if p.closed {
		return nil
	}
	p.gate.failed()
	p.dialErr, p.failedAt = err, p.clock.now()
	if p.owner != nil {
		return p.owner.dialEnded(d, err)
	}
	p.dialFailedAloneLocked(d)
	return nil
}

// dialFailedAloneLocked is for a Pool used alone. It fails all waiters, unless another dial is in
// flight or leases may come back.
func (p *Pool) dialFailedAloneLocked(d *dial) {
	switch {
	case p.dialing > 0: // another dial may connect
	case p.hopesLocked(d):
		p.pauseDialsLocked()
	default:
		p.queue.fail(forever, 0, ErrNoHostAvailable)
	}
}

// doubt is what a pool remembers of failures since a lease last ended well. It is guarded by
// Pool.mu.
type doubt struct {
	failed    bool          // a dial or a lease failed
	dialBegan time.Duration // when the first dial that failed began; 0: none
}

// hopesLocked reports whether leases are out that may come back although a dial failed. That is so
// if a server is at its own limit of connections. Hope ends when no lease has ended well for
// FallbackDelay.
func (p *Pool) hopesLocked(d *dial) bool {
	if p.inUseLocked() == 0 {
		return false
	}
	p.doubt.failed = true
	if p.doubt.dialBegan == 0 {
		p.doubt.dialBegan = d.beganAt
	}
	return p.clock.now()-p.doubt.dialBegan < p.patience
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
		return nil, p.examined(err)
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
