package decay

import "math"

// Learnt is what the trials of a host say of it, until the host changes.
//
// It forgets by a factor that its user chooses, and all at once when the host has become better or
// worse. Such restarts let a bandit remember for long and follow changes all the same; see Liu, Lee
// and Shroff, A Change-Detection Based Framework for Piecewise-Stationary Multi-Armed Bandit
// Problem, AAAI 2018.
//
// There are two tests:
//   - A CUSUM test (Page, Continuous Inspection Schemes, Biometrika 41, 1954) finds large changes at
//     once: that a host succeeds half as often as before, or fails half as often. It sums up the
//     log-likelihood ratio of the trials, and begins anew when the sum is not positive.
//   - The latest 300 trials find small changes, if T·KL(their mean, mean of all) is large.
type Learnt struct {
	Segment
	better, worse Segment // for the CUSUM tests: the trials since they began
	latest        Segment
	fallenFrom    float64 // its mean before it became much worse; 0 unless it is still worse
}

// Segment is some trials and the sum of their scores.
type Segment struct{ Trials, Sum float64 }

// The thresholds of the tests. The first is higher because chance gets more occasions.
const (
	cusumThreshold  = 10
	latestThreshold = 4
	maxLatest       = 300
)

// enough is how many trials show that a host has not become much worse after all.
const enough = 10

// nothing is how many trials are forgotten for good.
const nothing = 1e-6

// Add forgets a part, so that the share keep is left, and adds trials. What has become much worse
// may soon be well again, so keepFallen applies to it. Add reports whether the host has become
// worse.
func (l *Learnt) Add(s Segment, keep, keepFallen float64) (worse bool) {
	if l.fallenFrom > 0 {
		keep = keepFallen
	}
	mean := (l.Sum + 0.5) / (l.Trials + 1) // never 0 or 1
	l.scale(keep)
	l.latest.scale(keep)
	l.add(s)
	if l.Trials < nothing {
		*l = Learnt{}
	}
	if s.Trials == 0 {
		return false
	}
	l.latest.add(s)
	if l.latest.Trials > maxLatest {
		l.latest.scale(maxLatest / l.latest.Trials)
	}
	switch {
	case l.worse.cusum(s, mean, mean/2) > cusumThreshold:
		*l = Learnt{Segment: l.worse, latest: l.worse, fallenFrom: mean}
		return true
	case l.better.cusum(s, mean, (1+mean)/2) > cusumThreshold:
		*l = Learnt{Segment: l.better, latest: l.better}
	case l.latest.Trials*divergence(l.latest.Mean(), mean) > latestThreshold:
		worse = l.latest.Mean() < mean
		l.Segment = l.latest
	}
	if l.Trials > enough && l.Mean() > l.fallenFrom/2 {
		l.fallenFrom = 0
	}
	return worse
}

// cusum adds trials. It returns how much more likely the sum is if their mean has become other, in
// logarithms, and begins anew if it is not.
func (s *Segment) cusum(t Segment, mean, other float64) (ratio float64) {
	s.add(t)
	ratio = s.Sum*math.Log(other/mean) + (s.Trials-s.Sum)*math.Log((1-other)/(1-mean))
	if ratio <= 0 {
		*s = Segment{}
	}
	return ratio
}

// Doubt forgets a part, so that the share keep is left.
func (l *Learnt) Doubt(keep float64) {
	l.scale(keep)
	l.better.scale(keep)
	l.worse.scale(keep)
	l.latest.scale(keep)
}

// Mean returns the mean score. There must be trials.
func (s *Segment) Mean() float64 {
	return min(s.Sum/s.Trials, 1) // sums drift
}

func (s *Segment) add(t Segment) {
	s.Trials += t.Trials
	s.Sum = max(0, s.Sum+t.Sum) // sums drift
}

func (s *Segment) scale(factor float64) {
	s.Trials *= factor
	s.Sum *= factor
}

// divergence is the Kullback-Leibler divergence of a Bernoulli distribution with mean q from one
// with mean p, which is in (0, 1).
func divergence(q, p float64) float64 {
	d := 0.0
	if q > 0 {
		d += q * math.Log(q/p)
	}
	if q < 1 {
		d += (1 - q) * math.Log((1-q)/(1-p))
	}
	return d
}
