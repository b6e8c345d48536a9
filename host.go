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
	_       [8]byte       // so that the allocator, which puts 8 bytes before large objects, aligns what follows
	window  decay.Window  // guarded by Pool.mu
	cluster *cluster      // immutable
	Pool
	health              // guarded by Pool.mu
	curve  loadCurve    // written under Pool.mu
	recent decay.Recent // guarded by Pool.mu; as of the last refresh
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
	if c.start != 0 && !c.outside && h.timing.Load() {
		h.timeLocked(c, o, now-c.start, now)
	}
	if c.outside && !o.rated {
		h.tally.requests-- // its requests have been counted
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
//
// A failure shows no speed: it counts as one that took at least as long as is usual among the
// hosts. Otherwise a host that fails at once would look fast and attract traffic. A lease that its
// user cancelled says how long the host took at least.
func (h *host) timeLocked(c *conn, o outcome, elapsed, now time.Duration) {
	switch {
	case o.rated && o.score < h.cluster.usual()/2:
		elapsed = max(elapsed, time.Duration(h.cluster.usualLatency.Load()))
	case !o.rated && (o.fatal || c.spent) && int64(elapsed) < h.latency.Load():
		return
	}
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

// record computes the score, and returns the number of trials since the last call. It also lets
// the latency decay, so that one slow reply does not keep traffic away forever.
func (h *host) record(at moment) (trials float64) {
	h.mu.Lock()
	h.window.Advance(at.slot)
	if h.latency.Load() != 0 {
		h.observeLocked(0, at.now)
		if h.curve.line.Load() != 0 {
			h.curve.fadeLocked(at.now, at.fade)
		}
	}
	h.trials, h.mean = h.window.Trials(), h.window.Mean()
	trials = h.recent.Add(&h.window, at.keep, h.cluster.usual())
	score := h.window.Score()
	h.mu.Unlock()
	h.score.Store(h.cluster.calculate(score))
	return trials
}

// atomicFloat is a float64 that is read and written atomically.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }
