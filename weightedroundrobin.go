package pooly

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// WeightedRoundRobin picks the hosts in turn, in proportion to their quality: host i gets the share
// quality_i / Σ quality of the picks. The picks of a host are spread evenly over time, and do not
// come in bursts. The quality is as in [SoftMax].
//
// It is for hosts that are all useful but differ in strength: a host that is half as good gets half
// as much traffic. A host that always fails loses nearly all its traffic within seconds. If all
// scores are near 1, it is a round-robin.
//
// Each host owns a part of [0, 1) in proportion to its quality. Turn t belongs to the host whose
// part contains the fractional part of t·φ, where φ is the golden ratio. The multiples of φ fill
// the interval as evenly as any sequence of that kind does (Knuth, TAOCP vol. 3, section 6.4). By
// the three-gap theorem, a host's turns come at no more than three different distances. Unlike the
// smooth weighted round-robin of nginx it needs no state but the turn, so it locks nothing.
//
// A guide table finds the host whose part contains a point. For each n-th of the interval it has
// the first host that reaches into it. See Chen and Asau, On generating random variates from an
// empirical distribution, AIIE Transactions 6(2), 1974.
//
// When hosts or scores change, it goes on where it was. So a value belongs to one service. A pick
// is O(1) in the mean, and O(log n) at worst.
type WeightedRoundRobin struct {
	turn atomic.Uint64
}

// NewWeightedRoundRobin returns a WeightedRoundRobin.
func NewWeightedRoundRobin() *WeightedRoundRobin {
	return new(WeightedRoundRobin)
}

// NewPicker implements Bandit in O(n).
func (r *WeightedRoundRobin) NewPicker(arms []Arm) Picker {
	p := &weightedPicker{turn: &r.turn, n: uint64(len(arms))}
	ends, sum, last := scout(arms, qualities(arms)), 0.0, 0
	for i, score := range ends {
		if score > 0 {
			last = i
		}
		sum += score
		ends[i] = sum
	}
	if sum == 0 {
		return p
	}
	p.ends = ends
	p.guide = make([]uint32, len(arms)+1)
	i := 0
	for cell := range p.guide {
		for i < last && ends[i] <= float64(cell)/float64(p.n)*sum {
			i++
		}
		p.guide[cell] = uint32(i)
	}
	return p
}

type weightedPicker struct {
	turn  *atomic.Uint64
	n     uint64
	ends  []float64 // where each host's part of [0, sum) ends; nil: all parts are equal
	guide []uint32  // the host at the start of each n-th of [0, sum), and at the end: n+1 of them
}

// goldenRatio is the fractional part of φ, in units of 2⁻⁶⁴.
const goldenRatio = 0x9e3779b97f4a7c15

func (p *weightedPicker) Pick(*rand.Rand) int {
	at := p.turn.Add(1) * goldenRatio
	cell, _ := bits.Mul64(at, p.n)
	if p.ends == nil {
		return int(cell)
	}
	x := float64(at>>11) / (1 << 53) * p.ends[len(p.ends)-1]
	first, last := p.guide[cell], p.guide[cell+1]
	i, found := slices.BinarySearch(p.ends[first:last], x)
	if found { // x is the end of a part, so it is in the next part that is not empty
		i++
		for first+uint32(i) < last && p.ends[first+uint32(i)] == x {
			i++
		}
	}
	return int(first) + i
}
