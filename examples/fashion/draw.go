package main

import (
	"fmt"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"

	"github.com/posneg/pnm/examples/internal/figure"
)

var formats = []string{"png", "svg", "pdf"}

// checkFormat returns an error for a file name without the extension of a format, before any work is done.
func checkFormat(file string) error {
	if !slices.Contains(formats, figure.Format(file)) {
		return fmt.Errorf("-out %s: the name must end in .%s", file, strings.Join(formats, ", ."))
	}
	return nil
}

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
	return figure.Write(file, loss, errors)
}

// panel plots one number of each epoch, for all runs.
func panel(curves []curve, title string, y func(epoch) float64) (*plot.Plot, error) {
	p := figure.Panel(title, "epoch")
	for i, c := range curves {
		points := make(plotter.XYs, len(c.epochs))
		for n, e := range c.epochs {
			points[n] = plotter.XY{X: float64(n + 1), Y: y(e)}
		}
		if err := figure.AddLine(p, c.name, points, plotutil.Color(i)); err != nil {
			return nil, err
		}
	}
	p.Y.Min = 0
	return p, nil
}
