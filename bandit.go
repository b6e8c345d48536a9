package pooly

import (
	"math"
	"math/rand/v2"
	"time"
)

// Bandit is a strategy: it decides which hosts get the traffic. It has two phases, so that choosing costs next
// to nothing.
//
// NewPicker runs off the hot path: when a host is added, removed, ejected or restored, and each time that scores
// have been computed anew, which is left out while nothing is released. arms are the hosts that may be picked, never
// none; the Picker may keep the slice, and pooly does not change it afterwards. NewPicker may be called concurrently.
//
// A strategy with a state of its own, such as NewRoundRobin's, belongs to one service.
//
// If NewPicker panics or returns nil, or Pick panics or returns no index into arms, GetConn fails with an error
// that says so.
type Bandit interface {
	NewPicker(arms []Arm) Picker
}

// Picker serves the GetConn calls between two calls of NewPicker.
//
// Pick returns the index in arms of the host to use. It is called concurrently, and should lock nothing. rng is
// the only source of randomness it should use, so that a seeded one makes it repeatable; it must not be kept.
type Picker interface {
	Pick(rng *rand.Rand) int
}

// Arm is a host as a strategy sees it. It is a small value, to be copied freely. Address, Score and Trials are
// as of NewPicker, and so is Mean; InUse, Latency and ExpectedLatency are live.
type Arm struct {
	Address string

	// Score is the host's quality in [0, 1]. A host that was just added has 0.5.
	Score float64

	// Trials is how many Releases the score rests on, each weighted by its age: one in the newest of n slots counts
	// 1, one in the slot of age k counts (n-k)/n.
	Trials float64

	mean    float64  // as the window has it; see Mean
	host    *host    // nil in an Arm that is made by hand
	service *Service // the host's, here so that Mean of 10,000 hosts reads nothing from these
}

// Mean returns the mean of the scores of the Trials, weighted as these are. Unlike Score it leaves out the times
// without a Release, so it does not drift towards 0.5 in a host that is not used: with Trials it says all that is
// known. Without trials, and in an Arm made by hand, it is the Score.
//
// It passes through the ScoreCalculator, if there is one, with each call: it is for NewPicker.
func (a Arm) Mean() float64 {
	if a.host == nil {
		return a.Score
	}
	return a.service.calculate(a.mean)
}

// InUse returns how many of the host's connections are leased now. It costs an atomic read of memory that every
// GetConn and Release of the host writes, so usually a cache miss. In an Arm made by hand it is 0.
func (a Arm) InUse() int {
	if a.host == nil {
		return 0
	}
	return int(a.host.inUse.Load())
}

// Latency returns a peak EWMA of how long leases of the host last: a longer one replaces it at once, shorter
// ones pull it down with a time constant of 10 s, and so does time itself while the service is in use. It is 0
// before the first timed lease ended, and in an Arm made by hand.
//
// The first call makes the service time its leases from then on, which costs two clock readings per lease: a
// strategy that does not ask does not pay.
func (a Arm) Latency() time.Duration {
	if a.host == nil {
		return 0
	}
	a.service.startTiming()
	return time.Duration(a.host.latency.Load())
}

// ExpectedLatency returns how long a lease of the host that begins now should last, given the leases that are
// out: see loadCurve for how it learns that. It is 0 before the first timed lease ended, and in an Arm made by
// hand.
//
// It makes the service time its leases, as Latency does, and fit a line to them, which takes another 20 ns per
// lease from then on. The call itself costs what InUse and Latency cost together.
func (a Arm) ExpectedLatency() time.Duration {
	if a.host == nil {
		return 0
	}
	a.service.startTiming()
	if !a.service.fitting.Load() {
		a.service.fitting.Store(true)
	}
	return a.host.curve.latency(a.InUse() + 1)
}

func (s *Service) startTiming() {
	if !s.timing.Load() {
		s.timing.Store(true)
	}
}

// scores returns the arms' scores, with anything that is no number in [0, 1] brought there: strategies are given
// good scores by a Service, and must hold for any caller.
func scores(arms []Arm) []float64 {
	s := make([]float64, len(arms))
	for i, a := range arms {
		s[i] = clampScore(a.Score)
	}
	return s
}

func clampScore(score float64) float64 {
	if math.IsNaN(score) {
		return HostDown
	}
	return min(max(score, HostDown), HostUp)
}
