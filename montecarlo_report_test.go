//go:build montecarlo_simulation

package pooly_test

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
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

// writeTable puts a table into the documents that have a place for it: between the lines <!-- simulations:NAME --> and
// <!-- end -->, in STRATEGIES.md and RELIABILITY.md beside the directory of the figures and in the README.md above that.
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

func writeScenarios(t *testing.T, all map[string]results) {
	rows := [][]string{{
		"scenario", "strategy", "runs", "trials", "mean score", "± 95 %",
		"mean score in the last fifth", "± 95 %", "share of the best host in the last fifth",
		"cumulative regret", "± 95 %",
	}}
	for i := range scenarios {
		s := &scenarios[i]
		for _, c := range contenders {
			o := all[s.name][c.name]
			regret := o.totalRegret()
			rows = append(rows, []string{
				s.name, c.name, fmt.Sprint(*runs), fmt.Sprint(len(o.reward)),
				fmt.Sprintf("%.4f", o.overall.mean()), fmt.Sprintf("%.4f", 1.96*o.overall.deviation()),
				fmt.Sprintf("%.4f", o.final.mean()), fmt.Sprintf("%.4f", 1.96*o.final.deviation()),
				fmt.Sprintf("%.4f", o.finalBest.mean()),
				fmt.Sprintf("%.3f", regret.mean()), fmt.Sprintf("%.3f", 1.96*regret.deviation()),
			})
		}
	}
	writeCSV(t, "scenarios.csv", rows)

	classic := [][]string{{"strategy", "score, all trials", "score, last fifth", "best host, last fifth", "regret"}}
	table := [][]string{{"strategy"}}
	for i := range scenarios {
		table[0] = append(table[0], scenarios[i].name)
	}
	for _, c := range contenders {
		o := all["classic"][c.name]
		classic = append(classic, []string{
			c.name, fmt.Sprintf("%.3f ± %.3f", o.overall.mean(), 1.96*o.overall.deviation()),
			fmt.Sprintf("%.3f ± %.3f", o.final.mean(), 1.96*o.final.deviation()),
			fmt.Sprintf("%.0f %%", 100*o.finalBest.mean()),
			fmt.Sprintf("%.1f", o.totalRegret().mean()),
		})
		row := []string{c.name}
		for i := range scenarios {
			o := all[scenarios[i].name][c.name]
			row = append(row, fmt.Sprintf("%.3f (%.0f)", o.final.mean(), o.totalRegret().mean()))
		}
		table = append(table, row)
	}
	writeTable(t, "classic", classic)
	writeTable(t, "scenarios", table)
}

func writeQueue(t *testing.T, all queueResults) {
	rows := [][]string{{
		"load", "strategy", "runs", "requests", "p50 (ms)", "p99 (ms)", "± 95 %", "p99.9 (ms)", "error rate",
	}}
	table := [][]string{{"strategy"}}
	for _, load := range queueLoads {
		table[0] = append(table[0], fmt.Sprintf("at %.0f %%: p50 / p99 / p99.9 (ms)", 100*load), "errors")
		for _, c := range queueContenders() {
			o := all[load][c.name]
			rows = append(rows, []string{
				fmt.Sprintf("%.2f", load), c.name, fmt.Sprint(int(o.p99.n)), fmt.Sprint(o.count),
				fmt.Sprintf("%.1f", o.quantile(0.5)),
				fmt.Sprintf("%.1f", o.quantile(0.99)), fmt.Sprintf("%.1f", 1.96*o.p99.deviation()),
				fmt.Sprintf("%.1f", o.quantile(0.999)), fmt.Sprintf("%.6f", o.failRate()),
			})
		}
	}
	for _, c := range queueContenders() {
		row := []string{c.name}
		for _, load := range queueLoads {
			o := all[load][c.name]
			row = append(row,
				fmt.Sprintf("%.0f / %.0f / %.0f", o.quantile(0.5), o.quantile(0.99), o.quantile(0.999)),
				fmt.Sprintf("%.2f %%", 100*o.failRate()))
		}
		table = append(table, row)
	}
	writeCSV(t, "queueing.csv", rows)
	writeTable(t, "queueing", table)
}
