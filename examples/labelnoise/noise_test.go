package main

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/mlp"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// The noise of kept gradients is their mean's square and their variance; the momenta that have seen them say the same, within their
// errors. The parameters stay as they are.
func TestKeepAll(t *testing.T) {
	set, _ := head(t, 2000)
	set.Labels, _ = flip(set.Labels, 0.4, 1)
	rng := rand.New(rand.NewPCG(1, 2))
	net := mlp.New(fashionmnist.Pixels, 8, fashionmnist.Classes, rng)
	const batch, minibatches = 16, 124
	order := rng.Perm(set.Len())[:batch*minibatches+5] // the last five are no minibatch
	before := clone(net.Weights())
	kept, resting, err := keepAll(net, set, batch, order)
	if err != nil {
		t.Fatal(err)
	}
	for k, w := range net.Weights() {
		if !slices.Equal(w, before[k]) {
			t.Fatal("the weights have changed")
		}
	}

	var sums scatter
	images := set.Select(order)
	for i := range minibatches {
		net.Loss(images.Images[i*batch*fashionmnist.Pixels:(i+1)*batch*fashionmnist.Pixels], images.Labels[i*batch:(i+1)*batch])
		sums.add(net.Grads(), zeros(net.Grads()))
	}
	signal := 0.0
	for _, x := range sums.sum {
		signal += x / minibatches * x / minibatches
	}
	if variance := sums.trace(); math.Abs(kept.Signal/signal-1) > 1e-9 || math.Abs(kept.Variance/variance-1) > 1e-9 {
		t.Errorf("%v, must be %g and %g", kept, signal, variance)
	}
	read := sampled{resting.Signal, resting.SignalError, resting.Variance, resting.VarianceError}.wholeEpochs(minibatches)
	if math.Abs(read.signal-kept.Signal) > 3*read.signalError || math.Abs(read.variance-kept.Variance) > 3*read.varianceError {
		t.Errorf("the momenta say %+v, the gradients %+v", read, kept)
	}
}

func zeros(like [][]float32) (z [][]float32) {
	for _, x := range like {
		z = append(z, make([]float32, len(x)))
	}
	return z
}

// Under independent gradients of variance 1, the engine's steps vary as spreadTheory says.
func TestSpreadTheory(t *testing.T) {
	const n, steps, lr = 20000, 7, 0.5
	rng := rand.New(rand.NewPCG(1, 2))
	for _, beta0 := range spreadBeta0s {
		p, m, k, g := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
		var before []float64
		for i := range steps {
			for j := range g {
				g[j] = rng.NormFloat64()
			}
			before = slices.Clone(p)
			r := pnm.NewPNM(lr)
			r.Beta1, r.Beta0 = beta1, beta0
			if err := pnm.UpdatePNM(r, i+1, p, g, m, k); err != nil {
				t.Fatal(err)
			}
		}
		step, path := 0.0, 0.0
		for j := range p {
			step += (p[j] - before[j]) * (p[j] - before[j]) / n / lr / lr
			path += p[j] * p[j] / n / lr / lr / steps
		}
		wantStep, wantPath := spreadTheory(beta0, steps)
		if math.Abs(step/wantStep-1) > 0.05 || math.Abs(path/wantPath-1) > 0.05 { // five standard deviations
			t.Errorf("β0 = %.3g: %g and %g, must be %g and %g", beta0, step, path, wantStep, wantPath)
		}
	}
	// After many steps, a step's variance does not depend on β0, and that of the whole way is 1/γ for each step.
	for _, beta0 := range spreadBeta0s {
		step, path := spreadTheory(beta0, 100000)
		if want := (1 - beta1*beta1) / (1 + beta1*beta1); math.Abs(step/want-1) > 1e-9 || math.Abs(path/drift(beta0)/drift(beta0)-1) > 1e-3 {
			t.Errorf("β0 = %.3g: %g and %g", beta0, step, path)
		}
	}
}

func TestRankCorrelation(t *testing.T) {
	x := []float64{1, 5, 2, 9}
	for _, c := range []struct {
		y    []float64
		want float64
	}{
		{[]float64{10, 30, 20, 31}, 1},
		{[]float64{4, 2, 3, 1}, -1},
		{[]float64{1, 1, 2, 2}, 0.4472135954999579}, // ranks 1.5, 1.5, 3.5, 3.5 against 1, 3, 2, 4
	} {
		if got := rankCorrelation(x, c.y); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%v: %g, must be %g", c.y, got, c.want)
		}
	}
}

// A gauged run of PNM trains like any other, and has the noise of all three epochs.
func TestTrainGauged(t *testing.T) {
	train, test := head(t, 300)
	s := settings{trials.Settings{Epochs: 5, Batch: 32, Hidden: 16}, 0.4}
	c := newPNM("", 0.3, 1)
	got, err := c.trainGauged(context.Background(), s, 3, train, test, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	want, err := c.train(context.Background(), s, 3, train, test, func(int) {})
	if err != nil || !slices.Equal(got.Epochs, want.Epochs) {
		t.Errorf("%v, must be %v (%v)", got.Epochs, want.Epochs, err)
	}
	for phase := range phases {
		if k, r := got.Kept[phase], got.Readings[phase]; !(k.Signal > 0 && k.Variance > 0) || r.Readings != 10 || !(r.Variance > 0) {
			t.Errorf("phase %d: kept %v, read %v", phase, k, r)
		}
	}
}
