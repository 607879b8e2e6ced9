package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"
)

// A measure is a number that a run ends with, in percent.
type measure struct {
	name string
	of   func(result) float64
}

// A panel is a list of measures that are drawn together.
type panel struct {
	title    string
	measures []measure
}

var (
	errorPanel = panel{"Test error, %", []measure{
		{"best test error", func(r result) float64 { return 100 * r.best() }},
		{"last test error", func(r result) float64 { return 100 * r.last() }},
	}}
	memorizedPanel = panel{"Wrong labels memorized, %", []measure{
		{"memorized", func(r result) float64 { return 100 * r.memorized() }},
	}}
)

// panelsOf returns what was measured: without wrong labels none is memorized.
func panelsOf(cs []contender) []panel {
	if math.IsNaN(cs[0].runs[0].memorized()) {
		return []panel{errorPanel}
	}
	return []panel{errorPanel, memorizedPanel}
}

// spread returns mean and standard deviation, which is 0 for one number.
func spread(x []float64) (mean, std float64) {
	if len(x) == 1 {
		return x[0], 0
	}
	return stat.MeanStdDev(x, nil)
}

func (c contender) values(m measure) []float64 {
	x := make([]float64, len(c.runs))
	for i, r := range c.runs {
		x[i] = m.of(r)
	}
	return x
}

// difference returns the mean of a − b and its standard error. It pairs the runs with the same seed, which have their wrong
// labels, first weights and order of images in common.
func difference(a, b contender, m measure) (mean, stderr float64) {
	x, y := a.values(m), b.values(m)
	floats.Sub(x, y)
	mean, std := spread(x)
	return mean, stat.StdErr(std, float64(len(x)))
}

// report prints a table of the contenders and one of their differences.
func (e experiment) report(w io.Writer) {
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

	header(fmt.Sprintf("%%, mean ± standard deviation; runs of each: %d. Best is the best epoch, last the mean of the last three;\n"+
		"memorized is the share of the wrong labels that the network gives in the end.", len(e.contenders[0].runs)),
		fmt.Sprintf("%-28s%10s%14s", "", "LR", "weight decay"))
	for _, c := range e.contenders {
		fmt.Fprintf(w, "%-28s%10.4g%14.4g", c.name, c.lr, c.decay)
		for _, m := range ms {
			mean, std := spread(c.values(m))
			fmt.Fprintf(w, "%18s", plusMinus("%.2f", mean, std, len(c.runs)))
		}
		fmt.Fprintln(w)
	}

	header("\nDifferences between runs with the same seed, in points, mean ± standard error.", fmt.Sprintf("%-52s", ""))
	for _, p := range e.pairs {
		a, b := e.contenders[p[0]], e.contenders[p[1]]
		fmt.Fprintf(w, "%-52s", a.name+" − "+b.name)
		for _, m := range ms {
			mean, stderr := difference(a, b, m)
			fmt.Fprintf(w, "%18s", plusMinus("%+.2f", mean, stderr, len(a.runs)))
		}
		fmt.Fprintln(w)
	}
}

// plusMinus formats a mean; one number says nothing of an error.
func plusMinus(format string, mean, err float64, numbers int) string {
	if numbers == 1 {
		return fmt.Sprintf(format, mean)
	}
	return fmt.Sprintf(format+" ± %.2f", mean, err)
}

// writeCSV writes a line for each epoch of each run.
func writeCSV(file string, cs []contender) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := csv.NewWriter(f)
	w.Write([]string{"optimizer", "lr", "weight_decay", "seed", "epoch", "train_loss", "test_error", "memorized"})
	number := func(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
	for _, c := range cs {
		for _, r := range c.runs {
			for n, e := range r.epochs {
				w.Write([]string{c.name, number(c.lr), number(c.decay), strconv.FormatUint(r.seed, 10), strconv.Itoa(n + 1),
					number(e.trainLoss), number(e.testError), number(e.memorized)})
			}
		}
	}
	w.Flush()
	return errors.Join(w.Error(), f.Close())
}
