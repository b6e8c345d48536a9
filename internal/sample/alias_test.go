package sample

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAliasSharesAreTheWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		weights := make([]float64, 1+rng.IntN(50))
		sum := 0.0
		for i := range weights {
			if i == 0 || rng.IntN(4) > 0 { // some are 0
				weights[i] = math.Exp(20 * (rng.Float64() - 0.5))
			}
			sum += weights[i]
		}
		shares := NewAlias(slices.Clone(weights)).Shares()
		for i, w := range weights {
			require.InDelta(t, w/sum, shares[i], 1e-8, "%v", weights)
		}
	}
}

func TestAliasPicksByItsShares(t *testing.T) {
	const picks = 100_000
	table := NewAlias([]float64{1, 0, 3, 4, 2})
	rng := rand.New(rand.NewPCG(1, 2))
	got := make([]float64, len(table))
	for range picks {
		got[table.Pick(rng)] += 1.0 / picks
	}
	for i, want := range []float64{0.1, 0, 0.3, 0.4, 0.2} {
		require.InDelta(t, want, got[i], 0.005)
	}
	require.Zero(t, got[1], "an outcome without weight is never picked")
}

func TestAliasOfOneOutcomePicksIt(t *testing.T) {
	table := NewAlias([]float64{1e-300})
	require.Zero(t, table.Pick(rand.New(rand.NewPCG(1, 2))))
	require.Equal(t, []float64{1}, table.Shares())
}
