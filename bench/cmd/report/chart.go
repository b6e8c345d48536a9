package main

import (
	"bytes"
	"image/color"
	"os"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The colours are in the middle of the scale and the background is left out, so that the chart can
// be read on white and on black.
var (
	ink        = color.NRGBA{0x76, 0x7c, 0x84, 0xff}
	sequential = color.NRGBA{0x2f, 0x81, 0xf7, 0xff}
	parallel   = color.NRGBA{0xd9, 0x77, 0x06, 0xff}
)

// charted are the bars, from the top.
var charted = []contestant{
	{"channel", 1, "bare channel"},
	{"pooly-roundrobin", 3, "pooly, round-robin, 3 hosts"},
	{"pooly-epsilon", 3, "pooly, epsilon-greedy, 3 hosts"},
	{"pooly-softmax", 3, "pooly, softmax, 3 hosts"},
	{"pooly-softmax", 10_000, "pooly, softmax, 10,000 hosts"},
	{"channelpool", 1, "channel pool"},
	{"puddle", 1, "puddle"},
	{"hostpool-roundrobin", 3, "go-hostpool, round-robin, 3 hosts"},
	{"commons", 1, "go-commons-pool"},
}

func drawChart(r *results, path string) error {
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	plot.DefaultFont, plotter.DefaultFont = sans, sans
	p := plot.New()
	p.BackgroundColor = nil
	p.Title.Text = "One lease and its end, nanoseconds (less is better)"
	p.Title.Padding = vg.Points(8)
	p.X.Min = 0
	p.HideX() // each bar has its value beside it
	p.Legend.Top = true
	p.Legend.TextStyle.Font.Size = vg.Points(9)
	p.Legend.Padding = vg.Points(3)

	names := make([]string, len(charted))
	for place, mode := range []string{"parallel", "sequential"} {
		values := make(plotter.Values, len(charted))
		for j, c := range charted {
			row := len(charted) - 1 - j // the axis points up
			names[row] = c.label
			values[row] = r.nsByRatio(pair(c.peer, c.hosts) + "/mode=" + mode)
		}
		if err := addBars(p, values, place, mode); err != nil {
			return err
		}
	}
	p.NominalY(names...)
	p.X.Max *= 1.1
	for _, style := range []*draw.TextStyle{&p.Title.TextStyle, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Color = ink
	}
	p.Y.LineStyle.Width, p.Y.Tick.LineStyle.Width = 0, 0

	canvas := vgsvg.New(vg.Points(560), vg.Points(340))
	p.Draw(draw.Crop(draw.New(canvas), vg.Points(4), 0, vg.Points(2), -vg.Points(4)))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	// Viewers seldom have the font that the layout was made with.
	text := strings.ReplaceAll(svg.String(), "font-family:Liberation Sans", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif")
	return os.WriteFile(path, []byte(text), 0o644)
}

// addBars adds one mode's bars, and the value at the end of each.
func addBars(p *plot.Plot, values plotter.Values, place int, mode string) error {
	const width = 9
	bars, err := plotter.NewBarChart(values, vg.Points(width))
	if err != nil {
		return err
	}
	bars.Horizontal = true
	bars.LineStyle.Width = 0
	bars.Color = map[string]color.Color{"sequential": sequential, "parallel": parallel}[mode]
	bars.Offset = vg.Points(width * (float64(place) - 0.5))
	p.Add(bars)
	p.Legend.Add(mode, bars)

	ends := plotter.XYLabels{XYs: make(plotter.XYs, len(values)), Labels: make([]string, len(values))}
	for i, v := range values {
		ends.XYs[i] = plotter.XY{X: v, Y: float64(i)}
		ends.Labels[i] = number(v)
	}
	labels, err := plotter.NewLabels(ends)
	if err != nil {
		return err
	}
	labels.Offset = vg.Point{X: vg.Points(3), Y: bars.Offset - vg.Points(3)}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Color = ink
		labels.TextStyle[i].Font.Size = vg.Points(8)
	}
	p.Add(labels)
	return nil
}
