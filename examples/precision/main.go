// Precision measures what mixed precision does to the test error of a network: it trains with AdaPNM and with PNM in several
// formats of parameters, gradients and state, with AdamW, Lion and AdaPNM without AMSGrad in several formats of state, and compares each
// with float32:
//
//	go run -C examples ./precision
//
// It trains on the subset of Fashion-MNIST that is embedded in it; -full takes the whole set, of which docs/precision.md has a
// part. Forward and backward are computed in float32, from parameters that were rounded as their format says. The same seeds
// give the same numbers on any number of cores. (Between architectures they may differ: gonum's products and the exponential
// do, pnm's step does not.)
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
	fmt.Printf("Fashion-MNIST: %d training images, %d test images; %s\n\n", images.Len(), tests.Len(), s.Describe())
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
