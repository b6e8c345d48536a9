package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// columns are the head of lines.csv. A row is a point of a line. Low and high bound its 95 % band,
// and are empty where there is none.
var columns = []string{"figure", "panel", "line", "x", "y", "low", "high"}

// troubleLine is no line: its two points are when a trouble begins and ends, and y is what is
// possible meanwhile.
const troubleLine = "(trouble)"

// mostLines is how many lines a reader can tell apart in one panel.
const mostLines = 6

// A panel is one system of axes.
type panel struct {
	title   string
	lines   []*line
	trouble *line // nil if there is none
}

type line struct {
	name            string
	x, y, low, high []float64
}

// readLines returns the panels of each figure, in the order of the file.
func readLines(r io.Reader) (map[string][]*panel, error) {
	rows := csv.NewReader(r)
	head, err := rows.Read()
	if err != nil {
		return nil, err
	}
	if !slices.Equal(head, columns) {
		return nil, fmt.Errorf("the columns are %q, want %q", head, columns)
	}
	panels := make(map[string][]*panel)
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		l := lineOf(panels, row[0], row[1], row[2])
		for i, values := range []*[]float64{&l.x, &l.y, &l.low, &l.high} {
			text := row[3+i]
			if text == "" && i >= 2 {
				text = row[4] // a point without a band
			}
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				at, _ := rows.FieldPos(3 + i)
				return nil, fmt.Errorf("line %d, column %s: %w", at, columns[3+i], err)
			}
			*values = append(*values, value)
		}
	}
	for name, all := range panels {
		for _, p := range all {
			if len(p.lines) > mostLines {
				return nil, fmt.Errorf("figure %s, panel %q: %d lines, want at most %d",
					name, p.title, len(p.lines), mostLines)
			}
		}
	}
	return panels, nil
}

// lineOf finds or adds a line.
func lineOf(panels map[string][]*panel, figure, title, name string) *line {
	var p *panel
	for _, q := range panels[figure] {
		if q.title == title {
			p = q
		}
	}
	if p == nil {
		p = &panel{title: title}
		panels[figure] = append(panels[figure], p)
	}
	if name == troubleLine {
		if p.trouble == nil {
			p.trouble = new(line)
		}
		return p.trouble
	}
	for _, l := range p.lines {
		if l.name == name {
			return l
		}
	}
	l := &line{name: name}
	p.lines = append(p.lines, l)
	return l
}
