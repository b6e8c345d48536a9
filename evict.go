package pooly

import "fmt"

// How an operator changes a pool that is in use.

// Evict closes the idle connections in the background, and leased ones when they are released. New
// ones are dialled when callers need them, first one at a time, then more and more. Evict does not
// wait. It counts nothing against the host.
//
// Use it if connections must not be kept: after new credentials, or after a change behind the
// address. Outdated then reports true for connections of DialContext.
func (p *Pool) Evict() {
	p.mu.Lock()
	p.era.Add(1)
	p.renew = true
	p.gate.most = min(p.gate.most, 1)
	for _, c := range p.conns {
		c.spent = forEviction
		if c.share != nil {
			c.share.over.Store(true)
			c.retired = true
		}
	}
	idle := p.idle.drain()
	p.settleLocked()
	p.unlock()
	p.destroyAll(idle, forEviction)
}

// Resize changes MaxConns. If it grows, callers that wait are served at once. If it shrinks, the
// connections above it are closed: idle ones in the background, leased ones when they are released.
// Resize does not wait.
//
// It returns an error that wraps ErrInvalidArg if maxConns is less than 1, and ErrPoolClosed after
// Close.
func (p *Pool) Resize(maxConns int) error {
	if maxConns < 1 {
		return belowOne(maxConns)
	}
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return named("pool", quoteAddress(p.address), ErrPoolClosed)
	}
	p.resized(int(p.maxConns.Swap(int32(min(maxConns, mostConns)))))
	return nil
}

func belowOne(maxConns int) error {
	return fmt.Errorf("%w: Resize to %d, and the least is 1", ErrInvalidArg, maxConns)
}

// resized puts a new MaxConns into effect.
func (p *Pool) resized(former int) {
	p.mu.Lock()
	most := p.most()
	if p.gate.most >= former {
		p.gate.most = most // all may be dialled at once, as before
	}
	p.gate.most = min(p.gate.most, most)
	if p.limiter.limit >= float64(most) {
		p.limiter.limit = 0
	}
	p.allowLocked()
	keep := p.idle.length - p.surplusLocked(0)
	var idle []*conn
	p.idle.filter(func(c *conn) bool {
		if keep--; keep < 0 {
			idle = append(idle, c)
		}
		return keep >= 0
	})
	p.settleLocked()
	p.unlock()
	p.destroyAll(idle, forSurplus)
}

// surplusLocked returns how many connections and dials would exceed MaxConns with the given number
// more. Connections that are being closed do not count. None exceed it unless MaxConns has shrunk.
func (p *Pool) surplusLocked(more int) int {
	if p.open-p.apart <= p.most() {
		return 0
	}
	n := p.idle.length + p.borrowed + p.inUseLocked() + p.dialing + more
	if !p.limited {
		n -= int(p.outside) + p.racing
	}
	return max(0, n-p.most())
}
