package pooly

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly/internal/decay"
)

// host is one address of a service: its pool, and what its leases said about it. It owns the pool.
//
// Field order matters: the hot fields, from the end of window to the beginning of Pool, share an
// aligned pair of cache lines (tested).
type host struct {
	index   int32         // guarded by service.mu; its index in service.order
	score   atomicFloat   // memoized; written by builds
	trials  float64       // guarded by Pool.mu; as of the last build
	mean    float64       // guarded by Pool.mu; mean score of these trials
	timedAt time.Duration // guarded by Pool.mu; when latency was last updated
	_       [24]byte      // so that the allocator, which puts 8 bytes before large objects, aligns what follows
	window  decay.Window  // guarded by Pool.mu
	cluster *cluster      // immutable
	Pool
	health           // guarded by Pool.mu
	curve  loadCurve // written under Pool.mu

	answered atomic.Uint64 // what cluster.answers was when it last answered a client of DialContext
}

func (s *cluster) newHost(address string, score float64, now time.Duration) *host {
	h := &host{cluster: s, mean: decay.NoTrials, window: decay.New(s.slotAt(now))}
	h.suspectAt = h.limitOfFailures()
	h.score.Store(score)
	h.init(address, s.group, h)
	return h
}

// rate implements owner.
func (h *host) rate(score float64) {
	h.window.Rate(h.cluster.slot.Load(), score)
}

// leaseEnded implements owner.
func (h *host) leaseEnded(c *conn, o outcome, now time.Duration) (after func()) {
	if o.rated {
		h.rate(o.score)
	}
	if c.start != 0 && !c.outside && !o.apart && h.timing.Load() {
		h.timeLocked(c, now-c.start, now)
	}
	if (c.outside || o.apart) && !o.rated {
		h.tally.requests-- // its exchanges have been counted
	}
	return h.judge(c, o)
}

// hostOf returns the host of a lease, nil if its pool is used alone.
func hostOf(l *Conn) *host {
	h, _ := l.conn.pool.owner.(*host)
	return h
}

// drained implements owner.
func (h *host) drained() {
	h.cluster.keeper.forget(h)
}

// retire closes the pool of a host that is removed, or whose service is closed. It returns the idle
// connections for the caller to destroy.
func (h *host) retire() (idle []*conn) {
	h.mu.Lock()
	defer h.unlock()
	idle, first := h.shutLocked()
	if first && h.status != ejected {
		h.group.up.Add(-1)
	}
	h.stopProbe()
	return idle
}

// timeLocked records how long a lease, or one request of it, took.
func (h *host) timeLocked(c *conn, elapsed, now time.Duration) {
	h.observeLocked(elapsed, now)
	if h.cluster.fitting.Load() {
		h.curve.observeLocked(int(c.load), elapsed, now)
	}
}

// observeLocked adds a lease time to the peak EWMA. A longer time replaces it at once. A shorter
// time pulls it down with the weight 1-exp(-Δt/latencyDecay), where Δt is the time since the last
// change. This is Finagle's peak-EWMA load metric (com.twitter.finagle.loadbalancer.PeakEwma).
func (h *host) observeLocked(elapsed, now time.Duration) {
	was := float64(h.latency.Load())
	if x := float64(elapsed); x >= was {
		was = x
	} else {
		keep := math.Exp(-float64(now-h.timedAt) / float64(latencyDecay))
		was = was*keep + x*(1-keep)
	}
	h.timedAt = now
	h.latency.Store(max(1, int64(was)))
}

// record computes the score. It also lets the latency decay, so that one slow reply does not keep
// traffic away forever.
func (h *host) record(at moment) {
	h.mu.Lock()
	h.window.Advance(at.slot)
	if h.latency.Load() != 0 {
		h.observeLocked(0, at.now)
		if h.curve.line.Load() != 0 {
			h.curve.fadeLocked(at.now)
		}
	}
	h.trials, h.mean = h.window.Trials(), h.window.Mean()
	score := h.window.Score()
	h.mu.Unlock()
	h.score.Store(h.cluster.calculate(score))
}

// atomicFloat is a float64 that is read and written atomically.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }
