package pooly

import (
	"math/rand/v2"
	"time"

	"github.com/3XX0/pooly/internal/sample"
)

// leastOf draws d distinct numbers below n at random and returns the one that costs least. Numbers
// that cost the same are equally likely.
//
// It draws all numbers before it asks for a cost, and asks for all costs before it compares them,
// so that the cache misses of the hosts' live figures overlap. Drawing and comparing one host at a
// time makes a pick over many hosts much slower (see docs/PERFORMANCE.md).
func leastOf(rng *rand.Rand, n, d int, cost func(int) float64) int {
	var buffer sample.Buffer
	drawn := sample.Distinct(rng, n, d, &buffer)
	costs := make([]float64, 0, sample.BufferSize)
	for _, i := range drawn {
		costs = append(costs, cost(i))
	}
	best := 0
	for k, c := range costs {
		if c < costs[best] {
			best = k
		}
	}
	return drawn[best]
}

// candidate is a host as seen by strategies that compare the live figures of several hosts.
type candidate struct {
	host   *host   // nil in an Arm made by hand
	weight float64 // the load is divided by it
}

// minWeight stands for a weight of 0, by which a load cannot be divided: a host that is down is the
// last choice, and of several such hosts the one with the lowest load comes first.
const minWeight = 1e-9

// candidates returns the arms as candidates. The weight is (1 + S) / (1 + T), where S is the sum of
// the scores of T trials, which is in (0, 1]. An arm made by hand has its Score as weight.
//   - A host that does well has weight 1.
//   - Untried hosts have weight 1 too, so they are tried. Score (0.5 for them) would keep idle
//     hosts idle.
//   - A host that fails has weight 1 / (1 + T). It is tried again as its trials decay, after
//     DecayDuration at the latest.
func candidates(arms []Arm) []candidate {
	all := make([]candidate, len(arms))
	for i, a := range arms {
		weight := clampScore(a.Score)
		if a.host != nil {
			weight = (1 + a.Trials*a.Mean()) / (1 + a.Trials)
		}
		all[i] = candidate{a.host, max(weight, minWeight)}
	}
	return all
}

// inUse is Arm.InUse.
func (c candidate) inUse() int {
	if c.host == nil {
		return 0
	}
	return int(c.host.load.Load())
}

// load returns how crowded the host would be with one more lease.
func (c candidate) load(inUse int) float64 {
	return float64(inUse+1) / c.weight
}

// latency is Arm.Latency for a strategy whose NewPicker has called that.
func (c candidate) latency() time.Duration {
	if c.host == nil {
		return 0
	}
	return time.Duration(c.host.latency.Load())
}

// expectedLatency is Arm.ExpectedLatency for a strategy whose NewPicker has called that.
func (c candidate) expectedLatency(inUse int) time.Duration {
	if c.host == nil {
		return 0
	}
	return c.host.curve.latency(inUse + 1)
}

// timed returns the latency to compare by. A host that was never timed counts as very fast, so that
// it gets a lease, and as slow while it has one, so that other hosts come first.
func timed(latency time.Duration, inUse int) float64 {
	switch {
	case latency > 0:
		return float64(latency)
	case inUse > 0:
		return float64(time.Second)
	}
	return 1
}
