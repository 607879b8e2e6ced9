// Labelnoise measures how PNM and AdaPNM generalize, beside SGD with momentum and AdamW, when training labels are wrong:
//
//	go run -C examples ./labelnoise             # 40 % of the labels are wrong
//	go run -C examples ./labelnoise -noise 0    # none is
//	go run -C examples ./labelnoise -beta0      # PNM with other values of β0
//
// It trains on the subset of Fashion-MNIST that is embedded in it; -full is the experiment of docs/generalization.md, on
// the whole set. The same seeds give the same numbers on any number of cores. (Between architectures they may differ:
// gonum's products and the exponential do, pnm's step does not.)
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/posneg/pnm/examples/internal/fashionmnist"
)

// settings are what all runs have in common.
type settings struct {
	images                       int     // of the training set, 0 for all
	noise                        float64 // share of the training labels that are wrong
	raw                          bool    // pixels from 0 to 1
	epochs, batch, hidden, seeds int
	seed                         uint64 // the first one
}

func main() {
	s := settings{batch: 128, hidden: 256}
	flag.Float64Var(&s.noise, "noise", 0.4, "`share` of the training labels that are replaced by another")
	full := flag.Bool("full", false, "train on the whole set, of which Debian's package dataset-fashion-mnist is the default -data")
	data := flag.String("data", "", "`folder` with the four IDX files of the whole set (default: the embedded subset)")
	flag.IntVar(&s.images, "images", 0, "train on the first `n` images only (default all)")
	flag.BoolVar(&s.raw, "raw", false, "leave the pixels between 0 and 1 instead of standardizing them")
	flag.IntVar(&s.epochs, "epochs", 0, "passes over the training images (default 30, 20 with -full)")
	flag.IntVar(&s.seeds, "seeds", 0, "runs of each optimizer, with consecutive seeds (default 3, 5 with -full)")
	flag.Uint64Var(&s.seed, "seed", 1, "the first seed: of the wrong labels, the initial weights and the order of the images")
	pnmLR := flag.Float64("pnm-lr", 1, "learning rate of PNM, from which SGD's follow")
	adapnmLR := flag.Float64("adapnm-lr", 1e-3, "learning rate of AdaPNM, from which AdamW's follow")
	sweep := flag.Bool("beta0", false, "train with PNM only, at several values of β0")
	out := flag.String("out", "labelnoise", "`prefix` of the files to write: .csv, and the figures as .svg and .png")
	flag.Parse()

	epochs, seeds := 30, 3
	if *full {
		epochs, seeds = 20, 5
		*data = cmp.Or(*data, "/usr/share/datasets/fashion-mnist")
	}
	s.epochs, s.seeds = cmp.Or(s.epochs, epochs), cmp.Or(s.seeds, seeds)

	e := rivals(*pnmLR, *adapnmLR)
	if *sweep {
		e = beta0Sweep(*pnmLR)
	}
	if err := run(e, s, *data, *out); err != nil {
		fmt.Fprintln(os.Stderr, "labelnoise:", err)
		os.Exit(1)
	}
}

func run(e experiment, s settings, data, out string) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if !(s.noise >= 0 && s.noise < 1) {
		return fmt.Errorf("-noise is %g, must be in [0, 1)", s.noise)
	}
	if min(s.epochs, s.seeds) < 1 {
		return errors.New("-epochs and -seeds must be at least 1")
	}
	if info, err := os.Stat(filepath.Dir(out)); err != nil || !info.IsDir() { // before the work and not after it
		return fmt.Errorf("-out %s: there is no folder %s", out, filepath.Dir(out))
	}
	train, test, err := fashionmnist.Load(data)
	if err != nil {
		return err
	}
	if s.images < 0 || s.images > train.Len() {
		return fmt.Errorf("-images is %d, must be in [0, %d]", s.images, train.Len())
	}
	if s.images > 0 {
		train = train.Head(s.images)
	}
	if !s.raw {
		standardize(train, test)
	}
	fmt.Printf("Fashion-MNIST: %d training images with %g %% wrong labels, %d test images; network %d-%d-%d; "+
		"%d epochs in batches of %d; %d seeds from %d\n\n", train.Len(), 100*s.noise, test.Len(),
		fashionmnist.Pixels, s.hidden, fashionmnist.Classes, s.epochs, s.batch, s.seeds, s.seed)

	if err := e.train(s, train, test, runtime.GOMAXPROCS(0), os.Stderr); err != nil {
		return err
	}
	e.report(os.Stdout)
	if err := writeCSV(out+".csv", e.contenders); err != nil {
		return err
	}
	files, err := e.draw(e.contenders, out)
	if err != nil {
		return err
	}
	fmt.Printf("\nWritten: %s.csv, %s\n", out, strings.Join(files, ", "))
	return nil
}
