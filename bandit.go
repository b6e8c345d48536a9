package pooly

import (
	"math/rand/v2"
	"time"
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

	// Trials is the number of Releases that the score rests on, each weighted by its age: a Release
	// in the newest of n slots counts 1, one in the slot of age k counts (n-k)/n.
	Trials float64

	mean    float64  // before the ScoreCalculator; see Mean
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
// The first call makes the service time its leases from then on, which costs two clock readings per
// lease. A strategy that does not call it does not pay.
func (a Arm) Latency() time.Duration {
	if a.host == nil {
		return 0
	}
	a.cluster.startTiming()
	return time.Duration(a.host.latency.Load())
}

// ExpectedLatency returns how long a lease of the host that begins now should last, given how many
// are in use: base + slope · (in use + 1), a line fitted by least squares to the leases that ended
// lately. It is 0 before the first timed lease ended, and in an Arm made by hand.
//
// The first call makes the service time its leases, as Latency does, and fit the line to each of
// them from then on. A call costs what InUse and Latency cost together.
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

// scores returns the arms' scores, clamped to [0, 1]. A Service gives strategies nothing else, but
// they must survive any caller.
func scores(arms []Arm) []float64 {
	s := make([]float64, len(arms))
	for i, a := range arms {
		s[i] = clampScore(a.Score)
	}
	return s
}
