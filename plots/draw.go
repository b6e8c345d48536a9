package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// A figure says how the panels of one file look.
type figure struct {
	title, x, y string
	logX, logY  bool
	minX, maxX  float64 // as the data has them if equal
	minY, maxY  float64 // as the data has them if equal
	points      bool    // whether to mark the points
}

// The ground is opaque, so that figures look the same on light and dark pages.
var (
	ground   = color.NRGBA{0xfc, 0xfc, 0xfc, 0xff}
	gridLine = color.NRGBA{0xdd, 0xdd, 0xdd, 0xff}
	pale     = color.NRGBA{0xf0, 0xf0, 0xf0, 0xff} // the time of the trouble
	dark     = color.NRGBA{0xd8, 0xd8, 0xd8, 0xff} // what is impossible then
)

const (
	width       = 22 * vg.Centimeter
	height      = 11 * vg.Centimeter // of a figure with one panel
	panelHeight = 7 * vg.Centimeter
	titleHeight = vg.Centimeter
	legendWidth = 5.6 * vg.Centimeter
	resolution  = 110 // dots per inch
)

// draw writes a PNG: one panel, or several in two columns below their common title. All panels
// share the legend of the one with the most lines.
func (f *figure) draw(path string, panels []*panel) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	columns, tall, head := 1, height, vg.Length(0)
	if len(panels) > 1 {
		columns, tall, head = 2, panelHeight, titleHeight
	}
	rows := (len(panels) + columns - 1) / columns
	plots := make([][]*plot.Plot, rows)
	for i := range plots {
		plots[i] = make([]*plot.Plot, columns) // the last row may have an empty place
	}
	var legend plot.Legend
	most := 0
	for i, p := range panels {
		drawn, names, err := f.plot(p)
		if err != nil {
			return err
		}
		if len(panels) > 1 {
			drawn.Title.Text = strings.ReplaceAll(p.title, "; ", "\n")
			drawn.Title.TextStyle.Font.Size = vg.Points(9)
		}
		if len(p.lines) > most {
			most, legend = len(p.lines), names
		}
		plots[i/columns][i%columns] = drawn
	}

	canvas := vgimg.NewWith(vgimg.UseWH(width, vg.Length(rows)*tall+head), vgimg.UseDPI(resolution))
	whole := draw.New(canvas)
	whole.SetColor(ground)
	whole.Fill(whole.Rectangle.Path())
	inner := draw.Crop(whole,
		0.3*vg.Centimeter, -0.3*vg.Centimeter, 0.2*vg.Centimeter, -0.3*vg.Centimeter)
	left := draw.Crop(inner, 0, -legendWidth, 0, 0)
	if len(panels) == 1 {
		plots[0][0].Draw(left)
	} else {
		style := plots[0][0].Title.TextStyle
		style.Font.Size, style.YAlign = vg.Points(11), draw.YTop
		left.FillText(style, vg.Point{X: left.Center().X, Y: left.Max.Y - vg.Points(3)}, f.title)
		left = draw.Crop(left, 0, 0, 0, -head)
		tiles := draw.Tiles{
			Rows: rows, Cols: columns, PadX: vg.Centimeter / 2, PadY: vg.Centimeter / 2,
		}
		for r, canvases := range plot.Align(plots, tiles, left) {
			for c, p := range plots[r] {
				if p != nil {
					p.Draw(canvases[c])
				}
			}
		}
	}
	legend.Draw(draw.Crop(inner,
		inner.Max.X-inner.Min.X-legendWidth+0.4*vg.Centimeter, 0, 0, -0.9*vg.Centimeter))

	var png bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(&png); err != nil {
		return err
	}
	return os.WriteFile(path, png.Bytes(), 0o644)
}

// plot returns a panel without its legend, and the legend.
func (f *figure) plot(data *panel) (*plot.Plot, plot.Legend, error) {
	p := plot.New()
	p.BackgroundColor = ground
	p.Title.Text = f.title
	p.Title.TextStyle.Font.Size = vg.Points(11)
	p.Title.Padding = vg.Points(6)
	p.X.Label.Text, p.Y.Label.Text = f.x, f.y
	p.X.Label.Padding, p.Y.Label.Padding = vg.Points(4), vg.Points(4)
	legend := plot.NewLegend()
	legend.Top, legend.Left = true, true
	legend.YPosition = draw.PosCenter
	legend.ThumbnailWidth = vg.Points(26)
	legend.Padding = vg.Points(3)

	area := func(c color.NRGBA, corners plotter.XYs) error {
		polygon, err := plotter.NewPolygon(corners)
		if err != nil {
			return err
		}
		polygon.Color, polygon.LineStyle.Width = c, 0
		p.Add(polygon)
		return nil
	}
	if t := data.trouble; t != nil {
		from, to, most := t.x[0], t.x[1], t.y[0]
		rectangle := func(low, high float64) plotter.XYs {
			return plotter.XYs{{X: from, Y: low}, {X: to, Y: low}, {X: to, Y: high}, {X: from, Y: high}}
		}
		if err := area(pale, rectangle(f.minY, most)); err != nil {
			return nil, legend, err
		}
		if most < f.maxY {
			if err := area(dark, rectangle(most, f.maxY)); err != nil {
				return nil, legend, err
			}
		}
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridLine, gridLine
	p.Add(grid)

	for i, l := range data.lines { // all bands below all lines
		if slices.Equal(l.low, l.high) {
			continue
		}
		band := make(plotter.XYs, 0, 2*len(l.x))
		for j := range l.x {
			band = append(band, f.place(l.x[j], l.high[j]))
		}
		for j := len(l.x) - 1; j >= 0; j-- {
			band = append(band, f.place(l.x[j], l.low[j]))
		}
		c := styleOf(l.name, i).colour
		c.A = 0x38
		if err := area(c, band); err != nil {
			return nil, legend, fmt.Errorf("band of %s: %w", l.name, err)
		}
	}
	for i, l := range data.lines {
		at := make(plotter.XYs, len(l.x))
		for j := range l.x {
			at[j] = f.place(l.x[j], l.y[j])
		}
		drawn, err := plotter.NewLine(at)
		if err != nil {
			return nil, legend, fmt.Errorf("line %s: %w", l.name, err)
		}
		s := styleOf(l.name, i)
		drawn.Color, drawn.Width, drawn.Dashes = s.colour, vg.Points(1.6), s.dashes
		p.Add(drawn)
		if f.points {
			marks, err := plotter.NewScatter(at)
			if err != nil {
				return nil, legend, err
			}
			marks.Color, marks.Shape, marks.Radius = s.colour, draw.CircleGlyph{}, vg.Points(2.5)
			p.Add(marks)
		}
		legend.Add(l.name, drawn)
	}
	low, high := f.place(f.minX, f.minY), f.place(f.maxX, f.maxY)
	if f.minX != f.maxX {
		p.X.Min, p.X.Max = low.X, high.X
	}
	if f.minY != f.maxY {
		p.Y.Min, p.Y.Max = low.Y, high.Y
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = round{}, round{}
	if f.logX {
		p.X.Tick.Marker = decades{}
	}
	if f.logY {
		p.Y.Tick.Marker = decades{}
	}
	return p, legend, nil
}

// place returns where a point lies: on a logarithmic axis at its logarithm, since plot's own
// logarithmic scale makes room for the axis's label in the wrong place. What lies below a
// logarithmic axis is drawn on it.
func (f *figure) place(x, y float64) plotter.XY {
	if f.logX {
		x = math.Log10(max(x, f.minX))
	}
	if f.logY {
		y = math.Log10(max(y, f.minY))
	}
	return plotter.XY{X: x, Y: y}
}

// decades puts ticks at 1, 2 and 5 times the powers of ten of an axis whose values are logarithms,
// or over a wide range at the powers alone.
type decades struct{}

func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for e := math.Floor(low); e <= math.Ceil(high); e++ {
		for _, m := range []float64{1, 2, 5} {
			at := e + math.Log10(m)
			if at < low-1e-9 || at > high+1e-9 {
				continue
			}
			tick := plot.Tick{Value: at}
			if m == 1 || high-low < 3 {
				tick.Label = fmt.Sprintf("%.6g", m*math.Pow(10, e))
			}
			ticks = append(ticks, tick)
		}
	}
	return ticks
}

// round puts three to six ticks at round numbers.
type round struct{}

func (round) Ticks(low, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10(high-low)))
	switch parts := (high - low) / step; {
	case parts < 1.5:
		step /= 4
	case parts < 3:
		step /= 2
	case parts > 6:
		step *= 2
	}
	for i := int(math.Ceil(low/step - 1e-9)); float64(i)*step <= high*(1+1e-9); i++ {
		at := float64(i) * step
		ticks = append(ticks, plot.Tick{Value: at, Label: fmt.Sprintf("%.6g", at)})
	}
	return ticks
}
