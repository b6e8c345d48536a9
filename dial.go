package pooly

import (
	"context"
	"errors"
	"time"
)

var (
	errNilConn    = errors.New("the driver's Dial returned neither a connection nor an error")
	errReusedConn = errors.New("the driver's Dial returned a connection that it had returned before")
)

// dialJob is what one dial in flight is for.
type dialJob struct {
	tries int  // how often to dial, RetryDelay apart
	more  int  // how many connections to dial after this one, one by one
	probe bool // it asks whether an ejected host is back
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

func (p *Pool) mayDialLocked() bool {
	return p.open < p.config.MaxConns && (p.health == healthy || p.dialing == 0)
}

// startDialLocked takes a place in the pool and fills it in a goroutine that ends with the dial.
func (p *Pool) startDialLocked(job dialJob) {
	p.open++
	p.dialing++
	go p.dial(job)
}

func (p *Pool) dial(job dialJob) {
	for try := 1; ; try++ {
		c, err := p.connect()
		if err == nil {
			p.dialed(c, job)
			return
		}
		// A host's place is given up between two tries, so that no caller waits for a dial that has not begun. A Pool
		// alone keeps it for the caller who has nowhere else to go.
		last := try >= job.tries || p.host != nil
		p.dialFailed(err, job, last)
		paused := try < job.tries && p.pause()
		switch {
		case last && paused:
			job.tries -= try
			p.redial(job)
			return
		case last:
			return
		case !paused:
			p.dialFailed(p.ctx.Err(), job, true)
			return
		}
	}
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
func (p *Pool) dialed(c *conn, job dialJob) {
	p.mu.Lock()
	p.dialing--
	p.counts.dials++
	c.index = len(p.conns)
	p.conns = append(p.conns, c)
	if p.closed {
		p.mu.Unlock()
		p.destroy(c)
		return
	}
	restored := p.setHealthLocked(healthy) == ejected && p.host != nil
	p.pushIdleLocked(c) // and where it goes to a waiter, others may have their dials now
	if job.more > 0 && p.mayDialLocked() {
		p.startDialLocked(dialJob{tries: job.tries, more: job.more - 1})
	}
	p.mu.Unlock()
	if restored {
		p.host.reportRestored()
	}
}

// dialFailed tells those who waited for the dial, and unless it will be tried again, gives up its place.
func (p *Pool) dialFailed(err error, job dialJob, last bool) {
	h := p.host
	newly := false
	p.mu.Lock()
	if last {
		p.dialing--
	}
	if !p.closed {
		p.counts.dials++
		p.counts.failures++
		if h != nil || last && p.waiters.length > p.dialing { // unless another dial is meant for the caller
			p.failWaiterLocked(err)
		}
		newly = p.setHealthLocked(ejected) != ejected && h != nil
		hopeless := last && p.open == 1 // this place is the only one, so nothing will come free
		if h != nil {
			h.cause = err
			h.scheduleProbeLocked(job.probe)
			hopeless = h.service.available.Load() == 0
		}
		if hopeless {
			p.queue.wakeAll(result{pool: p, err: err}) // the failure is an answer to all who wait
		}
	}
	p.mu.Unlock()
	if newly {
		h.reportEjected(err)
	}
	if last {
		p.free(nil)
	}
}

// failWaiterLocked tells the caller that has waited longest for a dial that it failed.
func (p *Pool) failWaiterLocked(err error) {
	if w := p.waiters.front; w != nil {
		p.leaveLineLocked(w)
		w.ready <- result{pool: p, err: err}
	}
}

// setHealthLocked is the only place where the health of a pool changes. It returns what it was.
func (p *Pool) setHealthLocked(to health) (from health) {
	from, p.health = p.health, to
	if h := p.host; h != nil && (from == ejected) != (to == ejected) {
		if to == ejected {
			h.service.available.Add(-1)
		} else {
			h.service.available.Add(1)
			h.stopProbeLocked()
			h.cause = nil
		}
		h.service.generation.Add(1)
	}
	return from
}

// connect calls the driver, and takes what it returns with care.
func (p *Pool) connect() (*conn, error) {
	handle, err := p.callDial(p.ctx)
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
	if p.ages {
		c.born = p.clock.now()
	}
	return c, nil
}

// destroy closes a connection and gives up its place: once the driver has closed it, so that the host never
// sees more than MaxConns, or after closeGrace if the driver hangs.
func (p *Pool) destroy(c *conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.callClose(c.origin)
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
	}
	p.open--
	p.serveLocked()
	drained := p.closed && p.open == 0
	if drained {
		close(p.drained)
	}
	p.mu.Unlock()
	if drained && p.host != nil {
		p.host.service.forget(p.host)
	}
}

// The calls to the driver. Each contains a panic, and is made without a lock held.

func (p *Pool) callDial(ctx context.Context) (c *Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			c, err = nil, recovered(p.log, "Driver.Dial", v)
		}
	}()
	return p.config.Driver.Dial(ctx, p.address)
}

func (p *Pool) callClose(c *Conn) {
	defer func() {
		if v := recover(); v != nil {
			_ = recovered(p.log, "Driver.Close", v)
		}
	}()
	p.config.Driver.Close(c)
}

func (p *Pool) testOnBorrow(c *conn) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = recovered(p.log, "Driver.TestOnBorrow", v)
		}
	}()
	return p.config.Driver.TestOnBorrow(c.origin)
}

func (p *Pool) temporary(cause error) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			ok = false
			_ = recovered(p.log, "Driver.Temporary", v)
		}
	}()
	return p.config.Driver.Temporary(cause)
}
