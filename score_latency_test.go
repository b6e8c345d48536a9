package pooly_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func ExampleLatencyScore() {
	for _, elapsed := range []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond, time.Second} {
		fmt.Printf("%v: %.2f\n", elapsed, pooly.LatencyScore(elapsed, 50*time.Millisecond))
	}
	// Output:
	// 0s: 1.00
	// 10ms: 0.83
	// 50ms: 0.50
	// 1s: 0.05
}

func ExampleNewLinearComputer() {
	c := pooly.NewLinearComputer(0.5)
	fmt.Printf("%.2f %.2f %.2f\n", c.Compute(0.3), c.Compute(0.75), c.Compute(1))
	// Output: 0.00 0.50 1.00
}

func ExampleNewExponentialComputer() {
	s := pooly.NewService("search", &pooly.ServiceConfig{
		BanditStrategy:  pooly.NewSoftMax(0.1),
		ScoreCalculator: pooly.NewExponentialComputer(5), // hosts at 0.9 and 0.8 are far apart now
	})
	defer s.Close()
	c := pooly.NewExponentialComputer(5)
	fmt.Printf("%.2f %.2f %.2f %.2f\n", c.Compute(0), c.Compute(0.8), c.Compute(0.9), c.Compute(1))
	// Output: 0.00 0.36 0.60 1.00
}

func ExampleNewLogarithmicComputer() {
	c := pooly.NewLogarithmicComputer(100)
	fmt.Printf("%.2f %.2f %.2f %.2f\n", c.Compute(0), c.Compute(0.01), c.Compute(0.1), c.Compute(1))
	// Output: 0.00 0.15 0.52 1.00
}

func TestLatencyScoreAtItsEnds(t *testing.T) {
	for _, c := range []struct {
		elapsed, target time.Duration
		score           float64
	}{
		{0, time.Second, 1},
		{-1, time.Second, 1},
		{0, 0, 1},
		{time.Second, time.Second, 0.5},
		{math.MaxInt64, math.MaxInt64, 0.5},
		{1, 0, 0},
		{1, -1, 0},
	} {
		require.Equal(t, c.score, pooly.LatencyScore(c.elapsed, c.target), "%v of %v", c.elapsed, c.target)
	}
}

func FuzzLatencyScore(f *testing.F) {
	f.Add(int64(0), int64(1), int64(50))
	f.Add(int64(math.MinInt64), int64(math.MaxInt64), int64(math.MaxInt64))
	f.Add(int64(-1), int64(1), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, a, b, target int64) {
		shorter := pooly.LatencyScore(time.Duration(min(a, b)), time.Duration(target))
		longer := pooly.LatencyScore(time.Duration(max(a, b)), time.Duration(target))
		requireScore(t, shorter)
		requireScore(t, longer)
		require.GreaterOrEqual(t, shorter, longer)
	})
}

func FuzzComputers(f *testing.F) {
	f.Add(0.0, 1.0, 5.0)
	f.Add(0.8, 0.9, 1e-300)
	f.Add(0.8, 0.9, math.MaxFloat64)
	f.Add(math.NaN(), math.Inf(1), 0.5)
	f.Add(math.Inf(-1), math.Copysign(0, -1), 1000.0)
	f.Fuzz(func(t *testing.T, a, b, parameter float64) {
		var computers []pooly.Computer
		if parameter >= 0 && parameter < 1 {
			computers = append(computers, pooly.NewLinearComputer(parameter))
		}
		if parameter > 0 && parameter <= math.MaxFloat64 {
			computers = append(computers, pooly.NewExponentialComputer(parameter),
				pooly.NewLogarithmicComputer(parameter))
		}
		for _, c := range computers {
			low, high := c.Compute(min(a, b)), c.Compute(max(a, b))
			requireScore(t, low)
			requireScore(t, high)
			require.LessOrEqual(t, low, high+1e-12, "%T(%v) of %v and %v", c, parameter, a, b)
			require.Zero(t, c.Compute(0), "%T(%v)", c, parameter)
			require.EqualValues(t, 1, c.Compute(1), "%T(%v)", c, parameter)
		}
	})
}

func requireScore(t *testing.T, score float64) {
	t.Helper()
	require.False(t, math.IsNaN(score))
	require.GreaterOrEqual(t, score, 0.0)
	require.LessOrEqual(t, score, 1.0)
}
