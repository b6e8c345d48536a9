package pooly

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// HotCold draws some hosts at random, sets aside the crowded ones, and of the rest picks the host
// where a lease should take the least time. It is the hot-cold lexicographic rule of Prequal:
// Wydrowski, Kleinberg and Rumble, Load is not what you should balance, NSDI 2024.
//
// It gives a short tail if hosts differ in strength, or share their machines with others. It needs
// no scores: release what went well with HostUp. Each host needs some leases a second, so that its
// latency is known.
//
// The load of a host is (in use + 1) / weight. A host is hot if its load is above the given
// quantile of the loads that all hosts had when the picker was made. Of the hosts drawn, the cold
// host with the lowest [Arm.ExpectedLatency] / weight is picked. If all are hot, the host with the
// lowest load is picked. A host that was never timed gets one lease to start with. The weight is as
// in [PowerOfTwo].
//
// If a host had few leases at once, HotCold expects twice as many leases to take twice as long
// there. If hosts do not become slower with load, such a host stays below its share after it has
// joined or has been slow. [LeastLatency] has no such expectation, and a shorter tail if many
// clients share the hosts.
//
// Prequal asks servers for their figures, which count the requests of all clients. HotCold knows
// the leases of this process alone, and sees in the latencies what other clients do to a host.
//
// A pick is O(choices²) and reads the live figures of that many hosts. The service times its leases
// (see [Arm.ExpectedLatency]).
//
// It keeps no state, so services can share a value. The zero value is NewHotCold(2, 0).
type HotCold struct {
	choices  int
	quantile float64
}

// NewHotCold returns a HotCold that draws the given number of hosts for each pick, at least 2. With
// fewer hosts it compares all. quantile, in [0, 1], is the share of hosts that may be cold. At 1
// all hosts are cold, so only latency counts. At 0 next to no host is cold, so only load counts. 5
// and 0.84 are good values. It panics if choices is below 2 or quantile outside [0, 1].
func NewHotCold(choices int, quantile float64) *HotCold {
	if !(quantile >= 0 && quantile <= 1) {
		panic(fmt.Errorf("%w: NewHotCold: quantile %v is outside [0, 1]", ErrInvalidArg, quantile))
	}
	return &HotCold{checkChoices("NewHotCold", choices), quantile}
}

// NewPicker implements Bandit in O(n log n).
func (h *HotCold) NewPicker(arms []Arm) Picker {
	p := &hotColdPicker{choices: max(h.choices, leastChoices), hosts: candidates(arms)}
	arms[0].ExpectedLatency() // so that leases are timed before the first pick
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

// heat times its load is the cost of a hot host. Any cold host costs less, since no latency has
// more than 10¹⁹ nanoseconds and no weight is below minWeight.
const heat = 1e40

func (p *hotColdPicker) cost(i int) float64 {
	c := p.hosts[i]
	inUse := c.inUse()
	if load := c.load(inUse); load > p.limit {
		return load * heat
	}
	return timed(c.expectedLatency(inUse), inUse) / c.weight
}
