package decay

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// naiveScore computes the score by its definition, from all trials.
func naiveScore(trials map[int64][]float64, first, newest int64) (score, effective float64) {
	n := min(newest-first+1, Slots)
	weights := 0.0
	for k := range n {
		scores := trials[newest-k]
		value := NoTrials
		if len(scores) > 0 {
			value = 0
			for _, s := range scores {
				value += s / float64(len(scores))
			}
		}
		score += float64(n-k) * value
		weights += float64(n - k)
		effective += float64(n-k) / float64(n) * float64(len(scores))
	}
	return score / weights, effective
}

// The running sums must stay equal to the definition while the window grows, as its ring turns, and
// over gaps, including gaps longer than the window.
func TestWindowScoreIsTheWeightedMeanOfItsSlots(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		first := rng.Int64N(1000)
		w := New(first)
		trials := make(map[int64][]float64)
		newest := first
		for range 400 {
			switch gap := rng.Float64(); {
			case gap < 0.5:
			case gap < 0.9:
				newest++
			case gap < 0.99:
				newest += rng.Int64N(10)
			default:
				newest += rng.Int64N(3 * Slots)
			}
			score := rng.Float64()
			w.Rate(newest, score)
			trials[newest] = append(trials[newest], score)

			want, effective := naiveScore(trials, first, newest)
			require.InDelta(t, want, w.Score(), 1e-12)
			require.InDelta(t, effective, w.Trials(), 1e-9)
		}
	}
}

func TestWindowDoesNotDriftOverDays(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	w := New(0)
	trials := make(map[int64][]float64)
	const days = 7 * 24 * 60 * 60
	for slot := range int64(days) {
		score := rng.Float64()
		w.Rate(slot, score)
		trials[slot] = []float64{score}
		delete(trials, slot-Slots)
	}
	want, _ := naiveScore(trials, 0, days-1)
	require.InDelta(t, want, w.Score(), 1e-13)
}

func TestWindowCountsALateTrialForItsNewestSlot(t *testing.T) {
	w := New(10)
	w.Rate(12, 1)
	w.Rate(11, 0)
	require.Equal(t, int64(12), w.newest)
	require.InDelta(t, (0.5*1+0.5*2+0.5*3)/6, w.Score(), 1e-12)
}

func TestWindowMeanLeavesOutSlotsWithoutTrials(t *testing.T) {
	w := New(0)
	require.Equal(t, NoTrials, w.Mean())
	w.Rate(0, 1)
	w.Rate(0, 0)
	w.Rate(0, 1)
	require.InDelta(t, 2.0/3, w.Mean(), 1e-12)
	w.Advance(30)
	require.InDelta(t, 2.0/3, w.Mean(), 1e-12)
	w.Rate(30, 0) // weighs 1, those of slot 0 weigh 1/31 each
	require.InDelta(t, 2.0/31/(3.0/31+1), w.Mean(), 1e-12)
	w.Advance(200)
	require.Equal(t, NoTrials, w.Mean())
}

// This compares the running sums with the definition.
func TestWindowMeanIsTheWeightedMeanOfItsTrials(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := New(0)
	type trial struct {
		slot  int64
		score float64
	}
	var trials []trial
	slot := int64(0)
	for range 5000 {
		if rng.IntN(3) == 0 {
			slot += rng.Int64N(4)
		}
		x := trial{slot, rng.Float64()}
		trials = append(trials, x)
		w.Rate(x.slot, x.score)
		n := min(slot+1, Slots)
		sum, weights := 0.0, 0.0
		for _, x := range trials[max(0, len(trials)-1000):] {
			if weight := float64(n - (slot - x.slot)); weight > 0 {
				sum += weight * x.score
				weights += weight
			}
		}
		require.InDelta(t, sum/weights, w.Mean(), 1e-9)
		require.InDelta(t, weights/float64(n), w.Trials(), 1e-9)
	}
}

func TestHistoryHasTheSlotsOldestFirst(t *testing.T) {
	w := New(7)
	require.Len(t, w.History(), 1)
	require.True(t, math.IsNaN(w.History()[0]), "no trials")
	w.Rate(7, 0.5)
	w.Rate(7, 0.7)
	w.Rate(9, 1)
	history := w.History()
	require.Len(t, history, 3)
	require.InDelta(t, 0.6, history[0], 1e-12)
	require.True(t, math.IsNaN(history[1]))
	require.Equal(t, 1.0, history[2])

	w.Advance(9 + Slots - 1)
	history = w.History()
	require.Len(t, history, Slots)
	require.Equal(t, 1.0, history[0], "the oldest")
	w.Advance(9 + Slots)
	require.True(t, math.IsNaN(w.History()[0]), "it has left")
}
