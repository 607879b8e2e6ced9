package main

import (
	"fmt"
	"io"
	"math"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/posneg/pnm/examples/internal/stats"
	"github.com/posneg/pnm/examples/internal/trials"
)

// A measure is a test error of a finished run, in percent.
type measure struct {
	name string
	of   func(trials.Result) float64
}

var measures = []measure{
	{"last", func(r trials.Result) float64 { return 100 * r.Last() }},
	{"best", func(r trials.Result) float64 { return 100 * r.Best() }},
}

// difference returns the mean of a format's test error minus that of float32, and its standard error. It pairs runs with
// the same seed, which share their initial weights and order of images.
func (o optimizer) difference(format int, m measure) (mean, stderr float64) {
	return stats.Difference(trials.Values(o.runs[format], m.of), trials.Values(o.runs[0], m.of))
}

// skipped returns the mean number of skipped steps of a format's runs.
func (o optimizer) skipped(format int) float64 {
	mean, _ := stats.Spread(trials.Values(o.runs[format], func(r trials.Result) float64 { return r.End().Other }))
	return mean
}

// report prints a table for each optimizer.
func report(w io.Writer, opts []optimizer) {
	seeds := len(opts[0].runs[0])
	fmt.Fprintf(w, "Test error in %%, mean ± standard deviation of %d runs each. Last: the mean of the last three epochs. Best: the best epoch.\n"+
		"− float32: the difference between runs with the same seed, in points, mean ± standard error. Memory: the bytes of\n"+
		"parameters, gradients and state per parameter. Moved: the bytes of these that a step reads and writes per parameter.\n", seeds)
	beyond, differences := 0, 0
	for _, o := range opts {
		fmt.Fprintf(w, "\n%-50s%8s%8s", fmt.Sprintf("%s, LR %.4g, decay %.4g", o.name, o.lr, shrink/o.lr), "memory", "moved")
		for _, m := range measures {
			fmt.Fprintf(w, "%16s%18s", m.name, "− float32")
		}
		fmt.Fprintf(w, "%15s\n", "steps skipped")
		for i, f := range o.formats {
			momenta, averages := o.buffers()
			fmt.Fprintf(w, "%-50s%8.4g%8.4g", f.name, f.memory(momenta, averages), f.traffic(momenta, averages))
			for _, m := range measures {
				mean, std := stats.Spread(trials.Values(o.runs[i], m.of))
				difference := ""
				if i > 0 {
					d, stderr := o.difference(i, m)
					difference = stats.PlusMinus("%+.2f", d, stderr, seeds)
					differences++
					if math.Abs(d) > (1+1e-9)*stderr && seeds > 1 { // of two differences, 0 and another, these are equal
						difference += " *"
						beyond++
					} else {
						difference += "  "
					}
				}
				fmt.Fprintf(w, "%16s%18s", stats.PlusMinus("%.2f", mean, std, seeds), difference)
			}
			fmt.Fprintf(w, "%15.4g\n", o.skipped(i))
		}
	}
	if seeds > 1 {
		fmt.Fprintf(w, "\n* larger than its standard error: %d of %d differences. By chance alone, %.0f %% would be.\n",
			beyond, differences, 100*beyondByChance(seeds))
	}
}

// beyondByChance returns the probability that the mean of this many numbers, drawn from a normal distribution around 0, is farther
// from 0 than its standard error.
func beyondByChance(numbers int) float64 {
	return 2 * distuv.StudentsT{Sigma: 1, Nu: float64(numbers - 1)}.CDF(-1)
}

// writeCSV writes a line for each epoch of each run.
func writeCSV(file string, opts []optimizer) error {
	record := trials.NewRecord("skipped", "optimizer", "format")
	for _, o := range opts {
		for i, f := range o.formats {
			record.Add(o.runs[i], o.name, f.name)
		}
	}
	return record.Write(file)
}
