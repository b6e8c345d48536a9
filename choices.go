package pooly

import (
	"math/rand/v2"
	"slices"
)

// sampleSize is how many hosts are sampled without an allocation.
const sampleSize = 16

// sample calls visit with d distinct numbers below n in random order, each choice and each order of them being
// equally likely, or with all n if d is larger. It is O(d²), for small d.
func sample(rng *rand.Rand, n, d int, visit func(int)) {
	var buffer [sampleSize]int
	seen := buffer[:0] // sorted
	for range min(d, n) {
		i, at := rng.IntN(n-len(seen)), 0
		for at < len(seen) && seen[at] <= i { // the i-th number that was not seen
			i++
			at++
		}
		seen = slices.Insert(seen, at, i)
		visit(i)
	}
}

// leastOf returns which of d distinct numbers below n, drawn at random, costs least; of equals any with the same
// probability.
func leastOf(rng *rand.Rand, n, d int, cost func(int) float64) int {
	best, least := 0, 0.0
	first := true
	sample(rng, n, d, func(i int) {
		if c := cost(i); first || c < least {
			best, least, first = i, c, false
		}
	})
	return best
}

// minWeight stands for a score of 0 where a load is divided by it: a host that is down is the last choice among
// those drawn, and of several the one with the lowest load.
const minWeight = 1e-9

// weights returns what the arms' loads are divided by, in (0, 1]: (1 + S) / (1 + T), where S is the sum of the
// scores of T trials. That is 1 for hosts that do well, and for those of which nothing is known, so that they are
// tried: Score is 0.5 for these and would keep every host idle that is idle. A host that fails has 1/(1+T), and is
// tried again as its trials decay, after DecayDuration at the latest. For arms made by hand it is the Score.
func weights(arms []Arm) []float64 {
	w := scores(arms)
	for i, a := range arms {
		if a.host != nil {
			w[i] = (1 + a.Trials*a.Mean()) / (1 + a.Trials)
		}
		w[i] = max(w[i], minWeight)
	}
	return w
}
