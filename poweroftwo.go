package pooly

import "math/rand/v2"

// PowerOfTwo draws two hosts at random and picks the one with the lower load: the lower
// (in use + 1) / score. See Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE Trans.
// Parallel Distrib. Syst. 12(10), 2001: a second choice takes the longest of n queues from O(log n / log log n)
// to O(log log n).
//
// It levels the leases that are out, so a host that is slow gets less as soon as leases pile up there, before
// any score tells. Many clients that use it do not run after the same host. It does not know that one host
// is faster than another while neither has a queue; [PeakEWMA] and [HotCold] do. A host that is down loses to any
// other it is drawn with, and the worst of the hosts never gets more than 1/n of the picks.
//
// A pick is O(1) and reads two hosts' live counts (see [Arm.InUse]).
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
