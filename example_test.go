package pnm_test

import (
	"errors"
	"fmt"
	"math"

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

// NewAdamW gives the same rule with decoupled decay. Here the learning rate falls to 0.
func ExampleUpdateAdam() {
	w, g := []float32{0, 0}, make([]float32, 2)
	m, v := make([]float32, 2), make([]float32, 2) // zero before the first step

	const steps = 500
	rule := pnm.NewAdam()
	for step := 1; step <= steps; step++ {
		rule.LR = 0.1 * (1 - float64(step-1)/steps)
		if err := pnm.UpdateAdam(rule, step, w, gradient(g, w), m, v, nil); err != nil { // nil: no AMSGrad
			panic(err)
		}
	}
	fmt.Printf("%.3f\n", w)
	// Output: [3.000 -2.000]
}

// Lion's steps all have the size of the learning rate: it must fall for them to settle.
func ExampleUpdateLion() {
	w, g := []float32{0, 0}, make([]float32, 2)
	m := make([]float32, 2) // zero before the first step

	const steps = 500
	rule := pnm.NewLion()
	for step := 1; step <= steps; step++ {
		rule.LR = 0.05 * (1 - float64(step-1)/steps)
		if err := pnm.UpdateLion(rule, step, w, gradient(g, w), m); err != nil {
			panic(err)
		}
	}
	fmt.Printf("%.2f\n", w)
	// Output: [3.00 -2.00]
}

// Large vectors are best in an arena. Two workers share the steps, and a list checks what they are given once.
func ExampleList() {
	const n = 1 << 20
	arena, err := pnm.Alloc("float32", n, n)
	if err != nil {
		panic(err)
	}
	defer arena.Close() // after the last use of w and g
	w, g := arena.Vectors()[0], arena.Vectors()[1]

	rule := pnm.NewAdaPNM()
	state, err := pnm.AllocState(rule, "float32", []int{n}, nil)
	if err != nil {
		panic(err)
	}
	defer state.Close()

	pool, err := pnm.NewPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	list := pnm.List{Updates: []pnm.Update{{Rule: rule, Params: w, Grads: g, State: state.Vectors()}}}
	for range 3 {
		for i := range g.Float32() {
			g.Float32()[i] = 1
		}
		list.Updates[0].Step++
		if _, err := list.Step(pnm.Options{Pool: pool}); err != nil {
			panic(err)
		}
	}
	fmt.Printf("%.5f\n", w.Float32()[n-1])
	// Output: -0.00297
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

// Parameters that are bf16 themselves are rounded stochastically: steps far below their precision still move them, at the right
// rate. Here each of 1,000 steps is a 39th of what bf16 can tell from 1.
func ExampleBF16() {
	w, g := make([]bfloat16, 10000), make([]bfloat16, 10000)
	for i := range w {
		w[i], g[i] = 0x3f80, 0xbf80 // 1, and −1
	}
	rule := pnm.NewSGD(0.0002)
	for step := 1; step <= 1000; step++ {
		_, err := pnm.UpdateAll(pnm.Options{}, []pnm.Update{
			{Rule: rule, Step: step, Params: pnm.BF16(w), Grads: pnm.BF16(g), Rounding: pnm.Rounding{Seed: 1}},
		})
		if err != nil {
			panic(err)
		}
	}
	mean := 0.0
	for _, x := range w {
		mean += float64(x.float32()) / float64(len(w))
	}
	fmt.Printf("%.3f\n", mean)
	// Output: 1.201
}

// A model in bf16 has exact float32 numbers behind it where a step gets the lower halves of these, too. Steps far below the precision of
// bf16 are not lost, and what others write to the model is where the next step begins.
func ExampleLow16() {
	model, low := []bfloat16{0}, []int16{0}
	if err := pnm.Split(pnm.BF16(model), pnm.Low16(low), pnm.Float32([]float32{1})); err != nil {
		panic(err)
	}
	u := pnm.Update{Rule: pnm.NewSGD(0.0002), Params: pnm.Low16(low), Copy: pnm.BF16(model), Grads: pnm.BF16([]bfloat16{0xbf80})} // −1
	for u.Step = 1; u.Step <= 1000; u.Step++ {
		if _, err := pnm.UpdateAll(pnm.Options{}, []pnm.Update{u}); err != nil {
			panic(err)
		}
	}
	master := make([]float32, 1)
	if err := pnm.Join(pnm.Float32(master), pnm.BF16(model), pnm.Low16(low)); err != nil {
		panic(err)
	}
	fmt.Printf("the model has %g, and the master is %.4f\n", model[0].float32(), master[0])
	// Output: the model has 1.203125, and the master is 1.2000
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

// Two processes that own a part of the parameters each clip by the norm of all gradients.
func ExampleSumSquares() {
	grads := [][]float32{{3, 0}, {0, -4}}
	var all pnm.Squares // on each process, after an all-reduce of what they have
	for _, g := range grads {
		own := pnm.SumSquares(nil, pnm.Float32(g))
		all.Add(&own)
	}
	fmt.Println("norm", all.Norm())
	for _, g := range grads {
		weights := []float32{1, 1}
		u := pnm.Update{Rule: pnm.NewSGD(1), Step: 1, Params: pnm.Float32(weights), Grads: pnm.Float32(g)}
		if _, err := pnm.UpdateAll(pnm.Options{ClipNorm: 2.5, Squares: &all}, []pnm.Update{u}); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(weights)
	}
	// Output:
	// norm 5
	// [-0.5 1]
	// [1 3]
}

// Two processes have the halves of a tensor. Their fingerprints add up to that of the whole.
func ExampleSumFingerprint() {
	weight := []float32{3, -2, 0.5, 1}
	whole, err := pnm.SumFingerprint(nil, pnm.Portion{Name: "weight", Vector: pnm.Float32(weight)})
	if err != nil {
		panic(err)
	}
	var sum pnm.Fingerprint
	for _, first := range []int{0, 2} {
		f, err := pnm.SumFingerprint(nil, pnm.Portion{Name: "weight", First: uint64(first), Vector: pnm.Float32(weight[first:][:2])})
		if err != nil {
			panic(err)
		}
		sum.Add(f)
	}
	fmt.Println(whole)
	fmt.Println(sum)
	// Output:
	// 61a9392ee2c00000605576e91e800000
	// 61a9392ee2c00000605576e91e800000
}
