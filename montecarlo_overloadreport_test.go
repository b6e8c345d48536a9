//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"image/color"
	"strings"
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
}

// reportOverload prints a table, and with -out writes that and draws a figure with a panel for each case.
func reportOverload(t *testing.T, r overloadReport, all [][]*overloadOutcome) {
	t.Helper()
	head := append([]string{r.of}, r.heads[:len(r.heads)-1]...)
	for _, c := range overloadContenders {
		head = append(head, fmt.Sprintf(r.heads[len(r.heads)-1], c.name))
	}
	rows := [][]string{head}
	for _, clients := range all {
		row := []string{clients[0].name}
		if r.first != nil {
			row = append(row, r.first(clients[0]))
		}
		for _, o := range clients {
			row = append(row, r.each(o))
		}
		rows = append(rows, row)
	}
	t.Logf("%s\n%s", r.title, markdown(rows))
	if *out == "" {
		return
	}
	writeTable(t, r.table, rows)
	var panels []figure
	for _, clients := range all {
		panels = append(panels, drawOverload(clients))
	}
	if len(panels) == 1 {
		panels[0].title = r.title + "\n" + all[0][0].name
	}
	drawPanels(t, "overload-"+r.table, r.title, panels...)
}

// drawOverload shows which share of the calls succeeds, by the time when they come, or of a crowd, which was served so far.
// The time of the trouble is pale grey, and dark grey what the hosts cannot do.
func drawOverload(clients []*overloadOutcome) figure {
	c := clients[0].overloadCase
	f := figure{
		title: strings.Replace(c.name, "; ", "\n", 1),
		x:     "time (s)", y: "calls that succeed (%)", maxX: c.last.Seconds(), maxY: 102,
	}
	if c.crowd > 0 {
		f.y = "calls served so far (%)"
	} else {
		from, to, most := c.from.Seconds(), c.to.Seconds(), 100*c.possible()
		f.shades = []shade{{from, to, 0, 102, color.NRGBA{0xf0, 0xf0, 0xf0, 0xff}}}
		if most < 100 {
			f.shades = append(f.shades, shade{from, to, most, 102, color.NRGBA{0xd8, 0xd8, 0xd8, 0xff}})
		}
	}
	for i, o := range clients {
		s := series{name: overloadContenders[i].name, kind: overloadContenders[i].kind, dash: i}
		served, came := 0, 0
		for _, n := range o.all {
			came += n
		}
		thin(len(o.all), func(first, last int) {
			all, good := 0, 0
			for j := first; j < last; j++ {
				all, good = all+o.all[j], good+o.good[j]
				served += o.served[j]
			}
			at := float64(first+last) / 2
			if c.crowd > 0 { // all came at once
				at, all, good = float64(last), came, served
			}
			if all > 0 {
				s.x = append(s.x, at*overloadStep.Seconds())
				s.y = append(s.y, 100*float64(good)/float64(all))
			}
		})
		f.series = append(f.series, s)
	}
	return f
}

// String says what a case differs in from others of its table, in two parts with a semicolon between.
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
