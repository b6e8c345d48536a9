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

// dialJob is what one dial in flight is for.
type dialJob struct {
	tries int  // how often to dial, RetryDelay apart
	more  int  // how many connections to dial after this one, one by one
	probe bool // it asks whether an ejected host is back
}

// flight is one dial in flight: a single call of the driver's Dial.
type flight struct {
	job     dialJob
	stall   *time.Timer // nil for a Pool used alone, which has no other host to try
	abandon *time.Timer

	ended   bool // guarded by pool.mu; the driver has returned, or is given up
	stalled bool // guarded by pool.mu; counted in Pool.stalled
}

// callerTries returns how often to dial for a caller: a service goes to the next host instead.
func (p *Pool) callerTries() int {
	if p.host != nil {
		return 1
	}
	return p.config.ConnRetries
}

// prespawn connects n times in the background, one after the other, so that a host that is down costs one dial
// and one that comes back is not stormed.
func (p *Pool) prespawn(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > 0 && !p.closed && p.mayDialLocked() {
		p.startDialLocked(dialJob{tries: p.config.ConnRetries, more: n - 1})
	}
}

// mayDialLocked reports whether one more dial may start. A host that has come back gets them as TCP's slow start
// would: each that connects allows one more at a time, so that what a whole fleet of clients missed does not fall on it
// at once.
func (p *Pool) mayDialLocked() bool {
	switch {
	case p.open >= p.config.MaxConns || p.suspect:
		return false
	case p.health == healthy:
		return p.dialing < p.ramp
	}
	return p.dialing == 0
}

// startDialLocked takes a place in the pool and fills it in a goroutine that ends with the dial.
func (p *Pool) startDialLocked(job dialJob) {
	p.open++
	p.dialing++
	go p.dial(job)
}

func (p *Pool) dial(job dialJob) {
	for try := 1; ; try++ {
		f := p.watch(job)
		c, err := p.connect()
		if err == nil {
			p.dialed(c, f)
			return
		}
		// A host's place is given up between two tries, so that no caller waits for a dial that has not begun. A Pool
		// alone keeps it for the caller who has nowhere else to go.
		last := try >= job.tries || p.host != nil
		if !p.dialFailed(err, f, last) {
			return
		}
		paused := try < job.tries && p.pause()
		switch {
		case last && paused:
			job.tries -= try
			p.redial(job)
			return
		case last:
			return
		case !paused:
			p.dialFailed(p.ctx.Err(), new(flight), true)
			return
		}
	}
}

// watch begins a flight. It is noticed when it takes long, and given up if the driver does not heed its context.
func (p *Pool) watch(job dialJob) *flight {
	f := &flight{job: job}
	p.mu.Lock() // so that the timers find their fields set
	defer p.mu.Unlock()
	f.abandon = time.AfterFunc(p.config.DialTimeout+closeGrace, func() {
		if p.dialFailed(errDialHangs, f, true) {
			p.log.Warn("pooly: driver does not return from Dial", "address", p.address)
		}
	})
	if h := p.host; h != nil && h.service.config.FallbackDelay > 0 {
		f.stall = time.AfterFunc(h.service.config.FallbackDelay, func() { p.stall(f) })
	}
	return f
}

// stall notes that a dial takes long: the host may be a black hole, so no caller is sent to wait for that dial, and
// none is started for one, until a dial of the host ends. Callers who came from the queue look for another host, as
// those who chose this one do by themselves.
func (p *Pool) stall(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.ended {
		return
	}
	f.stalled = true
	p.stalled++
	p.suspect = true
	for w := p.waiters.front; w != nil; {
		next := w.next
		if w.chosen == nil {
			p.leaveLineLocked(w)
			w.answer(nil, nil)
		}
		w = next
	}
}

// suspectDials is for the caller whose dial takes long, so that no other comes before stall says so.
func (p *Pool) suspectDials() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspect = p.dialing > 0
}

// landLocked ends a flight. It reports false if that has been given up before.
func (p *Pool) landLocked(f *flight) bool {
	if f.ended {
		return false
	}
	f.ended = true
	if f.stall != nil {
		f.stall.Stop()
	}
	if f.abandon != nil {
		f.abandon.Stop()
	}
	if f.stalled {
		p.stalled--
	}
	p.suspect = false
	return true
}

// pause waits for RetryDelay. It returns false if the pool is closed first.
func (p *Pool) pause() bool {
	t := time.NewTimer(p.config.RetryDelay)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// redial goes on with a job, unless the host has been restored or is being dialled by another.
func (p *Pool) redial(job dialJob) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && p.health == ejected && p.mayDialLocked() {
		p.startDialLocked(job)
	}
}

// dialed puts a new connection into the place that its dial held.
func (p *Pool) dialed(c *conn, f *flight) {
	p.mu.Lock()
	if !p.landLocked(f) {
		p.mu.Unlock()
		p.callClose(&c.origin) // its place is given away
		return
	}
	p.dialing--
	p.counts.dials++
	c.index = len(p.conns)
	p.conns = append(p.conns, c)
	if p.closed {
		p.mu.Unlock()
		p.destroy(c)
		return
	}
	restored := p.connectedLocked(f.job)
	p.pushIdleLocked(c) // and where it goes to a waiter, others may have their dials now
	if f.job.more > 0 && p.mayDialLocked() {
		p.startDialLocked(dialJob{tries: f.job.tries, more: f.job.more - 1})
	}
	p.unlock()
	if restored {
		p.host.reportRestored()
	}
}

// connectedLocked takes note of a dial that connected. It reports whether that restored the host.
func (p *Pool) connectedLocked(job dialJob) (restored bool) {
	switch {
	case p.health == healthy:
		p.ramp = min(p.ramp+1, p.config.MaxConns)
		return false
	case p.host != nil && p.host.byFeedback && !job.probe:
		return false // that it connects was never in doubt
	}
	return p.setHealthLocked(healthy) == ejected && p.host != nil
}

// dialFailed takes note of a dial that failed, tells one of those who waited for it, and unless it will be tried again,
// gives up its place. It reports false if the dial was given up before.
func (p *Pool) dialFailed(err error, f *flight, last bool) bool {
	p.mu.Lock()
	if !p.landLocked(f) {
		p.mu.Unlock()
		return false
	}
	if last {
		p.dialing--
	}
	newly := false
	if !p.closed {
		p.counts.dials++
		p.counts.failures++
		if p.host != nil || last && p.waiters.length > p.dialing { // unless another dial is meant for the caller
			p.failWaiterLocked(err)
		}
		newly = p.refusedLocked(err, f.job)
		hopeless := last && p.open == 1 // this place is the only one, so nothing will come free
		if p.host != nil {
			hopeless = p.host.service.available.Load() == 0
		}
		if hopeless {
			p.queue.wakeAll(p, err) // the failure is an answer to all who wait
		}
	}
	p.mu.Unlock()
	if newly {
		p.host.reportEjected(err)
	}
	if last {
		p.free(nil)
	}
	return true
}

// refusedLocked ejects a host whose dial failed, and reports whether it was not ejected before.
func (p *Pool) refusedLocked(err error, job dialJob) (newly bool) {
	newly = p.setHealthLocked(ejected) != ejected
	h := p.host
	if h == nil {
		return false
	}
	h.cause, h.byFeedback = err, false
	h.scheduleProbeLocked(newly || job.probe)
	return newly
}

// failWaiterLocked tells the caller that has waited longest for a dial that it failed.
func (p *Pool) failWaiterLocked(err error) {
	if w := p.waiters.front; w != nil {
		p.leaveLineLocked(w)
		w.answer(nil, err)
	}
}

// setHealthLocked is the only place where the health of a pool changes. It returns what it was.
func (p *Pool) setHealthLocked(to health) (from health) {
	from, p.health = p.health, to
	if from == to {
		return from
	}
	if to == healthy {
		p.ramp = p.config.MaxConns
		if from == ejected {
			p.ramp = 1
			p.epoch++
		}
	}
	if h := p.host; h != nil && (from == ejected || to == ejected) {
		if to == ejected {
			h.ejections++
			h.service.available.Add(-1)
			p.queue.wakeChoosy()
		} else {
			h.service.available.Add(1)
			h.stopProbeLocked()
			h.cause, h.byFeedback = nil, false
		}
		h.service.generation.Add(1)
		if to != ejected {
			h.service.news.tell()
		}
	}
	return from
}

// connect calls the driver, and takes what it returns with care.
func (p *Pool) connect() (*conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.config.DialTimeout)
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
	c.pool, c.fresh = p, true
	if lifetime := p.config.MaxConnLifetime; lifetime > 0 {
		c.expires = p.clock.now() + lifetime - time.Duration(lifetimeJitter*rand.Float64()*float64(lifetime))
	}
	return c, nil
}

// destroy closes a connection and gives up its place: once the driver has closed it, so that the host never
// sees more than MaxConns, or after closeGrace if the driver hangs.
func (p *Pool) destroy(c *conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.callClose(&c.origin)
	}()
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		p.log.Warn("pooly: driver is slow to close a connection", "address", p.address)
	}
	p.free(c)
}

// free gives up a place in the pool: that of connection c, or of a dial if c is nil.
func (p *Pool) free(c *conn) {
	p.mu.Lock()
	if c != nil {
		last := p.conns[len(p.conns)-1]
		last.index = c.index
		p.conns[c.index] = last
		p.conns[len(p.conns)-1] = nil
		p.conns = p.conns[:len(p.conns)-1]
		p.idle.forget(c)
	}
	p.open--
	p.serveLocked()
	drained := p.closed && p.open == 0
	if drained {
		close(p.drained)
	}
	p.unlock()
	if drained && p.host != nil {
		p.host.service.forget(p.host)
	}
}
