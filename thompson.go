package pooly

import (
	"math"
	"sync"

	"github.com/3XX0/pooly/internal/sample"
)

// Thompson picks each host with the probability that it is the best, given what is known. Each
// host's quality has a Beta posterior from its recent Releases. A pick works as if it drew one
// value from each posterior and took the highest. See Thompson, Biometrika 25, 1933, and Russo et
// al., A Tutorial on Thompson Sampling, 2018; with trials that decay, Raj and Kalyani, Taming
// Non-stationary Bandits, 2017.
//
// There is nothing to tune. The less is known of a host, the more it explores that host, so little
// is lost on bad hosts. Under heavy traffic it is sure of itself: a host that is better by a
// thousandth gets nearly everything. If your hosts fill up, choose a strategy that weighs load
// instead.
//
// The posterior is Beta(1+2S, 1+2(T-S)), where S is the sum of the scores of the T trials that
// count. These are about the last 20,000 trials of all hosts, or the trials of the last
// DecayDuration if they are more. Trials stop counting when newer trials contradict them. Each
// counts twice, which reshapes the posterior to explore less (Chapelle and Li, An Empirical
// Evaluation of Thompson Sampling, NIPS 2011). For an Arm made by hand it is Beta(1+S, 1+T-S), with
// T its Trials and S = T · Mean. A pick is O(1).
//
// Each host is tried about once a second, by up to 1 % of all picks.
//
// It keeps no state, so services can share a value.
type Thompson struct{}

// NewThompson returns a Thompson.
func NewThompson() *Thompson {
	return new(Thompson)
}

// thompsonBoldness is how much each trial counts. The plain posterior, with 1, explores too much
// for hosts that change.
const thompsonBoldness = 2

// thompsonCells is how many parts the range of the best host's quality is divided into. With that
// many the probabilities are within 0.015 of the exact ones.
const thompsonCells = 100

// NewPicker implements Bandit in O(n). Hosts that have not been tried lately are all alike, and
// cost next to nothing.
//
// It computes the probabilities instead of drawing n values for each pick. Let F_i be the
// distribution functions of the posteriors. The highest value has the distribution function G = Π
// F_i. Host i has the share Δlog F_i / Σ Δlog F_j of the probability that the highest value lies in
// a small interval, since dG = G · Σ dlog F_j.
func (*Thompson) NewPicker(arms []Arm) Picker {
	if len(arms) == 1 {
		return aliasTable{sample.NewAlias([]float64{1})}
	}
	posteriors, of := posteriorsOf(arms)
	low, high := 0.0, 0.0 // the highest value lies in between, except in one case in a million
	for _, b := range posteriors {
		center, spread := b.moments()
		low = max(low, center-5*spread)
		high = max(high, min(1, center+5*spread))
	}
	contenders := make([]int, 0, len(posteriors)) // posteriors whose values may be above low
	for i := range posteriors {
		if center, spread := posteriors[i].moments(); center+5*spread > low {
			contenders = append(contenders, i)
		}
	}

	table := normalTable()
	before := make([]float64, len(contenders)) // log F at the lower end of the part
	after := make([]float64, len(contenders))  // and at the upper end
	was := 0.0                                 // G at the lower end
	for cell := range thompsonCells + 1 {
		x := low + (high-low)*float64(cell)/thompsonCells
		root, coroot := math.Cbrt(x), math.Cbrt(1-x)
		logG, gained := 0.0, 0.0
		for j, i := range contenders {
			b := &posteriors[i]
			after[j] = b.logCDF(table, root, coroot)
			logG += b.arms * after[j]
			gained += b.arms * (after[j] - before[j])
		}
		is := math.Exp(logG)
		if cell > 0 && is > was && gained > 0 {
			for j, i := range contenders {
				posteriors[i].share += (is - was) * max(0, after[j]-before[j]) / gained
			}
		}
		was = is
		before, after = after, before
	}
	weights := make([]float64, len(arms))
	for i, p := range of {
		weights[i] = posteriors[p].share
	}
	return aliasTable{sample.NewAlias(scout(arms, weights))}
}

// posteriorsOf returns the posteriors, and for each arm the index of its posterior. All arms
// without trials share one.
func posteriorsOf(arms []Arm) (posteriors []beta, of []uint32) {
	posteriors, of = make([]beta, 0, len(arms)), make([]uint32, len(arms))
	untried := -1
	for i, a := range arms {
		if mean, trials := a.evidence(); trials > 0 {
			if a.host != nil {
				trials *= thompsonBoldness
			}
			posteriors = append(posteriors, newBeta(1+trials*mean, 1+trials*(1-mean)))
			of[i] = uint32(len(posteriors) - 1)
			continue
		}
		if untried < 0 {
			untried = len(posteriors)
			posteriors = append(posteriors, newBeta(1, 1))
			posteriors[untried].arms = 0
		}
		posteriors[untried].arms++
		of[i] = uint32(untried)
	}
	return posteriors, of
}

// beta is a Beta(a, b) distribution with a and b at least 1.
type beta struct {
	a, b             float64
	rootA, rootB     float64 // cube roots
	shrinkA, shrinkB float64 // 1 - 1/9a, 1 - 1/9b

	arms  float64 // how many arms have this posterior
	share float64 // the probability of each of them to be the best
}

func newBeta(a, b float64) beta {
	return beta{
		a: a, b: b,
		rootA: math.Cbrt(a), rootB: math.Cbrt(b),
		shrinkA: 1 - 1/(9*a), shrinkB: 1 - 1/(9*b),
		arms: 1,
	}
}

// moments returns the mean and the standard deviation.
func (d *beta) moments() (mean, deviation float64) {
	n := d.a + d.b
	mean = d.a / n
	return mean, math.Sqrt(mean * (1 - mean) / (n + 1))
}

// logCDF returns the logarithm of the distribution function at x, given the cube roots of x and
// 1-x. It is the normal approximation of Abramowitz and Stegun, 26.5.22, which is off by 0.01 at
// most.
func (d *beta) logCDF(table []float64, root, coroot float64) float64 {
	if coroot <= 0 {
		return 0
	}
	w1, w2 := d.rootB*root, d.rootA*coroot
	return logNormalCDF(table, 3*(w1*d.shrinkB-w2*d.shrinkA)/math.Sqrt(w1*w1/d.b+w2*w2/d.a))
}

// logNormalCDF returns log Φ(y). Around 0 it interpolates in the table, which is within 0.0001 and
// much cheaper than the functions of package math. Below the table it is the asymptote.
func logNormalCDF(table []float64, y float64) float64 {
	x := (y + normalReach) * normalSteps
	switch {
	case x < 0:
		return table[0] - (y*y-normalReach*normalReach)/2
	case x >= float64(len(table)-1):
		return 0
	}
	i := int(x)
	return table[i] + (x-float64(i))*(table[i+1]-table[i])
}

const (
	normalReach = 6  // the table of log Φ covers [-normalReach, normalReach]
	normalSteps = 64 // table entries per unit
)

var normalTable = sync.OnceValue(func() []float64 {
	table := make([]float64, 2*normalReach*normalSteps+1)
	for i := range table {
		y := float64(i)/normalSteps - normalReach
		table[i] = math.Log(0.5 * math.Erfc(-y/math.Sqrt2))
	}
	return table
})
