package poolygrpc

import (
	"sync"
	"time"
)

// parking wakes RPCs that found no room. gRPC keeps them, and lets all of them pick again when it
// gets a picker. So they are woken at intervals, and not for each RPC that ends: each time, n
// waiting RPCs make n picks. The more RPCs wait, the longer the interval.
type parking struct {
	wake func() // immutable

	mu     sync.Mutex // guards the fields below
	parked int        // RPCs parked since the last wake
	last   int        // what parked was then
	timer  *time.Timer
	closed bool
}

const (
	parkLeast  = time.Millisecond
	parkForRPC = 50 * time.Microsecond // about 20 times as long as a pick takes
)

// park has the RPC that calls it woken soon.
func (p *parking) park() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked++
	if p.parked > 1 || p.closed {
		return
	}
	p.timer = time.AfterFunc(max(parkLeast, time.Duration(p.last)*parkForRPC), func() {
		p.mu.Lock()
		p.last, p.parked = p.parked, 0
		p.mu.Unlock()
		p.wake()
	})
}

func (p *parking) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
}
