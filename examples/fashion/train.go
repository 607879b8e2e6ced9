package main

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// trainWith trains a new network, with a tenth of the learning rate in the last third of the epochs. It shows the progress on w:
// as a bar on a terminal, else as a line for each epoch.
func trainWith(o optimizer, s settings, train, test fashionmnist.Set, w *os.File) (curve, error) {
	c := curve{optimizer: o}
	run, err := training.New(train, s.batch, s.hidden, s.seed, training.Rules(o.weights, o.biases))
	if err != nil {
		return c, err
	}

	terminal := term.IsTerminal(int(w.Fd()))
	bar := progressbar.NewOptions(s.epochs*training.Steps(train.Len(), s.batch),
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(terminal),
		progressbar.OptionSetDescription(fmt.Sprintf("%-6s", o.name)),
		progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }),
	)

	start := time.Now()
	lr := o.lr
	for n := range s.epochs {
		if n == (2*s.epochs+2)/3 {
			lr /= 10
		}
		loss, err := run.Epoch(lr, func(left int) {
			if left > 0 { // the last batch counts when its epoch has been tested
				bar.Add(1)
			}
		})
		if err != nil {
			return c, err
		}
		e := epoch{loss, run.Error(test)}
		c.epochs = append(c.epochs, e)
		status := fmt.Sprintf("%-6s epoch %2d: train loss %.4f, test error %5.2f %%", o.name, n+1, e.trainLoss, 100*e.testError)
		bar.Describe(status)
		bar.Add(1)
		if !terminal {
			fmt.Fprintln(w, status)
		}
	}
	c.total, c.inStep = time.Since(start), run.InStep
	return c, nil
}
