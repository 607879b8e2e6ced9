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
	"github.com/posneg/pnm/examples/internal/stats"
	"github.com/posneg/pnm/examples/internal/trials"
)

// rivalLooks are the lines of the rivals, in their order: matched baselines are dashed.
var rivalLooks = []struct {
	color  color.NRGBA
	dashes []vg.Length
}{
	{figure.Blue, nil}, {figure.Blue, figure.Dashed}, {figure.Red, nil},
	{figure.Orange, nil}, {figure.Orange, figure.Dashed}, {figure.Green, nil},
}

// drawRivals draws the learning curves, and a bar chart of the final results.
func drawRivals(cs []contender, prefix string) (files []string, err error) {
	panels := panelsOf(cs)
	testError, err := curvePanel(cs, errorPanel.title, func(e trials.Epoch) float64 { return 100 * e.TestError })
	if err != nil {
		return nil, err
	}
	title, y := "Training loss", func(e trials.Epoch) float64 { return e.TrainLoss }
	if len(panels) > 1 {
		title, y = memorizedPanel.title, func(e trials.Epoch) float64 { return 100 * e.Other }
	}
	other, err := curvePanel(cs, title, y)
	if err != nil {
		return nil, err
	}
	other.Legend = plot.NewLegend() // that of the first panel will do
	curves, err := figure.WriteAll(prefix+"-curves", testError, other)
	if err != nil {
		return nil, err
	}
	bars, err := figure.WriteEach(prefix+"-bars", panels, func(p panel) (*plot.Plot, error) { return barPanel(cs, p) })
	return append(curves, bars...), err
}

// drawBeta0 draws the final results of [beta0Sweep] against β0.
func drawBeta0(cs []contender, prefix string) (files []string, err error) {
	equal := cs[:len(beta0s)]
	matched := append(slices.Clone(cs[len(beta0s):]), equal[defaultBeta0])
	slices.SortFunc(matched, func(a, b contender) int { return cmp.Compare(beta0(a), beta0(b)) })

	return figure.WriteEach(prefix, panelsOf(cs), func(p panel) (*plot.Plot, error) {
		chart := figure.ManyLines(p.title, "β0")
		m := p.measures[len(p.measures)-1]
		for _, line := range []struct {
			name       string
			contenders []contender
			color      color.NRGBA
		}{{"equal learning rates", equal, figure.Orange}, {"matched", matched, figure.Red}} {
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

// curvePanel plots a number of each epoch for all contenders.
func curvePanel(cs []contender, title string, y func(trials.Epoch) float64) (*plot.Plot, error) {
	p := figure.ManyLines(title, "epoch")
	for i, c := range cs {
		if err := figure.AddMean(p, c.name, trials.Series(c.runs, y), rivalLooks[i].color, rivalLooks[i].dashes...); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// barPanel plots bars with error bars and their values: a group for each contender, in it a bar for each measure.
func barPanel(cs []contender, from panel) (*plot.Plot, error) {
	const spacing = 0.4 // of the bars of a group, as a share of the groups' spacing
	p := figure.ManyLines(from.title, "")
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
		bars.XMin, bars.Color, bars.LineStyle.Width = first, []color.NRGBA{figure.Blue, figure.Pale}[i], 0
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
		mean, std := stats.Spread(c.values(m))
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
