package pooly

import (
	"context"
	"errors"
	"time"
)

var (
	errNilConn    = errors.New("the driver's Dial returned neither a connection nor an error")
	errDialHangs  = errors.New("the driver's Dial does not return")
	errReusedConn = errors.New("the driver's Dial returned a connection that it had returned before")
)

// dial is one dial in flight.
type dial struct {
	more    int             // how many connections to dial after this one, one after the other
	probe   bool            // a background dial that finds out whether an ejected host is back
	began   uint64          // the host's ejections when the dial began; 0: it was not ejected
	renews  bool            // it shares nothing with connections from before Evict
	check   bool            // it finds out whether a host that is up works, see Pool.checkNew
	checked bool            // the driver's Check has passed
	beganAt time.Duration   // by the pool's clock
	values  context.Context // context of the caller that the dial is for; nil: for nobody
	ctx     context.Context // what the driver gets, without the timeout
	ended   func()          // called without a lock when it has ended; nil: nobody waits for it
	stall   *time.Timer     // calls dialStalls; nil if there is no FallbackDelay
	watch   *time.Timer     // abandons a try if the driver ignores its context

	// Guarded by pool.mu.
	index   int  // its index in Pool.flights
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
	d.beganAt, d.renews, d.ctx = p.clock.now(), p.renew, p.ctx
	if d.values != nil {
		d.ctx = withValues{d.ctx, d.values}
	}
	if d.began > 0 || d.renews {
		d.ctx = asProbe(d.ctx)
	}
	if p.fallback > 0 {
		d.stall = time.AfterFunc(p.fallback, func() { p.dialStalls(d) })
	}
	d.watch = time.AfterFunc(p.mostOfADial(), func() {
		if p.dialFailed(d, errDialHangs) {
			p.log.Warn("pooly: driver does not return from Dial", "address", p.address)
		}
	})
	d.index = len(p.flights)
	p.flights = append(p.flights, d)
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
	for try := 1; ; try++ {
		var c *conn
		c, err = p.connect(d.ctx)
		if err == nil && d.began > 0 && p.checker != nil {
			err = p.checkProbe(d.ctx, d, c)
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
	last := p.flights[len(p.flights)-1]
	last.index = d.index
	p.flights[d.index] = last
	p.flights[len(p.flights)-1] = nil
	p.flights = p.flights[:len(p.flights)-1]
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
		why := p.unfitLocked(c, 0)
		p.unlock()
		p.tellDialled(d.ctx, d.beganAt, nil)
		d.done(after)
		p.destroy(c, why)
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
	why := c.spent
	if why == 0 && !d.check && (p.direct.Load() && d.ended == nil || p.surplusLocked(0) > 0) {
		why = forSurplus
	}
	idle := p.idle.top == c
	check, unused := idle && d.check && why == 0, idle && why != 0
	switch {
	case check:
		p.borrowLocked(c)
	case unused:
		p.idle.pop()
	}
	p.unlock()
	p.tellDialled(d.ctx, d.beganAt, nil)
	if unused {
		p.destroy(c, why)
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
		if c.outlived(p.clock.now()) { // so the next dial opens a new connection
			p.endShareLocked(c.share, forLifetime)
		} else if c.share.Over() {
			c.spent = forFailure
		}
		if old := c.share.replaces.Swap(nil); old != nil {
			p.endShareLocked(old, forEjection)
		}
	}
	if c.era != p.era.Load() {
		c.spent = forEviction // its dial began before
	} else {
		p.renew = false
	}
	if p.closed {
		return nil
	}
	p.gate.connected(p.most())
	p.dialErr = nil
	if p.owner != nil {
		after = p.owner.dialEnded(d, nil)
	}
	return after
}

// tellDialled tells the Observer of a dial that has ended.
func (p *Pool) tellDialled(ctx context.Context, began time.Duration, err error) {
	o := p.observer
	if o.Dialled == nil {
		return
	}
	notify(o, o.Dialled, DialEvent{
		Service:  o.service,
		Address:  p.address,
		Context:  ctx,
		Duration: p.clock.now() - began,
		Err:      err,
		Probe:    IsProbe(ctx),
	})
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
	p.tellDialled(d.ctx, d.beganAt, err)
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

// connect calls the driver's Dial, checks what it returns, and calls OnConnect.
func (p *Pool) connect(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.config.DialTimeout)
	defer cancel()
	era := p.era.Load()
	handle, err := p.callDial(ctx)
	adopted := handle != nil && handle.conn != nil &&
		handle.conn.adopted.CompareAndSwap(false, true)
	if adopted {
		handle.conn.pool = p
	}
	switch {
	case err != nil:
		if adopted {
			p.callClose(handle) // an error means that nobody gets the connection
		}
		return nil, p.examined(err)
	case handle == nil || handle.conn == nil:
		return nil, errNilConn
	case !adopted:
		return nil, errReusedConn
	}
	c := handle.conn
	c.era = era
	if err := p.callOnConnect(ctx, c); err != nil {
		return nil, err
	}
	c.born = p.clock.now()
	if lifetime := p.config.MaxConnLifetime; lifetime > 0 {
		c.expires = c.ends(lifetime, c.born)
	}
	return c, nil
}
