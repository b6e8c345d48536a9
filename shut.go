package pooly

import (
	"fmt"
	"sync"
	"time"
)

// Closing, in the order in which it happens: shut lets nothing more begin, destroyAll closes what is idle, each
// release closes its own, and at the deadline cut closes what is still leased.

// shut closes the pool to callers and ends its dials. It returns the connections that were idle, for the caller
// to destroy, and whether the pool was open.
func (p *Pool) shut() (idle []*conn, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false
	}
	p.closed = true
	p.cancel()
	for p.idle.length > 0 {
		idle = append(idle, p.idle.pop())
	}
	for w := p.waiters.front; w != nil; w = p.waiters.front {
		p.leaveLineLocked(w)
		w.answer(nil, nil)
	}
	if p.host != nil {
		if p.health != ejected {
			p.host.service.available.Add(-1)
		}
		p.host.stopProbeLocked()
	}
	p.drained = make(chan struct{})
	if p.open == 0 {
		close(p.drained)
	}
	return idle, true
}

// destroyAll closes connections side by side, and returns when their places are free.
func (p *Pool) destroyAll(conns []*conn) {
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { p.destroy(c) })
	}
	wg.Wait()
}

// closeAll waits until pools that are shut have no connection left. At the deadline it closes those still
// leased and returns an error that says how many they were.
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
	var wg sync.WaitGroup
	leases, dials := 0, 0
	for _, p := range pools {
		conns, dialing := p.cut()
		leases, dials = leases+len(conns), dials+dialing
		wg.Go(func() { p.destroyAll(conns) })
	}
	wg.Wait()
	if leases == 0 && dials == 0 {
		return fmt.Errorf("%w: the driver has not closed all connections after %v", ErrOpTimeout, deadline)
	}
	err := fmt.Errorf("%w: %d connections still leased after %v were closed", ErrOpTimeout, leases, deadline)
	if dials > 0 {
		err = fmt.Errorf("%w, and %d dials have not returned", err, dials)
	}
	return err
}

// cut takes the connections away from the leases that hold them, for the caller to destroy, and counts the
// dials that do not heed their context.
func (p *Pool) cut() (conns []*conn, dialing int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if c.lease != nil && !c.cut {
			c.cut = true
			p.inUse.Add(-1)
			p.counts.cut++
			conns = append(conns, c)
		}
	}
	return conns, p.dialing
}
