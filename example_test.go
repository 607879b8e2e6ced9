package pnm_test

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/posneg/pnm"
)

// The examples minimize f(w) = ½·Σ (w_i − target_i)², whose gradient is w − target.
var target = []float32{3, -2}

func gradient(g, w []float32) []float32 {
	for i := range w {
		g[i] = w[i] - target[i]
	}
	return g
}

// A trainer that keeps its own memory calls the update on its slices. It owns the state, and it counts the steps.
func ExampleUpdatePNM() {
	w, g := []float32{0, 0}, make([]float32, 2)
	pos, neg := make([]float32, 2), make([]float32, 2) // zero before the first step

	rule := pnm.NewPNM(0.5)
	for step := 1; step <= 200; step++ {
		if err := pnm.UpdatePNM(rule, step, w, gradient(g, w), pos, neg); err != nil {
			panic(err)
		}
	}
	fmt.Printf("%.3f\n", w)
	// Output: [3.000 -2.000]
}

func ExampleUpdateAdaPNM() {
	w, g := []float32{0, 0}, make([]float32, 2)
	state := make([]float32, 8) // any memory will do: four buffers of two elements

	rule := pnm.NewAdaPNM()
	rule.LR = 0.05
	for step := 1; step <= 1000; step++ {
		err := pnm.UpdateAdaPNM(rule, step, w, gradient(g, w), state[0:2], state[2:4], state[4:6], state[6:8])
		if err != nil {
			panic(err)
		}
	}
	fmt.Printf("%.3f\n", w)
	// Output: [3.000 -2.000]
}

// Without momentum there is no state, and momentumBuffer is nil.
func ExampleUpdateSGD() {
	w, g := []float32{0, 0}, make([]float32, 2)
	momentum := make([]float32, 2) // zero before the first step

	rule := pnm.NewSGD(0.05)
	rule.Momentum, rule.Nesterov = 0.9, true
	for step := 1; step <= 300; step++ {
		if err := pnm.UpdateSGD(rule, step, w, gradient(g, w), momentum); err != nil {
			panic(err)
		}
	}
	fmt.Printf("%.3f\n", w)
	// Output: [3.000 -2.000]
}

// NewAdamW gives the same rule with decoupled decay. Here the learning rate follows a schedule.
func ExampleUpdateAdam() {
	w, g := []float32{0, 0}, make([]float32, 2)
	m, v := make([]float32, 2), make([]float32, 2) // zero before the first step

	const steps = 500
	rule := pnm.NewAdam()
	for step := 1; step <= steps; step++ {
		rule.LR = 0.1 * pnm.WarmUp(step, 20) * pnm.CosineDecay(step, steps)
		if err := pnm.UpdateAdam(rule, step, w, gradient(g, w), m, v, nil); err != nil { // nil: no AMSGrad
			panic(err)
		}
	}
	fmt.Printf("%.3f\n", w)
	// Output: [3.000 -2.000]
}

// An optimizer keeps the state. Its Step gets one gradient for each tensor.
func ExampleOptimizer() {
	w, g := []float32{0, 0}, make([]float32, 2)
	opt, err := pnm.NewOptimizer(pnm.Group[float32]{Rule: pnm.NewPNM(0.5), Params: [][]float32{w}})
	if err != nil {
		panic(err)
	}
	for range 200 {
		if err := opt.Step([][]float32{gradient(g, w)}); err != nil {
			panic(err)
		}
	}
	fmt.Printf("%.3f\n", w)
	// Output: [3.000 -2.000]
}

// Groups have rules of their own: here, no weight decay on the biases. Tensors are numbered in the order of the groups.
// The learning rate changes between steps, and a tensor without a gradient is skipped.
func ExampleOptimizer_groups() {
	weights1, weights2 := make([]float32, 6), make([]float32, 3)
	bias1, bias2 := make([]float32, 2), make([]float32, 1)

	decayed := pnm.NewAdaPNM()
	decayed.WeightDecay = 0.5
	opt, err := pnm.NewOptimizer(
		pnm.Group[float32]{Rule: decayed, Params: [][]float32{weights1, weights2}},
		pnm.Group[float32]{Rule: pnm.NewAdaPNM(), Params: [][]float32{bias1, bias2}},
	)
	if err != nil {
		panic(err)
	}
	for step := range 10 {
		if step == 8 {
			if err := opt.SetLR(1e-4); err != nil { // of all groups; SetLR(1e-4, 1) would be the second one's
				panic(err)
			}
		}
		grads := [][]float32{make([]float32, 6), make([]float32, 3), make([]float32, 2), nil} // bias2 has none
		if err := opt.Step(grads); err != nil {
			panic(err)
		}
	}
	states, err := opt.State()
	if err != nil {
		panic(err)
	}
	for i, s := range states {
		fmt.Println("tensor", i, "has done", s.Step, "steps")
	}
	// Output:
	// tensor 0 has done 10 steps
	// tensor 1 has done 10 steps
	// tensor 2 has done 10 steps
	// tensor 3 has done 0 steps
}

// What trainers do around a step is part of it: here the gradients carry a loss scale, are clipped by their global norm, and
// are zero afterwards. A step with a gradient that is not finite is skipped, and the scaler backs off.
func ExampleOptimizer_StepWith() {
	w, g := []float32{0, 0}, make([]float32, 2)
	opt, err := pnm.NewOptimizer(pnm.Group[float32]{Rule: pnm.NewPNM(0.5), Params: [][]float32{w}})
	if err != nil {
		panic(err)
	}
	scaler := pnm.NewLossScaler()
	scaler.Scale = 0x1p126 // far too large
	skipped := 0
	for range 200 {
		for i := range g {
			g[i] += float32(scaler.Scale) * 2 * (w[i] - target[i]) // of Σ (w_i − target_i)², scaled
		}
		report, err := opt.StepWith(pnm.Options{
			LossScale: scaler.Scale, ClipNorm: 1, SkipNonFinite: true, ZeroGrads: true,
		}, [][]float32{g})
		if err != nil {
			panic(err)
		}
		if err := scaler.Update(report.Skipped); err != nil {
			panic(err)
		}
		if report.Skipped {
			skipped++
		}
	}
	fmt.Printf("%.3f, %d steps skipped, gradients %v\n", w, skipped, g)
	// Output: [3.000 -2.000], 1 steps skipped, gradients [0 0]
}

// Gradients that come in pieces are used as they come; with the last piece the step is complete.
func ExampleOptimizer_StepPart() {
	w := make([]float32, 6)
	opt, err := pnm.NewOptimizer(pnm.Group[float32]{Rule: pnm.NewPNM(0.5), Params: [][]float32{w}})
	if err != nil {
		panic(err)
	}
	piece := []float32{1, 1}
	part := func(step, lo int) error {
		return opt.StepPart(pnm.Options{}, pnm.Part[float32]{Tensor: 0, Step: step, Lo: lo, Grads: piece})
	}
	fmt.Println(part(1, 4), part(1, 0))
	fmt.Println(part(2, 4)) // too early
	fmt.Println(part(1, 2), part(2, 4))
	// Output:
	// <nil> <nil>
	// pnm: tensor 0: step 1: elements [2, 4) must have their part of it before step 2
	// <nil> <nil>
}

// Large parameters and gradients are best in an arena, as the optimizer's state is by itself. Two workers share the steps.
func ExampleAlloc() {
	const n = 1 << 20
	arena, err := pnm.Alloc[float32](n, n)
	if err != nil {
		panic(err)
	}
	defer arena.Close() // after the last use of w and g
	w, g := arena.Slices()[0], arena.Slices()[1]

	pool, err := pnm.NewPool(pnm.PoolConfig{Workers: 2})
	if err != nil {
		panic(err)
	}
	defer pool.Close()
	opt, err := pnm.NewOptimizerWith(pnm.Config{Pool: pool}, pnm.Group[float32]{Rule: pnm.NewAdaPNM(), Params: [][]float32{w}})
	if err != nil {
		panic(err)
	}
	defer opt.Close()

	for i := range g {
		g[i] = 1
	}
	if err := opt.Step([][]float32{g}); err != nil {
		panic(err)
	}
	fmt.Printf("%.5f\n", w[n-1])
	// Output: -0.00170
}

// A run is saved with its parameters and its state, under the official names; what is resumed continues with the same
// bits as what was not.
func ExampleOptimizer_SetState() {
	type checkpoint struct {
		Params []float32
		State  []pnm.TensorState[float32]
	}
	train := func(opt *pnm.Optimizer[float32], w []float32, steps int) {
		g := make([]float32, len(w))
		for range steps {
			if err := opt.Step([][]float32{gradient(g, w)}); err != nil {
				panic(err)
			}
		}
	}
	start := func(w []float32) *pnm.Optimizer[float32] {
		opt, err := pnm.NewOptimizer(pnm.Group[float32]{Rule: pnm.NewPNM(0.5), Params: [][]float32{w}})
		if err != nil {
			panic(err)
		}
		return opt
	}

	w := []float32{0, 0}
	opt := start(w)
	train(opt, w, 7)
	state, err := opt.State()
	if err != nil {
		panic(err)
	}
	var file bytes.Buffer
	if err := gob.NewEncoder(&file).Encode(checkpoint{w, state}); err != nil {
		panic(err)
	}
	train(opt, w, 5)

	var saved checkpoint
	if err := gob.NewDecoder(&file).Decode(&saved); err != nil {
		panic(err)
	}
	resumed := start(saved.Params)
	if err := resumed.SetState(saved.State); err != nil {
		panic(err)
	}
	train(resumed, saved.Params, 5)
	fmt.Println(saved.Params[0] == w[0] && saved.Params[1] == w[1])
	// Output: true
}

// A checkpoint is a file with the state, the rules and, here, the parameters, under the tensors' names. ReadCheckpoint tells what is
// in it; what is loaded continues with the same bits.
func ExampleOptimizer_Save() {
	folder, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "run.safetensors")

	start := func(rule pnm.Rule, w []float32) *pnm.Optimizer[float32] {
		opt, err := pnm.NewOptimizer(pnm.Group[float32]{Rule: rule, Params: [][]float32{w}})
		if err != nil {
			panic(err)
		}
		return opt
	}
	train := func(opt *pnm.Optimizer[float32], w []float32, steps int) {
		g := make([]float32, len(w))
		for range steps {
			if err := opt.Step([][]float32{gradient(g, w)}); err != nil {
				panic(err)
			}
		}
	}

	names := []string{"fc.weight"}
	w := []float32{0, 0}
	opt := start(pnm.NewPNM(0.5), w)
	train(opt, w, 7)
	err = opt.Save(path, pnm.SaveOptions{Names: names, Metadata: map[string]string{"epoch": "3"}})
	if err != nil {
		panic(err)
	}
	train(opt, w, 5)

	info, err := pnm.ReadCheckpoint(path) // for a program that does not know what was trained
	if err != nil {
		panic(err)
	}
	group := info.Groups[0]
	saved := group.Tensors[0]
	fmt.Println("epoch", info.Metadata["epoch"], "step", saved.Step, saved.Name, saved.Shape, saved.Params)

	resumed := make([]float32, saved.Shape[0])
	opt = start(group.Rule, resumed)
	if _, err := opt.Load(path, pnm.LoadOptions{Names: names}); err != nil {
		panic(err)
	}
	train(opt, resumed, 5)
	fmt.Println(slices.Equal(resumed, w))
	// Output:
	// epoch 3 step 7 fc.weight [2] float32
	// true
}

// Errors tell what was wrong, with the numbers, and nothing has been written.
func ExampleLengthError() {
	w, g := make([]float32, 4), make([]float32, 3)
	err := pnm.UpdatePNM(pnm.NewPNM(0.5), 1, w, g, make([]float32, 4), make([]float32, 4))
	fmt.Println(err)
	var length *pnm.LengthError
	if errors.As(err, &length) {
		fmt.Println(length.Want-length.Len, "missing")
	}
	// Output:
	// pnm: length of grads is 3, must be 4
	// 1 missing
}

// A bfloat16 is a caller's own type: any type of 16 bits will do.
type bfloat16 uint16

// float32 is exact: it is what the format cuts off that is zero.
func (x bfloat16) float32() float32 { return math.Float32frombits(uint32(x) << 16) }

// An accelerator, or the next layer, works in bf16: it gets a copy of the parameters and gives back gradients. The optimizer
// keeps the parameters themselves in float32.
func ExampleMixedOptimizer() {
	w := []float32{0, 0}
	copied, g := make([]bfloat16, 2), make([]bfloat16, 2)

	rule := pnm.NewAdaPNM()
	rule.LR = 0.05
	opt, err := pnm.NewMixedOptimizer(pnm.Config{Seed: 1}, pnm.MixedGroup{
		Rule:      rule,
		Params:    []pnm.Vector{pnm.Float32(w)},
		Copies:    []pnm.Vector{pnm.BF16(copied)},
		BF16State: true,
	})
	if err != nil {
		panic(err)
	}
	defer opt.Close()
	for range 1000 {
		d := make([]float32, 2)
		for i, x := range copied { // the gradient of the copy, rounded to bf16
			d[i] = x.float32() - target[i]
		}
		if _, err := pnm.Convert(pnm.BF16(g), pnm.Float32(d)); err != nil {
			panic(err)
		}
		if err := opt.Step([]pnm.Vector{pnm.BF16(g)}); err != nil {
			panic(err)
		}
	}
	fmt.Printf("%.1f\n", w)
	// Output: [3.0 -2.0]
}

// Parameters that are bf16 themselves are rounded stochastically: steps far below their precision still move them, at the right
// rate. Here each of 1,000 steps is a 39th of what bf16 can tell from 1.
func ExampleUpdateSGDMixed() {
	w, g := make([]bfloat16, 10000), make([]bfloat16, 10000)
	for i := range w {
		w[i], g[i] = 0x3f80, 0xbf80 // 1, and −1
	}
	rule := pnm.NewSGD(0.0002)
	for step := 1; step <= 1000; step++ {
		o := pnm.MixedOptions{Rounding: pnm.Rounding{Seed: 1}}
		if _, err := pnm.UpdateSGDMixed(o, rule, step, pnm.BF16(w), pnm.BF16(g), pnm.Vector{}); err != nil {
			panic(err)
		}
	}
	mean := 0.0
	for _, x := range w {
		mean += float64(x.float32()) / float64(len(w))
	}
	fmt.Printf("%.3f\n", mean)
	// Output: 1.200
}

// A trainer that keeps all its memory hands over a list: the gradients are clipped by their common norm, and large lists are shared
// among workers.
func ExampleUpdateAll() {
	weights, bias := []float32{1, 2, 3}, []float32{4}
	rule := pnm.NewSGD(1)
	report, err := pnm.UpdateAll(pnm.Options{ClipNorm: 1}, []pnm.Update{
		{Rule: rule, Step: 1, Params: pnm.Float32(weights), Grads: pnm.Float32([]float32{0, 3, 0})},
		{Rule: rule, Step: 1, Params: pnm.Float32(bias), Grads: pnm.Float32([]float32{4})},
	})
	if err != nil {
		panic(err)
	}
	fmt.Printf("norm %g, then %.1f %.1f\n", report.GradNorm, weights, bias)
	// Output: norm 5, then [1.0 1.4 3.0] [3.2]
}
