// Labelnoise trains on wrong labels, and compares how PNM, AdaPNM, SGD with momentum and AdamW generalize:
//
//	go run -C examples ./labelnoise             # 40 % of the labels are wrong
//	go run -C examples ./labelnoise -noise 0    # no label is wrong
//	go run -C examples ./labelnoise -beta0      # PNM with other values of β0
//
// It trains on an embedded subset of Fashion-MNIST; -full repeats the experiment of docs/generalization.md, on the whole set.
// The same seeds give the same numbers on any number of cores. Other architectures may give other numbers, since gonum's
// matrix products and the exponential differ there; pnm's step does not.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/posneg/pnm/examples/internal/trials"
)

// settings are shared by all runs.
type settings struct {
	trials.Settings
	noise float64 // share of the training labels that are wrong
}

func main() {
	s := settings{Settings: trials.Settings{Batch: 128, Hidden: 256}}
	flag.Float64Var(&s.noise, "noise", 0.4, "`share` of the training labels that are replaced with wrong ones")
	pnmLR := flag.Float64("pnm-lr", 1, "learning rate of PNM; those of SGD are derived from it")
	adapnmLR := flag.Float64("adapnm-lr", 1e-3, "learning rate of AdaPNM; those of AdamW are derived from it")
	sweep := flag.Bool("beta0", false, "train with PNM only, at several values of β0")
	s.Parse("labelnoise", "the wrong labels, the initial weights and the order of the images",
		trials.Size{Epochs: 30, Seeds: 3}, trials.Size{Epochs: 20, Seeds: 5})

	e := rivals(*pnmLR, *adapnmLR)
	if *sweep {
		e = beta0Sweep(*pnmLR)
	}
	if err := run(e, s); err != nil {
		fmt.Fprintln(os.Stderr, "labelnoise:", err)
		os.Exit(1)
	}
}

func run(e experiment, s settings) error {
	if !(s.noise >= 0 && s.noise < 1) {
		return fmt.Errorf("-noise is %g, must be in [0, 1)", s.noise)
	}
	train, test, err := s.Load()
	if err != nil {
		return err
	}
	fmt.Printf("Fashion-MNIST: %d training images with %g %% wrong labels, %d test images; %s\n\n",
		train.Len(), 100*s.noise, test.Len(), s.Describe())

	if err := e.train(s, train, test, runtime.GOMAXPROCS(0), os.Stderr); err != nil {
		return err
	}
	e.report(os.Stdout)
	if err := writeCSV(s.Out+".csv", e.contenders); err != nil {
		return err
	}
	files, err := e.draw(e.contenders, s.Out)
	if err != nil {
		return err
	}
	fmt.Printf("\nWritten: %s.csv, %s\n", s.Out, strings.Join(files, ", "))
	return nil
}
