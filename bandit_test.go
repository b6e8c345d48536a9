package pooly_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

const picks = 100_000

// countPicks counts the picks of each arm.
func countPicks(b pooly.Bandit, arms []pooly.Arm) []int {
	rng := rand.New(rand.NewPCG(1, 2))
	p := b.NewPicker(arms)
	counts := make([]int, len(arms))
	for range picks {
		counts[p.Pick(rng)]++
	}
	return counts
}

// requireFrequencies fails if the counts are unlikely under the probabilities: Pearson's
// chi-square, against its 99.99th percentile after Wilson and Hilferty. Arms of probability 0 must
// not be picked at all.
func requireFrequencies(t *testing.T, probabilities []float64, counts []int) {
	t.Helper()
	chi, degrees := 0.0, -1.0
	for i, p := range probabilities {
		if expected := p * picks; expected < 1e-6 {
			require.Zero(t, counts[i], "arm %d", i)
		} else {
			chi += (float64(counts[i]) - expected) * (float64(counts[i]) - expected) / expected
			degrees++
		}
	}
	if degrees < 1 {
		return
	}
	const z = 3.719 // of the standard normal distribution
	v := 2 / (9 * degrees)
	limit := degrees * math.Pow(1-v+z*math.Sqrt(v), 3)
	require.Less(t, chi, limit, "counts %v do not look like %v", counts, probabilities)
}

func TestRoundRobinPicksInTurn(t *testing.T) {
	b := pooly.NewRoundRobin()
	rng := rand.New(rand.NewPCG(1, 2))
	p := b.NewPicker(scored(0, 0.5, 1))
	var got []int
	for range 5 {
		got = append(got, p.Pick(rng))
	}
	p = b.NewPicker(scored(0, 0.5, 1)) // the turn goes on
	for range 4 {
		got = append(got, p.Pick(rng))
	}
	require.Equal(t, []int{0, 1, 2, 0, 1, 2, 0, 1, 2}, got)
	requireFrequencies(t, []float64{0.25, 0.25, 0.25, 0.25}, countPicks(b, scored(0, 0, 0, 1)))
}

// At any rate of calls, however many pickers are made between them.
func TestRoundRobinKeepsItsTurnAcrossRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a", "b", "c")
		served := make(map[string]int)
		for range 30 {
			c := get(t, s)
			served[c.Address()]++
			release(t, c)
			time.Sleep(time.Second)
		}
		require.Equal(t, map[string]int{"a": 10, "b": 10, "c": 10}, served)
	})
}

func TestEpsilonGreedyFrequencies(t *testing.T) {
	for _, tt := range []struct {
		epsilon float64
		scores  []float64
		want    []float64
	}{
		{0, []float64{0.1, 0.9, 0.5}, []float64{0, 1, 0}},
		{0, []float64{0.9, 0.1, 0.9, 0.9}, []float64{1. / 3, 0, 1. / 3, 1. / 3}},
		{0, []float64{0, 0}, []float64{0.5, 0.5}},
		{1, []float64{0.1, 0.9, 0.5}, []float64{1. / 3, 1. / 3, 1. / 3}},
		{0.1, []float64{0.1, 0.9, 0.5}, []float64{0.1 / 3, 0.9 + 0.1/3, 0.1 / 3}},
		{0.3, []float64{1, 1, 0}, []float64{0.45, 0.45, 0.1}},
		{0.5, []float64{0.7}, []float64{1}},
		{0.3, []float64{math.NaN(), 0.2, -7}, []float64{0.1, 0.8, 0.1}},
	} {
		requireFrequencies(t, tt.want, countPicks(pooly.NewEpsilonGreedy(tt.epsilon), scored(tt.scores...)))
	}
}

func boltzmann(temperature float64, scores ...float64) []float64 {
	p := make([]float64, len(scores))
	best, sum := slices.Max(scores), 0.0
	for i, s := range scores {
		p[i] = math.Exp((s - best) / temperature)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

func TestSoftMaxFrequencies(t *testing.T) {
	many := make([]float64, 200)
	for i := range many {
		many[i] = float64(i%7) / 7
	}
	for _, scores := range [][]float64{
		{0.5}, {0.5, 0.5, 0.5}, {0.1, 0.1, 0.9}, {0, 1}, {0, 0, 0, 0}, {1, 1, 1}, {0.8, 0.81, 0.79, 0.2}, many,
	} {
		for _, temperature := range []float64{1e-9, 0.01, 0.1, 0.5, 1, 10, 1e9, math.Inf(1)} {
			counts := countPicks(pooly.NewSoftMax(temperature), scored(scores...))
			requireFrequencies(t, boltzmann(temperature, scores...), counts)
		}
	}
	requireFrequencies(t, []float64{0, 1, 0}, countPicks(pooly.NewSoftMax(1e-9), scored(0.1, 0.9, 0.5)))
	requireFrequencies(t, boltzmann(0.5, 0, 0.2, 1), countPicks(pooly.NewSoftMax(0.5), scored(math.NaN(), 0.2, 8)))
}

func TestStrategiesRejectImpossibleArguments(t *testing.T) {
	for _, v := range []float64{math.NaN(), -0.1, 1.1, math.Inf(1)} {
		require.PanicsWithError(t,
			fmt.Sprintf("pooly: invalid argument: NewEpsilonGreedy: epsilon %v is outside [0, 1]", v),
			func() { pooly.NewEpsilonGreedy(v) })
	}
	for _, v := range []float64{math.NaN(), -1, 0, math.Inf(-1)} {
		require.PanicsWithError(t,
			fmt.Sprintf("pooly: invalid argument: NewSoftMax: temperature %v is not above 0", v),
			func() { pooly.NewSoftMax(v) })
	}
}

// A bandit sees the hosts as they are: scores, trials, and live what is in use and how long leases
// last.
func TestArmsTellWhatStrategiesNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watch := new(spy)
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: watch}, "a", "b")
		c := get(t, s)
		require.Len(t, watch.arms(), 2)
		a := watch.arms()[0]
		require.Equal(t, "a", a.Address)
		require.Equal(t, 0.5, a.Score)
		require.Zero(t, a.Trials)
		require.Equal(t, 1, a.InUse())
		require.Equal(t, 0, watch.arms()[1].InUse())
		require.Zero(t, a.Latency(), "asked for the first time")
		release(t, c)
		require.Equal(t, 0, a.InUse())

		c = get(t, s)
		time.Sleep(80 * time.Millisecond)
		require.NoError(t, c.Release(nil, 0.8))
		require.Equal(t, 80*time.Millisecond, a.Latency(), "a peak counts at once")
		c = get(t, s)
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, c.Release(nil, 0.8))
		require.Less(t, a.Latency(), 80*time.Millisecond)
		require.Greater(t, a.Latency(), 79*time.Millisecond)
		require.Equal(t, a.Latency(), hostStats(t, s, "a").Latency)

		time.Sleep(time.Minute)
		release(t, get(t, s))
		require.Less(t, watch.arms()[0].Latency(), time.Millisecond, "forgotten with time")

		d.refuse("b")
		s.Add("c")
		release(t, get(t, s))
		require.Len(t, watch.arms(), 3)
	})
	require.Zero(t, pooly.Arm{}.InUse())
	require.Zero(t, pooly.Arm{}.Latency())
}

// A host that was slow once and is avoided for it must look better with time, or it would be
// avoided forever.
func TestLatencyOfAHostThatIsNotUsedIsForgotten(t *testing.T) {
	for _, decay := range []time.Duration{time.Minute, 24 * time.Hour} { // the latter in slots of minutes
		t.Run(decay.String(), func(t *testing.T) { testLatencyIsForgotten(t, decay) })
	}
}

func testLatencyIsForgotten(t *testing.T, decay time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		watch := new(spy)
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy: watch,
			DecayDuration:  decay,
			PoolConfig:     pooly.PoolConfig{MaxConns: 1},
		}, "a", "b")
		release(t, get(t, s))
		slow := watch.arms()[0]
		_ = slow.Latency() // from now on leases are timed
		c := get(t, s)
		time.Sleep(time.Second)
		release(t, c)
		require.Equal(t, time.Second, slow.Latency())

		held := get(t, s)   // so that only other hosts are used
		for i := range 30 { // of which few are rated between two refreshes
			s.Add(strconv.Itoa(i))
		}
		for range 600 {
			c := get(t, s)
			require.NotEqual(t, "a", c.Address())
			release(t, c)
			time.Sleep(100 * time.Millisecond)
		}
		require.Less(t, slow.Latency(), 10*time.Millisecond)
		require.Positive(t, slow.Latency())
		release(t, held)
	})
}

// What the strategies learn must reach the traffic: the share of a host that fails must fall.
func TestStrategiesLeaveAHostThatFailsItsRequests(t *testing.T) {
	for _, strategy := range []pooly.Bandit{pooly.NewEpsilonGreedy(0.1), pooly.NewSoftMax(0.1)} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: strategy}, "bad", "good")
			served := make(map[string]int)
			for i := range 1000 {
				c := get(t, s)
				score := pooly.HostUp
				if c.Address() == "bad" {
					score = pooly.HostDown
				}
				if i >= 200 {
					served[c.Address()]++
				}
				require.NoError(t, c.Release(nil, score))
				time.Sleep(10 * time.Millisecond)
			}
			require.Less(t, served["bad"], 100)
		})
	}
}
