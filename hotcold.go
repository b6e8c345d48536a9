package pooly

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// HotCold draws some hosts at random, sets aside the crowded ones, and picks the host of the rest where a lease
// should take the least time. It is the hot-cold lexicographic rule of Prequal: Wydrowski, Kleinberg and Rumble,
// Load is not what you should balance, NSDI 2024.
//
// It gives the shortest tail of all strategies here where hosts differ in strength or share their machine with
// others, and needs no scores: give HostUp for what went well. Hosts must be used enough for their latencies to
// be known, some leases a second each.
//
// A host is hot if its load, (in use + 1) / score, is above the given quantile of all hosts' loads when the picker
// was made. Of the hosts drawn, the cold one with the lowest [Arm.ExpectedLatency] / score is picked, or if all
// are hot the one with the lowest load. A host that was never timed gets one lease to start with. As in
// [PowerOfTwo], the score is taken from what was released alone.
//
// Prequal asks servers for their figures, which count the requests of all clients. Here the figures are those of
// this process's leases: it sees what others do to a host by its latencies.
//
// A pick is O(choices²) and reads the live figures of that many hosts; it makes the service time its leases.
type HotCold struct {
	choices  int
	quantile float64
}

// NewHotCold returns a HotCold that draws the given number of hosts for each pick, at least 2; with fewer hosts it
// compares all. quantile, in [0, 1], says how many of the hosts may be cold: at 1 all are, so only latency counts,
// and at 0 next to none, so only load does. 5 and 0.84 are good values. It panics if an argument is impossible.
func NewHotCold(choices int, quantile float64) *HotCold {
	if !(quantile >= 0 && quantile <= 1) {
		panic(fmt.Errorf("%w: NewHotCold: quantile %v is outside [0, 1]", ErrInvalidArg, quantile))
	}
	return &HotCold{checkChoices("NewHotCold", choices), quantile}
}

// NewPicker implements Bandit in O(n log n).
func (h *HotCold) NewPicker(arms []Arm) Picker {
	p := &hotColdPicker{choices: h.choices, arms: arms, weights: weights(arms)}
	loads := make([]float64, len(arms))
	for i, a := range arms {
		a.ExpectedLatency() // so that leases are timed from the first
		loads[i] = p.load(i, a.InUse())
	}
	slices.Sort(loads)
	p.limit = loads[int(h.quantile*float64(len(loads)-1))]
	return p
}

type hotColdPicker struct {
	choices int
	arms    []Arm
	weights []float64
	limit   float64 // loads above it are hot
}

func (p *hotColdPicker) Pick(rng *rand.Rand) int {
	best, bestHot, least := -1, true, 0.0
	sample(rng, len(p.arms), p.choices, func(i int) {
		inUse := p.arms[i].InUse()
		cost := p.load(i, inUse)
		hot := cost > p.limit
		if !hot {
			cost = timed(p.arms[i].ExpectedLatency(), inUse) / p.weights[i]
		}
		if best < 0 || bestHot && !hot || bestHot == hot && cost < least {
			best, bestHot, least = i, hot, cost
		}
	})
	return best
}

func (p *hotColdPicker) load(i, inUse int) float64 {
	return float64(inUse+1) / p.weights[i]
}
