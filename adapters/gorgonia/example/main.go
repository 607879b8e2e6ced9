// Example trains a small convolutional network with Gorgonia on Fashion-MNIST, with pnm's AdaPNM and with Gorgonia's own Adam:
//
//	go run -C adapters/gorgonia/example .
//
// This takes half a minute to a minute on an idle core. The network is small because Gorgonia's convolutions are slow on a CPU.
// -save saves AdaPNM's run after each epoch, and -resume continues it. The same seed gives the same numbers, whether the run was
// interrupted or not.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"gorgonia.org/gorgonia"

	"github.com/posneg/pnm"
	pnmgorgonia "github.com/posneg/pnm/adapters/gorgonia"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

type settings struct {
	epochs, batch      int
	images, testImages int
	seed               uint64
	lr, adapnmLR       float64
	save, resume       string // checkpoints, "" for none
}

func main() {
	var s settings
	flag.IntVar(&s.epochs, "epochs", 6, "passes over the training images, including those of the resumed run")
	flag.IntVar(&s.batch, "batch", 50, "images per step")
	flag.IntVar(&s.images, "images", 6000, "training images, at most 6000")
	flag.IntVar(&s.testImages, "test-images", 2000, "test images, at most 2000")
	flag.Uint64Var(&s.seed, "seed", 1, "seed of the initial weights and the order of the images")
	flag.Float64Var(&s.lr, "lr", 1e-3, "learning rate of Adam")
	flag.Float64Var(&s.adapnmLR, "adapnm-lr", 2e-3, "learning rate of AdaPNM; at equal rates, its steps are 1/√5 times as long as Adam's")
	flag.StringVar(&s.save, "save", "", "write a checkpoint of AdaPNM's run to this `file` after each epoch")
	flag.StringVar(&s.resume, "resume", "", "continue AdaPNM's run from this `file`; Adam does not run, since Gorgonia's Adam cannot be saved")
	flag.Parse()
	if err := run(s, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

func run(s settings, progress *os.File) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	train, test, err := fashionmnist.Load("")
	if err != nil {
		return err
	}
	if s.epochs < 1 || s.batch < 1 || s.images < s.batch || s.images > train.Len() {
		return fmt.Errorf("-epochs is %d and -batch %d, both must be at least 1; -images is %d, must be from -batch to %d",
			s.epochs, s.batch, s.images, train.Len())
	}
	if s.testImages < 1 || s.testImages > test.Len() {
		return fmt.Errorf("-test-images is %d, must be from 1 to %d", s.testImages, test.Len())
	}
	const largest = 0.1 // Gorgonia's max-pooling panics where a network that diverges has NaN
	if !(0 <= s.lr && s.lr <= largest) || !(0 <= s.adapnmLR && s.adapnmLR <= largest) {
		return fmt.Errorf("-lr is %g and -adapnm-lr %g, both must be in [0, %g]", s.lr, s.adapnmLR, largest)
	}
	train, test = train.Head(s.images), test.Head(s.testImages)
	fashionmnist.Standardize(train, test)
	fmt.Printf("Fashion-MNIST: %d training and %d test images; two convolutions and two dense layers; %d epochs in batches of %d; seed %d\n",
		train.Len(), test.Len(), s.epochs, s.batch, s.seed)

	ours, err := newTrainer("AdaPNM by pnm", s, train, test)
	if err != nil {
		return err
	}
	defer ours.close()
	rule := pnm.NewAdaPNM()
	rule.LR = s.adapnmLR
	solver, err := pnmgorgonia.NewSolver(rule, ours.model)
	if err != nil {
		return err
	}
	defer solver.Close()
	ours.solver = solver
	if s.resume != "" {
		if ours.epoch, err = resume(solver, s); err != nil {
			return fmt.Errorf("-resume: %w", err)
		}
	}
	saveOurs := func() error {
		if s.save == "" {
			return nil
		}
		return save(solver, s, ours.epoch)
	}
	if err := saveOurs(); err != nil { // better before the work than after it
		return fmt.Errorf("-save: %w", err)
	}
	if err := ours.run(progress, saveOurs); err != nil {
		return err
	}
	trainers := []*trainer{ours}

	if s.resume == "" {
		theirs, err := newTrainer("Adam by Gorgonia", s, train, test)
		if err != nil {
			return err
		}
		defer theirs.close()
		theirs.solver = gorgonia.NewAdamSolver(gorgonia.WithLearnRate(s.lr))
		if err := theirs.run(progress, func() error { return nil }); err != nil {
			return err
		}
		trainers = append(trainers, theirs)
	}

	fmt.Printf("\n%-18s %12s %12s %10s %20s\n", "", "train loss", "test error", "seconds", "of them in the step")
	for _, t := range trainers {
		fmt.Printf("%-18s %12.4f %10.2f %% %10.1f %20.3f\n", t.name, t.loss, 100*t.testError, t.total.Seconds(), t.inSolver.Seconds())
	}
	if s.save != "" {
		path := s.save
		if absolute, err := filepath.Abs(path); err == nil {
			path = absolute
		}
		fmt.Printf("\nCheckpoint: %s; -epochs %d -resume %s trains on.\n", path, 2*s.epochs, s.save)
	}
	return nil
}

// save writes weights, state, and everything else that a resumed run depends on.
func save(solver *pnmgorgonia.Solver, s settings, epoch int) error {
	return solver.Save(s.save, optim.SaveOptions{Metadata: map[string]string{
		"epoch":  strconv.Itoa(epoch),
		"seed":   strconv.FormatUint(s.seed, 10),
		"batch":  strconv.Itoa(s.batch),
		"images": strconv.Itoa(s.images),
	}})
}

// resume loads a file that save wrote, and returns the number of epochs done.
func resume(solver *pnmgorgonia.Solver, s settings) (epoch int, err error) {
	info, err := optim.ReadCheckpoint(s.resume)
	if err != nil {
		return 0, err
	}
	for _, is := range []struct{ name, value string }{
		{"seed", strconv.FormatUint(s.seed, 10)},
		{"batch", strconv.Itoa(s.batch)},
		{"images", strconv.Itoa(s.images)},
	} {
		if was := info.Metadata[is.name]; was != is.value {
			return 0, fmt.Errorf("%s is of a run with -%s %s; this one has %s", s.resume, is.name, was, is.value)
		}
	}
	if epoch, err = strconv.Atoi(info.Metadata["epoch"]); err != nil {
		return 0, errors.New(s.resume + " does not say of which epoch it is")
	}
	if epoch >= s.epochs {
		return 0, fmt.Errorf("%s has %d epochs behind it: -epochs must be larger", s.resume, epoch)
	}
	if _, err := solver.Load(s.resume, optim.LoadOptions{}); err != nil {
		return 0, err
	}
	// The file has the rule; the flag has the learning rate.
	return epoch, solver.SetLR(s.adapnmLR)
}
