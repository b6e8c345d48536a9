package pooly_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestSharesAreHowOftenEachStrategyPicks(t *testing.T) {
	arms := []pooly.Arm{
		{Address: "a", Score: 0.9, Trials: 40}, {Address: "b", Score: 0.85, Trials: 30},
		{Address: "c", Score: 0.9, Trials: 20}, {Address: "d", Score: 0.1, Trials: 10}, {Address: "e"},
	}
	for name, strategy := range map[string]pooly.Bandit{
		"round-robin":            pooly.NewRoundRobin(),
		"weighted round-robin":   pooly.NewWeightedRoundRobin(),
		"epsilon-greedy(0.2)":    pooly.NewEpsilonGreedy(0.2),
		"epsilon-greedy(1)":      pooly.NewEpsilonGreedy(1),
		"softmax(0.1)":           pooly.NewSoftMax(0.1),
		"Thompson":               pooly.NewThompson(),
		"UCB(0.5)":               pooly.NewUCB(0.5),
		"power of two":           pooly.NewPowerOfTwo(),
		"peak EWMA(3)":           pooly.NewPeakEWMA(3),
		"hot-cold(3, 0.84)":      pooly.NewHotCold(3, 0.84),
		"hot-cold of one, alone": pooly.NewHotCold(2, 0.84),
	} {
		t.Run(name, func(t *testing.T) {
			arms := arms
			if name == "hot-cold of one, alone" {
				arms = arms[:1]
			}
			picker := strategy.NewPicker(arms)
			shares := picker.(pooly.Sharer).Shares()
			rng := rand.New(rand.NewPCG(3, 4))
			const draws = 100_000
			picks := make([]float64, len(arms))
			for range draws {
				picks[picker.Pick(rng)] += 1.0 / draws
			}
			require.Len(t, shares, len(arms))
			sum := 0.0
			for i := range shares {
				require.InDelta(t, picks[i], shares[i], 0.03, "arm %d of %v", i, shares)
				sum += shares[i]
			}
			require.InDelta(t, 1, sum, 1e-9)
		})
	}
	equal := []pooly.Arm{{Address: "a"}, {Address: "b"}}
	require.Equal(t, []float64{0.5, 0.5}, pooly.NewWeightedRoundRobin().NewPicker(equal).(pooly.Sharer).Shares())
}

func TestSharesTakeNoTurn(t *testing.T) {
	s, _ := newService(t, pooly.ServiceConfig{}, "a", "b")
	last := ""
	for range 10 {
		require.Equal(t, map[string]float64{"a": 0.5, "b": 0.5}, s.Shares())
		c := get(t, s)
		require.NotEqual(t, last, c.Address())
		last = c.Address()
		release(t, c)
	}
	require.Equal(t, "round-robin", s.Stats().Strategy)
}

func TestSharesLeaveOutEjectedHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1, BanditStrategy: pooly.NewSoftMax(0.1)}, "a", "b")
		d.refuse("down")
		s.Add("down")
		synctest.Wait()
		require.Equal(t, map[string]float64{"a": 0.5, "b": 0.5, "down": 0}, s.Shares())
		s.Remove("a")
		s.Remove("b")
		require.Nil(t, s.Shares(), "there is nothing to choose")
		require.NoError(t, s.Close())
		require.Nil(t, s.Shares())
	})
}

// mute is a strategy without Shares; boasting is one whose Shares are wrong.
type (
	mute     struct{}
	boasting func() []float64
)

func (m mute) NewPicker([]pooly.Arm) pooly.Picker     { return m }
func (mute) Pick(*rand.Rand) int                      { return 0 }
func (b boasting) NewPicker([]pooly.Arm) pooly.Picker { return b }
func (boasting) Pick(*rand.Rand) int                  { return 0 }
func (b boasting) Shares() []float64                  { return b() }

func TestSharesOfAStrategyThatCannotTellAreNil(t *testing.T) {
	for _, strategy := range []pooly.Bandit{
		mute{},
		boasting(func() []float64 { return []float64{0.5, 0.5} }),
		boasting(func() []float64 { panic("no idea") }),
	} {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: strategy}, "a")
		require.Nil(t, s.Shares())
		release(t, get(t, s))
	}
	s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: mute{}})
	require.Equal(t, "pooly_test.mute", s.Stats().Strategy)
}

func TestSharesDoNotKeepAnIdleServiceAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		computed := 0
		s, _ := newService(t, pooly.ServiceConfig{ScoreCalculator: computer(func(score float64) float64 {
			computed++
			return score
		})}, "a")
		s.Shares()
		was := computed
		time.Sleep(time.Hour)
		require.Equal(t, was, computed)
	})
}

type computer func(float64) float64

func (c computer) Compute(score float64) float64 { return c(score) }

func TestHistoryTellsTheSlotsOfTheScore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{DecayDuration: time.Minute}, "a")
		rate := func(scores ...float64) {
			for _, score := range scores {
				c := get(t, s)
				require.NoError(t, c.Release(nil, score))
			}
			time.Sleep(time.Second)
		}
		require.Len(t, s.History()["a"], 1)
		rate(0.5, 0.7)
		rate()
		rate(1)
		history := s.History()["a"]
		require.Len(t, history, 4)
		require.InDelta(t, 0.6, history[0], 1e-9)
		require.True(t, math.IsNaN(history[1]))
		require.InDelta(t, 1, history[2], 1e-9)
		require.True(t, math.IsNaN(history[3]))

		time.Sleep(58 * time.Second) // the first has left the window
		history = s.History()["a"]
		require.Len(t, history, 60)
		require.InDelta(t, 1, history[0], 1e-9)
		s.Remove("a")
		require.Empty(t, s.History())
	})
}

func TestStatsTellWhenAnEjectedHostIsProbedNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1})
		d.refuse("bad")
		s.Add("good")
		s.Add("bad")
		synctest.Wait()
		require.Zero(t, hostStats(t, s, "good").NextProbe)
		time.Sleep(time.Minute)
		synctest.Wait()
		next, dials := hostStats(t, s, "bad").NextProbe, d.host("bad").dials
		require.Positive(t, next)
		require.LessOrEqual(t, next, 10*time.Second)
		time.Sleep(next - time.Nanosecond)
		synctest.Wait()
		require.Equal(t, dials, d.host("bad").dials)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, dials+1, d.host("bad").dials)
		d.accept("bad")
		time.Sleep(hostStats(t, s, "bad").NextProbe)
		synctest.Wait()
		require.Zero(t, hostStats(t, s, "bad").NextProbe)
	})
}
