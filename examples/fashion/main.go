// Fashion trains an image classifier on Fashion-MNIST with PNM and with AdaPNM, and draws the learning curves:
//
//	go run -C examples ./fashion
//
// It uses an embedded subset of the images; -data names a folder with the whole set. The same seed gives the same numbers on any
// number of cores. Other architectures may give other numbers, since gonum's matrix products and the exponential differ there;
// pnm's step does not.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// settings are shared by both runs.
type settings struct {
	epochs, batch, hidden int
	seed                  uint64
}

func main() {
	var s settings
	data := flag.String("data", "", "`folder` with the four IDX files of the whole set (default: the embedded subset)")
	out := flag.String("out", "fashion.png", "write the learning curves to this `file`: .png, .svg or .pdf")
	flag.IntVar(&s.epochs, "epochs", 15, "passes over the training images")
	flag.IntVar(&s.batch, "batch", 128, "images per step")
	flag.IntVar(&s.hidden, "hidden", 256, "units in the hidden layer")
	flag.Uint64Var(&s.seed, "seed", 1, "seed of the initial weights and the order of the images")
	pnmLR := flag.Float64("pnm-lr", 0.5, "learning rate of PNM")
	adapnmLR := flag.Float64("adapnm-lr", 1e-3, "learning rate of AdaPNM")
	flag.Parse()

	if err := run(s, *data, *out, *pnmLR, *adapnmLR); err != nil {
		fmt.Fprintln(os.Stderr, "fashion:", err)
		os.Exit(1)
	}
}

func run(s settings, data, out string, pnmLR, adapnmLR float64) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if min(s.epochs, s.batch, s.hidden) < 1 {
		return errors.New("-epochs, -batch and -hidden must be at least 1")
	}
	if err := checkFormat(out); err != nil {
		return err
	}
	train, test, err := fashionmnist.Load(data)
	if err != nil {
		return err
	}
	fmt.Printf("Fashion-MNIST: %d training and %d test images; network %d-%d-%d; %d epochs in batches of %d; seed %d\n",
		train.Len(), test.Len(), fashionmnist.Pixels, s.hidden, fashionmnist.Classes, s.epochs, s.batch, s.seed)

	// Weight decay as the authors use it: 5e-4, divided by the learning rate for the adaptive rule.
	positiveNegative := pnm.NewPNM(pnmLR)
	positiveNegative.WeightDecay = 5e-4
	adaptive := pnm.NewAdaPNM()
	adaptive.LR = adapnmLR
	adaptive.WeightDecay = 5e-4 / max(adapnmLR, 1e-12)
	withoutDecay := adaptive
	withoutDecay.WeightDecay = 0

	var curves []curve
	for _, o := range []optimizer{
		{"PNM", positiveNegative, pnm.NewPNM(pnmLR), pnmLR},
		{"AdaPNM", adaptive, withoutDecay, adapnmLR},
	} {
		c, err := trainWith(o, s, train, test, os.Stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		curves = append(curves, c)
	}

	fmt.Printf("\n%-8s %8s %12s %12s %12s %10s %18s\n", "", "LR", "train loss", "test error", "best epoch", "seconds", "seconds in pnm")
	for _, c := range curves {
		last, best := c.epochs[len(c.epochs)-1], c.best()
		fmt.Printf("%-8s %8g %12.4f %10.2f %% %10.2f %% %10.1f %18.1f\n", c.name, c.lr, last.trainLoss,
			100*last.testError, 100*best.testError, c.total.Seconds(), c.inStep.Seconds())
	}
	if err := drawCurves(curves, out); err != nil {
		return err
	}
	if path, err := filepath.Abs(out); err == nil {
		out = path
	}
	fmt.Println("\nLearning curves:", out)
	return nil
}

// An optimizer is a rule for the weights and one for the biases.
type optimizer struct {
	name            string
	weights, biases pnm.Rule
	lr              float64
}

// A curve is the result of one run.
type curve struct {
	optimizer
	epochs        []epoch
	total, inStep time.Duration
}

type epoch struct{ trainLoss, testError float64 }

// best returns the epoch with the smallest test error.
func (c curve) best() epoch {
	best := c.epochs[0]
	for _, e := range c.epochs {
		if e.testError < best.testError {
			best = e
		}
	}
	return best
}
