package pooly

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// EpsilonGreedy picks any host at random with probability epsilon, and otherwise the best host, at
// random if several are within 1 % of it. The best host has the highest quality, as in [SoftMax].
// See Sutton and Barto, Reinforcement Learning, 2nd ed., section 2.2.
//
// So the best of n hosts gets the share 1-ε+ε/n, and each other host ε/n, however bad it is. That
// is the price of noticing when a host improves. A pick is O(1).
//
// It keeps no state, so services can share a value. The zero value is NewEpsilonGreedy(0).
type EpsilonGreedy struct {
	epsilon float64
}

// NewEpsilonGreedy returns an EpsilonGreedy. epsilon is the share of picks that explore, in [0, 1];
// 0.1 is usual. It panics if epsilon is outside [0, 1].
func NewEpsilonGreedy(epsilon float64) *EpsilonGreedy {
	if !(epsilon >= 0 && epsilon <= 1) {
		panic(fmt.Errorf("%w: NewEpsilonGreedy: epsilon %v is outside [0, 1]",
			ErrInvalidArg, epsilon))
	}
	return &EpsilonGreedy{epsilon}
}

// NewPicker implements Bandit in O(n).
func (e *EpsilonGreedy) NewPicker(arms []Arm) Picker {
	p := &epsilonPicker{explore: uint64(e.epsilon * (1 << 32)), n: uint64(len(arms))}
	all := qualities(arms)
	top := slices.Max(all) * (1 - tie)
	for i, quality := range all {
		if quality >= top {
			p.best = append(p.best, uint32(i))
		}
	}
	return p
}

// tie is the relative difference by which hosts still count as equally good. It is so large that a
// host that is well again need not wait until its last failure is forgotten.
const tie = 0.01

type epsilonPicker struct {
	explore uint64 // epsilon in units of 2⁻³²
	n       uint64
	best    []uint32 // the arms that share the best score
}

// Pick uses the low half of a random number to decide whether to explore, and the high half for the
// arm. A second random number would double its time (BenchmarkPick).
func (p *epsilonPicker) Pick(rng *rand.Rand) int {
	r := rng.Uint64()
	if r&(1<<32-1) < p.explore {
		return int(r >> 32 * p.n >> 32)
	}
	return int(p.best[r>>32*uint64(len(p.best))>>32])
}
