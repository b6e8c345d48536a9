package pooly

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// SoftMax picks host i with a probability proportional to exp(score_i / temperature), the Boltzmann
// distribution: see Sutton and Barto, Reinforcement Learning, 2nd ed., section 2.8.
//
// A low temperature (0.1) sends nearly everything to the best host, a high one (1 and above) treats all nearly
// alike. Hosts with equal scores share equally. A pick is O(1).
type SoftMax struct {
	temperature float64
}

// NewSoftMax returns a SoftMax. Any temperature above 0 is fine, however small or large; 0.1 is a good start. It
// panics if temperature is not a positive number.
func NewSoftMax(temperature float64) *SoftMax {
	if !(temperature > 0) {
		panic(fmt.Errorf("%w: NewSoftMax: temperature %v is not above 0", ErrInvalidArg, temperature))
	}
	return &SoftMax{temperature}
}

// NewPicker implements Bandit in O(n).
func (s *SoftMax) NewPicker(arms []Arm) Picker {
	weights := scores(arms)
	// The best host's exponent is 0 and the others' are below, so nothing overflows and the sum is at least 1.
	best := slices.Max(weights)
	for i, score := range weights {
		weights[i] = math.Exp((score - best) / s.temperature)
	}
	return newAliasTable(weights)
}

// aliasTable draws i with probability weights[i] / Σ weights. It is Vose's alias method (IEEE Trans. Softw. Eng.
// 17(9), 1991): O(n) to build, O(1) to draw. Each cell stands for 1/n of the probability and is shared by two
// outcomes at most: the cell's own below the threshold, its alias above.
type aliasTable []aliasCell

type aliasCell struct {
	threshold uint32 // the own outcome's part of the cell, in units of 2⁻³²; a full cell has itself as alias
	alias     uint32
}

// newAliasTable builds the table from finite weights of which at least one is positive. It overwrites them.
func newAliasTable(weights []float64) aliasTable {
	n := len(weights)
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	table := make(aliasTable, n)
	parts := weights // of each cell, how much its own outcome fills: the mean is 1
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
		table[s] = aliasCell{threshold: uint32(max(0, parts[s]) * (1 << 32)), alias: l}
		parts[l] -= 1 - parts[s] // what s leaves of its cell is l's
		if parts[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	return table // what is left in either list is full but for rounding
}

// Pick uses the high half of one random number for the cell and the low half for the outcome.
func (t aliasTable) Pick(rng *rand.Rand) int {
	r := rng.Uint64()
	cell, _ := bits.Mul64(r&^(1<<32-1), uint64(len(t)))
	if c := t[cell]; uint32(r) >= c.threshold {
		return int(c.alias)
	}
	return int(cell)
}
