//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// An overloadReport says how outcomes are written and drawn.
type overloadReport struct {
	table string // the name of the table, and of the figure behind "overload-"
	of    string // what the rows of the table are
	title string
	heads []string // of the columns; the last one is for each client, with its name for %s
	first func(o *overloadOutcome) string
	each  func(o *overloadOutcome) string
	drawn []string // the contenders in the figure; nil if there is none
}

// overloadHead says once how to read what follows.
var overloadHead = sync.OnceFunc(func() {
	report("\na service in trouble: what pooly reaches in each case, in the order of docs/RELIABILITY.md;" +
		"\n\"during\" and \"after\" are shares of the calls that succeed")
})

// reportOverload prints what pooly reached, and with -out writes a table and the lines of a figure
// with a panel for each case.
func reportOverload(t *testing.T, r overloadReport, all [][]*overloadOutcome) {
	t.Helper()
	head := append([]string{r.of}, r.heads[:len(r.heads)-1]...)
	for _, c := range overloadContenders {
		head = append(head, fmt.Sprintf(r.heads[len(r.heads)-1], c.name))
	}
	rows := [][]string{head}
	var lines []point
	for _, clients := range all {
		row := []string{clients[0].name}
		if r.first != nil {
			row = append(row, r.first(clients[0]))
		}
		for i, o := range clients {
			row = append(row, r.each(o))
			if o.crowd == 0 && slices.Contains(r.drawn, overloadContenders[i].name) {
				lines = append(lines, overloadLines(overloadContenders[i].name, o)...)
			}
		}
		rows = append(rows, row)
		if c := clients[0]; c.crowd == 0 {
			for _, at := range []float64{c.from.Seconds(), c.to.Seconds()} {
				lines = append(lines, point{panel: c.name, line: troubleLine, x: at, y: 100 * c.possible()})
			}
		}
	}
	cases := []string{}
	for _, clients := range all {
		cases = append(cases, r.each(clients[0]))
	}
	overloadHead()
	report("%s: %s: %s", r.title, strings.TrimPrefix(r.heads[len(r.heads)-1], "%s: "), strings.Join(cases, "; "))
	if *out == "" {
		return
	}
	writeTable(t, r.table, rows)
	if r.drawn != nil {
		writeLines(t, "overload-"+r.table, lines)
	}
}

// overloadLines shows which share of the calls succeeds, by the time when they come.
func overloadLines(name string, o *overloadOutcome) (points []point) {
	thin(len(o.all), func(first, last int) {
		all, good := 0, 0
		for j := first; j < last; j++ {
			all, good = all+o.all[j], good+o.good[j]
		}
		if all > 0 {
			at := float64(first+last) / 2 * overloadStep.Seconds()
			points = append(points, point{panel: o.name, line: name, x: at, y: 100 * float64(good) / float64(all)})
		}
	})
	return points
}

// String says what a case differs in from others of its table, in two parts with a semicolon
// between.
func (c *overloadCase) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d hosts × %d, %s", c.hosts, c.slots, spaced(c.work))
	if c.load > 0 {
		fmt.Fprintf(&s, ", load %.0f %%", 100*c.load)
	}
	if c.slow > 0 {
		fmt.Fprintf(&s, ", ×%.3g", c.slow)
	}
	fmt.Fprintf(&s, "; deadline %s, MaxConns %d", spaced(c.deadline), c.conns())
	if c.strategy != nil {
		fmt.Fprintf(&s, ", %v", c.strategy())
	}
	if c.parts {
		s.WriteString(", GetConn")
	}
	return s.String()
}

// spaced writes 1.5s as 1.5 s, and 20ms as 20 ms.
func spaced(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprint(d.Milliseconds(), " ms")
	}
	return fmt.Sprint(d.Seconds(), " s")
}

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }
