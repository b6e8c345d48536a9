package pooly

import (
	"fmt"
	"math/rand/v2"
)

// PeakEWMA draws some hosts at random, and picks the host where a lease should take the least time:
// the host with the lowest latency · (in use + 1) / weight. The latency is a peak EWMA of lease
// times (see [Arm.Latency]). The cost function is Finagle's
// (com.twitter.finagle.loadbalancer.PeakEwma), which tower and Envoy have as well.
//
// It needs no scores, since latency says which host is fast. The latency jumps up with the first
// slow lease and is forgotten slowly, so a host that stalls loses its traffic at once. Scores count
// all the same: failures show no speed and cost the host its weight, which is as in [PowerOfTwo].
// So a host that fails fast does not attract traffic. A host that was never timed gets one lease to
// start with.
//
// A pick is O(choices²) and reads the live figures of that many hosts. The service times its leases
// (see [Arm.Latency]).
//
// It keeps no state, so services can share a value. The zero value is NewPeakEWMA(2).
type PeakEWMA struct {
	choices int
}

// NewPeakEWMA returns a PeakEWMA that draws the given number of hosts for each pick, at least 2.
// With fewer hosts it compares all. 2 is the classic; 5 is surer to find the fast hosts. It panics
// if choices is below 2.
func NewPeakEWMA(choices int) *PeakEWMA {
	return &PeakEWMA{checkChoices("NewPeakEWMA", choices)}
}

// leastChoices is the fewest hosts among which there is a choice.
const leastChoices = 2

func checkChoices(constructor string, choices int) int {
	if choices < leastChoices {
		panic(fmt.Errorf("%w: %s: choices %d is below 2", ErrInvalidArg, constructor, choices))
	}
	return choices
}

// NewPicker implements Bandit in O(n).
func (e *PeakEWMA) NewPicker(arms []Arm) Picker {
	arms[0].Latency() // so that leases are timed before the first pick
	return &peakPicker{max(e.choices, leastChoices), candidates(arms)}
}

type peakPicker struct {
	choices int
	hosts   []candidate
}

func (p *peakPicker) Pick(rng *rand.Rand) int {
	return leastOf(rng, len(p.hosts), p.choices, p.cost)
}

func (p *peakPicker) cost(i int) float64 {
	c := p.hosts[i]
	inUse := c.inUse()
	return timed(c.latency(), inUse) * float64(inUse+1) / c.weight
}
