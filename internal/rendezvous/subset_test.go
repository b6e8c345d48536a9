package rendezvous

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func addresses(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "10.0.0." + strconv.Itoa(i) + ":6379"
	}
	return all
}

// Another version must not send a client with a fixed seed to other hosts.
func TestSubsetStaysTheSameAcrossVersions(t *testing.T) {
	require.Equal(t, []string{"10.0.0.6:6379", "10.0.0.2:6379", "10.0.0.19:6379", "10.0.0.8:6379"},
		New(4, 42).Set(addresses(20)))
	require.Equal(t, []string{"10.0.0.0:6379", "10.0.0.12:6379", "10.0.0.6:6379", "10.0.0.3:6379"},
		New(4, 1).Set(addresses(20)))
}

// What Add and Remove say comes and goes must add up to what InUse says.
func TestSubsetTellsEachChange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := New(3, 7)
	all := addresses(12)
	registered, inUse := map[string]bool{}, map[string]bool{}
	change := func(in, out *string) {
		if out != nil {
			require.True(t, inUse[*out])
			delete(inUse, *out)
		}
		if in != nil {
			require.False(t, inUse[*in])
			inUse[*in] = true
		}
	}
	for range 10_000 {
		a := all[rng.IntN(len(all))]
		require.Equal(t, registered[a], s.Has(a))
		if registered[a] {
			out, in := s.Remove(a)
			change(in, out)
			delete(registered, a)
		} else {
			in, out := s.Add(a)
			change(in, out)
			registered[a] = true
		}
		require.Equal(t, len(registered), s.Len())
		now := s.InUse()
		require.Len(t, now, min(3, len(registered)))
		require.Len(t, inUse, len(now))
		for _, a := range now {
			require.True(t, inUse[a])
		}

		atOnce := New(3, 7)
		var addresses []string
		for a := range registered {
			addresses = append(addresses, a, a)
		}
		require.Equal(t, now, atOnce.Set(addresses), "in any order, with duplicates")
	}
}

func TestSubsetWidensToFourTimesMaxAndBack(t *testing.T) {
	s := New(2, 1)
	require.False(t, s.Widen(), "there are no more addresses")
	first := s.Set(addresses(20))
	for _, size := range []int{4, 8} {
		require.True(t, s.Widen())
		require.True(t, s.Widened())
		require.Len(t, s.InUse(), size)
		require.Equal(t, first, s.InUse()[:2], "what was in use stays in use")
		require.Equal(t, first, s.First())
	}
	require.False(t, s.Widen())
	s.Narrow()
	require.False(t, s.Widened())
	require.Equal(t, first, s.InUse())

	s.Set(addresses(3))
	require.True(t, s.Widen())
	require.False(t, s.Widen(), "all are in use")
	require.Len(t, s.InUse(), 3)
}

// The clients of an address follow a binomial distribution, even if their seeds differ by one bit.
func TestSubsetsOfDifferentSeedsAreIndependent(t *testing.T) {
	const clients, hosts, size = 2000, 50, 5
	counts := map[string]int{}
	for seed := range uint64(clients) {
		for _, a := range New(size, seed).Set(addresses(hosts)) {
			counts[a]++
		}
	}
	const mean, deviation = clients * size / hosts, 13.4 // √(200 · 0.9)
	squares := 0.0
	for _, a := range addresses(hosts) {
		d := float64(counts[a] - mean)
		squares += d * d
		require.InDelta(t, mean, counts[a], 4.5*deviation)
	}
	require.InDelta(t, 1, squares/hosts/(deviation*deviation), 0.6)
}
