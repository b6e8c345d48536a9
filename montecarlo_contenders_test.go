//go:build montecarlo_simulation

package pooly_test

import (
	"math"

	"github.com/3XX0/pooly"
)

// A contender is a strategy in the simulations.
type contender struct {
	name   string
	scored bool // decides by scores, so latencies are scored where hosts fill up
	loads  bool // weighs load, so it suits hosts that fill up
	make   func() pooly.Bandit
}

// contenders are ordered by what a lease costs with them (see docs/PERFORMANCE.md).
var contenders = []contender{
	{"round-robin", false, false, func() pooly.Bandit { return pooly.NewRoundRobin() }},
	{"weighted round-robin", true, false, func() pooly.Bandit { return pooly.NewWeightedRoundRobin() }},
	{"softmax(0.1)", true, false, func() pooly.Bandit { return pooly.NewSoftMax(0.1) }},
	{"epsilon-greedy(0.1)", true, false, func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.1) }},
	{"Thompson", true, false, func() pooly.Bandit { return pooly.NewThompson() }},
	{"UCB(0.5)", true, false, func() pooly.Bandit { return pooly.NewUCB(0.5) }},
	{"power of two", false, true, func() pooly.Bandit { return pooly.NewPowerOfTwo() }},
	{"peak EWMA(5)", false, true, func() pooly.Bandit { return pooly.NewPeakEWMA(5) }},
	{"hot-cold(5, 0.84)", false, true, func() pooly.Bandit { return pooly.NewHotCold(5, 0.84) }},
	{"least latency", false, true, func() pooly.Bandit { return pooly.NewLeastLatency() }},
}

// learners are the contenders where hosts do not fill up, and the variants that the classic
// experiment has.
var learners = append(contenders[:len(contenders):len(contenders)],
	contender{"softmax(0.5)", true, false, func() pooly.Bandit { return pooly.NewSoftMax(0.5) }},
	contender{"epsilon-greedy(0.5)", true, false, func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.5) }},
	contender{"UCB(√2)", true, false, func() pooly.Bandit { return pooly.NewUCB(math.Sqrt2) }},
)

// suitedToLoad returns the contenders for hosts that fill up.
func suitedToLoad() (suited []contender) {
	for _, c := range contenders {
		if c.loads || c.name == "round-robin" {
			suited = append(suited, c)
		}
	}
	return suited
}
