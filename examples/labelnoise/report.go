package main

import (
	"fmt"
	"io"
	"math"

	"github.com/posneg/pnm/examples/internal/stats"
	"github.com/posneg/pnm/examples/internal/trials"
)

// A measure is a final result of a run, in percent.
type measure struct {
	name string
	of   func(trials.Result) float64
}

// A panel is a list of measures that are drawn together.
type panel struct {
	title    string
	measures []measure
}

var (
	errorPanel = panel{"Test error, %", []measure{
		{"best test error", func(r trials.Result) float64 { return 100 * r.Best() }},
		{"last test error", func(r trials.Result) float64 { return 100 * r.Last() }},
	}}
	memorizedPanel = panel{"Wrong labels memorized, %", []measure{
		{"memorized", func(r trials.Result) float64 { return 100 * memorized(r) }},
	}}
)

// panelsOf returns the panels of an experiment. Without wrong labels there is none for memorized labels.
func panelsOf(cs []contender) []panel {
	if math.IsNaN(memorized(cs[0].runs[0])) {
		return []panel{errorPanel}
	}
	return []panel{errorPanel, memorizedPanel}
}

func (c contender) values(m measure) []float64 {
	return trials.Values(c.runs, m.of)
}

// difference returns the mean of a − b and its standard error. It pairs runs with the same seed, which share their
// wrong labels, initial weights and order of images.
func difference(a, b contender, m measure) (mean, stderr float64) {
	return stats.Difference(a.values(m), b.values(m))
}

// report prints a table of the contenders and a table of their differences.
func (e *comparison) report(w io.Writer) {
	var ms []measure
	for _, p := range panelsOf(e.contenders) {
		ms = append(ms, p.measures...)
	}
	header := func(title, columns string) {
		fmt.Fprintf(w, "%s\n\n%s", title, columns)
		for _, m := range ms {
			fmt.Fprintf(w, "%18s", m.name)
		}
		fmt.Fprintln(w)
	}

	header(fmt.Sprintf("In %%, mean ± standard deviation of %d runs each. Best: the best epoch. Last: the mean of the last three epochs.\n"+
		"Memorized: the share of the wrong labels that the trained network reproduces.", len(e.contenders[0].runs)),
		fmt.Sprintf("%-28s%10s%14s", "", "LR", "weight decay"))
	for _, c := range e.contenders {
		fmt.Fprintf(w, "%-28s%10.4g%14.4g", c.name, c.lr, c.decay)
		for _, m := range ms {
			mean, std := stats.Spread(c.values(m))
			fmt.Fprintf(w, "%18s", stats.PlusMinus("%.2f", mean, std, len(c.runs)))
		}
		fmt.Fprintln(w)
	}

	header("\nDifferences between runs with the same seed, in points, mean ± standard error.", fmt.Sprintf("%-52s", ""))
	for _, p := range e.pairs {
		a, b := e.contenders[p[0]], e.contenders[p[1]]
		fmt.Fprintf(w, "%-52s", a.name+" − "+b.name)
		for _, m := range ms {
			mean, stderr := difference(a, b, m)
			fmt.Fprintf(w, "%18s", stats.PlusMinus("%+.2f", mean, stderr, len(a.runs)))
		}
		fmt.Fprintln(w)
	}
}

// writeCSV writes a line for each epoch of each run.
func (e *comparison) writeCSV(file string) error {
	record := trials.NewRecord("memorized", "optimizer", "lr", "weight_decay")
	for _, c := range e.contenders {
		record.Add(c.runs, c.name, trials.Number(c.lr), trials.Number(c.decay))
	}
	return record.Write(file)
}
