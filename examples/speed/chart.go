package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// chart prints a bar for each result, as wide as a terminal: the whole bar is the step, and a line across it is the limit.
func chart(w io.Writer, results []result, width int) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s; ┃ %s\n%s\n", heading, legend, strings.Join(about(&results[0]), "; "))
	names := 0
	for i := range results {
		names = max(names, utf8.RuneCountInString(results[i].label()))
	}
	const figures = len(" 00.00 ns, 000 % of the limit")
	length := max(10, width-names-figures-3)
	for _, panel := range panels(results) {
		fmt.Fprintf(out, "\n%s\n", workers(panel[0].threads))
		for i := range panel {
			r := &panel[i]
			if i == 0 || panel[i-1].rule != r.rule {
				fmt.Fprintf(out, "%s\n", r.rule)
			}
			fmt.Fprintf(out, "  %-*s %s %.2f ns%s\n", names, r.label(), bar(r, length, slowest(results)), r.ns, ofLimit(r, ", %.0f %% of the limit"))
		}
	}
	return out.Flush()
}

// bar is a result among others, the longest of which fills a length.
func bar(r *result, length int, longest float64) string {
	eighths := int(math.Round(8 * float64(length) * r.ns / longest))
	cells := []rune(strings.Repeat("█", eighths/8))
	if rest := eighths % 8; rest > 0 {
		cells = append(cells, []rune(" ▏▎▍▌▋▊▉")[rest])
	}
	if !math.IsNaN(r.limit) {
		at := min(int(float64(length)*r.limit/longest), length)
		for len(cells) <= at {
			cells = append(cells, ' ')
		}
		cells[at] = '┃'
	}
	return string(cells)
}

// ofLimit formats the part of the limit's speed that was reached, if that is known, in percent.
func ofLimit(r *result, format string) string {
	if math.IsNaN(r.ofLimit) {
		return ""
	}
	return fmt.Sprintf(format, 100*r.ofLimit)
}

// table prints the same in columns.
func table(w io.Writer, results []result) error {
	fmt.Fprintf(w, "%s\n%s\n\n", heading, strings.Join(about(&results[0]), "; "))
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "threads\trule\tstep\tbytes\tns\tGB/s\tof the limit\n")
	for i := range results {
		r := &results[i]
		fmt.Fprintf(out, "%d\t%s\t%s\t%.2f\t%.2f\t%.1f\t%s\n", r.threads, r.rule, r.label(), r.bytes, r.ns, r.bytes/r.ns, ofLimit(r, "%.0f %%"))
	}
	return out.Flush()
}
