package pooly

import "math"

// Thompson picks each host with the probability that it is the best, given what is known: each host's quality
// has a Beta posterior from its recent Releases, and a pick goes as if one value were drawn from each and the
// highest taken. See Thompson, Biometrika 25, 1933, and Russo et al., A Tutorial on Thompson Sampling, 2018; with
// trials that decay, Raj and Kalyani, Taming Non-stationary Bandits, 2017.
//
// It has nothing to tune. It explores a host the more the less is known of it, so little is lost on bad hosts,
// and hosts that have not been tried lately are tried again as their trials decay. Under heavy traffic it is sure
// of itself: the host that is better by a thousandth gets nearly everything. Where hosts fill up, choose a
// strategy that weighs load instead.
//
// With S the sum of the scores of T trials, both weighted by age (T = [Arm.Trials], S = T · [Arm.Mean]), the
// posterior is Beta(1+S, 1+T-S). A pick is O(1).
type Thompson struct{}

// NewThompson returns a Thompson.
func NewThompson() *Thompson {
	return new(Thompson)
}

// thompsonCells is into how many parts the qualities that the best host may have are divided. Hosts whose values
// fall into one part are told apart by their likelihood alone, which costs less than the width of a part.
const thompsonCells = 100

// NewPicker implements Bandit in O(n): it takes about 5 µs for each host.
//
// It computes the probabilities instead of drawing n values for each pick. With F_i the distribution functions of
// the posteriors, that of the highest value is G = Π F_i. Of the probability that the highest lies in a small
// interval, host i has the share Δlog F_i / Σ Δlog F_j, since dG = G · Σ dlog F_j.
func (*Thompson) NewPicker(arms []Arm) Picker {
	if len(arms) == 1 {
		return aliasTable{aliasCell{}}
	}
	posteriors := make([]beta, len(arms))
	low, high := 0.0, 0.0 // the highest value lies in between but for one case in a million
	for i, a := range arms {
		mean, trials := clampScore(a.Mean()), max(0, a.Trials)
		if !(trials < math.MaxInt32) { // so that NaN and infinity pass for some number
			trials = math.MaxInt32
		}
		b := newBeta(1+trials*mean, 1+trials*(1-mean))
		center, spread := b.moments()
		low = max(low, center-5*spread)
		high = max(high, center+5*spread)
		posteriors[i] = b
	}
	high = min(1, high)

	weights := make([]float64, len(arms))
	before := make([]float64, len(arms)) // log F_i at the lower end of the part
	after := make([]float64, len(arms))  // and at the upper end
	was := 0.0                           // G at the lower end
	for cell := range thompsonCells + 1 {
		x := low + (high-low)*float64(cell)/thompsonCells
		root, coroot := math.Cbrt(x), math.Cbrt(1-x)
		logG, gained := 0.0, 0.0
		for i := range posteriors {
			after[i] = posteriors[i].logCDF(root, coroot)
			logG += after[i]
			gained += after[i] - before[i]
		}
		is := math.Exp(logG)
		if cell > 0 && is > was && gained > 0 {
			for i := range weights {
				weights[i] += (is - was) * max(0, after[i]-before[i]) / gained
			}
		}
		was = is
		before, after = after, before
	}
	return newAliasTable(weights)
}

// beta is a Beta(a, b) distribution with a and b at least 1.
type beta struct {
	a, b         float64
	rootA, rootB float64 // cube roots
}

func newBeta(a, b float64) beta {
	return beta{a, b, math.Cbrt(a), math.Cbrt(b)}
}

// moments returns the mean and the standard deviation.
func (d *beta) moments() (mean, deviation float64) {
	n := d.a + d.b
	mean = d.a / n
	return mean, math.Sqrt(mean * (1 - mean) / (n + 1))
}

// logCDF returns the logarithm of the distribution function at x, given the cube roots of x and 1-x. It is the
// normal approximation of Abramowitz and Stegun, 26.5.22, which is off by 0.01 at most.
func (d *beta) logCDF(root, coroot float64) float64 {
	if coroot <= 0 {
		return 0
	}
	w1, w2 := d.rootB*root, d.rootA*coroot
	y := 3 * (w1*(1-1/(9*d.b)) - w2*(1-1/(9*d.a))) / math.Sqrt(w1*w1/d.b+w2*w2/d.a)
	return math.Log(max(math.SmallestNonzeroFloat64, 0.5*math.Erfc(-y/math.Sqrt2)))
}
