// Package training is the training loop of the examples: minibatches in random order.
package training

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/mlp"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

// A Run is a network in training.
type Run struct {
	Net    *mlp.Net
	InStep time.Duration // the time spent in the optimizer so far

	opt    Optimizer
	rng    *rand.Rand
	set    fashionmnist.Set
	epochs int

	x      []float32 // room for a batch
	labels []uint8
}

// An Optimizer updates the parameters of a network by their gradients, in the order of [mlp.Net.Grads]. It may change the
// gradients.
type Optimizer interface {
	SetLR(lr float64) error
	Step(grads [][]float32) error
}

// Rules makes the optimizer of a network: a rule for the weights and one for the biases.
func Rules(weights, biases pnm.Rule) func(*mlp.Net) (Optimizer, error) {
	return func(net *mlp.Net) (Optimizer, error) {
		opt, err := optim.New(
			optim.Group{Rule: weights, Params: pnm.Vectors(net.Weights()...)},
			optim.Group{Rule: biases, Params: pnm.Vectors(net.Biases()...)},
		)
		return plain{opt}, err
	}
}

// A plain is a float32 optimizer whose steps have no options.
type plain struct{ *optim.Optimizer }

func (p plain) Step(grads [][]float32) error {
	_, err := p.Optimizer.Step(pnm.Options{}, pnm.Vectors(grads...))
	return err
}

// New returns a new network with its optimizer. The seed determines the initial weights and the order of the images.
func New(set fashionmnist.Set, batch, hidden int, seed uint64, makeFor func(*mlp.Net) (Optimizer, error)) (*Run, error) {
	rng := rand.New(rand.NewPCG(seed, 0))
	net := mlp.New(fashionmnist.Pixels, hidden, fashionmnist.Classes, rng)
	opt, err := makeFor(net)
	if err != nil {
		return nil, err
	}
	return &Run{Net: net, opt: opt, rng: rng, set: set,
		x: make([]float32, batch*fashionmnist.Pixels), labels: make([]uint8, batch)}, nil
}

// Steps returns the number of steps in an epoch.
func Steps(images, batch int) int { return (images + batch - 1) / batch }

// Epoch makes one pass over the training images and returns the mean loss. After each step it calls step with the number
// of steps that are left. It fails if the loss is not finite.
func (r *Run) Epoch(lr float64, step func(left int)) (loss float64, err error) {
	if err := r.opt.SetLR(lr); err != nil {
		return 0, err
	}
	order := r.rng.Perm(r.set.Len())
	for left := Steps(r.set.Len(), len(r.labels)) - 1; left >= 0; left-- {
		size := min(len(r.labels), len(order))
		r.set.Gather(order[:size], r.x, r.labels)
		order = order[size:]
		loss += r.Net.Loss(r.x, r.labels[:size]) * float64(size)

		before := time.Now()
		if err := r.opt.Step(r.Net.Grads()); err != nil {
			return 0, err
		}
		r.InStep += time.Since(before)
		step(left)
	}
	r.epochs++
	loss /= float64(r.set.Len())
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, fmt.Errorf("the loss is %g after epoch %d: the learning rate %g is too large", loss, r.epochs, lr)
	}
	return loss, nil
}

// Error returns the share of images that the network classifies wrongly; NaN if there are no images.
func (r *Run) Error(set fashionmnist.Set) float64 {
	const batch = 1000
	wrong := 0
	for from := 0; from < set.Len(); from += batch {
		to := min(from+batch, set.Len())
		wrong += r.Net.Errors(set.Images[from*fashionmnist.Pixels:to*fashionmnist.Pixels], set.Labels[from:to])
	}
	return float64(wrong) / float64(set.Len())
}
