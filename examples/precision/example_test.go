package main

import (
	"fmt"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
)

// forwardBackward stands for a network on a device that takes parameters in bf16 and gives gradients in bf16. Here they are
// those of ½·Σ (w − target)².
func forwardBackward(weights, grads []uint16) {
	const n = 2
	target, w, g := [n]float32{3, -2}, make([]float32, n), make([]float32, n)
	pnm.Float32(w).Set(pnm.BF16(weights))
	for i := range w {
		g[i] = w[i] - target[i]
	}
	pnm.BF16(grads).Set(pnm.Float32(g))
}

func Example_offload() {
	const steps = 1000
	masters := make([]float32, 2) // your initial weights

	weights := make([]uint16, len(masters)) // bf16 weights for forward and backward passes
	grads := make([]uint16, len(masters))   // bf16 gradients
	if _, err := pnm.BF16(weights).Set(pnm.Float32(masters)); err != nil {
		panic(err)
	}
	rule := pnm.NewAdaPNM()
	rule.LR = 0.05
	opt, err := optim.New(optim.Group{
		Rule:   rule,
		Params: pnm.Vectors(masters),
		Copies: []pnm.Vector{pnm.BF16(weights)}, // each step writes it
	})
	if err != nil {
		panic(err)
	}
	defer opt.Close()
	for range steps {
		forwardBackward(weights, grads)
		if _, err := opt.Step(pnm.Options{}, []pnm.Vector{pnm.BF16(grads)}); err != nil {
			panic(err)
		}
	}

	fmt.Printf("%.1f\n", masters)
	// Output: [3.0 -2.0]
}

func Example_split() {
	const steps = 1000
	weights := []uint16{0x3f80, 0xbf80} // your model, in bf16: 1 and -1

	grads := make([]uint16, len(weights))
	low := make([]uint16, len(weights)) // the lower halves: zeros, for the weights are exact
	rule := pnm.NewAdaPNM()
	rule.LR = 0.05
	opt, err := optim.New(optim.Group{
		Rule:   rule,
		Params: []pnm.Vector{pnm.Low16(low)},
		Copies: []pnm.Vector{pnm.BF16(weights)}, // the upper halves
	})
	if err != nil {
		panic(err)
	}
	defer opt.Close()
	for range steps {
		forwardBackward(weights, grads)
		if _, err := opt.Step(pnm.Options{}, []pnm.Vector{pnm.BF16(grads)}); err != nil {
			panic(err)
		}
	}
	masters := make([]float32, len(weights))
	if err := pnm.Join(pnm.Float32(masters), pnm.BF16(weights), pnm.Low16(low)); err != nil {
		panic(err)
	}

	fmt.Printf("%.1f\n", masters)
	// Output: [3.0 -2.0]
}
