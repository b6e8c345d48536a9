package pooly

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// cluster is what the hosts of a service share, as a group is what their pools share.
type cluster struct {
	*group                   // immutable
	name       string        // immutable; the service's
	config     ServiceConfig // immutable, with its defaults filled in
	rng        *rand.Rand    // immutable; safe for concurrent use, unlike most
	slotLength time.Duration // immutable
	keeper     keeper        // immutable

	// when a host was last added or restored, by the clock; see clientConn.outdated
	gainedAt atomic.Int64

	changed bell // rings when hosts, or the health of one, have changed

	answers atomic.Uint64 // answers that clients of DialContext got, from all hosts

	fitting atomic.Bool // the strategy asks for latencies at the current load
	// number of the current slot; kept up to date while the service is in use
	slot atomic.Int64
	// counts changes of hosts and of their health: each makes a snapshot stale
	generation   atomic.Uint64
	misbehaviour atomic.Bool // a ScoreCalculator that misbehaves is logged once
	outliers     outliers

	// What is usual among the hosts, from the last refresh. Failures are measured by it.
	usualScore   atomicFloat  // median of the means of their trials; 0: none
	usualLatency atomic.Int64 // median of their latencies; 0: none

	rate       atomicFloat // trials a second, of all hosts
	leastShare atomicFloat // share of the picks that a learning strategy gives each host; see pace
}

// A keeper has the hosts, and hears what becomes of them. Its methods are called without a lock.
type keeper interface {
	// all returns the hosts in use.
	all() []*host

	hostEjected(h *host, cause error)
	hostRestored(h *host)

	// forget lets go of a host that was removed and has no connection left.
	forget(h *host)
}

// moment is a time at which scores are computed.
type moment struct {
	slot  int64
	now   time.Duration
	keep  float64 // the share of its newest trials that a host still remembers
	learn float64 // the same of all trials
	fade  float64 // the share of its expected latency that is left to an unused host
}

// leastUsualScore replaces a lower usual score, because nothing can be measured by a score near 0.
const leastUsualScore = 0.01

// usual returns the usual score of the hosts' trials.
func (s *cluster) usual() float64 {
	return max(leastUsualScore, s.usualScore.Load())
}

func (s *cluster) slotAt(now time.Duration) int64 {
	return int64(now / s.slotLength)
}

// startTiming makes the service time its leases. It is called for each pick, so it stores only
// once.
func (s *cluster) startTiming() {
	if !s.timing.Load() {
		s.timing.Store(true)
	}
}

// calculate passes a score through the ScoreCalculator. If that panics or returns no number, the
// score stays as it was. A result outside [0, 1] is brought to the nearer end. Either is logged,
// the first time.
func (s *cluster) calculate(score float64) (result float64) {
	if s.config.ScoreCalculator == nil {
		return score
	}
	defer func() {
		if v := recover(); v != nil {
			result = score
			if s.misbehaviour.CompareAndSwap(false, true) {
				_ = recovered(s.log, "ScoreCalculator.Compute", v)
			}
		}
	}()
	computed := s.config.ScoreCalculator.Compute(score)
	if computed >= HostDown && computed <= HostUp {
		return computed
	}
	if s.misbehaviour.CompareAndSwap(false, true) {
		s.log.Error("pooly: ScoreCalculator returned no score",
			"service", s.name, "of", score, "result", computed)
	}
	if math.IsNaN(computed) {
		return score
	}
	return clampScore(computed)
}
