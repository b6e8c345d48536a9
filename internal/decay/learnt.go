package decay

import "math"

// Learnt is what the trials of a host say of it, until the host changes.
//
// It forgets by a factor that its user chooses, and all at once when the host has become better or
// worse. Such restarts let a bandit remember for long and follow changes all the same; see Liu, Lee
// and Shroff, A Change-Detection Based Framework for Piecewise-Stationary Multi-Armed Bandit
// Problem, AAAI 2018.
//
// Some trials speak for a change if T·KL(their mean, mean of all), the likelihood ratio of Bernoulli
// trials, is above a threshold. There are two tests:
//   - A CUSUM test finds large changes at once. Its trials are those since the host might have
//     changed: since their mean was last on the other side.
//   - The latest 300 trials find small changes.
type Learnt struct {
	Segment
	better, worse Segment // for the CUSUM test, one for each side
	latest        Segment
}

// Segment is some trials and the sum of their scores.
type Segment struct{ Trials, Sum float64 }

// The thresholds of the tests. The first is higher because chance gets more occasions. With these
// values a host of 0.9 restarts by chance less than once in 10⁵ trials.
const (
	cusumThreshold  = 8
	latestThreshold = 4
	maxLatest       = 300
)

// nothing is how many trials are forgotten for good.
const nothing = 1e-6

// Add forgets a part, so that the share keep is left, and adds trials. It reports whether the host
// has become worse.
func (l *Learnt) Add(s Segment, keep float64) (worse bool) {
	mean := (l.Sum + 0.5) / (l.Trials + 1) // never 0 or 1
	l.scale(keep)
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
	l.better.add(s)
	l.worse.add(s)
	if l.better.Mean() <= mean {
		l.better = Segment{}
	}
	if l.worse.Mean() >= mean {
		l.worse = Segment{}
	}
	switch {
	case l.worse.contradicts(mean, cusumThreshold):
		l.restart(l.worse)
		return true
	case l.better.contradicts(mean, cusumThreshold):
		l.restart(l.better)
	case l.latest.contradicts(mean, latestThreshold):
		worse = l.latest.Mean() < mean
		l.Segment = l.latest
	}
	return worse
}

func (l *Learnt) restart(s Segment) {
	*l = Learnt{Segment: s, latest: s}
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

// contradicts reports whether the trials are too unlikely if their expected score is mean.
func (s *Segment) contradicts(mean, threshold float64) bool {
	return s.Trials >= 2 && s.Trials*divergence(s.Mean(), mean) > threshold
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
