package main

import (
	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/mlp"
	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

// A gauge is an optimizer that can read the gradient's noise from PNM's momenta: see [optim.Optimizer.ReadNoise].
type gauge struct{ *optim.Optimizer }

func newGauge(rule pnm.PNM, net *mlp.Net) (gauge, error) {
	opt, err := optim.New(optim.Group{Rule: rule, Params: pnm.Vectors(append(net.Weights(), net.Biases()...)...)})
	return gauge{opt}, err
}

// newGauged prepares to train a network with a gauge.
func newGauged(rule pnm.PNM, set fashionmnist.Set, batch, hidden int, seed uint64) (run *training.Run, g gauge, err error) {
	run, err = training.New(set, batch, hidden, seed, func(net *mlp.Net) (opt training.Optimizer, err error) {
		g, err = newGauge(rule, net)
		return g, err
	})
	return run, g, err
}

func (g gauge) Step(grads [][]float32) error {
	_, err := g.Optimizer.Step(pnm.Options{}, pnm.Vectors(grads...))
	return err
}

// read begins to average readings of each step from now on, or stops.
func (g gauge) read(on bool) error {
	every := 0
	if on {
		every = 1
	}
	return g.ReadNoise(every, 1)
}

func (g gauge) estimate() optim.NoiseEstimate { return g.NoiseAverages().Total }

// keepAll computes the gradient of every minibatch of an epoch, while the parameters rest. It returns the noise of these gradients:
// |G|² of their mean, which is the gradient of all images, and tr Σ, their variance. It also returns readings from two momenta that have
// seen the same gradients.
func keepAll(net *mlp.Net, set fashionmnist.Set, batch int, order []int) (kept pnm.Noise, resting optim.NoiseEstimate, err error) {
	rule := pnm.NewPNM(0)
	rule.Beta1 = beta1
	g, err := newGauge(rule, net)
	if err != nil {
		return kept, resting, err
	}
	defer g.Close()
	if err := g.read(true); err != nil {
		return kept, resting, err
	}
	x, labels := make([]float32, batch*fashionmnist.Pixels), make([]uint8, batch)
	sums := make([][]float64, len(net.Grads()))
	for k, g := range net.Grads() {
		sums[k] = make([]float64, len(g))
	}
	squares, n := 0.0, float64(len(order)/batch)
	for ; len(order) >= batch; order = order[batch:] {
		set.Gather(order[:batch], x, labels)
		net.Loss(x, labels)
		for k, g := range net.Grads() {
			for i, d := range g {
				sums[k][i] += float64(d)
				squares += float64(d) * float64(d)
			}
		}
		if err := g.Step(net.Grads()); err != nil {
			return kept, resting, err
		}
	}
	for _, s := range sums {
		for _, d := range s {
			kept.Signal += d / n * d / n
		}
	}
	kept.Variance = max(0, squares/n-kept.Signal) * n / (n - 1)
	return kept, g.estimate(), nil
}
