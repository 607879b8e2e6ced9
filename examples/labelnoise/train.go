package main

import (
	"context"
	"os"

	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// train runs each contender with each seed, several at a time.
func (e *comparison) train(s settings, train, test fashionmnist.Set, workers int, w *os.File) error {
	p := trials.Plan[trials.Result]{Settings: s.Settings, Steps: len(e.contenders) * s.Steps(train.Len()), Workers: workers}
	for _, c := range e.contenders {
		p.Contenders = append(p.Contenders, c.name)
	}
	p.Train = func(ctx context.Context, i int, seed uint64, step func(int)) (trials.Result, error) {
		return e.contenders[i].train(ctx, s, seed, train, test, step)
	}
	results, err := p.Run(w)
	for i, runs := range results {
		e.contenders[i].runs = runs
	}
	return err
}

// train trains one network on noisy labels. Other is the share of the wrong labels that the network reproduces at the end of
// each epoch; NaN if there are none.
func (c contender) train(ctx context.Context, s settings, seed uint64, train, test fashionmnist.Set, step func(int)) (trials.Result, error) {
	var flipped []int
	train.Labels, flipped = flip(train.Labels, s.noise, seed)
	run, err := training.New(train, s.Batch, s.Hidden, seed, training.Rules(c.rule, c.rule))
	if err != nil {
		return trials.Result{}, err
	}
	wrong := train.Select(flipped)
	return s.Train(ctx, run, seed, c.lr, test, func() float64 { return 1 - run.Error(wrong) }, step)
}

// memorized is the share of the wrong labels that the trained network of a run reproduces.
func memorized(r trials.Result) float64 { return r.End().Other }
