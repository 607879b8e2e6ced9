// Package figure draws the examples' figures: panels side by side in one file.
package figure

import (
	"bytes"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Format returns the format that a file name asks for: its ending.
func Format(file string) string { return strings.TrimPrefix(strings.ToLower(filepath.Ext(file)), ".") }

// Write writes panels to a file in the format of its name: png, svg or pdf.
func Write(file string, panels ...*plot.Plot) error {
	canvas, err := draw.NewFormattedCanvas(vg.Length(12*len(panels))*vg.Centimeter, 10*vg.Centimeter, Format(file))
	if err != nil {
		return err
	}
	tiles := draw.Tiles{Rows: 1, Cols: len(panels), PadX: vg.Centimeter, PadTop: vg.Millimeter * 3, PadBottom: vg.Millimeter * 3,
		PadLeft: vg.Millimeter * 3, PadRight: vg.Millimeter * 5}
	for i, tile := range plot.Align([][]*plot.Plot{panels}, tiles, draw.New(canvas))[0] {
		panels[i].Draw(tile)
	}
	var picture bytes.Buffer
	if _, err := canvas.WriteTo(&picture); err != nil {
		return err
	}
	return os.WriteFile(file, picture.Bytes(), 0o666)
}

// Panel returns an empty panel. Without a title, the x axis is for names: the grid has no lines there.
func Panel(title, x string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = x
	p.Legend.Top = true
	grid := plotter.NewGrid()
	if x == "" {
		grid.Vertical.Color = nil
	}
	p.Add(grid)
	return p
}

// AddLine adds points joined by a line to a panel and its legend.
func AddLine(p *plot.Plot, name string, points plotter.XYer, c color.Color, dashes ...vg.Length) error {
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, line.Width, line.Dashes = c, vg.Points(1.5), dashes
	dots.Color, dots.Shape, dots.Radius = c, draw.CircleGlyph{}, vg.Points(2)
	p.Add(line, dots)
	p.Legend.Add(name, line, dots)
	return nil
}
