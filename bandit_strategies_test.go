package pooly_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// strategies are all of them, with usual arguments.
var strategies = []struct {
	name string
	make func() pooly.Bandit
}{
	{"RoundRobin", func() pooly.Bandit { return pooly.NewRoundRobin() }},
	{"EpsilonGreedy", func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.1) }},
	{"SoftMax", func() pooly.Bandit { return pooly.NewSoftMax(0.1) }},
	{"Thompson", func() pooly.Bandit { return pooly.NewThompson() }},
	{"UCB", func() pooly.Bandit { return pooly.NewUCB(0.5) }},
	{"WeightedRoundRobin", func() pooly.Bandit { return pooly.NewWeightedRoundRobin() }},
	{"PowerOfTwo", func() pooly.Bandit { return pooly.NewPowerOfTwo() }},
	{"PeakEWMA", func() pooly.Bandit { return pooly.NewPeakEWMA(5) }},
	{"LeastLatency", func() pooly.Bandit { return pooly.NewLeastLatency() }},
	{"HotCold", func() pooly.Bandit { return pooly.NewHotCold(5, 0.84) }},
}

// shares returns how often a picker picks each arm, of n picks with a fixed seed.
func shares(b pooly.Bandit, arms []pooly.Arm, n int) []float64 {
	rng := rand.New(rand.NewPCG(1, 2))
	p := b.NewPicker(arms)
	s := make([]float64, len(arms))
	for range n {
		s[p.Pick(rng)] += 1 / float64(n)
	}
	return s
}

func requireShares(t *testing.T, want, got []float64, delta float64) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.InDelta(t, want[i], got[i], delta, "arm %d: want %v, got %v", i, want, got)
	}
}

func scored(scores ...float64) []pooly.Arm {
	arms := make([]pooly.Arm, len(scores))
	for i, s := range scores {
		arms[i] = pooly.Arm{Score: s, Trials: 100}
	}
	return arms
}

func TestEveryStrategyPicksEqualHostsEqually(t *testing.T) {
	for _, s := range strategies {
		for _, score := range []float64{0, 0.5, 1} {
			got := shares(s.make(), scored(score, score, score, score), 100_000)
			requireShares(t, []float64{0.25, 0.25, 0.25, 0.25}, got, 0.01)
		}
	}
}

func TestEveryStrategyIsRepeatable(t *testing.T) {
	arms := scored(0.2, 0.5, 0.8, 0.7, 0.1)
	for _, s := range strategies {
		require.Equal(t, shares(s.make(), arms, 1000), shares(s.make(), arms, 1000), s.name)
	}
}

func TestEveryStrategySurvivesImpossibleArms(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, s := range strategies {
		for _, arms := range [][]pooly.Arm{
			{{}},
			{{Score: nan, Trials: nan}},
			{{Score: nan, Trials: nan}, {Score: inf, Trials: inf}, {Score: -inf, Trials: -inf}},
			{{Score: 1, Trials: 1e300}, {Score: 0, Trials: 1e300}},
			{{Score: 0.5, Trials: 1e15}, {Score: 0.5, Trials: 1e15}, {Score: 0.5}},
			make([]pooly.Arm, 1000),
		} {
			for _, share := range shares(s.make(), arms, 1000) { // panics if an index is wrong
				require.False(t, math.IsNaN(share), s.name)
			}
		}
	}
}

func TestEveryStrategyButRoundRobinPrefersTheBestHost(t *testing.T) {
	for _, s := range strategies[1:] {
		got := shares(s.make(), scored(0.1, 0.9, 0.1), 10_000)
		require.Greater(t, got[1], max(got[0], got[2])+0.2, s.name)
	}
}

func TestThompsonPicksByProbabilityOfBeingBest(t *testing.T) {
	for name, arms := range map[string][]pooly.Arm{
		"unknown hosts":          make([]pooly.Arm, 5),
		"one known":              {{Score: 0.9, Trials: 200}, {}, {}},
		"few trials":             {{Score: 1, Trials: 1}, {Score: 0, Trials: 1}, {Score: 0.5, Trials: 4}},
		"close":                  {{Score: 0.80, Trials: 300}, {Score: 0.82, Trials: 300}, {Score: 0.7, Trials: 10}},
		"all good":               {{Score: 1, Trials: 50}, {Score: 1, Trials: 100}, {Score: 0.99, Trials: 100}},
		"all bad":                {{Score: 0, Trials: 50}, {Score: 0, Trials: 10}, {Score: 0.02, Trials: 100}},
		"many trials, one close": {{Score: 0.900, Trials: 1e6}, {Score: 0.899, Trials: 1e6}, {Score: 0.5, Trials: 10}},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 200_000
			rng := rand.New(rand.NewPCG(3, 4))
			want := make([]float64, len(arms))
			for range n {
				best, top := 0, -1.0
				for i, a := range arms {
					if x := drawBeta(rng, 1+a.Score*a.Trials, 1+(1-a.Score)*a.Trials); x > top {
						best, top = i, x
					}
				}
				want[best] += 1.0 / n
			}
			requireShares(t, want, shares(pooly.NewThompson(), arms, n), 0.015)
		})
	}
}

// drawBeta draws from Beta(a, b) with a, b >= 1, by way of two gamma variates (Marsaglia and Tsang,
// ACM Trans. Math. Softw. 26(3), 2000).
func drawBeta(rng *rand.Rand, a, b float64) float64 {
	gamma := func(shape float64) float64 {
		d := shape - 1.0/3
		c := 1 / math.Sqrt(9*d)
		for {
			x := rng.NormFloat64()
			v := math.Pow(1+c*x, 3)
			if v > 0 && math.Log(1-rng.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
				return d * v
			}
		}
	}
	x, y := gamma(a), gamma(b)
	return x / (x + y)
}

func TestUCBTriesWhatItKnowsLeastOf(t *testing.T) {
	arms := []pooly.Arm{{Score: 0.9, Trials: 1000}, {Score: 0.9, Trials: 1000}, {Score: 0.5, Trials: 0}}
	requireShares(t, []float64{0, 0, 1}, shares(pooly.NewUCB(0.5), arms, 1000), 0.001)
}

func TestUCBPicksTheHighestBound(t *testing.T) {
	// Bounds with ln 300 = 5.7: 0.8 + 0.5·√(5.7/200) = 0.884, and 0.6 + 0.5·√(5.7/100) = 0.719.
	arms := []pooly.Arm{{Score: 0.8, Trials: 200}, {Score: 0.6, Trials: 100}}
	requireShares(t, []float64{1, 0}, shares(pooly.NewUCB(0.5), arms, 1000), 0.001)
	// With √2 instead of 0.5 they are 1.039 and 0.938; with 4, 1.475 and 1.555.
	requireShares(t, []float64{1, 0}, shares(pooly.NewUCB(math.Sqrt2), arms, 1000), 0.001)
	requireShares(t, []float64{0, 1}, shares(pooly.NewUCB(4), arms, 1000), 0.001)
}

func TestUCBSpreadsABusyTimeSoThatTheBoundsBecomeEqual(t *testing.T) {
	const picks = 10_000
	arms := []pooly.Arm{{Score: 0.8, Trials: 300}, {Score: 0.8, Trials: 100}, {Score: 0.6, Trials: 50}}
	u := pooly.NewUCB(0.5)
	shares(u, arms, picks) // so that it expects as many
	got := shares(u, arms, picks)
	bounds := make([]float64, len(arms))
	for i, a := range arms {
		bounds[i] = a.Score + 0.5*math.Sqrt(math.Log(450+picks)/(a.Trials+picks*got[i]))
	}
	require.InDelta(t, bounds[0], bounds[1], 0.002)
	require.InDelta(t, bounds[0], bounds[2], 0.01)
	require.Less(t, got[2], 0.02)
}

func TestWeightedRoundRobinSharesByScore(t *testing.T) {
	arms := scored(0.1, 0.2, 0.3, 0.4, 0)
	requireShares(t, []float64{0.1, 0.2, 0.3, 0.4, 0}, shares(pooly.NewWeightedRoundRobin(), arms, 1000), 0.003)
}

func TestWeightedRoundRobinSpreadsTheTurnsOfAHost(t *testing.T) {
	arms := scored(0.1, 0.5, 0.4)
	p := pooly.NewWeightedRoundRobin().NewPicker(arms)
	last := map[int]int{}
	longest := map[int]int{}
	for turn := range 10_000 {
		i := p.Pick(nil)
		if at, ok := last[i]; ok {
			longest[i] = max(longest[i], turn-at)
		}
		last[i] = turn
	}
	require.LessOrEqual(t, longest[0], 26, "a tenth of the turns are ten apart, and 1+φ times that at most")
	require.LessOrEqual(t, longest[1], 3)
	require.LessOrEqual(t, longest[2], 5)
}

func TestWeightedRoundRobinKeepsItsTurn(t *testing.T) {
	w := pooly.NewWeightedRoundRobin()
	arms := scored(0.5, 0.5, 0.5)
	got := make([]float64, 3)
	for range 300 { // a picker for each pick must not start over
		got[w.NewPicker(arms).Pick(nil)] += 1.0 / 300
	}
	requireShares(t, []float64{1.0 / 3, 1.0 / 3, 1.0 / 3}, got, 0.01)
}

func TestStrategiesThatDrawComparePairs(t *testing.T) {
	// The best of n wins whenever it is drawn, the worst only against itself.
	arms := scored(0.9, 0.7, 0.5, 0.3)
	requireShares(t, []float64{3. / 6, 2. / 6, 1. / 6, 0}, shares(pooly.NewPowerOfTwo(), arms, 100_000), 0.01)
}

func TestConstructorsRefuseImpossibleArguments(t *testing.T) {
	for name, construct := range map[string]func(){
		"NewLinearComputer: worst 1":            func() { pooly.NewLinearComputer(1) },
		"NewLinearComputer: worst NaN":          func() { pooly.NewLinearComputer(math.NaN()) },
		"NewExponentialComputer: steepness 0":   func() { pooly.NewExponentialComputer(0) },
		"NewLogarithmicComputer: steepness +In": func() { pooly.NewLogarithmicComputer(math.Inf(1)) },
		"NewUCB: exploration 0":                 func() { pooly.NewUCB(0) },
		"NewUCB: exploration NaN":               func() { pooly.NewUCB(math.NaN()) },
		"NewPeakEWMA: choices 1":                func() { pooly.NewPeakEWMA(1) },
		"NewHotCold: choices 0":                 func() { pooly.NewHotCold(0, 0.8) },
		"NewHotCold: quantile 1.1":              func() { pooly.NewHotCold(2, 1.1) },
		"NewHotCold: quantile NaN":              func() { pooly.NewHotCold(2, math.NaN()) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				err, _ := recover().(error)
				require.ErrorIs(t, err, pooly.ErrInvalidArg)
				require.ErrorContains(t, err, name)
			}()
			construct()
		})
	}
}
