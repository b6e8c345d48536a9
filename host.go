package pooly

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly/internal/decay"
)

// ejectionJitter is the share of an ejection time by which it may be shorter, at random.
const ejectionJitter = 0.2

// latencyDecay is the time constant with which a latency peak is forgotten, Finagle's default for its peak
// EWMA.
const latencyDecay = 10 * time.Second

// host is one address of a service: its pool, and what its leases told of it. What a pair of GetConn and Release touches
// lies together, from the end of window to the beginning of Pool, in two cache lines that processors fetch together, since
// the first has an even number: over 10,000 hosts in random order a pair with softmax takes 255 ns, and 280 where it is odd.
type host struct {
	ejection              // guarded by Pool.mu
	place    atomic.Int32 // in the hosts of the view that was last filled, or had all its scores computed
	index    int32        // guarded by service.mu; its place in service.order
	score    atomicFloat  // memoized; written by refresh
	window   decay.Window // guarded by Pool.mu
	service  *Service     // immutable
	Pool
	curve   loadCurve     // written under Pool.mu
	timedAt time.Duration // guarded by Pool.mu; when latency was last brought up to date
	trials  float64       // guarded by Pool.mu; as of the last refresh
	mean    float64       // guarded by Pool.mu; of these trials
}

// rateLocked records what a lease told.
func (h *host) rateLocked(c *conn, o outcome, now time.Duration) {
	if o.rated {
		h.trialLocked(o.score)
	}
	if start := time.Duration(c.start.Load()); start != 0 && h.service.timing.Load() {
		h.timeLocked(c, now-start, now)
	}
}

// trialLocked records one score.
func (h *host) trialLocked(score float64) {
	h.window.Rate(h.service.slot.Load(), score)
	if !h.rated && !h.closed {
		h.rated = true
		h.service.rated.push(h)
	}
}

// timeLocked records how long a lease, or one request of it, took.
func (h *host) timeLocked(c *conn, elapsed, now time.Duration) {
	h.observeLocked(elapsed, now)
	if h.service.fitting.Load() {
		h.curve.observeLocked(int(c.load), elapsed, now)
	}
}

// observeLocked takes a lease time into the peak EWMA: a longer one replaces it at once, a shorter one pulls it
// down with the weight 1-exp(-Δt/latencyDecay), Δt being the time since the last change. This is Finagle's
// peak-EWMA load metric (com.twitter.finagle.loadbalancer.PeakEwma).
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

// recordLocked returns the score that the window gives by now, and keeps its trials and their mean. It lets the
// latency of a host that is not used decay, so that one slow reply does not keep traffic away forever.
func (h *host) recordLocked(at moment) (score float64) {
	h.rated = false
	h.window.Advance(at.slot)
	if h.latency.Load() != 0 {
		h.observeLocked(0, at.now)
		if h.curve.line.Load() != 0 {
			h.curve.fadeLocked(at.now)
		}
	}
	h.trials, h.mean = h.window.Trials(), h.window.Mean()
	return h.window.Score()
}

// record computes the score, and enters it in the host's arm.
func (h *host) record(at moment, arm *Arm) {
	h.mu.Lock()
	score := h.recordLocked(at)
	arm.Trials, arm.mean = h.trials, h.mean
	h.mu.Unlock()
	arm.Score = h.service.calculate(score)
	h.score.Store(arm.Score)
}

// atomicFloat is a float64 that is read and written atomically.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }
