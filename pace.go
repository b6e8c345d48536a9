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

// forgetting is how fast a memory fades: by a factor of e in the time in which a host gets so many
// trials on average, within two bounds.
type forgetting struct {
	trials      float64
	least, most time.Duration // of the time in which it fades by e
}

var (
	// newest is the memory for failures, see decay.Recent. At most is half of DecayDuration.
	newest = forgetting{trials: 3, least: time.Second}

	// latencies is for the expected latency of an unused host. When it has faded, the host is tried
	// again. That may cost a slow request, so a service with few trials must not try often.
	latencies = forgetting{trials: 85, least: 5 * time.Second, most: time.Minute}
)

// Learning strategies forget by a factor of e in the time of learntTrials of all hosts together.
// That time is at least DecayDuration and at most learntMost times DecayDuration. Fewer trials
// could not tell hosts apart that differ by a tenth.
const (
	learntTrials = 20_000
	learntMost   = 30
)

// keep returns what is left after a time in which each host had so many trials.
func (f forgetting) keep(trials float64, elapsed time.Duration) float64 {
	forgets := min(trials/f.trials, float64(elapsed)/float64(f.least))
	return math.Exp(-max(forgets, float64(elapsed)/float64(f.most)))
}

// turn sets how much hosts still remember of what was before the last refresh. It returns how long
// ago the last refresh was.
func (p *pace) turn(at *moment, hosts int, decay time.Duration) (elapsed time.Duration) {
	elapsed, p.at = max(1, at.now-p.at), at.now
	trials := p.trials / float64(max(1, hosts))
	failures := newest
	failures.most = max(1, decay/2)
	at.keep = failures.keep(trials, elapsed)
	longest := decay * min(learntMost, forever/decay)
	at.learn = forgetting{learntTrials, decay, longest}.keep(p.trials, elapsed)
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

// Learning strategies try each host once in scoutEvery, to notice when a host is well again after a
// long time. All these trials together take at most scoutMost of the picks.
const (
	scoutEvery = time.Second
	scoutMost  = 0.01
)
