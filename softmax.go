package pooly

import (
	"fmt"
	"math"
	"slices"

	"github.com/3XX0/pooly/internal/sample"
)

// defaultTemperature is the temperature of the zero value.
const defaultTemperature = 0.1

// SoftMax picks host i with a probability proportional to exp(quality_i / temperature), the
// Boltzmann distribution. See Sutton and Barto, Reinforcement Learning, 2nd ed., section 2.8.
//
// The quality is (u + S) / (1 + T). S is the sum of the scores of the T trials that count, as in
// [Thompson], and u is the mean of the hosts that were tried. So a host of which nothing is known
// counts as usual. A host that begins to fail is judged anew at once. Each host is tried about once
// a second, by up to 1 % of all picks.
//
// A low temperature (0.1) sends nearly everything to the best host. A high temperature (1 and
// above) treats all hosts nearly alike. Hosts of equal quality get equal shares. A pick is O(1).
//
// It keeps no state, so services can share a value. The zero value is NewSoftMax(0.1).
type SoftMax struct {
	temperature float64
}

// NewSoftMax returns a SoftMax. Any temperature above 0 is possible, however small or large; 0.1 is
// a good start. It panics if temperature is not a positive number.
func NewSoftMax(temperature float64) *SoftMax {
	if !(temperature > 0) {
		panic(fmt.Errorf("%w: NewSoftMax: temperature %v is not above 0",
			ErrInvalidArg, temperature))
	}
	return &SoftMax{temperature}
}

// NewPicker implements Bandit in O(n).
func (s *SoftMax) NewPicker(arms []Arm) Picker {
	weights := qualities(arms)
	// The best host's exponent is 0 and all others are lower, so nothing overflows and the sum is
	// at least 1.
	best := slices.Max(weights)
	temperature := s.temperature
	if temperature == 0 { // the zero value
		temperature = defaultTemperature
	}
	for i, score := range weights {
		weights[i] = math.Exp((score - best) / temperature)
	}
	return aliasTable{sample.NewAlias(scout(arms, weights))}
}

// aliasTable is a Picker that draws each arm with the probability that the strategy computed.
type aliasTable struct{ sample.Alias }
