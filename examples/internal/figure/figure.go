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

	"github.com/posneg/pnm/examples/internal/stats"
)

// The colors and the dashes of the figures.
var (
	Blue   = color.NRGBA{0x1f, 0x77, 0xb4, 0xff}
	Pale   = color.NRGBA{0xa9, 0xcc, 0xe3, 0xff}
	Red    = color.NRGBA{0xd6, 0x27, 0x28, 0xff}
	Orange = color.NRGBA{0xe6, 0x8a, 0x00, 0xff}
	Green  = color.NRGBA{0x2c, 0xa0, 0x2c, 0xff}
	Dashed = []vg.Length{vg.Points(5), vg.Points(3)}
)

// Format returns the format of a file name: its extension, without the dot.
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

// WriteAll writes panels to two files, name.svg and name.png.
func WriteAll(name string, panels ...*plot.Plot) (files []string, err error) {
	for _, format := range []string{".svg", ".png"} {
		if err := Write(name+format, panels...); err != nil {
			return nil, err
		}
		files = append(files, name+format)
	}
	return files, nil
}

// WriteEach writes a panel for each item, as [WriteAll] does.
func WriteEach[T any](name string, items []T, panelOf func(T) (*plot.Plot, error)) (files []string, err error) {
	panels := make([]*plot.Plot, len(items))
	for i, item := range items {
		if panels[i], err = panelOf(item); err != nil {
			return nil, err
		}
	}
	return WriteAll(name, panels...)
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

// ManyLines returns an empty panel whose legend has room for many names, and for dashes.
func ManyLines(title, x string) *plot.Plot {
	p := Panel(title, x)
	p.Legend.TextStyle.Font.Size = vg.Points(10)
	p.Legend.Padding, p.Legend.YOffs = vg.Points(3), -vg.Points(4)
	p.Legend.ThumbnailWidth = vg.Points(30)
	return p
}

// Log makes an axis of a panel logarithmic.
func Log(a *plot.Axis) { a.Scale, a.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1} }

// AddGlyphs adds points that no line joins to a panel and, if they have a name, to its legend.
func AddGlyphs(p *plot.Plot, name string, points plotter.XYs, c color.Color, shape draw.GlyphDrawer) {
	glyphs := &plotter.Scatter{XYs: points, GlyphStyle: draw.GlyphStyle{Color: c, Shape: shape, Radius: vg.Points(3)}}
	p.Add(glyphs)
	if name != "" {
		p.Legend.Add(name, glyphs)
	}
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

// AddMean adds a number of each epoch to a panel: the mean of the runs, in a band of a standard deviation to either side.
func AddMean(p *plot.Plot, name string, runs [][]float64, c color.NRGBA, dashes ...vg.Length) error {
	epochs := len(runs[0])
	line, band := make(plotter.XYs, epochs), make(plotter.XYs, 2*epochs)
	for n := range epochs {
		values := make([]float64, len(runs))
		for k, r := range runs {
			values[k] = r[n]
		}
		mean, std := stats.Spread(values)
		x := float64(n + 1)
		line[n] = plotter.XY{X: x, Y: mean}
		band[n], band[2*epochs-1-n] = plotter.XY{X: x, Y: mean - std}, plotter.XY{X: x, Y: mean + std}
	}
	area, err := plotter.NewPolygon(band)
	if err != nil {
		return err
	}
	faint := c
	faint.A = 0x30
	area.Color, area.LineStyle.Width = faint, 0
	p.Add(area)
	return AddLine(p, name, line, c, dashes...)
}
