package decay

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// trials adds n trials one by one, each of which succeeds with probability p, and returns how often the host became worse.
func (l *Learnt) trials(rng *rand.Rand, n int, p float64) (worse int) {
	for range n {
		s := Segment{Trials: 1}
		if rng.Float64() < p {
			s.Sum = 1
		}
		if l.Add(s, 1, 1) {
			worse++
		}
	}
	return worse
}

func TestLearntRestartsWhenAHostBeginsToFailAndWhenItIsWellAgain(t *testing.T) {
	var l Learnt
	rng := rand.New(rand.NewPCG(1, 2))
	require.Zero(t, l.trials(rng, 10_000, 1))
	require.Equal(t, 1, l.trials(rng, 4, 0), "two failures are enough")
	require.Less(t, l.Mean(), 0.1)
	require.Zero(t, l.trials(rng, 1000, 0))
	require.Zero(t, l.trials(rng, 4, 1))
	require.Equal(t, 1.0, l.Mean(), "the failures are forgotten")
}

func TestLearntFindsASmallChange(t *testing.T) {
	var l Learnt
	rng := rand.New(rand.NewPCG(1, 2))
	require.Zero(t, l.trials(rng, 5000, 0.9))
	require.InDelta(t, 0.9, l.Mean(), 0.02)
	require.Positive(t, l.trials(rng, 600, 0.8))
	require.InDelta(t, 0.8, l.Mean(), 0.04)
}

func TestLearntDoesNotRestartByChance(t *testing.T) {
	worse := 0
	for seed := range uint64(10) {
		var l Learnt
		worse += l.trials(rand.New(rand.NewPCG(seed, 2)), 10_000, 0.9)
	}
	require.LessOrEqual(t, worse, 10, "of 100,000 trials")
}

func TestLearntForgets(t *testing.T) {
	var l Learnt
	l.Add(Segment{10, 5}, 1, 1)
	l.Add(Segment{}, 0.5, 1)
	require.Equal(t, Segment{5, 2.5}, l.Segment)
	l.Doubt(0.2)
	require.Equal(t, Segment{1, 0.5}, l.Segment)
	l.Add(Segment{}, 1e-9, 1)
	require.Equal(t, Learnt{}, l)
}

func TestLearntForgetsSoonWhatHasBecomeMuchWorse(t *testing.T) {
	var l Learnt
	rng := rand.New(rand.NewPCG(1, 2))
	l.trials(rng, 100, 1)
	l.trials(rng, 10, 0)
	trials := l.Trials
	l.Add(Segment{}, 1, 0.5)
	require.Equal(t, trials/2, l.Trials)
	l.Add(Segment{}, 1, 0.5)
	require.Equal(t, trials/4, l.Trials)
	l.trials(rng, 100, 1)
	trials = l.Trials
	l.Add(Segment{}, 1, 0.5)
	require.Equal(t, trials, l.Trials)
}

func TestRecentHoldsFewTrialsAndFewerFailures(t *testing.T) {
	w := New(0)
	var r Recent
	for range 1000 {
		w.Rate(0, 1)
	}
	require.Equal(t, Segment{1000, 1000}, r.Add(&w, 1, 1))
	require.Equal(t, Segment{50, 50}, r.Segment)
	for range 1000 {
		w.Rate(100, 0) // in another slot, and after all others have left the window
	}
	require.Equal(t, Segment{1000, 0}, r.Add(&w, 1, 1))
	require.InDelta(t, 10, r.Trials-r.Sum, 1e-9)
	require.Equal(t, Segment{}, r.Add(&w, 0.5, 1))
	require.InDelta(t, 5, r.Trials-r.Sum, 1e-9)
}

func TestEverCountsAllTrials(t *testing.T) {
	w := New(0)
	for slot := range int64(200) {
		w.Rate(slot*7, 0.5)
	}
	sum, trials := w.Ever()
	require.EqualValues(t, 200, trials)
	require.InDelta(t, 100.0, sum, 1e-9)
}
