package main

import (
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/posneg/pnm/examples/internal/figure"
	"github.com/posneg/pnm/examples/internal/trials"
)

// drawAll draws the differences from float32 (one figure for the optimizers with all formats, one for the others) and the
// learning curves.
func drawAll(opts []optimizer, prefix string) (files []string, err error) {
	all := slices.IndexFunc(opts, func(o optimizer) bool { return len(o.formats) < len(formats) })
	for _, picture := range []struct {
		name  string
		opts  []optimizer
		panel func(optimizer) (*plot.Plot, error)
	}{
		{"-differences", opts[:all], differencePanel},
		{"-state", opts[all:], differencePanel},
		{"-curves", opts[:all], curvePanel},
	} {
		written, err := figure.WriteEach(prefix+picture.name, picture.opts, picture.panel)
		if err != nil {
			return nil, err
		}
		files = append(files, written...)
	}
	return files, nil
}

// points are differences, one above the other, with their standard errors.
type points struct {
	plotter.XYs
	plotter.XErrors
}

// differencePanel plots the differences from float32, the first format at the top.
func differencePanel(o optimizer) (*plot.Plot, error) {
	p := figure.Panel(o.name, "test error − that of float32, points")
	n := len(o.formats) - 1
	names := make([]string, n)
	for i, f := range o.formats[1:] {
		names[n-1-i] = f.name
	}
	p.NominalY(names...)
	zero, err := plotter.NewLine(plotter.XYs{{X: 0, Y: -0.5}, {X: 0, Y: float64(n) - 0.5}})
	if err != nil {
		return nil, err
	}
	p.Add(zero)
	p.Y.Max = float64(n) + 0.3 // room for the legend
	colors := []color.Color{figure.Blue, figure.Orange}
	for k, m := range measures {
		at := points{make(plotter.XYs, n), make(plotter.XErrors, n)}
		for i := range n {
			mean, stderr := o.difference(i+1, m)
			at.XYs[i] = plotter.XY{X: mean, Y: float64(n-1-i) + 0.12 - 0.24*float64(k)}
			at.XErrors[i].Low, at.XErrors[i].High = stderr, stderr
		}
		bars, err := plotter.NewXErrorBars(at)
		if err != nil {
			return nil, err
		}
		dots, err := plotter.NewScatter(at)
		if err != nil {
			return nil, err
		}
		bars.Color, bars.Width = colors[k], vg.Points(1)
		dots.GlyphStyle = draw.GlyphStyle{Color: colors[k], Radius: vg.Points(2.5), Shape: draw.CircleGlyph{}}
		p.Add(bars, dots)
		p.Legend.Add(m.name, dots)
	}
	return p, nil
}

// curvePanel plots the test error of each epoch for float32, and for bf16 parameters with each format of state. More curves
// would hide each other.
func curvePanel(o optimizer) (*plot.Plot, error) {
	p := figure.ManyLines(o.name+": test error, %", "epoch")
	colors := []color.NRGBA{figure.Blue, figure.Orange, figure.Red, figure.Green}
	for i, f := range o.formats {
		if i > 0 && f.params == f32 || f.state == mxfp8 {
			continue
		}
		errors := trials.Series(o.runs[i], func(e trials.Epoch) float64 { return 100 * e.TestError })
		if err := figure.AddMean(p, f.name, errors, colors[0]); err != nil {
			return nil, err
		}
		colors = colors[1:]
	}
	return p, nil
}
