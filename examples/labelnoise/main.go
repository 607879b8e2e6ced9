// Labelnoise trains on wrong labels, and compares how PNM, AdaPNM, SGD with momentum and AdamW generalize:
//
//	go run -C examples ./labelnoise                      # 40 % of the labels are wrong
//	go run -C examples ./labelnoise -noise 0             # no label is wrong
//	go run -C examples ./labelnoise -experiment beta0    # PNM with other values of β0
//	go run -C examples ./labelnoise -experiment scale    # the gradient noise: of all minibatches, and what PNM's momenta tell
//	go run -C examples ./labelnoise -experiment spread   # what β0 does to the noise that reaches the parameters
//	go run -C examples ./labelnoise -experiment gain     # whether the noise tells where PNM gains over SGD
//
// It trains on an embedded subset of Fashion-MNIST; -full repeats the experiment of docs/generalization.md, on the whole set.
// The same seeds give the same numbers on any number of cores. Other architectures may give other numbers, since gonum's
// matrix products and the exponential differ there; pnm's step does not.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// settings are shared by all runs.
type settings struct {
	trials.Settings
	noise float64 // share of the training labels that are wrong
}

// An experiment trains networks, and shows what it has measured.
type experiment interface {
	about(s settings) string // labels and minibatches
	train(s settings, train, test fashionmnist.Set, workers int, w *os.File) error
	report(w io.Writer)
	writeCSV(file string) error
	draw(prefix string) (files []string, err error)
}

func main() {
	s := settings{Settings: trials.Settings{Batch: 128, Hidden: 256}}
	flag.Float64Var(&s.noise, "noise", 0.4, "`share` of the training labels that are replaced with wrong ones; gain has its own shares")
	pnmLR := flag.Float64("pnm-lr", 1, "learning rate of PNM; those of SGD are derived from it")
	adapnmLR := flag.Float64("adapnm-lr", 1e-3, "learning rate of AdaPNM; those of AdamW are derived from it")
	name := flag.String("experiment", "rivals", "`name` of the experiment: rivals, beta0, scale, spread or gain")
	s.Parse("labelnoise", "the wrong labels, the initial weights and the order of the images",
		trials.Size{Epochs: 30, Seeds: 3}, trials.Size{Epochs: 20, Seeds: 5})

	e, err := newExperiment(*name, *pnmLR, *adapnmLR)
	if err == nil {
		err = run(e, s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "labelnoise:", err)
		os.Exit(1)
	}
}

func newExperiment(name string, pnmLR, adapnmLR float64) (experiment, error) {
	switch name {
	case "rivals":
		return rivals(pnmLR, adapnmLR), nil
	case "beta0":
		return beta0Sweep(pnmLR), nil
	case "scale":
		return newScaleCheck(pnmLR), nil
	case "spread":
		return newSpreading(pnmLR), nil
	case "gain":
		return newGains(pnmLR), nil
	}
	return nil, fmt.Errorf("-experiment is %q, must be rivals, beta0, scale, spread or gain", name)
}

func run(e experiment, s settings) error {
	if !(s.noise >= 0 && s.noise < 1) {
		return fmt.Errorf("-noise is %g, must be in [0, 1)", s.noise)
	}
	train, test, err := s.Load()
	if err != nil {
		return err
	}
	fmt.Printf("Fashion-MNIST: %d training images, %d test images; %s; %s\n\n", train.Len(), test.Len(), e.about(s), s.Describe())

	if err := e.train(s, train, test, runtime.GOMAXPROCS(0), os.Stderr); err != nil {
		return err
	}
	e.report(os.Stdout)
	if err := e.writeCSV(s.Out + ".csv"); err != nil {
		return err
	}
	files, err := e.draw(s.Out)
	if err != nil {
		return err
	}
	fmt.Printf("\nWritten: %s.csv, %s\n", s.Out, strings.Join(files, ", "))
	return nil
}

// describe describes labels and minibatches that are the same in all runs.
func (s settings) describe() string {
	return fmt.Sprintf("%g %% wrong labels, batches of %d", 100*s.noise, s.Batch)
}
