package pooly

import (
	"math"
	"time"
)

// pace is how much the hosts of a service were used of late. It says how fast they forget: memories
// of a fixed time would hold too few trials in a service that is seldom used.
type pace struct {
	at     time.Duration // of the last refresh
	usedAt time.Duration // of the last refresh that found a trial
	trials float64       // of all hosts, between the last two refreshes
}

// forgetting is how fast a memory fades: by e in the time of some trials of a host in the mean,
// between two bounds.
type forgetting struct {
	trials      float64
	least, most time.Duration
}

var (
	// newest is the memory for failures, see decay.Recent. At most is half of DecayDuration.
	newest = forgetting{trials: 3, least: time.Second}

	// latencies is for the expected latency of an unused host. When it has faded, the host is tried
	// again. That may cost a slow request, so a service with few trials must not try often.
	latencies = forgetting{trials: 85, least: 5 * time.Second, most: time.Minute}
)

// How fast learning strategies forget: by e in the time of learntTrials of all hosts, but at least
// in DecayDuration and at most in learntMost times that. Fewer trials could not tell hosts apart
// that differ by a tenth.
const (
	learntTrials = 20_000
	learntMost   = 30
)

// keep returns what is left after a time in which each host had so many trials.
func (f forgetting) keep(trials float64, elapsed time.Duration) float64 {
	forgets := min(trials/f.trials, float64(elapsed)/float64(f.least))
	return math.Exp(-max(forgets, float64(elapsed)/float64(f.most)))
}

// turn says how much hosts remember since the last refresh, and returns how long ago that was.
func (p *pace) turn(at *moment, hosts int, decay time.Duration) (elapsed time.Duration) {
	elapsed, p.at = max(1, at.now-p.at), at.now
	trials := p.trials / float64(max(1, hosts))
	failures := newest
	failures.most = max(1, decay/2)
	at.keep = failures.keep(trials, elapsed)
	at.learn = forgetting{learntTrials, decay, decay * min(learntMost, forever/decay)}.keep(p.trials, elapsed)
	if at.now-p.usedAt > latencies.least {
		trials = math.Inf(1) // an idle service forgets: much may have changed
	}
	at.fade = latencies.keep(trials, elapsed)
	return elapsed
}

// add records the trials since the last refresh.
func (p *pace) add(trials float64, now time.Duration) {
	p.trials = trials
	if trials > 0 {
		p.usedAt = now
	}
}

// timedPerSecond is how many leases a second a service times. If there are more, it times one in
// leaseChunk, which is still many.
const timedPerSecond = 50_000

// How often learning strategies try each host, so that one that was bad for long and is well again
// is found out: once in scoutEvery, unless scouting would take more than scoutMost of all picks.
const (
	scoutEvery = time.Second
	scoutMost  = 0.01
)
