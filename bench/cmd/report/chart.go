package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"os"
	"strings"
)

// charted are the bars, from the top: the bound, what docs/STRATEGIES.md recommends, and the other
// pools.
var charted = []contestant{
	{"channel", 1, "bare channel"},
	{"pooly-roundrobin", 3, "pooly, round-robin"},
	{"pooly-leastlatency", 3, "pooly, least latency"},
	{"pooly-ucb", 3, "pooly, UCB"},
	{"pooly-thompson", 3, "pooly, Thompson"},
	{"pooly-epsilon", 3, "pooly, epsilon-greedy"},
	{"pooly-softmax", 3, "pooly, softmax"},
	{"channelpool", 1, "channel pool"},
	{"puddle", 1, "puddle"},
	{"hostpool-roundrobin", 3, "go-hostpool, round-robin"},
	{"commons", 1, "go-commons-pool"},
}

// The chart has no background, and its colours are in the middle of the scale. So it can be read on
// white and on black.
const (
	ink        = "#767c84"
	sequential = "#2f81f7"
	parallel   = "#d97706"
)

// Lengths in pixels. Labels end at labelsEnd, and values begin at the ends of bars. So any font of a
// viewer will do, if its letters are not wider than TestNoTextRunsIntoABar takes them for.
const (
	letters   = 13 // height of the letters
	labelsEnd = 272
	barsBegin = 280
	longest   = 330 // the longest bar
	barHeight = 9
	rowHeight = 27
	head      = 62
	width     = 682
)

func drawChart(r *results, path string) error {
	svg, err := chart(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, svg, 0o644)
}

// chart draws two bars for each contestant. It returns an error that names a benchmark that was not
// measured.
func chart(r *results) ([]byte, error) {
	modes := []struct{ name, colour string }{{"sequential", sequential}, {"parallel", parallel}}
	values, most := make([][]float64, len(charted)), 0.0
	for i, c := range charted {
		for _, mode := range modes {
			name := pair(c.peer, c.hosts) + "/mode=" + mode.name
			v := r.nsByRatio(name)
			if math.IsNaN(v) {
				return nil, fmt.Errorf("the chart needs %s, which was not measured", name)
			}
			values[i], most = append(values[i], v), max(most, v)
		}
	}

	var b bytes.Buffer
	out := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	text := func(x, y float64, more, s string) {
		out(`<text x="%.1f" y="%.1f"%s>%s</text>`, x, y, more, html.EscapeString(s))
	}
	out(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d" fill="%s">`,
		width, head+rowHeight*len(charted), letters, ink)
	text(0, letters, ` font-weight="bold"`, "One GetConn and Release, in nanoseconds: less is better")
	for i, mode := range modes {
		x := float64(barsBegin + 130*i)
		out(`<rect x="%.1f" y="30" width="18" height="%d" fill="%s"/>`, x, barHeight, mode.colour)
		text(x+24, 30+barHeight, "", mode.name)
	}
	for i, c := range charted {
		top := float64(head + rowHeight*i)
		label := c.label
		if c.hosts > 1 {
			label = fmt.Sprintf("%s, %d hosts", label, c.hosts)
		}
		text(labelsEnd, top+barHeight+0.35*letters, ` text-anchor="end"`, label)
		for j, mode := range modes {
			y, long := top+float64(j*barHeight), values[i][j]/most*longest
			out(`<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>`, barsBegin, y, long, barHeight, mode.colour)
			text(barsBegin+long+4, y+barHeight-1, ` font-size="10"`, strings.TrimSpace(number(values[i][j])))
		}
	}
	out("</svg>")
	return b.Bytes(), nil
}
