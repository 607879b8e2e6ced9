// Package trials trains networks on Fashion-MNIST that differ in a setting, each with several seeds.
package trials

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

// A Plan is a list of contenders, each of which runs once with each seed. R is the result of a run; it is printed when the run ends.
type Plan[R any] struct {
	Contenders []string
	Settings   Settings
	Steps      int // of all contenders together, with one seed
	Workers    int // how many runs at a time

	// Train does one run. It calls step after each step.
	Train func(ctx context.Context, contender int, seed uint64, step func(left int)) (R, error)
}

// Run does all runs, shows their progress on w, and returns the results of each contender. Each run is a goroutine with an
// optimizer of its own, so the number of concurrent runs affects only the time.
func (p Plan[R]) Run(w *os.File) ([][]R, error) {
	s := p.Settings
	results := make([][]R, len(p.Contenders))
	for i := range results {
		results[i] = make([]R, s.Seeds)
	}
	shown := newProgress(w, s.Seeds*len(p.Contenders), s.Seeds*p.Steps)
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(p.Workers)
	for k := range s.Seeds {
		seed := s.Seed + uint64(k)
		for i, name := range p.Contenders {
			g.Go(func() error {
				r, err := p.Train(ctx, i, seed, shown.step)
				if err != nil {
					return fmt.Errorf("%s, seed %d: %w", name, seed, err)
				}
				results[i][k] = r
				shown.finished(fmt.Sprintf("%s, seed %d: %v", name, seed, r))
				return nil
			})
		}
	}
	return results, g.Wait()
}

// Decay returns the factor on the learning rate in epoch n, counted from 0: it falls to 0.1 at 40 % and to 0.01 at 80 % of the epochs.
func (s Settings) Decay(n int) float64 { return optim.StepDecay(n+1, (2*s.Epochs+4)/5, 0.1) }

// Train trains for all epochs, with the learning rates of [Settings.Decay]. After each epoch it measures the test error and other.
func (s Settings) Train(ctx context.Context, run *training.Run, seed uint64, lr float64, test fashionmnist.Set,
	other func() float64, step func(left int)) (Result, error) {
	r := Result{Seed: seed}
	for n := range s.Epochs {
		loss, err := run.Epoch(lr*s.Decay(n), step)
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return r, err
		}
		r.Epochs = append(r.Epochs, Epoch{loss, run.Error(test), other()})
	}
	return r, nil
}
