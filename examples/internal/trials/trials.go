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

// A Plan is a list of contenders, each of which runs once with each seed.
type Plan struct {
	Contenders []string
	Settings   Settings
	Images     int // of the training set
	Workers    int // how many runs at a time

	// Train does one run. It calls step after each step.
	Train func(ctx context.Context, contender int, seed uint64, step func(left int)) (Result, error)
}

// Run does all runs, shows their progress on w, and returns the results of each contender. Each run is a goroutine with an
// optimizer of its own, so the number of concurrent runs affects only the time.
func (p Plan) Run(w *os.File) ([][]Result, error) {
	s := p.Settings
	results := make([][]Result, len(p.Contenders))
	for i := range results {
		results[i] = make([]Result, s.Seeds)
	}
	runs := s.Seeds * len(p.Contenders)
	shown := newProgress(w, runs, runs*s.Epochs*training.Steps(p.Images, s.Batch))
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
				r.Seed = seed
				results[i][k] = r
				shown.finished(name, r)
				return nil
			})
		}
	}
	return results, g.Wait()
}

// Train trains for all epochs, with the learning rate times 0.1 at 40 % and again at 80 % of them. After each epoch it
// measures the test error and other.
func (s Settings) Train(ctx context.Context, run *training.Run, lr float64, test fashionmnist.Set,
	other func() float64, step func(left int)) (Result, error) {
	var r Result
	for n := range s.Epochs {
		loss, err := run.Epoch(lr*optim.StepDecay(n+1, (2*s.Epochs+4)/5, 0.1), step)
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return r, err
		}
		r.Epochs = append(r.Epochs, Epoch{loss, run.Error(test), other()})
	}
	return r, nil
}
