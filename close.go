package pooly

import (
	"fmt"
	"sync"
	"time"
)

// How a pool closes, in this order:
//  1. shut lets no call or dial begin.
//  2. destroyAll closes idle connections, in the background.
//  3. Each Release closes its connection.
//  4. At the deadline, cut closes connections that are still leased.

// shut closes the pool to callers and ends its dials. It returns the idle connections, for the
// caller to destroy. first reports whether the pool was open.
func (p *Pool) shut() (idle []*conn, first bool) {
	p.mu.Lock()
	defer p.unlock()
	return p.shutLocked()
}

func (p *Pool) shutLocked() (idle []*conn, first bool) {
	if p.closed {
		return nil, false
	}
	p.closed = true
	p.allowLocked()
	p.cancel()
	for _, d := range p.flights {
		d.watch.Reset(closeGrace) // it may not heed its context
	}
	p.gate.resume()
	if p.relaxing != nil {
		p.relaxing.Stop()
	}
	idle = p.idle.drain()
	p.queue.displace(&p.line)
	p.settleLocked()
	p.drained = make(chan struct{})
	if p.open == 0 {
		close(p.drained)
	}
	return idle, true
}

// freePlace gives a place for a connection back: a dial has failed, or a connection is closed. It
// requires p.mu and releases it.
func (p *Pool) freePlace() {
	p.open--
	drained := p.closed && p.open == 0
	if drained {
		close(p.drained)
	}
	p.settleLocked()
	p.unlock()
	if drained && p.owner != nil {
		p.owner.drained()
	}
}

// destroy closes a connection in the background, since a driver may be slow. The place becomes free
// once the driver has closed it, so that the host never sees more than MaxConns. If the driver
// hangs, the place becomes free after closeGrace.
func (p *Pool) destroy(c *conn, why reason) {
	p.destroyFor(c, why, nil)
}

// destroyFor is destroy for a caller who waits for the place. It closes freed, unless nil, once the
// place is free.
func (p *Pool) destroyFor(c *conn, why reason, freed chan struct{}) {
	if c.share != nil {
		p.endShare(c, why)
	}
	x := &closing{conn: c, why: why, freed: freed}
	x.slow = time.AfterFunc(closeGrace, x.late)
	go x.run()
}

// closing is a connection that is being closed.
type closing struct {
	conn  *conn
	why   reason
	slow  *time.Timer
	once  sync.Once     // frees the place
	freed chan struct{} // nil if nobody waits
}

func (x *closing) late() {
	p := x.conn.pool
	p.log.Warn("pooly: driver is slow to close a connection", "address", p.address)
	x.free()
}

func (x *closing) run() {
	defer x.free() // even if the driver ends this goroutine
	defer x.slow.Stop()
	x.conn.pool.callClose(&x.conn.origin)
}

func (x *closing) free() {
	x.once.Do(func() {
		x.conn.pool.buried(x.conn, x.why)
		if x.freed != nil {
			close(x.freed)
		}
	})
}

// buried counts a connection as closed, and frees its place.
func (p *Pool) buried(c *conn, why reason) {
	p.mu.Lock()
	p.closings.count(why)
	last := p.conns[len(p.conns)-1]
	last.index = c.index
	p.conns[c.index] = last
	p.conns[len(p.conns)-1] = nil
	p.conns = p.conns[:len(p.conns)-1]
	if c.outside && !p.limited {
		p.apart--
	}
	p.gate.resume() // the server has one connection less
	p.freePlace()
}

// endShare is called before a connection is closed that has a share. If the share is over or too
// old, its other connections are closed too: idle ones now, leased ones when their leases end.
func (p *Pool) endShare(c *conn, why reason) {
	p.mu.Lock()
	if !c.retired && (c.spent != 0 || c.share.Over() || c.outlived(p.clock.now())) {
		p.endShareLocked(c.share, why)
		p.settleLocked()
	}
	p.unlock()
}

// endShareLocked makes the leases of a share the last ones, and closes its idle connections in the
// background.
func (p *Pool) endShareLocked(s *Share, why reason) {
	s.over.Store(true)
	for _, c := range p.conns {
		if c.share == s {
			c.retired = true
			if c.spent == 0 {
				c.spent = why
			}
		}
	}
	var idle []*conn
	p.idle.filter(func(c *conn) bool {
		if c.share == s {
			idle = append(idle, c)
		}
		return c.share != s
	})
	go p.destroyAll(idle, why) // without the lock
}

// destroyAll closes connections in the background.
func (p *Pool) destroyAll(conns []*conn, why reason) {
	for _, c := range conns {
		p.destroy(c, why)
	}
}

// closeAll waits until pools that were shut have no connection left. At the deadline it closes
// leased connections and returns an error that says how many they were.
func closeAll(pools []*Pool, deadline time.Duration) error {
	t := time.NewTimer(deadline)
	defer t.Stop()
	for _, p := range pools {
		select {
		case <-p.drained:
			continue
		case <-t.C:
		}
		return cutAll(pools, deadline)
	}
	return nil
}

func cutAll(pools []*Pool, deadline time.Duration) error {
	var closing []chan struct{}
	leases, dials := 0, 0
	for _, p := range pools {
		conns, dialing := p.cut()
		leases, dials = leases+len(conns), dials+dialing
		for _, c := range conns {
			freed := make(chan struct{})
			p.destroyFor(c, forRemoval, freed)
			closing = append(closing, freed)
		}
	}
	for _, freed := range closing {
		<-freed
	}
	if leases == 0 && dials == 0 {
		return fmt.Errorf("%w: the driver has not closed all connections after %v",
			ErrOpTimeout, deadline)
	}
	err := fmt.Errorf("%w: %d connections still leased after %v were closed",
		ErrOpTimeout, leases, deadline)
	if dials > 0 {
		err = fmt.Errorf("%w, and %d dials have not returned", err, dials)
	}
	return err
}

// cut takes connections away from their leases and returns them, for the caller to destroy. It also
// returns the number of dials that ignore their context.
func (p *Pool) cut() (conns []*conn, dialing int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if c.lease != nil && !c.cut {
			c.cut = true
			p.load.Add(-1)
			p.cuts++
			conns = append(conns, c)
		}
	}
	return conns, p.dialing
}
