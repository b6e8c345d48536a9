//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// subsetSizes are the values of MaxHosts that TestMonteCarloSubsets compares.
var subsetSizes = []int{5, 20, 100}

// The fleet of TestMonteCarloSubsets.
const subsetClients, subsetHosts = 5_000, 5_000

// TestMonteCarloSubsets has 5,000 clients use subsets of 5,000 hosts, and counts for each host how
// many clients use it. Random subsets of k out of n hosts give each of them a number of clients
// that is binomial, with the mean k·clients/n and a variance a little below it. Then one host in a
// hundred goes.
func TestMonteCarloSubsets(t *testing.T) {
	hosts := fleet(subsetHosts)
	place := make(map[string]int, len(hosts))
	for i, a := range hosts {
		place[a] = i
	}
	goes := hosts[:subsetHosts/100]
	spread := make(map[int][]int, len(subsetSizes)) // clients per host, sorted
	table := [][]string{{
		"`MaxHosts`", "connections in all", "per host: mean", "± deviation", "least", "1 %", "99 %", "most", "churn",
	}}
	for _, size := range subsetSizes {
		clients := make([]int, len(hosts))
		changed, lost := 0, 0
		for client := range subsetClients {
			synctest.Test(t, func(t *testing.T) {
				s := pooly.NewService("client", &pooly.ServiceConfig{
					PoolConfig:    pooly.PoolConfig{Driver: memoryDriver{}},
					PrespawnConns: -1,
					MaxHosts:      size,
					SubsetSeed:    *seed<<32 + uint64(client) + 1, // as close to each other as can be
				})
				s.SetHosts(hosts...)
				before := s.Status()
				require.Len(t, before, size)
				for a := range before {
					clients[place[a]]++
				}
				if client < subsetClients/50 { // enough to see the churn
					s.SetHosts(hosts[len(goes):]...)
					for _, a := range goes {
						if _, in := before[a]; in {
							lost++
						}
					}
					for a := range s.Status() {
						if _, was := before[a]; !was {
							changed++
						}
					}
				}
				require.NoError(t, s.Close())
			})
		}
		require.Equal(t, lost, changed, "each host that went is replaced by one, and nothing else changes")

		slices.Sort(clients)
		spread[size] = clients
		var of sum
		for _, n := range clients {
			of.add(float64(n))
		}
		mean := float64(size) * subsetClients / subsetHosts
		deviation := math.Sqrt(mean * (1 - float64(size)/subsetHosts))
		variance := of.squares/of.n - of.mean()*of.mean()
		require.InDelta(t, mean, of.mean(), 1e-9)
		require.InEpsilon(t, deviation, math.Sqrt(variance), 0.05, "that of a binomial distribution")
		require.Less(t, float64(clients[len(clients)-1]), mean+6*deviation)
		at := func(q float64) string { return fmt.Sprint(clients[int(q*float64(len(clients)-1))]) }
		table = append(table, []string{
			fmt.Sprint(size), fmt.Sprint(size * subsetClients), fmt.Sprintf("%.0f", mean),
			fmt.Sprintf("%.1f", math.Sqrt(variance)), at(0), at(0.01), at(0.99), at(1),
			fmt.Sprintf("%.2f of %d", float64(changed)/(subsetClients/50), size),
		})
	}
	said := make([]string, 0, len(subsetSizes))
	for _, size := range subsetSizes {
		clients := spread[size]
		said = append(said, fmt.Sprintf("%d gives a host %d to %d", size, clients[0], clients[len(clients)-1]))
	}
	report("subsets, 5,000 clients and hosts, clients of a host: MaxHosts %s", strings.Join(said, "; "))
	if *out == "" {
		return
	}
	writeCSV(t, "subsets.csv", table)
	writeTable(t, "subsets", table)
	var lines []point
	for _, size := range subsetSizes {
		for p := 0; p <= mostPoints; p++ {
			at := spread[size][p*(subsetHosts-1)/mostPoints]
			lines = append(lines, point{
				line: fmt.Sprintf("MaxHosts %d", size),
				x:    100 * float64(p) / mostPoints,
				y:    float64(at) * subsetHosts / (float64(size) * subsetClients),
			})
		}
	}
	writeLines(t, "subsets", lines)
}
