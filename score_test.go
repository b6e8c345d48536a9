package pooly_test

import (
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// slot is one sixtieth of the default DecayDuration.
const slot = pooly.DefaultDecayDuration / 60

func rate(t *testing.T, s *pooly.Service, scores ...float64) {
	t.Helper()
	for _, score := range scores {
		require.NoError(t, get(t, s).Release(nil, score))
	}
}

// settledScore returns the score of the host once it has been computed anew.
func settledScore(t *testing.T, s *pooly.Service, address string) float64 {
	t.Helper()
	time.Sleep(pooly.DefaultMemoizeScoreDuration + time.Millisecond)
	return hostStats(t, s, address).Score
}

func TestScoreIsTheWeightedMeanOfSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		require.Equal(t, 0.5, hostStats(t, s, "a").Score, "before any trial")
		rate(t, s, 0.6)
		time.Sleep(slot)
		rate(t, s, 0.3)
		time.Sleep(slot)
		rate(t, s, 1.0)
		require.InDelta(t, 0.7, settledScore(t, s, "a"), 1e-12)
		require.InDelta(t, 2, hostStats(t, s, "a").Trials, 1e-12)
	})
}

func TestScoreOfASlotIsTheMeanOfItsReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		rate(t, s, 0.2, 0.3, 1)
		require.InDelta(t, 0.5, settledScore(t, s, "a"), 1e-12)
	})
}

// A call at the very instant at which a slot ends belongs to the next, whatever the timer does.
func TestScoreCountsATrialAtTheEndOfASlotInTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const decay = 6 * time.Second // slots as long as the scores are memoized
		s, _ := newService(t, pooly.ServiceConfig{DecayDuration: decay}, "a")
		for i := range 30 {
			rate(t, s, float64(i%2))
			time.Sleep(decay / 60)
		}
		// Slots 0 to 29 hold 0, 1, 0, ..., 1 and slot 30 nothing.
		want, weights := 0.0, 0.0
		for i := range 31 {
			value := float64(i % 2)
			if i == 30 {
				value = 0.5
			}
			want += float64(i+1) * value
			weights += float64(i + 1)
		}
		time.Sleep(decay / 120)
		require.InDelta(t, want/weights, hostStats(t, s, "a").Score, 1e-12)
	})
}

func TestScoreForgetsAfterDecayDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		rate(t, s, pooly.HostDown)
		require.InDelta(t, 0, settledScore(t, s, "a"), 1e-12)
		time.Sleep(30 * time.Second)
		half := hostStats(t, s, "a").Score
		require.Greater(t, half, 0.0)
		require.Less(t, half, 0.5)
		time.Sleep(30 * time.Second)
		require.Equal(t, 0.5, hostStats(t, s, "a").Score)
		require.Zero(t, hostStats(t, s, "a").Trials)
	})
}

func TestScoreOfAFatalReleaseIsHostDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		require.NoError(t, get(t, s).Release(errFatal, pooly.HostUp))
		require.InDelta(t, 0, settledScore(t, s, "a"), 1e-12)
		require.NoError(t, get(t, s).Release(errTemporary, 0.8))
		require.InDelta(t, 0.4, settledScore(t, s, "a"), 1e-12, "a temporary error leaves the score to the caller")
	})
}

// A lease may begin in one slot and end in another, with nothing between them that keeps time.
func TestScoreCountsATrialInTheSlotOfItsRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		c := get(t, s)
		time.Sleep(10 * slot)
		release(t, c)
		want := (0.5*(10*11/2) + 1*11) / (11 * 12 / 2)
		require.InDelta(t, want, settledScore(t, s, "a"), 1e-12)
	})
}

// countingComputer counts the computations, and squares.
type countingComputer struct{ calls atomic.Int32 }

func (c *countingComputer) Compute(score float64) float64 {
	c.calls.Add(1)
	return score * score
}

func TestScoreIsMemoizedAndPassedThroughTheCalculator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calculator countingComputer
		s, _ := newService(t, pooly.ServiceConfig{ScoreCalculator: &calculator}, "a")
		require.Equal(t, 0.25, hostStats(t, s, "a").Score)
		rate(t, s, 0.8)
		time.Sleep(pooly.DefaultMemoizeScoreDuration + time.Millisecond)
		require.InDelta(t, 0.64, hostStats(t, s, "a").Score, 1e-12)

		before := calculator.calls.Load()
		const periods = 20
		for range periods * 10 { // ten calls in each period
			rate(t, s, 0.8)
			_ = s.Stats()
			time.Sleep(pooly.DefaultMemoizeScoreDuration / 10)
		}
		computed := calculator.calls.Load() - before
		require.LessOrEqual(t, computed, int32(periods+1))
		require.GreaterOrEqual(t, computed, int32(periods-1))
	})
}

// countingBandit counts the pickers made.
type countingBandit struct {
	pooly.Bandit
	made atomic.Int32
}

func (b *countingBandit) NewPicker(arms []pooly.Arm) pooly.Picker {
	b.made.Add(1)
	return b.Bandit.NewPicker(arms)
}

func TestScoreIsNotComputedWhileTheServiceIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calculator countingComputer
		bandit := &countingBandit{Bandit: pooly.NewSoftMax(0.1)}
		s, _ := newService(t, pooly.ServiceConfig{ScoreCalculator: &calculator, BanditStrategy: bandit}, "a", "b")
		rate(t, s, 0, 0, 1, 1)
		time.Sleep(time.Second)
		computed, made := calculator.calls.Load(), bandit.made.Load()
		time.Sleep(24 * time.Hour)
		require.Equal(t, computed, calculator.calls.Load())
		require.Equal(t, made, bandit.made.Load())

		rate(t, s, 1) // the first call after the pause sees what time has done
		require.Equal(t, computed+2, calculator.calls.Load())
		for _, h := range s.Stats().Hosts {
			require.Equal(t, 0.25, h.Score, "all is forgotten")
		}
	})
}

func TestReleaseRejectsAnInvalidScoreButTakesTheConnectionBack(t *testing.T) {
	for _, score := range []float64{math.NaN(), -0.1, 1.1, math.Inf(1), math.Inf(-1)} {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
			err := get(t, s).Release(nil, score)
			require.ErrorIs(t, err, pooly.ErrInvalidArg)
			require.ErrorContains(t, err, "score")
			release(t, get(t, s)) // the only connection there may be
			require.Equal(t, 1, d.host("a").dials)

			require.ErrorIs(t, get(t, s).Release(errFatal, score), pooly.ErrInvalidArg)
			synctest.Wait()
			require.Equal(t, 1, d.host("a").closed, "fatal all the same")
			time.Sleep(pooly.DefaultMemoizeScoreDuration + time.Millisecond)
			require.Equal(t, 1.0, hostStats(t, s, "a").Trials, "only the valid one counts")
		})
	}
}

func TestReleaseTakesErrorsPointersAndNil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		var nilError error
		var nilPointer *error
		failed := errFatal
		wrapped := error(errors.Join(errTemporary, errors.New("more")))
		for _, tt := range []struct {
			outcome any
			closed  int
		}{
			{nil, 0}, {nilError, 0}, {&nilError, 0}, {nilPointer, 0}, {wrapped, 0}, {&wrapped, 0},
			{errFatal, 1}, {&failed, 2},
		} {
			require.NoError(t, get(t, s).Release(tt.outcome, pooly.HostUp))
			synctest.Wait()
			require.Equal(t, tt.closed, d.host("a").closed, "%v", tt.outcome)
		}
		err := get(t, s).Release("failed", pooly.HostUp)
		require.ErrorIs(t, err, pooly.ErrInvalidArg)
		require.ErrorContains(t, err, "string")
		synctest.Wait()
		require.Equal(t, 3, d.host("a").closed, "nothing is known of the connection")
		require.Equal(t, 0, d.host("a").open)
	})
}
