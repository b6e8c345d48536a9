//go:build montecarlo_simulation

package pooly_test

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// colours are those of the kinds of strategies, the same in all figures.
var colours = map[string]color.NRGBA{
	"softmax":    {0x1f, 0x77, 0xb4, 0xff},
	"epsilon":    {0xf0, 0x7f, 0x0e, 0xff},
	"roundrobin": {0x7f, 0x7f, 0x7f, 0xff},
	"weighted":   {0x8c, 0x56, 0x4b, 0xff},
	"thompson":   {0x2c, 0xa0, 0x2c, 0xff},
	"ucb":        {0xa8, 0xa8, 0x00, 0xff},
	"poweroftwo": {0xe3, 0x57, 0xb2, 0xff},
	"peakewma":   {0x74, 0x47, 0xad, 0xff},
	"hotcold":    {0xd6, 0x27, 0x28, 0xff},
	"least":      {0x17, 0xa9, 0xbe, 0xff},
	"lowest":     {0x20, 0x20, 0x20, 0xff},

	// What the overload simulations compare.
	"pooly":      {0xd6, 0x27, 0x28, 0xff},
	"noejection": {0xf0, 0x9f, 0x0e, 0xff},
	"perhost":    {0x20, 0x20, 0x20, 0xff},
}

// dashes tell the strategies of one kind apart.
var dashes = [][]vg.Length{nil, {vg.Points(7), vg.Points(3)}, {vg.Points(2), vg.Points(2)}}

// The figures have an opaque ground, so that they look the same on light and dark pages.
var ground = color.NRGBA{0xfc, 0xfc, 0xfc, 0xff}

const (
	figureWidth  = 22 * vg.Centimeter
	figureHeight = 11 * vg.Centimeter // of one without panels
	legendWidth  = 5.6 * vg.Centimeter
	panelHeight  = 7 * vg.Centimeter
	titleHeight  = 1 * vg.Centimeter
	figurePoints = 125 // of a line, at most
)

// A series is one line of a figure.
type series struct {
	name, kind string
	dash       int
	x, y       []float64
	low, high  []float64 // of its 95 % band; nil if it has none
	points     bool      // whether to mark the points
}

// A figure is what drawFigure draws.
type figure struct {
	file, title, x, y string
	series            []series
	shades            []shade
	logX, logY        bool
	minX, maxX        float64 // not used if equal
	minY, maxY        float64 // not used if equal
}

// A shade is a rectangle behind the lines of a figure.
type shade struct {
	fromX, toX, fromY, toY float64
	colour                 color.NRGBA
}

func drawFigure(t *testing.T, f figure) {
	t.Helper()
	drawPanels(t, f.file, "", f)
}

// drawPanels draws figures whose series have the same names into one file, with one legend: several in two columns, below
// their common title.
func drawPanels(t *testing.T, file, title string, panels ...figure) {
	t.Helper()
	columns, height, head := 1, figureHeight, vg.Length(0)
	if len(panels) > 1 {
		columns, height, head = 2, panelHeight, titleHeight
	}
	rows := (len(panels) + columns - 1) / columns
	plots := make([][]*plot.Plot, rows)
	var legend plot.Legend
	for i, f := range panels {
		var p *plot.Plot
		p, legend = newPlot(t, f)
		if len(panels) > 1 {
			p.Title.TextStyle.Font.Size = vg.Points(9)
		}
		plots[i/columns] = append(plots[i/columns], p)
	}
	for i, row := range plots {
		plots[i] = append(row, make([]*plot.Plot, columns-len(row))...) // the last one may be shorter
	}

	paint := func(c vg.CanvasSizer) {
		whole := draw.New(c)
		whole.SetColor(ground)
		whole.Fill(whole.Rectangle.Path())
		inner := draw.Crop(whole, 0.3*vg.Centimeter, -0.3*vg.Centimeter, 0.2*vg.Centimeter, -0.3*vg.Centimeter)
		left := draw.Crop(inner, 0, -legendWidth, 0, 0)
		if len(panels) == 1 {
			plots[0][0].Draw(left)
		} else {
			style := plots[0][0].Title.TextStyle
			style.Font.Size, style.YAlign = vg.Points(11), draw.YTop
			left.FillText(style, vg.Point{X: left.Center().X, Y: left.Max.Y - vg.Points(3)}, title)
			left = draw.Crop(left, 0, 0, 0, -head)
			tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: vg.Centimeter / 2, PadY: vg.Centimeter / 2}
			for r, canvases := range plot.Align(plots, tiles, left) {
				for c, p := range plots[r] {
					if p != nil {
						p.Draw(canvases[c])
					}
				}
			}
		}
		legend.Draw(draw.Crop(inner, inner.Max.X-inner.Min.X-legendWidth+0.4*vg.Centimeter, 0, 0, -0.9*vg.Centimeter))
	}
	height = vg.Length(rows)*height + head
	svg := vgsvg.New(figureWidth, height)
	paint(svg)
	writeFigure(t, file+".svg", svg)
	png := vgimg.NewWith(vgimg.UseWH(figureWidth, height), vgimg.UseDPI(110))
	paint(png)
	writeFigure(t, file+".png", vgimg.PngCanvas{Canvas: png})
}

// newPlot returns a figure without its legend, and the legend.
func newPlot(t *testing.T, f figure) (*plot.Plot, plot.Legend) {
	t.Helper()
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	p := plot.New()
	p.BackgroundColor = ground
	p.Title.Text = f.title
	p.Title.TextStyle.Font.Size = vg.Points(11)
	p.Title.Padding = vg.Points(6)
	p.X.Label.Text, p.Y.Label.Text = f.x, f.y
	p.X.Label.Padding, p.Y.Label.Padding = vg.Points(4), vg.Points(4)
	for _, s := range f.shades {
		low, high := f.place(s.fromX, s.fromY), f.place(s.toX, s.toY)
		polygon, err := plotter.NewPolygon(plotter.XYs{low, {X: high.X, Y: low.Y}, high, {X: low.X, Y: high.Y}})
		require.NoError(t, err)
		polygon.Color, polygon.LineStyle.Width = s.colour, 0
		p.Add(polygon)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color = color.NRGBA{0xdd, 0xdd, 0xdd, 0xff}
	grid.Vertical.Color = grid.Horizontal.Color
	p.Add(grid)

	legend := plot.NewLegend()
	legend.Top, legend.Left = true, true
	legend.YPosition = draw.PosCenter
	legend.ThumbnailWidth = vg.Points(26)
	legend.Padding = vg.Points(3)
	for _, s := range f.series { // all bands below all lines
		if s.low != nil {
			band := make(plotter.XYs, 0, 2*len(s.x))
			for i := range s.x {
				band = append(band, f.place(s.x[i], s.high[i]))
			}
			for i := len(s.x) - 1; i >= 0; i-- {
				band = append(band, f.place(s.x[i], s.low[i]))
			}
			polygon, err := plotter.NewPolygon(band)
			require.NoError(t, err)
			pale := colours[s.kind]
			pale.A = 0x38
			polygon.Color, polygon.LineStyle.Width = pale, 0
			p.Add(polygon)
		}
	}
	for _, s := range f.series {
		xys := make(plotter.XYs, len(s.x))
		for i := range s.x {
			xys[i] = f.place(s.x[i], s.y[i])
		}
		line, err := plotter.NewLine(xys)
		require.NoError(t, err)
		line.Color, line.Width, line.Dashes = colours[s.kind], vg.Points(1.6), dashes[s.dash]
		p.Add(line)
		if s.points {
			marks, err := plotter.NewScatter(xys)
			require.NoError(t, err)
			marks.Color, marks.Shape, marks.Radius = colours[s.kind], draw.CircleGlyph{}, vg.Points(2.5)
			p.Add(marks)
		}
		legend.Add(s.name, line)
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
	return p, legend
}

// place returns where a point lies: on a logarithmic axis at its logarithm, since plot's own logarithmic scale makes
// room for the axis's label in the wrong place.
func (f *figure) place(x, y float64) plotter.XY {
	if f.logX {
		x = math.Log10(x)
	}
	if f.logY {
		y = math.Log10(y)
	}
	return plotter.XY{X: x, Y: y}
}

// decades puts ticks at 1, 2 and 5 times the powers of ten of an axis whose values are logarithms, or over a wide
// range at the powers alone.
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

// round puts five to ten ticks at round numbers.
type round struct{}

func (round) Ticks(low, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10(high-low)))
	switch parts := (high - low) / step; {
	case parts < 2:
		step /= 5
	case parts < 5:
		step /= 2
	}
	for i := int(math.Ceil(low/step - 1e-9)); float64(i)*step <= high*(1+1e-9); i++ {
		at := float64(i) * step
		ticks = append(ticks, plot.Tick{Value: at, Label: fmt.Sprintf("%.4g", at)})
	}
	return ticks
}

// writeFigure names fonts of the same widths for viewers of the SVG that lack Liberation Sans.
func writeFigure(t *testing.T, name string, c io.WriterTo) {
	t.Helper()
	var figure bytes.Buffer
	_, err := c.WriteTo(&figure)
	require.NoError(t, err)
	data := bytes.ReplaceAll(figure.Bytes(), []byte("font-family:Liberation Sans"),
		[]byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif"))
	require.NoError(t, os.MkdirAll(*out, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(*out, name), data, 0o644))
}

// families are the figures of each scenario that show the average score, in order.
var families = []struct{ name, title string }{
	{"softmax", "softmax"},
	{"epsilon", "epsilon-greedy"},
	{"turns", "round-robin and weighted round-robin"},
	{"confidence", "Thompson sampling and UCB"},
	{"load", "strategies that weigh load"},
}

func drawScenarios(t *testing.T, all map[string]results) {
	for i := range scenarios {
		s := &scenarios[i]
		trials := float64(s.length * *horizon)
		for _, family := range families {
			f := figure{
				file:  s.name + "-" + family.name,
				title: family.title + "\n" + s.title,
				x:     "trials", y: "average score", maxX: trials, minY: 0, maxY: 1,
			}
			place := make(map[string]int) // of a contender in its kind
			for _, c := range contenders {
				if c.family != family.name {
					continue
				}
				o := all[s.name][c.name]
				f.series = append(f.series, averageScore(c, place[c.kind], o))
				place[c.kind]++
			}
			drawFigure(t, f)
		}

		regret := figure{
			file: s.name + "-regret", title: "what each loses against the best host\n" + s.title,
			x: "trials", y: "cumulative regret (score)", maxX: trials,
			minY: 0, maxY: 1.05 * all[s.name]["round-robin"].totalRegret().mean(),
		}
		share := figure{
			file: s.name + "-best", title: "how often each picks " + s.best + "\n" + s.title,
			x: "trials", y: "share of picks (%)", maxX: trials, minY: 0, maxY: 102,
		}
		for _, c := range contenders {
			if !c.chief {
				continue
			}
			o := all[s.name][c.name]
			regret.series = append(regret.series, cumulativeRegret(c, o))
			share.series = append(share.series, bestShare(c, o))
		}
		drawFigure(t, regret)
		drawFigure(t, share)
	}
}

// thin calls add for each of at most figurePoints parts of n trials: those from first to before last.
func thin(n int, add func(first, last int)) {
	parts := min(n, figurePoints)
	for i := range parts {
		add(i*n/parts, (i+1)*n/parts)
	}
}

// averageScore shows means over several trials, and as band the mean of the trials' own bands, which is wider than
// that of the means.
func averageScore(c contender, place int, o *record) series {
	s := series{name: c.name, kind: c.kind, dash: place}
	thin(len(o.reward), func(first, last int) {
		n := float64(last - first)
		mean, band := 0.0, 0.0
		for i := first; i < last; i++ {
			mean += o.reward[i].mean() / n
			band += 1.96 * o.reward[i].deviation() / n
		}
		s.x = append(s.x, float64(first+last+1)/2)
		s.y = append(s.y, mean)
		s.low = append(s.low, max(0, mean-band))
		s.high = append(s.high, min(1, mean+band))
	})
	return s
}

func cumulativeRegret(c contender, o *record) series {
	s := series{name: c.name, kind: c.kind}
	thin(len(o.regret), func(_, last int) {
		r := &o.regret[last-1]
		s.x = append(s.x, float64(last))
		s.y = append(s.y, r.mean())
		s.low = append(s.low, r.mean()-1.96*r.deviation())
		s.high = append(s.high, r.mean()+1.96*r.deviation())
	})
	return s
}

func bestShare(c contender, o *record) series {
	s := series{name: c.name, kind: c.kind}
	thin(len(o.best), func(first, last int) {
		n := float64(last - first)
		mean := 0.0
		for i := first; i < last; i++ {
			mean += o.best[i].mean() / n
		}
		s.x = append(s.x, float64(first+last+1)/2)
		s.y = append(s.y, 100*mean)
	})
	return s
}

func drawQueue(t *testing.T, all queueResults) {
	tail := figure{
		file: "queueing-p99", title: "the latency that one request in a hundred exceeds\n20 unequal hosts, antagonists on eight",
		x: "load (% of what the hosts can serve)", y: "99th percentile of latency (ms)",
		logY: true, minY: 80, maxY: 2200, minX: 68, maxX: 97,
	}
	place := make(map[string]int)
	for _, c := range queueContenders() {
		s := series{name: c.name, kind: c.kind, dash: place[c.kind], points: true}
		place[c.kind]++
		for _, load := range queueLoads {
			s.x = append(s.x, 100*load)
			s.y = append(s.y, all[load][c.name].quantile(0.99))
		}
		tail.series = append(tail.series, s)
	}
	drawFigure(t, tail)

	for _, load := range queueLoads {
		f := figure{
			file:  fmt.Sprintf("queueing-latency-%.0f", 100*load),
			title: fmt.Sprintf("how many requests take longer, at %.0f %% load\n20 unequal hosts, antagonists on eight", 100*load),
			x:     "latency (ms)", y: "share of requests that take longer (%)",
			logX: true, logY: true, minX: 5, maxX: 2000, minY: 0.01, maxY: 100,
		}
		clear(place)
		for _, c := range queueContenders() {
			o := all[load][c.name]
			s := series{name: c.name, kind: c.kind, dash: place[c.kind]}
			place[c.kind]++
			left := o.count
			for bar, n := range o.bars {
				left -= n
				share, ms := 100*float64(left)/float64(o.count), o.edge(bar)
				if ms < f.minX || bar%4 != 0 && left > 0 {
					continue
				}
				if share < f.minY || ms >= f.maxX {
					s.x, s.y = append(s.x, ms), append(s.y, f.minY)
					break
				}
				s.x, s.y = append(s.x, ms), append(s.y, share)
			}
			f.series = append(f.series, s)
		}
		drawFigure(t, f)
	}
}
