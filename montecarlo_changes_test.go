//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// What happens to host 0 of ten hosts that take 20 ms. Twenty clients ask, wait, and pause for 5
// ms.
const (
	changingHosts = 10
	changeClients = 20
	changePause   = 5 * time.Millisecond
	usualReply    = 20 * time.Millisecond
	fastFailure   = 500 * time.Microsecond

	changeFrom = time.Minute       // when it changes
	coldFor    = 30 * time.Second  // until it is as fast as the others
	watchFor   = 100 * time.Second // after that
)

// coldFactor times as slow is a host that has just joined.
const coldFactor = 5

// A changed is what became of the share of a host that changes.
type changed struct {
	first, next, later float64       // in the first second, until five seconds, and after that
	back               time.Duration // how long after the end of the change it has half its fair share
}

// watchChange runs a service whose host 0 answers with changed for a while.
func watchChange(t *testing.T, c contender, joins bool, lasts time.Duration, changes reply) (o changed) {
	synctest.Test(t, func(t *testing.T) {
		w := newTraffic(t, pooly.ServiceConfig{
			BanditStrategy: c.make(),
			Logger:         slog.New(slog.DiscardHandler),
		}, changingHosts, changeClients, changePause)
		end := changeFrom + lasts
		w.reply = func(host int, at time.Duration, rng *rand.Rand) reply {
			r := reply{time.Duration(float64(usualReply) * (0.5 + rng.Float64())), nil, pooly.HostUp}
			if host == 0 && at >= changeFrom && at < end {
				r = changes
			}
			if c.scored && r.err == nil {
				r.score = pooly.LatencyScore(r.took, time.Duration(targetOfWork*float64(usualReply)))
			}
			return r
		}
		if joins {
			w.service.Remove("0")
		}
		w.run(changeFrom)
		if joins {
			w.service.Add("0")
		}
		w.run(end + watchFor)
		o.first = w.share(0, changeFrom, changeFrom+time.Second)
		o.next = w.share(0, changeFrom+time.Second, changeFrom+5*time.Second)
		o.later = w.share(0, changeFrom+5*time.Second, end)
		o.back = w.reaches(0, 0.5/changingHosts, end, end+watchFor)
		w.close()
	})
	return o
}

// TestMonteCarloChanges has one of ten hosts fail fast and recover, and one that has joined be slow
// until it is warm.
func TestMonteCarloChanges(t *testing.T) {
	failsFor := time.Minute
	if *long {
		failsFor *= 10
	}
	report("\none of ten hosts fails fast for %v, or is cold: five times as slow for 30 s after it joins; "+
		"fair is 10 %%;\nits share in the first second / until 5 s / then, and how long after its recovery it has 5 %%", failsFor)
	table := [][]string{{"strategy", "fails fast: share in the first second / until 5 s / then", "back after",
		"cold: share in the first second / until 5 s / then", "fair after"}}
	report("  %-22s %24s %12s %24s %12s", "", "fails fast", "back after", "cold", "back after")
	back := func(d time.Duration) string {
		if d >= watchFor {
			return fmt.Sprintf("over %.0f s", watchFor.Seconds())
		}
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	shares := func(o changed) string {
		return fmt.Sprintf("%.1f / %.1f / %.2f %%", 100*o.first, 100*o.next, 100*o.later)
	}
	for _, c := range contenders {
		fails := watchChange(t, c, false, failsFor, reply{fastFailure, errTemporary, pooly.HostDown})
		cold := watchChange(t, c, true, coldFor, reply{coldFactor * usualReply, nil, pooly.HostUp})
		row := []string{c.name, shares(fails), back(fails.back), shares(cold), back(cold.back)}
		table = append(table, row)
		report("  %-22s %24s %12s %24s %12s", row[0], row[1], row[2], row[3], row[4])
		if c.loads {
			const fair = 1. / changingHosts
			require.LessOrEqual(t, fails.first, fair, "%s: share of a host that begins to fail, first second", c.name)
			require.LessOrEqual(t, fails.later, fair/5, "%s: share of a host that fails, from 5 s on", c.name)
			require.Less(t, fails.back, 5*time.Second, "%s: until the host has half its share again", c.name)
			require.Less(t, cold.back, 30*time.Second, "%s: until the host that was cold has half its share", c.name)
		}
	}
	if *out != "" {
		writeTable(t, "changes", table)
		writeCSV(t, "changes.csv", table)
	}
}
