package trials

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// A Result is the result of one run.
type Result struct {
	Seed   uint64
	Epochs []Epoch
}

// An Epoch has the results of one epoch. Other is a measure of the experiment's own.
type Epoch struct{ TrainLoss, TestError, Other float64 }

// Best is the test error of the best epoch, as PNM's authors report it.
func (r Result) Best() float64 {
	best := r.Epochs[0].TestError
	for _, e := range r.Epochs {
		best = min(best, e.TestError)
	}
	return best
}

// Last is the test error of the last three epochs, on average.
func (r Result) Last() float64 {
	tail := r.Epochs[max(0, len(r.Epochs)-3):]
	sum := 0.0
	for _, e := range tail {
		sum += e.TestError
	}
	return sum / float64(len(tail))
}

func (r Result) String() string { return fmt.Sprintf("test error %.2f %%", 100*r.Last()) }

// End is the last epoch.
func (r Result) End() Epoch { return r.Epochs[len(r.Epochs)-1] }

// Values returns one number per run.
func Values[R any](runs []R, of func(R) float64) []float64 {
	x := make([]float64, len(runs))
	for i, r := range runs {
		x[i] = of(r)
	}
	return x
}

// Series returns one number per epoch of each run.
func Series(runs []Result, of func(Epoch) float64) [][]float64 {
	x := make([][]float64, len(runs))
	for i, r := range runs {
		for _, e := range r.Epochs {
			x[i] = append(x[i], of(e))
		}
	}
	return x
}

// A Record collects the lines of a CSV file, one per epoch of each run.
type Record struct{ lines [][]string }

// NewRecord returns an empty record. Fields are the columns that identify a contender; other is the column of [Epoch]'s Other.
func NewRecord(other string, fields ...string) *Record {
	return &Record{[][]string{slices.Concat(fields, []string{"seed", "epoch", "train_loss", "test_error", other})}}
}

// Add adds the runs of a contender, with its values of the fields.
func (c *Record) Add(runs []Result, fields ...string) {
	for _, r := range runs {
		for n, e := range r.Epochs {
			c.lines = append(c.lines, slices.Concat(fields, []string{strconv.FormatUint(r.Seed, 10), strconv.Itoa(n + 1),
				Number(e.TrainLoss), Number(e.TestError), Number(e.Other)}))
		}
	}
}

// Number formats a number as records do.
func Number(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }

// Numbers formats numbers as [Number] does.
func Numbers(xs ...float64) (texts []string) {
	for _, x := range xs {
		texts = append(texts, Number(x))
	}
	return texts
}

// Write writes the file.
func (c *Record) Write(file string) error { return WriteCSV(file, c.lines) }

// WriteCSV writes a CSV file.
func WriteCSV(file string, lines [][]string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(csv.NewWriter(f).WriteAll(lines), f.Close())
}
