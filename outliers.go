package pooly

import (
	"math"
	"sync/atomic"
	"time"
)

// outliers compares a host that fails with the others. A host is ejected if it is worse than the
// others, not if it is bad. While all hosts fail alike, the fault is elsewhere, and fewer hosts
// with the same load would make it worse.
//
// Let q be the share of the other hosts' leases that failed lately. By chance, n failures in a row
// have the probability qⁿ. A host is an outlier if two conditions hold:
//   - Its failures in a row are at least ConsecutiveFailures, and qⁿ is below chance: n ≥
//     ln(chance)/ln(q).
//   - If the others fail too, less than half as many of its leases end well, in proportion. Many
//     leases may time out at once, so failures are not independent.
//
// Envoy's and gRPC's success-rate ejection (gRFC A50) compares with the mean of all hosts over 10
// s. This rule needs only the time of a few leases.
type outliers struct {
	cluster *cluster
	alikeAt atomic.Int64 // when hosts were last found to fail alike, by the clock; 0: never
	ejected atomic.Bool  // a host was ejected by feedback since the last readmission

	ejecting mutex // makes one step of counting and ejecting; taken before Pool.mu

	mu    mutex // guards the fields below; taken before Service.mu and Pool.mu
	began time.Duration
	at    time.Duration // when the totals were computed
	took  time.Duration // how long that took
	ended float64       // leases of all hosts
	bad   float64       // of these, the ones that failed
}

const (
	chance          = 1e-8
	probationChance = 1e-2 // for a host that failed a moment ago
	calm            = 0.05 // others that fail less than this do not count as failing
	addUpRest       = 40   // adding up takes 1/addUpRest of the time at most
	tallyWindow     = time.Second
	tallyLeast      = 20 // leases of all hosts; a window with fewer is longer
)

// tally counts a host's leases for outliers. It is guarded by Pool.mu.
type tally struct {
	bad        uint64 // failures, in total
	requests   uint64 // exchanges rated during leases, minus those leases; may wrap
	prev, base counted
}

// counted has totals at the beginning of a window.
type counted struct{ ended, bad uint64 }

// compare ejects h if it is an outlier.
func (o *outliers) compare(h *host, cause error) {
	others, own := o.shares(h)
	h.mu.Lock()
	h.comparedAt = time.Duration(o.cluster.coarse.Load())
	base, likely := h.limitOfFailures(), chance
	if h.status == probation || h.setbacks > 0 {
		base, likely = 1, probationChance
	}
	need := base
	if others.bad > 0 {
		q := others.bad / (others.ended + 2)
		need = max(base, uint32(min(1e9, math.Ceil(math.Log(likely)/math.Log(q)))))
	}
	h.suspectAt = need
	outlier := h.failures >= need && h.status != ejected
	if share := others.failing(); outlier && share > calm {
		outlier = 1-own.failing() < (1-share)/2
	}
	if !outlier {
		h.suspectAt = max(need, h.failures+1)
	}
	h.mu.Unlock()
	switch {
	case outlier:
		o.eject(h, cause)
	case others.failing() > calm:
		o.failAlike()
	}
}

// totals counts leases that ended, and how many of them failed.
type totals struct{ ended, bad float64 }

func (t totals) failing() float64 {
	if t.ended == 0 {
		return 0
	}
	return t.bad / t.ended
}

// refresh adds up the totals. It is called when a host fails for the first time, so that the window
// that its later failures are compared with begins now.
func (o *outliers) refresh() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refreshLocked()
}

// refreshLocked adds up the totals. That locks each pool, so it happens less often the longer it
// takes.
func (o *outliers) refreshLocked() {
	now := o.cluster.clock.now()
	if o.at == 0 || now-o.at >= addUpRest*o.took {
		o.addUp(now)
	}
}

// shares returns how the leases of the other hosts and of h have ended in the last one to two
// seconds.
func (o *outliers) shares(h *host) (others, own totals) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refreshLocked()
	h.mu.Lock()
	own = h.tally.since(h)
	h.mu.Unlock()
	return totals{max(0, o.ended-own.ended), max(0, o.bad-own.bad)}, own
}

func (o *outliers) addUp(now time.Duration) {
	hosts := o.cluster.keeper.all()
	renew, forget := o.began == 0, o.began == 0 // whether a window begins
	if age := now - o.began; !renew && age >= tallyWindow {
		since := sinceBase(hosts)
		// What is older counts no more, unless hosts failed all the time: there may be nothing
		// else to compare with.
		forget = age >= 2*tallyWindow && since.failing() <= calm
		renew = forget || since.ended >= tallyLeast
	}
	o.ended, o.bad = 0, 0
	for _, h := range hosts {
		h.mu.Lock()
		if renew {
			current := counted{h.endedLocked(), h.tally.bad}
			h.tally.prev = h.tally.base
			if forget {
				h.tally.prev = current
			}
			h.tally.base = current
		}
		t := h.tally.since(h)
		h.mu.Unlock()
		o.ended += t.ended
		o.bad += t.bad
	}
	if renew {
		o.began = now
	}
	o.at, o.took = now, o.cluster.clock.now()-now
}

// sinceBase returns what leases have ended with since the current window began.
func sinceBase(hosts []*host) (sum totals) {
	for _, h := range hosts {
		h.mu.Lock()
		sum.ended += float64(h.endedLocked() - h.tally.base.ended)
		sum.bad += float64(h.tally.bad - h.tally.base.bad)
		h.mu.Unlock()
	}
	return sum
}

func (t *tally) since(h *host) totals {
	return totals{float64(h.endedLocked() - t.prev.ended), float64(t.bad - t.prev.bad)}
}

// endedLocked returns how many leases have ended. Each exchange that is rated during a lease counts
// as a lease. Otherwise only connections that failed would count, since the others stay open.
func (h *host) endedLocked() uint64 {
	return h.gets - uint64(h.inUseLocked()) + h.tally.requests
}

// eject ejects a host by feedback, unless that would exceed MaxEjectionPercent. It never ejects the
// last host.
func (o *outliers) eject(h *host, cause error) {
	s := o.cluster
	o.ejecting.Lock()
	hosts, up := int(s.size.Load()), int(s.up.Load())
	most := min(hosts-1, max(1, hosts*s.config.MaxEjectionPercent/100))
	h.mu.Lock()
	var after func()
	if up > hosts-most && h.status != ejected && !h.closed {
		after = h.eject(cause, true)
		o.ejected.Store(true)
		h.settleLocked()
	}
	h.unlock()
	o.ejecting.Unlock()
	if after != nil {
		after()
	}
}

// failAlike records that hosts fail alike.
func (o *outliers) failAlike() {
	s := o.cluster
	now := int64(s.clock.now())
	was := o.alikeAt.Swap(now)
	if was == 0 || time.Duration(now-was) > panicMemory {
		s.log.Warn("pooly: hosts fail alike, so none is ejected for it", "service", s.name)
	}
	o.readmit()
}

// alike reports whether hosts have failed alike within panicMemory.
func (o *outliers) alike() bool {
	at := o.alikeAt.Load()
	return at != 0 && int64(o.cluster.clock.now())-at < int64(panicMemory)
}

// panicMemory is how long hosts count as failing alike.
const panicMemory = 2 * time.Second

// readmit restores the hosts that were ejected by feedback if fewer than half are up. They may be
// no worse than the rest, and the rest is too few (Envoy's panic threshold).
func (o *outliers) readmit() {
	if 2*o.cluster.up.Load() >= o.cluster.size.Load() || !o.ejected.Swap(false) {
		return
	}
	for _, h := range o.cluster.keeper.all() {
		h.mu.Lock()
		var after func()
		if h.status == ejected && h.byFeedback && !h.closed {
			after = h.restore()
			h.settleLocked()
		}
		h.unlock()
		if after != nil {
			after()
		}
	}
}
