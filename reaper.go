package pooly

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// reaper closes idle connections that have become too old, in all pools of a service. It is one timer that is
// set for the next expiry, and not set while nothing is idle.
type reaper struct {
	env   *poolEnv
	pools iter.Seq[*Pool]

	next atomic.Int64 // when the timer fires, by env.clock; forever if it is not set

	mu      sync.Mutex // guards the fields below and writes to next
	timer   *time.Timer
	swept   time.Duration // when the last sweep began
	stopped bool
}

// A sweep looks at every pool, so sweeps keep a distance: a sixty-fourth of the shortest age, at most 100 ms.
// It bounds how much later than at its expiry an idle connection is closed; it is never handed out after it.
const sweepGap = 100 * time.Millisecond

func newReaper(env *poolEnv, pools iter.Seq[*Pool]) *reaper {
	r := &reaper{env: env, pools: pools}
	r.next.Store(int64(forever))
	return r
}

// expect makes sure that a sweep comes soon after the given time.
func (r *reaper) expect(expiry time.Duration) {
	if int64(expiry) >= r.next.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || int64(expiry) >= r.next.Load() {
		return
	}
	if r.swept > 0 {
		expiry = max(expiry, r.swept+r.gap())
	}
	r.next.Store(int64(expiry))
	delay := expiry - r.env.clock.now()
	if r.timer == nil {
		r.timer = time.AfterFunc(delay, r.sweep)
	} else {
		r.timer.Reset(delay)
	}
}

func (r *reaper) gap() time.Duration {
	age := forever
	for _, limit := range []time.Duration{r.env.config.ConnIdleTimeout, r.env.config.MaxConnLifetime} {
		if limit > 0 {
			age = min(age, limit)
		}
	}
	return min(sweepGap, age/64)
}

func (r *reaper) sweep() {
	now := r.env.clock.now()
	r.mu.Lock()
	r.swept = now
	r.next.Store(int64(forever))
	r.mu.Unlock()
	for p := range r.pools {
		p.reap(now)
	}
}

func (r *reaper) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// reap closes the idle connections that have expired, and has the reaper come again for the others.
func (p *Pool) reap(now time.Duration) {
	var expired []*conn
	p.mu.Lock()
	next := forever
	p.idle.filter(func(c *conn) bool {
		at := p.expiry(c)
		if at <= now {
			expired = append(expired, c)
			return false
		}
		next = min(next, at)
		return true
	})
	p.mu.Unlock()
	if next < forever {
		p.reaper.expect(next)
	}
	if len(expired) > 0 {
		go p.destroyAll(expired) // so that a driver that is slow to close one pool's delays no other pool
	}
}
