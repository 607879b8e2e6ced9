package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/fashionmnist"
	"github.com/posneg/pnm/examples/internal/mlp"
)

// trainWith trains a new network, with the learning rate at a tenth in the last third of the epochs, and shows its
// progress on w: a bar on a terminal, else a line for each epoch.
func trainWith(o optimizer, s settings, train, test fashionmnist.Set, w *os.File) (curve, error) {
	c := curve{optimizer: o}
	rng := rand.New(rand.NewPCG(s.seed, 0))
	net := mlp.New(fashionmnist.Pixels, s.hidden, fashionmnist.Classes, rng)
	opt, err := pnm.NewOptimizer(
		pnm.Group[float32]{Rule: o.weights, Params: net.Weights()},
		pnm.Group[float32]{Rule: o.biases, Params: net.Biases()},
	)
	if err != nil {
		return c, err
	}

	batches := (train.Len() + s.batch - 1) / s.batch
	terminal := term.IsTerminal(int(w.Fd()))
	bar := progressbar.NewOptions(s.epochs*batches,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(terminal),
		progressbar.OptionSetDescription(fmt.Sprintf("%-6s", o.name)),
		progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }),
	)

	start := time.Now()
	x := make([]float32, s.batch*fashionmnist.Pixels)
	labels := make([]uint8, s.batch)
	for n := range s.epochs {
		if n == (2*s.epochs+2)/3 {
			if err := opt.SetLR(o.lr / 10); err != nil {
				return c, err
			}
		}
		loss := 0.0
		order := rng.Perm(train.Len())
		for len(order) > 0 {
			size := min(s.batch, len(order))
			for i, k := range order[:size] {
				copy(x[i*fashionmnist.Pixels:], train.Images[k*fashionmnist.Pixels:(k+1)*fashionmnist.Pixels])
				labels[i] = train.Labels[k]
			}
			order = order[size:]
			loss += net.Loss(x, labels[:size]) * float64(size)

			before := time.Now()
			if err := opt.Step(net.Grads()); err != nil {
				return c, err
			}
			c.inStep += time.Since(before)
			if len(order) > 0 { // the last batch counts when its epoch has been tested
				bar.Add(1)
			}
		}
		e := epoch{loss / float64(train.Len()), testError(net, test)}
		if math.IsNaN(e.trainLoss) || math.IsInf(e.trainLoss, 0) {
			return c, fmt.Errorf("the loss is %g after epoch %d: the learning rate %g is too large", e.trainLoss, n+1, o.lr)
		}
		c.epochs = append(c.epochs, e)
		status := fmt.Sprintf("%-6s epoch %2d: train loss %.4f, test error %5.2f %%", o.name, n+1, e.trainLoss, 100*e.testError)
		bar.Describe(status)
		bar.Add(1)
		if !terminal {
			fmt.Fprintln(w, status)
		}
	}
	c.total = time.Since(start)
	return c, nil
}

// testError returns the share of the images that the network puts into a wrong class.
func testError(net *mlp.Net, set fashionmnist.Set) float64 {
	const batch = 1000
	wrong := 0
	for from := 0; from < set.Len(); from += batch {
		to := min(from+batch, set.Len())
		wrong += net.Errors(set.Images[from*fashionmnist.Pixels:to*fashionmnist.Pixels], set.Labels[from:to])
	}
	return float64(wrong) / float64(set.Len())
}
