package main

import (
	"image/color"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
)

// Of the chart libraries, ntcharts does not fit bubbletea's second version, and none stacks shares; so here are the
// two charts that it takes.

var (
	hostColors = []color.Color{
		lipgloss.Color("#4E9AF1"), lipgloss.Color("#3FC79A"), lipgloss.Color("#F2C14E"), lipgloss.Color("#B07CE8"),
		lipgloss.Color("#F2915B"),
	}
	failedColor = lipgloss.Color("#E0364C")
	quietColor  = lipgloss.Color("#8A8F98")
)

// column is one sample of the traffic: how much each host served, and last how much failed.
type column []int

// none is the part that a cell shows if there was no traffic.
const none = -1

// divide divides height cells among a column's parts by their shares, from the bottom, and returns which part each
// shows. Each boundary is rounded for itself, so the parts fill the height.
func divide(c column, height int) []int {
	total := 0
	for _, part := range c {
		total += part
	}
	cells := slices.Repeat([]int{none}, height)
	if total == 0 {
		return cells
	}
	sum, from := 0, 0
	for i, part := range c {
		sum += part
		for to := (2*sum*height + total) / (2 * total); from < to; from++ {
			cells[from] = i
		}
	}
	return cells
}

func colorOf(part int) color.Color {
	if part < len(hostColors) {
		return hostColors[part]
	}
	return failedColor
}

// stacked draws the newest columns at the right. A line shows two cells, one above the other.
func stacked(history []column, width, height int) []string {
	history = history[max(0, len(history)-width):]
	columns := make([][]int, len(history))
	for i, c := range history {
		columns[i] = divide(c, 2*height)
	}
	lines := make([]string, height)
	for row := range lines {
		upper := 2*(height-row) - 1
		var line strings.Builder
		line.WriteString(strings.Repeat(" ", width-len(columns)))
		for x := 0; x < len(columns); {
			top, bottom := columns[x][upper], columns[x][upper-1]
			run := 1
			for x+run < len(columns) && columns[x+run][upper] == top && columns[x+run][upper-1] == bottom {
				run++
			}
			x += run
			if top == none {
				line.WriteString(strings.Repeat(" ", run))
				continue
			}
			line.WriteString(lipgloss.NewStyle().Foreground(colorOf(top)).Background(colorOf(bottom)).Render(strings.Repeat("▀", run)))
		}
		lines[row] = line.String()
	}
	return lines
}

// lettered is stacked for terminals without colors: with the numbers of the hosts, and x for what failed.
func lettered(history []column, width, height int) []string {
	history = history[max(0, len(history)-width):]
	lines := make([]string, height)
	for row := range lines {
		lines[row] = strings.Repeat(" ", width-len(history))
		for _, c := range history {
			part := divide(c, height)[height-1-row]
			switch part {
			case none:
				lines[row] += " "
			case len(hostColors):
				lines[row] += "x"
			default:
				lines[row] += strconv.Itoa(part + 1)
			}
		}
	}
	return lines
}

var eighths = []rune(" ▁▂▃▄▅▆▇█")

// bar draws a share of width, to an eighth of a character.
func bar(share float64, width int, c color.Color) string {
	parts := []rune(" ▏▎▍▌▋▊▉█")
	n := int(share*float64(width)*8 + 0.5)
	n = max(0, min(n, width*8))
	text := strings.Repeat("█", n/8)
	if n%8 > 0 {
		text += string(parts[n%8])
	}
	return lipgloss.NewStyle().Foreground(c).Render(text) + strings.Repeat(" ", width-(n+7)/8)
}

// spark draws the newest values at the right, in one line: linear from 0 to top.
func spark(values []time.Duration, width int, top time.Duration, c color.Color) string {
	values = values[max(0, len(values)-width):]
	text := []rune(strings.Repeat(" ", width-len(values)))
	for _, v := range values {
		level := int(float64(v)/float64(top)*8 + 0.999)
		text = append(text, eighths[max(0, min(8, level))])
	}
	return lipgloss.NewStyle().Foreground(c).Render(string(text))
}

// percentile returns the value that the share p of all do not exceed; 0 of none.
func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
