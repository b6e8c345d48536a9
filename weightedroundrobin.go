package pooly

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// WeightedRoundRobin picks the hosts in turn, each as often as its score is high: host i has the share
// score_i / Σ score of the picks, spread evenly over time rather than in bursts.
//
// It is for hosts that are all of use and differ in strength: half as good gets half as much. It reacts gently
// and drops a host only when its score is 0. With scores that tell little (all near 1) it is a round-robin.
//
// Turn t belongs to the host in whose part of [0, 1) the fractional part of t·φ lies, φ being the golden ratio:
// the multiples of φ fill the interval as evenly as any sequence of that kind does (Knuth, TAOCP vol. 3, section
// 6.4), and by the three-gap theorem a host's turns come at no more than three different distances. Unlike the
// smooth weighted round-robin of nginx it needs no state but the turn, so it locks nothing.
//
// It keeps its turn when hosts or scores change, so a value belongs to one service. A pick is O(log n).
type WeightedRoundRobin struct {
	turn atomic.Uint64
}

// NewWeightedRoundRobin returns a WeightedRoundRobin.
func NewWeightedRoundRobin() *WeightedRoundRobin {
	return new(WeightedRoundRobin)
}

// NewPicker implements Bandit in O(n).
func (r *WeightedRoundRobin) NewPicker(arms []Arm) Picker {
	ends := scores(arms)
	sum := 0.0
	for i := range ends {
		sum += ends[i]
		ends[i] = sum
	}
	if sum == 0 {
		return weightedPicker{&r.turn, nil, uint64(len(arms))}
	}
	return weightedPicker{&r.turn, ends, uint64(len(arms))}
}

type weightedPicker struct {
	turn *atomic.Uint64
	ends []float64 // where each host's part of [0, sum) ends; nil if all parts are equal
	n    uint64
}

// goldenRatio is the fractional part of φ, in units of 2⁻⁶⁴.
const goldenRatio = 0x9e3779b97f4a7c15

func (p weightedPicker) Pick(*rand.Rand) int {
	at := p.turn.Add(1) * goldenRatio
	if p.ends == nil {
		i, _ := bits.Mul64(at, p.n)
		return int(i)
	}
	last := len(p.ends) - 1
	x := float64(at>>11) / (1 << 53) * p.ends[last]
	i, found := slices.BinarySearch(p.ends, x)
	if found { // a part begins where the one before ends
		i++
		for i < last && p.ends[i] == x { // nor does x lie in an empty part
			i++
		}
	}
	return min(i, last)
}
