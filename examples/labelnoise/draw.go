package main

import (
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/figure"
)

var (
	dashed = []vg.Length{vg.Points(5), vg.Points(3)}
	blue   = color.NRGBA{0x1f, 0x77, 0xb4, 0xff}
	pale   = color.NRGBA{0xa9, 0xcc, 0xe3, 0xff}
	red    = color.NRGBA{0xd6, 0x27, 0x28, 0xff}
	orange = color.NRGBA{0xe6, 0x8a, 0x00, 0xff}
	green  = color.NRGBA{0x2c, 0xa0, 0x2c, 0xff}
)

// A look is a line's. Those of the rivals are in their order: matched baselines are dashed.
type look struct {
	color  color.NRGBA
	dashes []vg.Length
}

var rivalLooks = []look{{blue, nil}, {blue, dashed}, {red, nil}, {orange, nil}, {orange, dashed}, {green, nil}}

// drawRivals draws the learning curves, and a bar chart of what the runs end with.
func drawRivals(cs []contender, prefix string) (files []string, err error) {
	panels := panelsOf(cs)
	testError, err := curvePanel(cs, errorPanel.title, func(e epoch) float64 { return 100 * e.testError })
	if err != nil {
		return nil, err
	}
	title, y := "Training loss", func(e epoch) float64 { return e.trainLoss }
	if len(panels) > 1 {
		title, y = memorizedPanel.title, func(e epoch) float64 { return 100 * e.memorized }
	}
	other, err := curvePanel(cs, title, y)
	if err != nil {
		return nil, err
	}
	other.Legend = plot.NewLegend() // that of the first panel will do
	curves, err := write(prefix+"-curves", testError, other)
	if err != nil {
		return nil, err
	}
	bars, err := drawPanels(prefix+"-bars", panels, func(p panel) (*plot.Plot, error) { return barPanel(cs, p) })
	return append(curves, bars...), err
}

// drawBeta0 draws what the runs of [beta0Sweep] end with against β0.
func drawBeta0(cs []contender, prefix string) (files []string, err error) {
	equal := cs[:len(beta0s)]
	matched := append(slices.Clone(cs[len(beta0s):]), equal[defaultBeta0])
	slices.SortFunc(matched, func(a, b contender) int { return cmp.Compare(beta0(a), beta0(b)) })

	return drawPanels(prefix, panelsOf(cs), func(p panel) (*plot.Plot, error) {
		chart := newPanel(p.title, "β0")
		m := p.measures[len(p.measures)-1]
		for _, line := range []struct {
			name       string
			contenders []contender
			color      color.NRGBA
		}{{"equal learning rates", equal, orange}, {"matched", matched, red}} {
			at := pointsOf(line.contenders, m)
			for i, c := range line.contenders {
				at.XYs[i].X = beta0(c)
			}
			err := cmp.Or(
				addErrorBars(chart, at, line.color),
				figure.AddLine(chart, m.name+", "+line.name, at, line.color))
			if err != nil {
				return nil, err
			}
		}
		chart.Y.Max += (chart.Y.Max - chart.Y.Min) / 4 // room for the legend
		return chart, nil
	})
}

func beta0(c contender) float64 { return c.rule.(pnm.PNM).Beta0 }

// drawPanels writes a figure with a plot for each panel.
func drawPanels(name string, panels []panel, plotOf func(panel) (*plot.Plot, error)) (files []string, err error) {
	plots := make([]*plot.Plot, len(panels))
	for i, p := range panels {
		if plots[i], err = plotOf(p); err != nil {
			return nil, err
		}
	}
	return write(name, plots...)
}

// write writes a figure in both formats.
func write(name string, plots ...*plot.Plot) (files []string, err error) {
	for _, format := range []string{".svg", ".png"} {
		if err := figure.Write(name+format, plots...); err != nil {
			return nil, err
		}
		files = append(files, name+format)
	}
	return files, nil
}

// newPanel returns a panel whose legend has room for many names, and for dashes.
func newPanel(title, x string) *plot.Plot {
	p := figure.Panel(title, x)
	p.Legend.TextStyle.Font.Size = vg.Points(10)
	p.Legend.Padding, p.Legend.YOffs = vg.Points(3), -vg.Points(4)
	p.Legend.ThumbnailWidth = vg.Points(30)
	return p
}

// curvePanel plots a number of each epoch for all contenders: the mean of the runs, in a band of a standard deviation to
// either side.
func curvePanel(cs []contender, title string, y func(epoch) float64) (*plot.Plot, error) {
	p := newPanel(title, "epoch")
	for i, c := range cs {
		epochs := len(c.runs[0].epochs)
		line, band := make(plotter.XYs, epochs), make(plotter.XYs, 2*epochs)
		for n := range epochs {
			values := make([]float64, len(c.runs))
			for k, r := range c.runs {
				values[k] = y(r.epochs[n])
			}
			mean, std := spread(values)
			x := float64(n + 1)
			line[n] = plotter.XY{X: x, Y: mean}
			band[n], band[2*epochs-1-n] = plotter.XY{X: x, Y: mean - std}, plotter.XY{X: x, Y: mean + std}
		}
		area, err := plotter.NewPolygon(band)
		if err != nil {
			return nil, err
		}
		l := rivalLooks[i]
		faint := l.color
		faint.A = 0x30
		area.Color, area.LineStyle.Width = faint, 0
		p.Add(area)
		if err := figure.AddLine(p, c.name, line, l.color, l.dashes...); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// barPanel plots bars with error bars and their values: a group for each contender, in it a bar for each measure.
func barPanel(cs []contender, from panel) (*plot.Plot, error) {
	const spacing = 0.4 // of the bars of a group, as a share of the groups' spacing
	p := newPanel(from.title, "")
	for i, m := range from.measures {
		at := pointsOf(cs, m)
		first := spacing * (float64(i) - float64(len(from.measures)-1)/2)
		heights, texts := make(plotter.Values, len(cs)), make([]string, len(cs))
		for k := range cs {
			at.XYs[k].X = first + float64(k)
			heights[k] = at.XYs[k].Y
			texts[k] = fmt.Sprintf("%.1f", heights[k])
		}
		bars, err := plotter.NewBarChart(heights, vg.Points(18))
		if err != nil {
			return nil, err
		}
		bars.XMin, bars.Color, bars.LineStyle.Width = first, []color.NRGBA{blue, pale}[i], 0
		p.Add(bars)
		if len(from.measures) > 1 {
			p.Legend.Add(m.name, bars)
		}
		if err := addErrorBars(p, at, color.Black); err != nil {
			return nil, err
		}
		above := slices.Clone(at.XYs)
		for k := range above {
			above[k].Y += at.YErrors[k].High
		}
		labels, err := plotter.NewLabels(plotter.XYLabels{XYs: above, Labels: texts})
		if err != nil {
			return nil, err
		}
		labels.Offset.Y = vg.Points(2)
		for k := range labels.TextStyle {
			labels.TextStyle[k].XAlign = draw.XCenter
			labels.TextStyle[k].Font.Size = vg.Points(7)
		}
		p.Add(labels)
	}
	names := make([]string, len(cs))
	for k, c := range cs {
		names[k] = strings.ReplaceAll(c.name, ", ", ",\n")
	}
	p.NominalX(names...)
	p.Y.Min, p.Y.Max = 0, 5*math.Ceil(1.25*p.Y.Max/5) // room for the legend, and round ticks
	return p, nil
}

// points are means with their standard deviations.
type points struct {
	plotter.XYs
	plotter.YErrors
}

func pointsOf(cs []contender, m measure) points {
	p := points{make(plotter.XYs, len(cs)), make(plotter.YErrors, len(cs))}
	for i, c := range cs {
		mean, std := spread(c.values(m))
		p.XYs[i].Y = mean
		p.YErrors[i].Low, p.YErrors[i].High = std, std
	}
	return p
}

func addErrorBars(p *plot.Plot, at points, c color.Color) error {
	bars, err := plotter.NewYErrorBars(at)
	if err != nil {
		return err
	}
	bars.Color = c
	bars.Width = vg.Points(1)
	p.Add(bars)
	return nil
}
