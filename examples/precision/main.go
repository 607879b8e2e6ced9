// Precision measures how mixed precision affects the test error of a network. It compares each format with float32: for AdaPNM and
// PNM formats of parameters, gradients and state, for AdamW, Lion and AdaPNM without AMSGrad formats of the state:
//
//	go run -C examples ./precision
//
// It trains on an embedded subset of Fashion-MNIST; -full trains on the whole set (docs/precision.md has the results of a part of
// it). Forward and backward passes run in float32, with parameters rounded to their format. The same seeds give the same numbers
// on any number of cores. Other architectures may give other numbers, since gonum's matrix products and the exponential differ
// there; pnm's step does not.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/posneg/pnm/examples/internal/trials"
)

func main() {
	s := trials.Settings{Batch: 128, Hidden: 256}
	var r rates
	flag.Float64Var(&r.adapnm, "adapnm-lr", defaults.adapnm, "learning rate of AdaPNM")
	flag.Float64Var(&r.pnm, "pnm-lr", defaults.pnm, "learning rate of PNM")
	flag.Float64Var(&r.adamw, "adamw-lr", defaults.adamw, "learning rate of AdamW")
	flag.Float64Var(&r.lion, "lion-lr", defaults.lion, "learning rate of Lion")
	s.Parse("precision", "the initial weights, the order of the images and stochastic rounding",
		trials.Size{Epochs: 8, Seeds: 3}, trials.Size{Epochs: 10, Seeds: 5})
	if err := run(optimizers(r), s); err != nil {
		fmt.Fprintln(os.Stderr, "precision:", err)
		os.Exit(1)
	}
}

func run(opts []optimizer, s trials.Settings) error {
	images, tests, err := s.Load()
	if err != nil {
		return err
	}
	fmt.Printf("Fashion-MNIST: %d training images, %d test images; batches of %d; %s\n\n", images.Len(), tests.Len(), s.Batch, s.Describe())
	if err := train(opts, s, images, tests, runtime.GOMAXPROCS(0), os.Stderr); err != nil {
		return err
	}
	report(os.Stdout, opts)
	if err := writeCSV(s.Out+".csv", opts); err != nil {
		return err
	}
	files, err := drawAll(opts, s.Out)
	if err != nil {
		return err
	}
	fmt.Printf("\nWritten: %s.csv, %s\n", s.Out, strings.Join(files, ", "))
	return nil
}
