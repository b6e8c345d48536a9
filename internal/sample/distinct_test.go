package sample

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDistinctIsUniformWithoutRepetition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n, d, rounds = 5, 3, 60_000
	orders := map[[d]int]int{}
	for range rounds {
		var buffer Buffer
		orders[[d]int(Distinct(rng, n, d, &buffer))]++
	}
	require.Len(t, orders, 5*4*3)
	for order, count := range orders {
		require.InDelta(t, rounds/60, count, 150, "%v", order)
		repeated := order[0] == order[1] || order[1] == order[2] || order[0] == order[2]
		require.False(t, repeated, "%v", order)
	}
}

func TestDistinctReturnsAllNumbersIfThereAreNoMore(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := Distinct(rng, 40, 100, new(Buffer)) // more than the buffer holds
	slices.Sort(all)
	require.Len(t, slices.Compact(all), 40)
	require.Equal(t, 0, all[0])
	require.Equal(t, 39, all[39])
}

func TestDistinctDoesNotAllocateWhatFitsTheBuffer(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		var buffer Buffer
		Distinct(rng, 1000, BufferSize, &buffer)
	}))
}
