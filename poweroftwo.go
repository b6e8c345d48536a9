package pooly

import "math/rand/v2"

// PowerOfTwo draws two hosts at random, and picks the host with the lower load. The load is (in use
// + 1) / weight. See Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE
// Trans. Parallel Distrib. Syst. 12(10), 2001: a second choice shortens the longest of n queues
// from O(log n / log log n) to O(log log n).
//
// It evens out the leases in use, so a slow host gets fewer leases as soon as they pile up there,
// before scores show it. Many clients that use it do not all run after the same host. While no host
// has a queue, it does not know which host is faster. [LeastLatency] and [HotCold] do. A host that
// is down loses to any other that it is drawn with. The worst of n hosts never gets more than 1/n
// of the picks.
//
// The weight is r⁸. r is how good the host's newest trials were, compared with the other hosts: r =
// (2u + S) / (2 + T) / u. S is the sum of the scores of the T newest trials, which are up to 50 of
// the last second. If trials are rarer, the last three or so count for longer. u is the median of
// the hosts' means. Differences of less than 5 % count as chance. So the weight is 1 for hosts that
// do as well as the others, and for hosts of which nothing is known.
//
// The weight is an error penalty as in Finagle and in gRPC's weighted round-robin (proposal A58).
// Unlike theirs it is relative to the other hosts: a failure that all have in common changes
// nothing.
//
// A pick is O(1) and reads two hosts' live counts (see [Arm.InUse]). It keeps no state, so services
// can share a value.
type PowerOfTwo struct{}

// NewPowerOfTwo returns a PowerOfTwo.
func NewPowerOfTwo() *PowerOfTwo {
	return new(PowerOfTwo)
}

// NewPicker implements Bandit in O(n).
func (*PowerOfTwo) NewPicker(arms []Arm) Picker {
	return &powerOfTwoPicker{candidates(arms)}
}

type powerOfTwoPicker struct {
	hosts []candidate
}

func (p *powerOfTwoPicker) Pick(rng *rand.Rand) int {
	return leastOf(rng, len(p.hosts), 2, p.load)
}

func (p *powerOfTwoPicker) load(i int) float64 {
	c := p.hosts[i]
	return c.load(c.inUse())
}
