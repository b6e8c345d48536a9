//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/3XX0/pooly"
)

// The sweep is over these. 40 % of the hosts have antagonists.
var (
	sweepHosts   = []int{3, 10, 50}
	sweepClients = []int{1, 20, 200}
	sweepLoads   = []float64{0.50, 0.85, 0.95}
)

// TestMonteCarloSweep compares the strategies that weigh load with few and many hosts and clients,
// under low and high load. It takes a while, so it needs -long.
func TestMonteCarloSweep(t *testing.T) {
	if !*long {
		t.Skip("without -long")
	}
	var suited []contender
	for _, c := range contenders {
		if c.loads {
			suited = append(suited, c)
		}
	}
	suited = append(suited, contender{"hot-cold(20, 0.84)", false, true,
		func() pooly.Bandit { return pooly.NewHotCold(20, 0.84) }})
	defer func(n int) { *runs = n }(*runs)
	*runs = max(2, *runs/5)
	report("\nsweep over %v hosts, %v clients, loads of %v: p99 × clairvoyant, geometric mean, of %d runs each",
		sweepHosts, sweepClients, sweepLoads, *runs)

	head := []string{"all", "worst"}
	for _, n := range sweepHosts {
		head = append(head, fmt.Sprintf("%d hosts", n))
	}
	for _, n := range sweepClients {
		head = append(head, fmt.Sprintf("%d clients", n))
	}
	for _, load := range sweepLoads {
		head = append(head, fmt.Sprintf("%.0f %% load", 100*load))
	}
	logs := make(map[string][]sum) // of each strategy, in the order of head
	for _, s := range suited {
		logs[s.name] = make([]sum, len(head))
	}
	rows := [][]string{cellHead("hosts", "clients", "load", "strategy")}
	for i, n := range sweepHosts {
		for j, clients := range sweepClients {
			for k, load := range sweepLoads {
				d := theHosts()
				d.Hosts, d.Antagonists, d.Clients = n, n*2/5, clients
				c := compare(t, d, load, suited, references[:1])
				for _, s := range suited {
					of, x := logs[s.name], math.Log(c[s.name].ratio.mean())
					for _, column := range []int{0, 2 + i, 2 + len(sweepHosts) + j, 2 + len(sweepHosts) + len(sweepClients) + k} {
						of[column].add(x)
					}
					if of[1].n == 0 || x > of[1].total {
						of[1] = sum{1, x, x * x}
					}
					rows = append(rows, c[s.name].row(fmt.Sprint(n), fmt.Sprint(clients), fmt.Sprint(load), s.name))
				}
			}
		}
	}
	reportRow("", head...)
	table := [][]string{append([]string{"strategy"}, head...)}
	for _, s := range suited {
		row := []string{}
		for i := range head {
			row = append(row, fmt.Sprintf("%.2f", math.Exp(logs[s.name][i].mean())))
		}
		reportRow(s.name, row...)
		table = append(table, append([]string{s.name}, row...))
	}
	if *out != "" {
		writeTable(t, "sweep", table)
		writeCSV(t, "sweep.csv", rows)
	}
}
