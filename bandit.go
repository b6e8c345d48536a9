package pooly

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/3XX0/pooly/internal/decay"
)

// Bandit is a strategy: it decides which hosts get the traffic. It works in two phases, so that
// choosing a host costs next to nothing.
//
// NewPicker prepares the choice among arms, the hosts that may be picked. There is at least one. It
// is called off the hot path, possibly concurrently:
//   - when a host is added, removed, ejected or restored;
//   - when scores have been recomputed, which does not happen while nothing is released.
//
// The Picker may keep the slice; pooly does not change it afterwards.
//
// A strategy that keeps state, such as RoundRobin, belongs to one service.
//
// No call waits longer than 100 ms for NewPicker. If it takes longer, calls use the last Picker, or
// wait for whichever host comes free.
//
// If NewPicker panics or returns nil, or Pick panics or returns an index outside arms, GetConn
// fails with an error that says so.
type Bandit interface {
	NewPicker(arms []Arm) Picker
}

// Picker serves the GetConn calls until the next call of NewPicker.
//
// Pick returns the index in arms of the host to use. It is called concurrently, and should not
// lock. It should use no source of randomness but rng, so that a seeded rng makes it repeatable. It
// must not keep rng.
type Picker interface {
	Pick(rng *rand.Rand) int
}

// Arm is a host as a strategy sees it. It is a small value that can be copied freely. Its methods
// may be called concurrently.
//
// Address, Score, Trials and Mean are as of NewPicker. InUse, Latency and ExpectedLatency are live.
type Arm struct {
	Address string

	// Score is the host's quality in [0, 1]. A host that was just added has 0.5.
	Score float64

	// Trials is the number of Releases that the score rests on, each weighted by its age. Of n
	// slots, a Release in the slot of age k (newest 0) counts (n-k)/n.
	Trials float64

	// Before the ScoreCalculator:
	mean   float64       // see Mean
	recent decay.Segment // the trials of the last seconds; see decay.Recent
	learnt decay.Segment // the trials that learning strategies go by; see decay.Learnt

	host    *host    // nil in an Arm made by hand
	cluster *cluster // the host's; copied here so that Mean need not read the host's memory
}

// Mean returns the mean score of the Trials, weighted by age as they are. Unlike Score it leaves
// out slots without a Release, so it does not drift towards 0.5 while a host is unused. Mean and
// Trials together say all that is known of a host. Without trials, and in an Arm made by hand, it
// is the Score.
//
// Each call calls the ScoreCalculator, if there is one. So call it in NewPicker, not in Pick.
func (a Arm) Mean() float64 {
	if a.host == nil {
		return a.Score
	}
	return a.cluster.calculate(a.mean)
}

// evidence returns the mean score of the trials that learning strategies go by, and their number.
// If the service is seldom used, there are more of them than Trials. If the newest trials
// contradict the others, only the newest count (see decay.Learnt). In an Arm made by hand they are
// Mean and Trials.
func (a Arm) evidence() (mean, trials float64) {
	if a.host == nil {
		if !(a.Trials > 0) { // so that NaN is none
			return clampScore(a.Score), 0
		}
		return clampScore(a.Mean()), min(a.Trials, math.MaxInt32)
	}
	if a.learnt.Trials == 0 {
		return clampScore(a.Score), 0
	}
	return clampScore(a.cluster.calculate(a.learnt.Mean())), a.learnt.Trials
}

// scout raises the weights such that each host of a service has at least the least share.
func scout(arms []Arm, weights []float64) []float64 {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	for i, a := range arms {
		if a.host != nil {
			weights[i] = max(weights[i], sum*a.cluster.leastShare.Load())
		}
	}
	return weights
}

// InUse returns the host's load: its leases out, and the callers that wait for one of its dials. It
// is 0 in an Arm made by hand.
//
// It is an atomic read of memory that every GetConn and Release of the host writes, so usually a
// cache miss.
func (a Arm) InUse() int {
	if a.host == nil {
		return 0
	}
	return int(a.host.load.Load())
}

// Latency returns a peak EWMA of how long leases of the host last. A longer lease replaces it at
// once. Shorter leases pull it down with a time constant of 10 s, and so does time itself while the
// service is in use. It is 0 before the first timed lease ended, and in an Arm made by hand.
//
// A lease rated below half of the usual score shows no speed: it counts as at least as long as a
// usual lease. Latency is then ten times as high, until the scores are computed next or a lease of
// the host ends well.
//
// The first call makes the service time its leases from then on. That costs two clock readings per
// lease. If there are more than 50,000 leases a second, one in 16 is timed. A strategy that does
// not call Latency does not pay.
func (a Arm) Latency() time.Duration {
	if a.host == nil {
		return 0
	}
	a.cluster.startTiming()
	return time.Duration(a.host.latency.Load())
}

// ExpectedLatency returns how long a lease of the host that begins now should last: base + slope ·
// (in use + 1). This line is fitted by least squares to the leases that ended lately. It is 0
// before the first timed lease ended, and in an Arm made by hand.
//
// From the first call on, the service times its leases, as for Latency, and fits the line to them.
// A call costs as much as InUse and Latency together.
func (a Arm) ExpectedLatency() time.Duration {
	if a.host == nil {
		return 0
	}
	a.cluster.startTiming()
	if !a.cluster.fitting.Load() {
		a.cluster.fitting.Store(true)
	}
	return a.host.curve.latency(a.InUse() + 1)
}

// qualities returns how good the arms are by all that is known of them: (u + S) / (1 + T). S is the
// sum of the scores of T trials (see evidence). u is the mean of the hosts that were tried, so a
// host of which nothing is known counts as usual. Arm.Score would not do: it counts times without
// trials as 0.5, so a better host that is seldom tried would never look better.
//
// The quality of an arm made by hand is its Score. All are in [0, 1].
func qualities(arms []Arm) []float64 {
	q, trials := make([]float64, len(arms)), make([]float64, len(arms))
	sum, tried := 0.0, 0.0
	for i, a := range arms {
		q[i] = clampScore(a.Score)
		if a.host == nil {
			continue
		}
		if mean, n := a.evidence(); n > 0 {
			q[i], trials[i] = mean, n
			sum += mean
			tried++
		}
	}
	if tried == 0 {
		return q
	}
	usual := sum / tried
	for i, a := range arms {
		if a.host != nil {
			q[i] = clampScore((usual + trials[i]*q[i]) / (1 + trials[i]))
		}
	}
	return q
}
