package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/fashionmnist"
	"github.com/posneg/pnm/examples/internal/training"
)

// A result is what became of one run.
type result struct {
	seed   uint64
	epochs []epoch
}

// In an epoch, memorized is the share of the wrong labels that the network gives in the end; NaN if there are none.
type epoch struct{ trainLoss, testError, memorized float64 }

// best is the test error of the best epoch, as the authors report it; last that of the last three, on average.
func (r result) best() float64 {
	return slices.MinFunc(r.epochs, func(a, b epoch) int { return cmp.Compare(a.testError, b.testError) }).testError
}

func (r result) last() float64 {
	tail := r.epochs[max(0, len(r.epochs)-3):]
	sum := 0.0
	for _, e := range tail {
		sum += e.testError
	}
	return sum / float64(len(tail))
}

func (r result) memorized() float64 { return r.epochs[len(r.epochs)-1].memorized }

// train runs each contender with each seed, several at a time. Each run is a goroutine with an optimizer of its own, so
// that their number changes nothing but the time.
func (e *experiment) train(s settings, train, test fashionmnist.Set, workers int, w *os.File) error {
	for i := range e.contenders {
		e.contenders[i].runs = make([]result, s.seeds)
	}
	runs := s.seeds * len(e.contenders)
	p := newProgress(w, runs, runs*s.epochs*training.Steps(train.Len(), s.batch))
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(workers)
	for k := range s.seeds {
		for i := range e.contenders {
			c := &e.contenders[i]
			g.Go(func() error {
				r, err := c.train(ctx, s, s.seed+uint64(k), train, test, p.step)
				if err != nil {
					return fmt.Errorf("%s, seed %d: %w", c.name, r.seed, err)
				}
				c.runs[k] = r
				p.finished(c.name, r)
				return nil
			})
		}
	}
	return g.Wait()
}

// train trains one network on noisy labels, with the learning rate times 0.1 at 40 % and again at 80 % of the epochs.
func (c contender) train(ctx context.Context, s settings, seed uint64, train, test fashionmnist.Set, step func(int)) (result, error) {
	r := result{seed: seed}
	var flipped []int
	train.Labels, flipped = flip(train.Labels, s.noise, seed)
	run, err := training.New(train, s.batch, s.hidden, seed, c.rule, c.rule)
	if err != nil {
		return r, err
	}
	wrong := train.Select(flipped)
	for n := range s.epochs {
		lr := c.lr * pnm.StepDecay(n+1, (2*s.epochs+4)/5, 0.1)
		loss, err := run.Epoch(lr, step)
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return r, err
		}
		r.epochs = append(r.epochs, epoch{loss, run.Error(test), 1 - run.Error(wrong)})
	}
	return r, nil
}
