package mlp

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The gradients are those of the loss: a small step along each parameter changes the loss as they say.
func TestGradient(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := New(6, 5, 3, rng)
	x, labels := make([]float32, 4*6), []uint8{2, 0, 1, 2}
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	n.Loss(x, labels)
	var grads [][]float32
	for _, g := range n.Grads() {
		grads = append(grads, slices.Clone(g))
	}
	for k, p := range slices.Concat(n.Weights(), n.Biases()) {
		for i := range p {
			const step = 1e-2
			old := p[i]
			p[i] = old + step
			up := n.Loss(x, labels)
			p[i] = old - step
			down := n.Loss(x, labels)
			p[i] = old
			if got, want := float64(grads[k][i]), (up-down)/(2*step); math.Abs(got-want) > 2e-3 {
				t.Errorf("parameter %d of tensor %d: gradient is %g, the loss changes by %g", i, k, got, want)
			}
		}
	}
}

// The loss of a new network with zero weights is that of guessing, ln(classes), and a larger batch than before fits.
func TestLossOfGuessing(t *testing.T) {
	n := New(4, 3, 10, rand.New(rand.NewPCG(1, 2)))
	for _, w := range n.Weights() {
		clear(w)
	}
	for _, batch := range []int{1, 7, 2} {
		if loss := n.Loss(make([]float32, 4*batch), make([]uint8, batch)); math.Abs(loss-math.Log(10)) > 1e-6 {
			t.Errorf("batch %d: %g", batch, loss)
		}
		if wrong := n.Errors(make([]float32, 4*batch), make([]uint8, batch)); wrong != 0 {
			t.Errorf("batch %d: %d wrong, but all classes are equal and the first is right", batch, wrong)
		}
	}
}
