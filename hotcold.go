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
	p := &hotColdPicker{choices: h.choices, hosts: candidates(arms)}
	arms[0].ExpectedLatency() // so that leases are timed from the first
	loads := make([]float64, len(arms))
	for i, c := range p.hosts {
		loads[i] = c.load(c.inUse())
	}
	slices.Sort(loads)
	p.limit = loads[int(h.quantile*float64(len(loads)-1))]
	return p
}

type hotColdPicker struct {
	choices int
	hosts   []candidate
	limit   float64 // loads above it are hot
}

func (p *hotColdPicker) Pick(rng *rand.Rand) int {
	return leastOf(rng, len(p.hosts), p.choices, p.cost)
}

// heat is what the load of a hot host is multiplied by as its cost: any cold one costs less, since no latency has more
// than 10¹⁹ nanoseconds and no weight is below minWeight.
const heat = 1e40

func (p *hotColdPicker) cost(i int) float64 {
	c := p.hosts[i]
	inUse := c.inUse()
	if load := c.load(inUse); load > p.limit {
		return load * heat
	}
	return timed(c.expectedLatency(inUse), inUse) / c.weight
}
