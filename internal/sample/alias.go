package sample

import (
	"math/bits"
	"math/rand/v2"
)

// Alias draws i with probability weights[i] / Σ weights. It is immutable, so it may be used
// concurrently.
//
// It is Vose's alias method (IEEE Trans. Softw. Eng. 17(9), 1991): O(n) to build, O(1) to draw.
// Each of n cells stands for 1/n of the probability and is shared by at most two outcomes: the
// cell's own below the threshold, its alias above.
type Alias []cell

type cell struct {
	threshold uint32 // the own outcome's part of the cell, in units of 2⁻³²
	alias     uint32 // a full cell has itself as alias
}

// NewAlias builds an Alias from finite weights that are not negative. At least one must be
// positive, and there must be fewer than 2³². It overwrites weights.
func NewAlias(weights []float64) Alias {
	n := len(weights)
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	table := make(Alias, n)
	parts := weights // how much of its cell each outcome fills; the mean is 1
	small, large := make([]uint32, 0, n), make([]uint32, 0, n)
	for i, w := range weights {
		parts[i] = w / sum * float64(n)
		table[i].alias = uint32(i)
		if parts[i] < 1 {
			small = append(small, uint32(i))
		} else {
			large = append(large, uint32(i))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		table[s] = cell{threshold: uint32(max(0, parts[s]) * (1 << 32)), alias: l}
		parts[l] -= 1 - parts[s] // l gets the rest of the cell of s
		if parts[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	return table // the cells left in either list are full, apart from rounding
}

// Pick draws one outcome. It needs one random number: the high half chooses the cell, the low half
// the outcome.
func (t Alias) Pick(rng *rand.Rand) int {
	r := rng.Uint64()
	i, _ := bits.Mul64(r&^(1<<32-1), uint64(len(t)))
	if c := t[i]; uint32(r) >= c.threshold {
		return int(c.alias)
	}
	return int(i)
}

// Shares returns the probability of each outcome.
func (t Alias) Shares() []float64 {
	shares := make([]float64, len(t))
	for i, c := range t {
		own := float64(c.threshold) / (1 << 32)
		shares[i] += own / float64(len(t))
		shares[c.alias] += (1 - own) / float64(len(t))
	}
	return shares
}
