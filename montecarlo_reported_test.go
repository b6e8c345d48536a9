//go:build montecarlo_simulation

package pooly_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// probeTakes is how long a host takes to answer a probe. It reads its load halfway.
const probeTakes = time.Millisecond

// reported are least latency without reports of the hosts' load, and with them.
var reported = []contender{
	reportedBy("no reports", false, 0, 0),
	reportedBy("in replies", true, 0, 0),
	reportedBy("3 probes", false, 3, 0),
	reportedBy("3 probes, waits", false, 3, 5*probeTakes),
	reportedBy("5 probes, waits", false, 5, 5*probeTakes),
}

// reporting is a strategy, and how hosts tell their load to it.
type reporting struct {
	pooly.Bandit
	inReplies bool
	probes    float64 // of each request
	wait      time.Duration
}

func reportedBy(name string, inReplies bool, probes float64, wait time.Duration) contender {
	return contender{name, false, true, func() pooly.Bandit {
		return reporting{pooly.NewLeastLatency(), inReplies, probes, wait}
	}}
}

// reportingOf returns how hosts tell their load to a contender.
func reportingOf(c contender) reporting {
	strategy := c.make()
	if r, ok := strategy.(reporting); ok {
		return r
	}
	return reporting{Bandit: strategy}
}

// loadOf is what a host says of its load.
func (w *world) loadOf(host int) pooly.Load {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := &w.hosts[host]
	inFlight := h.busy
	for _, r := range h.line {
		if !r.gone {
			inFlight++
		}
	}
	return pooly.Load{InFlight: inFlight}
}

// probedDriver is a memoryDriver that probes the hosts of a world.
type probedDriver struct {
	memoryDriver
	world *world
}

func (d probedDriver) Probe(_ context.Context, address string) (pooly.Load, error) {
	host, err := strconv.Atoi(address)
	time.Sleep(probeTakes / 2)
	l := d.world.loadOf(host)
	time.Sleep(probeTakes / 2)
	return l, err
}

// TestMonteCarloReports compares least latency without reports, with reports in replies, and with
// probes, in fleets. It takes a while, so it needs -long.
func TestMonteCarloReports(t *testing.T) {
	if !*long {
		t.Skip("without -long")
	}
	defer func(n int) { *runs = n }(*runs)
	*runs = min(*runs, 4)
	fleets, loads := []int{1, 10, 50, 200}, []float64{0.50, 0.70, 0.85, 0.95}
	prequal := references[2]
	report("\nhosts that report their load, to least latency: p99 × clairvoyant, of %d runs each", *runs)
	rows := [][]string{cellHead("load", "clients", "reports")}
	table := [][]string{{"load", "reports"}}
	for _, clients := range fleets {
		table[0] = append(table[0], fmt.Sprintf("%d clients", clients))
	}
	for _, load := range loads {
		of := make(map[int]comparison)
		for _, clients := range fleets {
			d := theHosts()
			d.Clients = clients
			of[clients] = compare(t, d, load, reported, []reference{references[0], prequal})
		}
		reportRow(fmt.Sprintf("%.0f %% load", 100*load), table[0][2:]...)
		for _, name := range append(namesOf(reported, nil), prequal.name) {
			row := []string{}
			for _, clients := range fleets {
				row = append(row, of[clients][name].multiple())
				rows = append(rows, of[clients][name].row(fmt.Sprint(load), fmt.Sprint(clients), name))
			}
			reportRow(name, row...)
			table = append(table, append([]string{fmt.Sprintf("%.0f %%", 100*load), name}, row...))
		}
		for _, clients := range fleets {
			none := of[clients]["no reports"].ratio.mean()
			for _, c := range reported[1:] {
				require.Less(t, of[clients][c.name].ratio.mean(), 1.2*none, "%s do harm: %d clients at %v", c.name, clients, load)
			}
		}
	}
	if *out != "" {
		writeTable(t, "reports", table)
		writeCSV(t, "reports.csv", rows)
	}
}
