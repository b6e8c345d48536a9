//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A comparison is what contenders and references reached with the same hosts and requests.
type comparison map[string]*cell

// A cell is what one of them reached in all runs.
type cell struct {
	each []*latencies // of each run
	latencies
	p50, p99, p999, errors sum // of each run
	ratio                  sum // of each run, p99 × that of the clairvoyant
}

// How many requests a run has, and how long it takes, at least and at most. The most count more.
const (
	fewestRequests = 45_000
	mostRequests   = 200_000
	leastLength    = 12 * time.Second
	mostLength     = 10 * time.Minute
)

func (d *hostsDescription) length(load float64) time.Duration {
	take := func(requests float64) time.Duration {
		return time.Duration(requests / (load * d.capacity()) * float64(time.Second))
	}
	wanted := max(leastLength, 5*d.Deadline.duration(), take(fewestRequests))
	return min(wanted, take(mostRequests), mostLength)
}

// compare runs them through the same traces. At least the first reference, the clairvoyant, is
// among them.
func compare(t *testing.T, d hostsDescription, load float64, strategies []contender, others []reference) comparison {
	t.Helper()
	c := make(comparison)
	length := d.length(load)
	for _, r := range others {
		c[r.name] = newCell(t, func(_ *testing.T, seed uint64) *latencies {
			return playReference(d, r, d.trace(load, d.Clients, length, seed), length, seed)
		})
	}
	for _, s := range strategies {
		c[s.name] = newCell(t, func(t *testing.T, seed uint64) *latencies {
			return playWorld(t, d, s, d.trace(load, d.Clients, length, seed), length, seed)
		})
	}
	for _, of := range c {
		for i, l := range of.each {
			of.ratio.add(l.quantile(0.99) / c["clairvoyant"].each[i].quantile(0.99))
		}
	}
	return c
}

func newCell(t *testing.T, play func(t *testing.T, seed uint64) *latencies) *cell {
	t.Helper()
	c := &cell{each: make([]*latencies, *runs)}
	inParallel(t, *runs, func(t *testing.T, _ int, seed uint64) {
		c.each[uint32(seed)] = play(t, seed) // the lower half numbers the run
	})
	c.latencies.deadline = c.each[0].deadline
	for _, l := range c.each {
		c.merge(l)
		c.p50.add(l.quantile(0.5))
		c.p99.add(l.quantile(0.99))
		c.p999.add(l.quantile(0.999))
		c.errors.add(l.failRate())
	}
	return c
}

// times writes the percentiles, with the 95 % interval of the p99.
func (c *cell) times() string {
	return fmt.Sprintf("%.0f / %.0f ± %.0f / %.0f",
		c.quantile(0.5), c.quantile(0.99), c.p99.interval(), c.quantile(0.999))
}

func (c *cell) errorRate() string { return fmt.Sprintf("%.2f %%", 100*c.failRate()) }

// multiple writes the p99 as multiple of the clairvoyant's, and the error rate unless it is 0.
func (c *cell) multiple() string {
	if c.failRate() < 0.0001 {
		return c.ratio.pm(2)
	}
	return fmt.Sprintf("%.2f, %s errors", c.ratio.mean(), c.errorRate())
}

// print writes one table.
func (c comparison) print(strategies []contender, others []reference) {
	report("  %-22s %26s %15s %9s", "", "p50 / p99 / p99.9 (ms)", "× clairvoyant", "errors")
	for _, name := range namesOf(strategies, others) {
		of := c[name]
		report("  %-22s %26s %15s %9s", name, of.times(), of.ratio.pm(2), of.errorRate())
	}
}

func namesOf(strategies []contender, others []reference) (all []string) {
	for _, s := range strategies {
		all = append(all, s.name)
	}
	for _, r := range others {
		all = append(all, r.name)
	}
	return all
}

// loss is what a run costs its users: the 99th percentile, and one deadline for each percent of
// errors.
func (l *latencies) loss() float64 {
	return l.quantile(0.99) + 100*l.failRate()*l.deadline.Seconds()*1000
}

// within is by how much a strategy may be worse than the best to be as good.
const within = 1.05

// advice names the cheapest strategy that is as good as the best, and how sure that is: in how many
// of 1,000 resamplings of the runs it is so again (bootstrap). See loss for what is good.
func (c comparison) advice(strategies []contender) string {
	n := len(c[strategies[0].name].each)
	rng := rand.New(rand.NewPCG(*seed, 5))
	losses := func(pick func(i int) int) (all []float64, best int) {
		for _, s := range strategies {
			total := 0.0
			for i := range n {
				total += c[s.name].each[pick(i)].loss()
			}
			all = append(all, total)
			if total < all[best] {
				best = len(all) - 1
			}
		}
		return all, best
	}
	all, best := losses(func(i int) int { return i })
	choice := 0 // strategies are listed by cost
	for all[choice] > within*all[best] {
		choice++
	}
	const resamplings = 1000
	sure := 0
	for range resamplings {
		sample := make([]int, n)
		for i := range sample {
			sample[i] = rng.IntN(n)
		}
		if all, best := losses(func(i int) int { return sample[i] }); all[choice] <= within*all[best] {
			sure++
		}
	}
	certain := fmt.Sprintf("%.0f %% sure", 100*float64(sure)/resamplings)
	if sure > 0.99*resamplings {
		certain = "over 99 % sure" // so few runs cannot tell more
	}
	return fmt.Sprintf("%s (%s)", strategies[choice].name, certain)
}

// The figures show these, since a reader can tell six lines apart.
var (
	latencyLines = []string{"round-robin", "power of two", "peak EWMA(5)", "hot-cold(5, 0.84)", "least latency", "clairvoyant"}
	queueLines   = []string{"power of two", "peak EWMA(5)", "hot-cold(5, 0.84)", "least latency", "Prequal, 5 probes", "central queue"}
)

// TestMonteCarloQueueing compares all strategies in one process, and those that suit such hosts in
// fleets of processes that do not know of each other.
func TestMonteCarloQueueing(t *testing.T) {
	d := theHosts()
	if *long {
		d.Loads = append([]float64{0.50}, d.Loads...)
	}
	report("\nhosts that fill up: %d of strength 0.5 to 1.5, antagonists on %d, %d requests at once, 20 ms in the mean; "+
		"deadline 2 s;\none client with MaxConns 30, unless a column says otherwise", d.Hosts, d.Antagonists, d.Workers)
	suited := suitedToLoad()
	compared := contenders
	if !*long && *out == "" {
		compared = suited
		report("(-long also shows the strategies for hosts that never fill up: they lose here)")
	}
	byLoad := make(map[float64]comparison)
	for _, load := range d.Loads {
		byLoad[load] = compare(t, d, load, compared, references)
	}

	fleets := []int{1, 10, 50, 200}
	byClients := map[int]comparison{1: byLoad[0.85]}
	for _, clients := range fleets[1:] {
		of := d
		of.Clients = clients
		byClients[clients] = compare(t, of, 0.85, suited, references)
	}
	var advice []string
	for _, load := range d.Loads {
		advice = append(advice, fmt.Sprintf("at %.0f %% %s", 100*load, byLoad[load].advice(suited)))
	}
	report("  choose %s;", strings.Join(advice, ", "))
	advice = nil
	for _, clients := range fleets[1:] {
		advice = append(advice, fmt.Sprintf("with %d clients %s", clients, byClients[clients].advice(suited)))
	}
	report("  at 85 %% %s", strings.Join(advice, ", "))

	byConns := map[int]comparison{pooly.DefaultMaxConns: byLoad[0.85]}
	for _, conns := range []int{d.Workers, 1 << 16} {
		of := d
		of.MaxConns = conns
		byConns[conns] = compare(t, of, 0.85, compared, references[:1])
	}

	report("  p99 × clairvoyant, and errors if any; at 85 %% load where no load is given")
	reportRow("", "70 %", "85 %", "95 %", "10 clients", "50 clients", "200 clients", "MaxConns 4", "no limit")
	for _, name := range namesOf(compared, references[1:]) { // without the clairvoyant itself
		row := []string{}
		for _, c := range []comparison{
			byLoad[0.70], byLoad[0.85], byLoad[0.95], byClients[10], byClients[50], byClients[200], byConns[4], byConns[1<<16],
		} {
			text := "" // not simulated
			if of := c[name]; of != nil {
				text = of.ratio.pm(2)
				if of.failRate() >= 0.0001 {
					text = fmt.Sprintf("%.2f, %.1f %%", of.ratio.mean(), 100*of.failRate())
				}
			}
			row = append(row, text)
		}
		reportRow(name, row...)
	}
	if *out != "" {
		writeQueue(t, d, byLoad, byConns)
		writeFleet(t, fleets, byClients, namesOf(suited, references))
	}
	checkQueue(t, byLoad)
}

func checkQueue(t *testing.T, byLoad map[float64]comparison) {
	for load, c := range byLoad {
		for name, of := range c {
			if name != "clairvoyant" {
				require.Greater(t, of.ratio.mean(), 0.97, "at %v: nothing beats the clairvoyant, not even %s", load, name)
			}
		}
		two := c["power of two"]
		for _, name := range []string{"hot-cold(5, 0.84)", "peak EWMA(5)"} {
			require.Less(t, c[name].p99.mean(), two.p99.mean(), "p99 of %s and of two choices at %v", name, load)
		}
		require.Less(t, two.p99.mean(), c["round-robin"].p99.mean(), "p99 of two choices and round-robin at %v", load)
		for _, s := range contenders {
			if s.loads {
				require.Less(t, c[s.name].failRate(), 0.0005, "%s at %v", s.name, load)
			}
		}
	}
}

func writeQueue(t *testing.T, d hostsDescription, byLoad map[float64]comparison, byConns map[int]comparison) {
	rows := [][]string{cellHead("load", "MaxConns", "strategy")}
	table := [][]string{{"strategy"}}
	all := namesOf(contenders, references)
	for _, load := range d.Loads {
		for _, name := range all {
			rows = append(rows, byLoad[load][name].row(fmt.Sprint(load), fmt.Sprint(pooly.DefaultMaxConns), name))
		}
	}
	shown := d.Loads[len(d.Loads)-3:]
	for _, load := range shown {
		table[0] = append(table[0], fmt.Sprintf("at %.0f %%: p50 / p99 / p99.9 (ms)", 100*load), "p99 × clairvoyant")
	}
	for _, name := range all {
		row := []string{name}
		for _, load := range shown {
			row = append(row, byLoad[load][name].times(), byLoad[load][name].multiple())
		}
		table = append(table, row)
	}
	writeTable(t, "queueing", table)

	table = [][]string{{"strategy"}}
	conns := []int{pooly.DefaultMaxConns, d.Workers, 1 << 16}
	for _, n := range conns {
		table[0] = append(table[0], fmt.Sprintf("`MaxConns` %d: p99 (ms)", n), "errors")
	}
	for _, name := range namesOf(contenders, nil) {
		row := []string{name}
		for _, n := range conns {
			of := byConns[n][name]
			row = append(row, fmt.Sprintf("%.0f ± %.0f", of.quantile(0.99), of.p99.interval()), of.errorRate())
			if n != pooly.DefaultMaxConns {
				rows = append(rows, of.row("0.85", fmt.Sprint(n), name))
			}
		}
		table = append(table, row)
	}
	writeTable(t, "maxconns", table)
	writeCSV(t, "queueing.csv", rows)

	var tails, p99 []point
	for _, name := range latencyLines {
		bar, done := 0, false
		byLoad[0.85][name].tail(func(ms, share float64) {
			if bar++; ms >= 5 && !done && (bar%4 == 0 || share < 1e-4) {
				tails = append(tails, point{line: name, x: ms, y: 100 * share})
				done = share < 1e-4
			}
		})
	}
	for _, name := range queueLines {
		for _, load := range d.Loads {
			p99 = append(p99, pointOf(name, 100*load, &byLoad[load][name].ratio))
		}
	}
	writeLines(t, "queueing-latency", tails)
	writeLines(t, "queueing-p99", p99)
}

func writeFleet(t *testing.T, fleets []int, byClients map[int]comparison, all []string) {
	rows := [][]string{cellHead("clients", "strategy")}
	table := [][]string{{"p99 × clairvoyant, with so many clients"}}
	var lines []point
	for _, clients := range fleets {
		table[0] = append(table[0], fmt.Sprint(clients))
	}
	for _, name := range all {
		row := []string{name}
		for _, clients := range fleets {
			of := byClients[clients][name]
			row = append(row, of.multiple())
			rows = append(rows, of.row(fmt.Sprint(clients), name))
		}
		table = append(table, row)
	}
	for _, name := range queueLines {
		for _, clients := range fleets {
			lines = append(lines, pointOf(name, float64(clients), &byClients[clients][name].ratio))
		}
	}
	writeCSV(t, "fleet.csv", rows)
	writeTable(t, "fleet", table)
	writeLines(t, "fleet-p99", lines)
}

func cellHead(first ...string) []string {
	return append(first, strings.Split("runs,requests,p50 (ms),p99 (ms),± 95 %,p99.9 (ms),"+
		"p99 × clairvoyant,± 95 %,error rate,± 95 %", ",")...)
}

// row returns what is known of a cell for a file of comma-separated values.
func (c *cell) row(first ...string) []string {
	number := func(format string, x float64) string { return fmt.Sprintf(format, x) }
	return append(first, fmt.Sprint(len(c.each)), fmt.Sprint(c.count),
		number("%.1f", c.quantile(0.5)),
		number("%.1f", c.quantile(0.99)), number("%.1f", c.p99.interval()), number("%.1f", c.quantile(0.999)),
		number("%.3f", c.ratio.mean()), number("%.3f", c.ratio.interval()),
		number("%.6f", c.failRate()), number("%.6f", c.errors.interval()))
}
