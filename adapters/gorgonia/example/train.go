package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
	"gorgonia.org/gorgonia"

	"github.com/posneg/pnm/internal/fashionmnist"
)

// A trainer is a network in training. The order of the images depends only on seed and epoch, so that a run can continue another
// one.
type trainer struct {
	settings
	name        string
	train, test fashionmnist.Set
	net, tester *network // they share their weights
	model       []gorgonia.ValueGrad
	solver      gorgonia.Solver

	epoch           int // how many are done
	total, inSolver time.Duration
	loss, testError float64 // of the last epoch
}

func newTrainer(name string, s settings, train, test fashionmnist.Set) (*trainer, error) {
	t := &trainer{settings: s, name: name, train: train, test: test}
	weights := newWeights(rand.New(rand.NewPCG(s.seed, 0)))
	var err error
	if t.net, err = newNetwork(weights, s.batch, true); err != nil {
		return nil, err
	}
	if t.tester, err = newNetwork(weights, s.batch, false); err != nil {
		return nil, err
	}
	t.model = gorgonia.NodesToValueGrads(t.net.weights)
	return t, nil
}

func (t *trainer) close() {
	t.net.vm.Close()
	t.tester.vm.Close()
}

// run trains until all epochs are done and shows its progress on w: a bar on a terminal, else a line for each epoch.
func (t *trainer) run(w *os.File, afterEpoch func() error) error {
	steps := t.train.Len() / t.batch
	terminal := term.IsTerminal(int(w.Fd()))
	bar := progressbar.NewOptions((t.epochs-t.epoch)*steps,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(terminal),
		progressbar.OptionSetDescription(t.name),
		progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }),
	)
	start := time.Now()
	for t.epoch < t.epochs {
		err := t.oneEpoch(steps, func(left int) {
			if left > 0 { // the last batch counts when its epoch has been tested
				bar.Add(1)
			}
		})
		if err != nil {
			return fmt.Errorf("%s, epoch %d: %w", t.name, t.epoch+1, err)
		}
		t.epoch++
		status := fmt.Sprintf("%-16s epoch %2d: train loss %.4f, test error %5.2f %%", t.name, t.epoch, t.loss, 100*t.testError)
		bar.Describe(status)
		bar.Add(1)
		if !terminal {
			fmt.Fprintln(w, status)
		}
		if err := afterEpoch(); err != nil {
			return err
		}
	}
	t.total = time.Since(start)
	return nil
}

// oneEpoch trains on all images in random order, in batches, and then tests. It leaves out an incomplete last batch.
func (t *trainer) oneEpoch(steps int, step func(left int)) error {
	order := rand.New(rand.NewPCG(t.seed, uint64(t.epoch+1))).Perm(t.train.Len())
	labels := make([]uint8, t.batch)
	t.loss = 0
	for i := range steps {
		t.train.Gather(order[i*t.batch:(i+1)*t.batch], t.net.images.Float32s(), labels)
		if err := t.net.run(labels); err != nil {
			return err
		}
		t.loss += float64(t.net.loss.Value().Data().(float32)) / float64(steps)

		before := time.Now()
		if err := t.solver.Step(t.model); err != nil {
			return err
		}
		t.inSolver += time.Since(before)
		t.net.vm.Reset()
		step(steps - 1 - i)
	}
	return t.measure()
}

// measure computes the share of test images that the network classifies wrongly.
func (t *trainer) measure() error {
	indices := make([]int, t.test.Len())
	for i := range indices {
		indices[i] = i
	}
	labels := make([]uint8, t.batch)
	wrong := 0
	for rest := indices; len(rest) > 0; {
		now := min(t.batch, len(rest))
		t.test.Gather(rest[:now], t.tester.images.Float32s(), labels)
		if err := t.tester.run(nil); err != nil {
			return err
		}
		wrong += t.tester.wrong(labels[:now])
		t.tester.vm.Reset()
		rest = rest[now:]
	}
	t.testError = float64(wrong) / float64(t.test.Len())
	return nil
}
