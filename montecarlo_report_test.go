//go:build montecarlo_simulation

package pooly_test

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func writeCSV(t *testing.T, name string, rows [][]string) {
	t.Helper()
	file, err := os.Create(filepath.Join(*out, name))
	require.NoError(t, err)
	require.NoError(t, csv.NewWriter(file).WriteAll(rows))
	require.NoError(t, file.Close())
}

// writeTable puts a table into the documents that have a place for it: between the lines
// <!-- simulations:NAME --> and <!-- end -->, in STRATEGIES.md and RELIABILITY.md beside the
// directory of -out and in the README.md above that.
func writeTable(t *testing.T, name string, rows [][]string) {
	t.Helper()
	table := markdown(rows)
	for _, path := range []string{"../STRATEGIES.md", "../RELIABILITY.md", "../../README.md"} {
		path = filepath.Join(*out, path)
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		before, rest, found := strings.Cut(string(text), "<!-- simulations:"+name+" -->\n")
		if !found {
			continue
		}
		_, after, found := strings.Cut(rest, "<!-- end -->")
		require.True(t, found, "%s: the place for the table %s has no end", path, name)
		written := before + "<!-- simulations:" + name + " -->\n" + table + "<!-- end -->" + after
		require.NoError(t, os.WriteFile(path, []byte(written), 0o644))
	}
}

// markdown returns rows as a table, with its head in the first one.
func markdown(rows [][]string) string {
	var table strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&table, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(&table, "| --- |%s\n", strings.Repeat(" ---: |", len(row)-1))
		}
	}
	return table.String()
}

// A point is one of a line in a panel of a figure. It has no band if low equals high.
type point struct {
	panel, line     string
	x, y, low, high float64
}

func pointOf(line string, x float64, s *sum) point {
	return point{line: line, x: x, y: s.mean(), low: s.mean() - s.interval(), high: s.mean() + s.interval()}
}

// troubleLine is what plots takes for the time of a trouble and not for a line.
const troubleLine = "(trouble)"

// writeLines replaces the lines of a figure in lines.csv, from which the module in plots draws it.
func writeLines(t *testing.T, figure string, points []point) {
	t.Helper()
	path := filepath.Join(*out, "lines.csv")
	rows := [][]string{{"figure", "panel", "line", "x", "y", "low", "high"}}
	file, err := os.Open(path)
	if err == nil {
		was, err := csv.NewReader(file).ReadAll()
		require.NoError(t, err, path)
		require.NoError(t, file.Close())
		for _, row := range was[min(1, len(was)):] {
			if row[0] != figure {
				rows = append(rows, row)
			}
		}
	} else {
		require.True(t, errors.Is(err, fs.ErrNotExist), "%v", err)
	}
	for _, p := range points {
		row := []string{figure, p.panel, p.line, fmt.Sprintf("%.5g", p.x), fmt.Sprintf("%.5g", p.y), "", ""}
		if p.low != p.high {
			row[5], row[6] = fmt.Sprintf("%.5g", p.low), fmt.Sprintf("%.5g", p.high)
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows[1:], func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	writeCSV(t, "lines.csv", rows)
}

// mostPoints is how many points a line has, at most.
const mostPoints = 80

// thin calls add for each of at most mostPoints parts of n trials: those from first to before last.
func thin(n int, add func(first, last int)) {
	parts := min(n, mostPoints)
	for i := range parts {
		add(i*n/parts, (i+1)*n/parts)
	}
}

func writeScenarios(t *testing.T, all map[string]results) {
	rows := [][]string{{
		"scenario", "strategy", "runs", "trials", "mean score", "± 95 %",
		"mean score in the last fifth", "± 95 %", "share of the best host in the last fifth",
		"cumulative regret", "± 95 %",
	}}
	for i := range scenarios {
		s := &scenarios[i]
		for _, c := range learners {
			o := all[s.name][c.name]
			regret := o.totalRegret()
			rows = append(rows, []string{
				s.name, c.name, fmt.Sprint(learningRuns()), fmt.Sprint(len(o.reward)),
				fmt.Sprintf("%.4f", o.overall.mean()), fmt.Sprintf("%.4f", o.overall.interval()),
				fmt.Sprintf("%.4f", o.final.mean()), fmt.Sprintf("%.4f", o.final.interval()),
				fmt.Sprintf("%.4f", o.finalBest.mean()),
				fmt.Sprintf("%.3f", regret.mean()), fmt.Sprintf("%.3f", regret.interval()),
			})
		}
	}
	writeCSV(t, "scenarios.csv", rows)

	classic := [][]string{{"strategy", "score, all trials", "score, last fifth", "best host, last fifth", "regret"}}
	table := [][]string{{"strategy"}}
	for i := range scenarios {
		table[0] = append(table[0], scenarios[i].name)
	}
	for _, c := range learners {
		o := all["classic"][c.name]
		classic = append(classic, []string{
			c.name, o.overall.pm(3), o.final.pm(3),
			fmt.Sprintf("%.0f %%", 100*o.finalBest.mean()), o.totalRegret().pm(1),
		})
		row := []string{c.name}
		for i := range scenarios {
			o := all[scenarios[i].name][c.name]
			row = append(row, fmt.Sprintf("%.3f (%s)", o.final.mean(), o.totalRegret().pm(0)))
		}
		table = append(table, row)
	}
	writeTable(t, "classic", classic)
	writeTable(t, "scenarios", table)

	writeLines(t, "classic-regret", regretLines(all["classic"],
		"round-robin", "epsilon-greedy(0.1)", "power of two", "Thompson", "UCB(0.5)", "softmax(0.1)"))
	writeLines(t, "many-regret", regretLines(all["fleet"],
		"round-robin", "Thompson", "power of two", "softmax(0.1)", "least latency", "epsilon-greedy(0.1)"))
	writeLines(t, "failure-share", shareLines(all["failure"],
		"softmax(0.1)", "epsilon-greedy(0.1)", "Thompson", "UCB(0.5)", "power of two", "least latency"))
}

func regretLines(r results, strategies ...string) (points []point) {
	for _, name := range strategies {
		o := r[name]
		thin(len(o.regret), func(_, last int) {
			points = append(points, pointOf(name, float64(last), &o.regret[last-1]))
		})
	}
	return points
}

func shareLines(r results, strategies ...string) (points []point) {
	for _, name := range strategies {
		o := r[name]
		thin(len(o.best), func(first, last int) {
			mean := 0.0
			for i := first; i < last; i++ {
				mean += o.best[i].mean() / float64(last-first)
			}
			points = append(points, point{line: name, x: float64(first+last+1) / 2, y: 100 * mean})
		})
	}
	return points
}
