//go:build montecarlo_simulation

package pooly_test

import (
	"math"
	"time"

	"github.com/3XX0/pooly"
)

// A contender is a strategy in the simulations.
type contender struct {
	name    string
	scored  bool // decides by scores, so latencies are scored where hosts fill up
	loads   bool // weighs load, so it suits hosts that fill up
	make    func() pooly.Bandit
	replies bool          // servers report their load in replies
	probes  float64       // of each request
	wait    time.Duration // for them
}

// contenders are ordered by what a lease costs with them (see docs/PERFORMANCE.md).
var contenders = []contender{
	{name: "round-robin", scored: false, loads: false, make: func() pooly.Bandit { return pooly.NewRoundRobin() }},
	{name: "weighted round-robin", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewWeightedRoundRobin() }},
	{name: "softmax(0.1)", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewSoftMax(0.1) }},
	{name: "epsilon-greedy(0.1)", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.1) }},
	{name: "Thompson", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewThompson() }},
	{name: "UCB(0.5)", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewUCB(0.5) }},
	{name: "power of two", scored: false, loads: true, make: func() pooly.Bandit { return pooly.NewPowerOfTwo() }},
	{name: "peak EWMA(5)", scored: false, loads: true, make: func() pooly.Bandit { return pooly.NewPeakEWMA(5) }},
	{name: "hot-cold(5, 0.84)", scored: false, loads: true, make: func() pooly.Bandit { return pooly.NewHotCold(5, 0.84) }},
	{name: "least latency", scored: false, loads: true, make: func() pooly.Bandit { return pooly.NewLeastLatency() }},
}

// learners are the contenders where hosts do not fill up, and the variants that the classic
// experiment has.
var learners = append(contenders[:len(contenders):len(contenders)],
	contender{name: "softmax(0.5)", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewSoftMax(0.5) }},
	contender{name: "epsilon-greedy(0.5)", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.5) }},
	contender{name: "UCB(√2)", scored: true, loads: false, make: func() pooly.Bandit { return pooly.NewUCB(math.Sqrt2) }},
)
