package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

var formats = []string{"png", "svg", "pdf"}

// checkFormat reports a file name whose ending is none of the formats, before the work and not after it.
func checkFormat(file string) error {
	if !slices.Contains(formats, format(file)) {
		return fmt.Errorf("-out %s: the name must end in .%s", file, strings.Join(formats, ", ."))
	}
	return nil
}

func format(file string) string { return strings.TrimPrefix(strings.ToLower(filepath.Ext(file)), ".") }

// drawCurves writes the learning curves to a file: the training loss on the left, the test error on the right.
func drawCurves(curves []curve, file string) error {
	loss, err := panel(curves, "Training loss", func(e epoch) float64 { return e.trainLoss })
	if err != nil {
		return err
	}
	errors, err := panel(curves, "Test error, %", func(e epoch) float64 { return 100 * e.testError })
	if err != nil {
		return err
	}
	canvas, err := draw.NewFormattedCanvas(24*vg.Centimeter, 10*vg.Centimeter, format(file))
	if err != nil {
		return err
	}
	tiles := draw.Tiles{Rows: 1, Cols: 2, PadX: vg.Centimeter, PadTop: vg.Millimeter * 3, PadBottom: vg.Millimeter * 3,
		PadLeft: vg.Millimeter * 3, PadRight: vg.Millimeter * 5}
	for i, row := range plot.Align([][]*plot.Plot{{loss, errors}}, tiles, draw.New(canvas))[0] {
		[]*plot.Plot{loss, errors}[i].Draw(row)
	}
	var picture bytes.Buffer
	if _, err := canvas.WriteTo(&picture); err != nil {
		return err
	}
	return os.WriteFile(file, picture.Bytes(), 0o666)
}

// panel plots one number of each epoch, for all runs.
func panel(curves []curve, title string, y func(epoch) float64) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = "epoch"
	p.Y.Min = 0
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	for i, c := range curves {
		points := make(plotter.XYs, len(c.epochs))
		for n, e := range c.epochs {
			points[n] = plotter.XY{X: float64(n + 1), Y: y(e)}
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(1.5)
		dots.Color, dots.Shape, dots.Radius = plotutil.Color(i), draw.CircleGlyph{}, vg.Points(2)
		p.Add(line, dots)
		p.Legend.Add(c.name, line, dots)
	}
	p.Y.Min = 0
	return p, nil
}
