package pooly

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/3XX0/pooly/internal/sample"
)

// leastOf draws d distinct numbers below n at random and returns the one that costs least. Numbers
// that cost the same are equally likely. It is O(d²), and O(n) if n is at most d.
//
// It draws all numbers before it asks for a cost, and asks for all costs before it compares them.
// So the cache misses of the hosts' live figures overlap. Drawing and comparing one host at a time
// makes a pick over many hosts much slower (see docs/PERFORMANCE.md).
func leastOf(rng *rand.Rand, n, d int, cost func(int) float64) int {
	if n <= min(d, sample.BufferSize) {
		return least(rng, n, cost)
	}
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

// least is leastOf for d = n: it compares all numbers, so it need not draw any. n is at most
// sample.BufferSize.
func least(rng *rand.Rand, n int, cost func(int) float64) int {
	var costs [sample.BufferSize]float64
	for i := range n {
		costs[i] = cost(i)
	}
	best, ties := 0, uint32(1)
	for i := 1; i < n; i++ {
		switch {
		case costs[i] < costs[best]:
			best, ties = i, 1
		case costs[i] == costs[best]:
			ties++
			if rng.Uint32N(ties) == 0 {
				best = i
			}
		}
	}
	return best
}

// candidate is a host as seen by strategies that compare the live figures of several hosts.
type candidate struct {
	host   *host   // nil in an Arm made by hand
	weight float64 // the load is divided by it
}

// minWeight replaces a weight of 0, because loads are divided by weights. So a host that is down is
// the last choice. Of several such hosts, the host with the lowest load comes first.
const minWeight = 1e-9

// How a host's newest trials become its weight, see candidates.
const (
	priorTrials = 2    // how many usual trials a host is credited with
	tolerance   = 0.05 // relative differences from the usual score that are ignored
	severity    = 8
	mostBetter  = 1.5 // how much better than usual a host can count
)

// candidates returns the arms as candidates. The weight is r⁸. r is how good the host's newest
// trials were, relative to what is usual: r = (2u + S) / (2 + T) / u. S is the sum of the scores of
// the T newest trials, and u is the median of what the hosts score. Differences of 5 % are taken
// for chance, so a host has weight 1 if r is within 1 ± 0.05. r is at most 1.5.
//   - A host that does as well as the others has weight 1, and so has an untried host.
//   - A host that fails loses nearly all traffic within a few trials. The failures are forgotten
//     within seconds, or within the time of a few trials if trials are rare. Then the host is tried
//     again.
//   - If all hosts fail alike, the weights stay 1.
//
// The power makes failures weigh more than speed: with 1 instead of 8, a host that fails a fifth of
// its trials would keep four fifths of its traffic. An arm made by hand has its Score as weight.
func candidates(arms []Arm) []candidate {
	all := make([]candidate, len(arms))
	usual := HostUp
	if c := arms[0].cluster; c != nil {
		usual = max(leastUsualScore, c.calculate(c.usual()))
	}
	for i, a := range arms {
		weight := clampScore(a.Score)
		if a.host != nil {
			weight = a.weight(usual)
		}
		all[i] = candidate{a.host, max(weight, minWeight)}
	}
	return all
}

// weight is the weight of a host, see candidates.
func (a Arm) weight(usual float64) float64 {
	trials := a.recent.Trials
	if trials == 0 {
		return 1
	}
	mean := a.cluster.calculate(a.recent.Mean())
	r := (priorTrials*usual + trials*mean) / (priorTrials + trials) / usual
	switch {
	case r < 1-tolerance:
		r /= 1 - tolerance
	case r > 1+tolerance:
		r /= 1 + tolerance
	default:
		return 1
	}
	return math.Pow(min(r, mostBetter), severity)
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

// meanLatency returns the mean latency of the host's leases of the last second or so. It is known
// once Arm.ExpectedLatency was called.
func (c candidate) meanLatency() time.Duration {
	if c.host == nil {
		return 0
	}
	return time.Duration(c.host.average.Load())
}

// timed returns the latency to compare by. A host that was never timed counts as very fast, so that
// it gets a lease. While it has one it counts as slow, so that other hosts come first.
func timed(latency time.Duration, inUse int) float64 {
	switch {
	case latency > 0:
		return float64(latency)
	case inUse > 0:
		return float64(time.Second)
	}
	return 1
}
