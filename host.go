package pooly

import (
	"math"
	"sync/atomic"
	"time"
)

// How ejected hosts are probed: at once a tenth of a second after the ejection, then each time twice as long
// after the last, up to ten seconds. Each delay is shortened at random by up to a fifth, so that many clients
// of a host that returns do not come at the same moment, and the delay named is the longest that a host which
// is back waits for its traffic.
const (
	probeBase   = 100 * time.Millisecond
	probeCap    = 10 * time.Second
	probeJitter = 0.2
)

// latencyDecay is the time constant with which a latency peak is forgotten, Finagle's default for its peak
// EWMA.
const latencyDecay = 10 * time.Second

// host is one address of a service: its pool, and what its leases told of it.
type host struct {
	Pool
	window  window        // guarded by Pool.mu
	service *Service      // immutable
	score   atomicFloat   // memoized; written by refresh
	latency atomic.Int64  // nanoseconds, 0 if never timed; written under Pool.mu
	index   int           // guarded by service.mu; its place in service.order
	trials  float64       // guarded by Pool.mu; as of the last refresh
	mean    float64       // guarded by Pool.mu; of these trials
	curve   loadCurve     // written under Pool.mu
	timedAt time.Duration // guarded by Pool.mu; when latency was last brought up to date
	probe   *time.Timer   // guarded by Pool.mu; nil unless the host is ejected
	probed  int           // guarded by Pool.mu; how many probes in a row have failed
	cause   error         // guarded by Pool.mu; the failure of the last dial, while the host is ejected
}

// rateLocked records what a lease told.
func (h *host) rateLocked(l *Conn, o outcome, now time.Duration) {
	if o.rated {
		h.window.rate(h.service.slot.Load(), o.score)
	}
	if l.start != 0 && h.service.timing.Load() {
		h.observeLocked(now-l.start, now)
		if h.curve.wanted.Load() {
			h.curve.observeLocked(int(l.load), now-l.start, now)
		}
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
func (h *host) recordLocked(slot int64, now time.Duration) (score float64) {
	h.window.advance(slot)
	if h.latency.Load() != 0 {
		h.observeLocked(0, now)
	}
	if h.curve.line.Load() != 0 {
		h.curve.fadeLocked(now)
	}
	h.trials, h.mean = h.window.effectiveTrials(), h.window.mean()
	return h.window.score()
}

// scheduleProbeLocked sees to it that an ejected host is probed, later each time a probe fails. Failures of
// other dials, for callers who had no other host, change nothing.
func (h *host) scheduleProbeLocked(probeFailed bool) {
	if probeFailed {
		h.probed++
	} else if h.probe != nil {
		return
	}
	delay := min(probeCap, probeBase<<min(h.probed, 10))
	delay -= time.Duration(probeJitter * h.service.rng.Float64() * float64(delay))
	if h.probe == nil {
		h.probe = time.AfterFunc(delay, h.runProbe)
	} else {
		h.probe.Reset(delay)
	}
}

// stopProbeLocked ends the probing of a host that is back, removed or closed.
func (h *host) stopProbeLocked() {
	if h.probe != nil {
		h.probe.Stop()
	}
	h.probe, h.probed = nil, 0
}

// runProbe dials an ejected host once. Its connection stays in the pool. If a dial is in flight already, or
// there is no place for one, that dial or the next probe tells.
func (h *host) runProbe() {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed || h.health != ejected:
	case h.mayDialLocked():
		h.startDialLocked(dialJob{tries: 1, probe: true})
	default:
		h.probe.Reset(probeBase)
	}
}

func (h *host) reportEjected(cause error) {
	h.log.Warn("pooly: host ejected", "service", h.service.name, "address", h.address, "cause", cause)
	h.service.rebuildSoon()
}

func (h *host) reportRestored() {
	h.log.Info("pooly: host restored", "service", h.service.name, "address", h.address)
	h.service.rebuildSoon()
}

// atomicFloat is a float64 that is read and written atomically.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }
