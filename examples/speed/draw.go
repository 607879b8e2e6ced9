package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
)

// Measures of the picture, in pixels, and its colors: those of text and lines can be read on a white and on a black ground.
const (
	pictureWidth = 800
	labelsWidth  = 240
	valuesWidth  = 60
	rowHeight    = 23
	barHeight    = 15
	ruleHeight   = 30
	topHeight    = 78

	textColor  = "#768390"
	ownColor   = "#2f81f7"
	otherColor = "#a5adb6"
	limitColor = "#d2691e"
)

// draw writes results as SVG: a row for each step, and in it a bar for each number of threads, with a line at the limit. A bar that is
// much longer than those of this module is broken off: else nobody could tell these apart.
func draw(w io.Writer, results []result) error {
	out := bufio.NewWriter(w)
	all := panels(results)
	rows := all[0]
	height := topHeight + len(rows)*rowHeight + 50
	for i := range rows {
		if i == 0 || rows[i].rule != rows[i-1].rule {
			height += ruleHeight
		}
	}
	room := float64(pictureWidth-labelsWidth) / float64(len(all))
	longest := longestWhole(results)
	scale := (room - valuesWidth) / longest

	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" `+
		`font-family="system-ui, sans-serif" font-size="14" fill="%[3]s">`+"\n", pictureWidth, height, textColor)
	text := func(x, y float64, attributes, format string, values ...any) {
		fmt.Fprintf(out, `<text x="%.1f" y="%.1f"%s>%s</text>`+"\n", x, y, attributes, html.EscapeString(fmt.Sprintf(format, values...)))
	}
	rect := func(x, y, width, height float64, color string) {
		fmt.Fprintf(out, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width, height, color)
	}
	broken := func(x, y, width float64) {
		rect(x, y, width-16, barHeight, otherColor)
		rect(x+width-12, y, 12, barHeight, otherColor)
	}
	const bold = ` font-weight="bold"`
	text(0, 16, bold+` font-size="16"`, "%s (shorter is faster)", heading)
	rect(0, 30, 2, 16, limitColor)
	text(10, 43, "", "%s", legend)
	if slowest(results) > longest {
		broken(pictureWidth-240, 31, 50)
		text(pictureWidth-180, 43, "", "longer than drawn")
	}
	for k, panel := range all {
		text(labelsWidth+float64(k)*room, topHeight-8, bold, "%s", workers(panel[0].threads))
	}
	y := float64(topHeight)
	for i := range rows {
		if i == 0 || rows[i].rule != rows[i-1].rule {
			y += ruleHeight
			text(0, y-9, bold, "%s", rows[i].rule)
		}
		text(labelsWidth-10, y+12.5, ` text-anchor="end"`, "%s", rows[i].label())
		for k, panel := range all {
			r, x := &panel[i], labelsWidth+float64(k)*room
			end := scale * min(r.ns, longest)
			if r.ns > longest {
				broken(x, y, end)
			} else {
				rect(x, y, end, barHeight, color(r.by))
			}
			if !math.IsNaN(r.limit) {
				rect(x+scale*r.limit-1, y-2, 2, barHeight+4, limitColor)
				end = max(end, scale*r.limit)
			}
			text(x+end+6, y+12.5, "", "%.2f", r.ns)
		}
		y += rowHeight
	}
	for i, line := range about(&results[0]) {
		text(0, y+22+float64(18*i), "", "%s", line)
	}
	fmt.Fprintln(out, "</svg>")
	return out.Flush()
}

func color(by string) string {
	if isTorch(by) {
		return otherColor
	}
	return ownColor
}

// longestWhole is the longest time whose bar is not broken off.
func longestWhole(results []result) float64 {
	own := slices.DeleteFunc(slices.Clone(results), func(r result) bool { return isTorch(r.by) })
	if len(own) == 0 {
		return slowest(results)
	}
	return min(slowest(results), 1.6*slowest(own))
}

func isTorch(by string) bool { return strings.HasPrefix(by, "torch") }
