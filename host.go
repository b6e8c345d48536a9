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
	peak    time.Duration // guarded by Pool.mu; peak EWMA of lease times; latency shows it
	timedAt time.Duration // guarded by Pool.mu; when peak was last updated
	window  decay.Window  // guarded by Pool.mu
	cluster *cluster      // immutable
	Pool
	health               // guarded by Pool.mu
	curve   loadCurve    // written under Pool.mu
	recent  decay.Recent // guarded by Pool.mu; as of the last refresh
	learnt  decay.Learnt // the same
	report  loadReport
	probing probing

	checkAt     time.Duration // guarded by Pool.mu; when the host is checked if nobody uses it; 0: unknown
	checkedUses uint64        // guarded by Pool.mu; leases and dials when checkAt was set

	answered atomic.Uint64 // cluster.answers when the host last answered a client of DialContext
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
	current := c.epoch == h.epoch // else the lease began before the host was ejected
	if c.start != 0 && current && !c.outside && !o.apart && h.timing.Load() {
		h.timeLocked(c, o, now-c.start, now)
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
//
// A failure shows no speed: it counts as a lease that took at least as long as is usual among the
// hosts. Otherwise a host that fails at once would look fast and attract traffic. Until the next
// refresh, when its weight tells, or until a lease ends well, the host looks slow. A lease that its
// user cancelled, or that had too little time, says how long the host took at least.
func (h *host) timeLocked(c *conn, o outcome, elapsed, now time.Duration) {
	usual := time.Duration(h.cluster.usualLatency.Load())
	failed := o.rated && !o.givenUp && o.score < h.cluster.usual()/2
	switch {
	case failed:
		elapsed = max(elapsed, usual)
	case (o.givenUp || !o.rated) && elapsed < h.peak:
		return
	}
	shown := time.Duration(h.latency.Load())
	h.observeLocked(elapsed, now)
	fitting := h.cluster.fitting.Load()
	if fitting {
		h.curve.observeLocked(int(c.load), elapsed, now)
		h.average.Store(int64(h.curve.meanLocked()))
	}
	if failed {
		slow := max(usual, h.peak) * slowAfterFailure
		if shown >= slow { // it has failed before
			slow = min(2*shown, slow*mostFailures)
		}
		h.latency.Store(int64(slow))
		if fitting { // else the curve has no lease to be fitted to
			h.average.Store(int64(slow))
			h.curve.publish(float64(slow), 0)
		}
	}
}

// slowAfterFailure is how many times as long as usual a host seems to take after a failure. Each
// further failure doubles that, up to mostFailures times as much: beside hosts with many leases, an
// empty host that is ten times slower would still be the best choice.
const (
	slowAfterFailure = 10
	mostFailures     = 100
)

// observeLocked adds a lease time to the peak EWMA. A longer time replaces it at once. A shorter
// time pulls it down with the weight 1-exp(-Δt/latencyDecay), where Δt is the time since the last
// change. This is Finagle's peak-EWMA load metric (com.twitter.finagle.loadbalancer.PeakEwma).
func (h *host) observeLocked(elapsed, now time.Duration) {
	was := float64(h.peak)
	if x := float64(elapsed); x >= was {
		was = x
	} else {
		keep := math.Exp(-float64(now-h.timedAt) / float64(latencyDecay))
		was = was*keep + x*(1-keep)
	}
	h.timedAt = now
	h.peak = max(1, time.Duration(was))
	h.latency.Store(int64(h.peak))
}

// forgetLatencyLocked makes the host one that was never timed. A host that comes back may be another
// server, and its latest latencies are of the time when it failed.
func (h *host) forgetLatencyLocked() {
	h.peak = 0
	h.latency.Store(0)
	h.average.Store(0)
	c := &h.curve
	c.weight, c.x, c.y, c.xx, c.xy = 0, 0, 0, 0, 0
	c.line.Store(0)
}

// record computes the score and what else is known of the host. It also lets the latency decay, so
// that one slow reply does not keep traffic away forever.
func (h *host) record(at moment) (r recorded) {
	h.mu.Lock()
	h.window.Advance(at.slot)
	if h.latency.Load() != 0 {
		h.observeLocked(0, at.now)
		if h.curve.line.Load() != 0 {
			h.curve.fadeLocked(at.now, at.fade)
			h.average.Store(int64(h.curve.meanLocked()))
		}
	}
	h.trials, h.mean = h.window.Trials(), h.window.Mean()
	if h.learnt.Trials > fewTrials {
		r.mean = h.learnt.Mean()
	}
	added := h.recent.Add(&h.window, at.keep, h.cluster.usual())
	r.trials = added.Trials
	r.worse = h.learnt.Add(added, at.learn, at.keep)
	score := h.window.Score()
	h.mu.Unlock()
	h.score.Store(h.cluster.calculate(score))
	return r
}

// fewTrials are not enough to call a host the best.
const fewTrials = 20

// recorded is what a refresh found out about a host.
type recorded struct {
	trials float64 // since the last refresh
	mean   float64 // mean of all trials before; 0 if there were few
	worse  bool    // the trials contradict that mean
}

// atomicFloat is a float64 that is read and written atomically.
type atomicFloat struct{ bits atomic.Uint64 }

func (f *atomicFloat) Load() float64   { return math.Float64frombits(f.bits.Load()) }
func (f *atomicFloat) Store(v float64) { f.bits.Store(math.Float64bits(v)) }
