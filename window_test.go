package pooly

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// naiveScore computes the score from every trial ever recorded, as its definition says.
func naiveScore(trials map[int64][]float64, first, newest int64) (score, effective float64) {
	n := min(newest-first+1, slots)
	weights := 0.0
	for k := range n {
		scores := trials[newest-k]
		value := noTrials
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

// The sums that the window carries along must stay equal to the definition, through growth, turns of the ring,
// gaps, and gaps longer than the window.
func TestWindowScoreIsTheWeightedMeanOfItsSlots(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		first := rng.Int64N(1000)
		w := newWindow(first)
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
				newest += rng.Int64N(3 * slots)
			}
			score := rng.Float64()
			w.rate(newest, score)
			trials[newest] = append(trials[newest], score)

			want, effective := naiveScore(trials, first, newest)
			require.InDelta(t, want, w.score(), 1e-12)
			require.InDelta(t, effective, w.effectiveTrials(), 1e-9)
		}
	}
}

func TestWindowDoesNotDriftOverDays(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	w := newWindow(0)
	trials := make(map[int64][]float64)
	const days = 7 * 24 * 60 * 60
	for slot := range int64(days) {
		score := rng.Float64()
		w.rate(slot, score)
		trials[slot] = []float64{score}
		delete(trials, slot-slots)
	}
	want, _ := naiveScore(trials, 0, days-1)
	require.InDelta(t, want, w.score(), 1e-13)
}

func TestWindowTakesALateTrialIntoItsNewestSlot(t *testing.T) {
	w := newWindow(10)
	w.rate(12, 1)
	w.rate(11, 0)
	require.Equal(t, int64(12), w.newest)
	require.InDelta(t, (0.5*1+0.5*2+0.5*3)/6, w.score(), 1e-12)
}
