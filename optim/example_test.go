package optim_test

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
)

// The examples minimize f(w) = ½·Σ (w_i − target_i)², whose gradient is w − target.
var target = []float32{3, -2}

func gradient(g, w []float32) []float32 {
	for i := range w {
		g[i] = w[i] - target[i]
	}
	return g
}

// check ends an example that fails.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// start returns an optimizer of one tensor.
func start(rule pnm.Rule, w []float32) *optim.Optimizer {
	opt, err := optim.New(optim.Group{Rule: rule, Params: pnm.Vectors(w), Names: []string{"fc.weight"}})
	check(err)
	return opt
}

// train performs steps.
func train(opt *optim.Optimizer, w []float32, steps int) {
	g := make([]float32, len(w))
	for range steps {
		_, err := opt.Step(pnm.Options{}, pnm.Vectors(gradient(g, w)))
		check(err)
	}
}

// An optimizer keeps the state. Its Step gets one gradient for each tensor.
func ExampleOptimizer() {
	w, g := []float32{0, 0}, make([]float32, 2)
	opt, err := optim.New(optim.Group{Rule: pnm.NewPNM(0.5), Params: pnm.Vectors(w)})
	check(err)
	defer opt.Close()
	for range 200 {
		_, err := opt.Step(pnm.Options{}, pnm.Vectors(gradient(g, w)))
		check(err)
	}
	fmt.Printf("%.3f\n", w)
	// Output: [3.000 -2.000]
}

// Groups have rules of their own: here, no weight decay on the biases. The learning rate changes between steps, and a tensor without a
// gradient is skipped.
func ExampleOptimizer_groups() {
	weights1, weights2 := make([]float32, 6), make([]float32, 3)
	bias1, bias2 := make([]float32, 2), make([]float32, 1)

	decayed := pnm.NewAdaPNM()
	decayed.WeightDecay = 0.5
	opt, err := optim.New(
		optim.Group{Rule: decayed, Params: pnm.Vectors(weights1, weights2), Names: []string{"1.weight", "2.weight"}},
		optim.Group{Rule: pnm.NewAdaPNM(), Params: pnm.Vectors(bias1, bias2), Names: []string{"1.bias", "2.bias"}},
	)
	check(err)
	defer opt.Close()
	for step := range 10 {
		if step == 8 {
			check(opt.SetLR(1e-4)) // of all groups; SetGroupLR(1, 1e-4) would be the second one's
		}
		_, err := opt.StepNamed(pnm.Options{}, map[string]pnm.Vector{ // 2.bias has none
			"1.weight": pnm.Float32(make([]float32, 6)),
			"2.weight": pnm.Float32(make([]float32, 3)),
			"1.bias":   pnm.Float32(make([]float32, 2)),
		})
		check(err)
	}
	for i, name := range opt.Names() {
		fmt.Println(name, "has done", opt.Steps(i), "steps")
	}
	// Output:
	// 1.weight has done 10 steps
	// 2.weight has done 10 steps
	// 1.bias has done 10 steps
	// 2.bias has done 0 steps
}

// PNM's momenta tell how much of a gradient is noise. Here, each sample's gradient has a mean of length √13 and noise of variance 100 in
// both elements, so that the noise scale is 200/13 samples.
func ExampleOptimizer_ReadNoise() {
	opt := start(pnm.NewPNM(0), []float32{0, 0})
	defer opt.Close()
	check(opt.ReadNoise(1, 0)) // at each step, all with equal weights
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		g := []float32{3 + 10*float32(rng.NormFloat64()), -2 + 10*float32(rng.NormFloat64())}
		_, err := opt.Step(pnm.Options{}, pnm.Vectors(g))
		check(err)
	}
	e := opt.NoiseAverages().Total
	fmt.Printf("noise scale %.0f ± %.0f\n", e.Scale(), e.ScaleError)
	// Output: noise scale 16 ± 1
}

// What trainers do around a step is part of it: here the gradients carry a loss scale, are clipped by their global norm, and
// are zero afterwards. A step with a gradient that is not finite is skipped, and the scaler backs off.
func ExampleLossScaler() {
	w, g := []float32{0, 0}, make([]float32, 2)
	opt := start(pnm.NewPNM(0.5), w)
	defer opt.Close()
	scaler := optim.NewLossScaler()
	scaler.Scale = 0x1p126 // far too large
	skipped := 0
	for range 200 {
		for i := range g {
			g[i] += float32(scaler.Scale) * 2 * (w[i] - target[i]) // of Σ (w_i − target_i)², scaled
		}
		report, err := opt.Step(pnm.Options{
			LossScale: scaler.Scale, ClipNorm: 1, SkipNonFinite: true, ZeroGrads: true,
		}, pnm.Vectors(g))
		check(err)
		check(scaler.Update(report.Skipped))
		if report.Skipped {
			skipped++
		}
	}
	fmt.Printf("%.3f, %d steps skipped, gradients %v\n", w, skipped, g)
	// Output: [3.000 -2.000], 1 steps skipped, gradients [0 0]
}

// The learning rate rises for 20 steps, and then falls.
func ExampleCosineDecay() {
	const steps, base = 500, 0.1
	w, g := []float32{0, 0}, make([]float32, 2)
	opt := start(pnm.NewAdam(), w)
	defer opt.Close()
	for step := 1; step <= steps; step++ {
		check(opt.SetLR(base * optim.WarmUp(step, 20) * optim.CosineDecay(step, steps)))
		_, err := opt.Step(pnm.Options{}, pnm.Vectors(gradient(g, w)))
		check(err)
	}
	fmt.Printf("%.3f, learning rate %.0e\n", w, opt.LR(0))
	// Output: [3.000 -2.000], learning rate 1e-06
}

// Gradients that come in pieces are used as they come; with the last piece the step is complete.
func ExampleOptimizer_StepPart() {
	w := make([]float32, 6)
	opt := start(pnm.NewPNM(0.5), w)
	defer opt.Close()
	piece := pnm.Float32([]float32{1, 1})
	part := func(step, lo int) error {
		_, err := opt.StepPart(pnm.Options{}, optim.Part{Tensor: 0, Step: step, Lo: lo, Grads: piece})
		return err
	}
	fmt.Println(part(1, 4), part(1, 0))
	fmt.Println(part(2, 4)) // too early
	fmt.Println(part(1, 2), part(2, 4))
	// Output:
	// <nil> <nil>
	// pnm: tensor 0 ("fc.weight"): step 1: elements [2, 4) must be updated before step 2
	// <nil> <nil>
}

// Large parameters and gradients are best in an arena, as the optimizer's state is by itself. Two workers share the steps.
func ExampleConfig() {
	const n = 1 << 20
	arena, err := pnm.Alloc("float32", n, n)
	check(err)
	defer arena.Close() // after the last use of w and g
	w, g := arena.Vectors()[0], arena.Vectors()[1]

	pool, err := pnm.NewPool(2)
	check(err)
	defer pool.Close()
	opt, err := optim.Config{Pool: pool}.New(optim.Group{Rule: pnm.NewAdaPNM(), Params: []pnm.Vector{w}})
	check(err)
	defer opt.Close()

	for i := range n {
		g.Float32()[i] = 1
	}
	_, err = opt.Step(pnm.Options{}, []pnm.Vector{g})
	check(err)
	fmt.Printf("%.5f\n", w.Float32()[n-1])
	// Output: -0.00170
}

// A run is saved with its parameters and its state, under the official names; what is resumed continues with the same
// bits as what was not.
func ExampleOptimizer_SetState() {
	type checkpoint struct {
		Params []float32
		State  []optim.TensorState
	}
	w := []float32{0, 0}
	opt := start(pnm.NewPNM(0.5), w)
	defer opt.Close()
	train(opt, w, 7)
	state, err := opt.State()
	check(err)
	var file bytes.Buffer
	check(gob.NewEncoder(&file).Encode(checkpoint{w, state}))
	train(opt, w, 5)

	var saved checkpoint
	check(gob.NewDecoder(&file).Decode(&saved))
	resumed := start(pnm.NewPNM(0.5), saved.Params)
	defer resumed.Close()
	check(resumed.SetState(saved.State))
	train(resumed, saved.Params, 5)
	fmt.Println(slices.Equal(saved.Params, w))
	// Output: true
}

// A checkpoint is a file with the state, the rules and the parameters, under the tensors' names. ReadCheckpoint tells what is
// in it; what is loaded continues with the same bits.
func ExampleOptimizer_Save() {
	folder, err := os.MkdirTemp("", "")
	check(err)
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "run.safetensors")

	w := []float32{0, 0}
	opt := start(pnm.NewPNM(0.5), w)
	defer opt.Close()
	train(opt, w, 7)
	check(opt.Save(path, optim.SaveOptions{Metadata: map[string]string{"epoch": "3"}}))
	train(opt, w, 5)

	info, err := optim.ReadCheckpoint(path) // for a program that does not know what was trained
	check(err)
	group := info.Groups[0]
	saved := group.Tensors[0]
	fmt.Println("epoch", info.Metadata["epoch"], "step", saved.Step, saved.Name, saved.Shape, saved.Params)

	w2 := make([]float32, saved.Shape[0])
	resumed := start(group.Rule, w2)
	defer resumed.Close()
	_, err = resumed.Load(path, optim.LoadOptions{})
	check(err)
	train(resumed, w2, 5)
	fmt.Println(slices.Equal(w2, w))
	// Output:
	// epoch 3 step 7 fc.weight [2] float32
	// true
}

// A fingerprint identifies a run. Here, two optimizers own one element each, as two processes would: their fingerprints add up to that of
// the optimizer that owns both. Every machine prints the same one.
func ExampleOptimizer_Fingerprint() {
	w := []float32{0, 0}
	whole := start(pnm.NewPNM(0.5), w)
	defer whole.Close()
	train(whole, w, 7)
	want, err := whole.Fingerprint()
	check(err)
	fmt.Println(want)

	var sum pnm.Fingerprint
	for i := range w {
		part, g := []float32{0}, []float32{0}
		opt, err := optim.New(optim.Group{
			Rule:     pnm.NewPNM(0.5),
			Params:   pnm.Vectors(part),
			Names:    []string{"fc.weight"},              // of the whole tensor
			Rounding: []pnm.Rounding{{First: uint64(i)}}, // of the part in it
		})
		check(err)
		defer opt.Close()
		for range 7 {
			g[0] = part[0] - target[i]
			_, err := opt.Step(pnm.Options{}, pnm.Vectors(g))
			check(err)
		}
		f, err := opt.Fingerprint()
		check(err)
		sum.Add(f)
	}
	fmt.Println(sum == want)
	// Output:
	// f739750930a0be43037cbd95dc308c1e
	// true
}

// LoadOptions.Fingerprint refuses another run's file, such as that of an earlier step. Nothing has been loaded then.
func ExampleOptimizer_Load() {
	w := []float32{0, 0}
	opt := start(pnm.NewPNM(0.5), w)
	defer opt.Close()
	var earlier, file bytes.Buffer
	train(opt, w, 3)
	check(opt.SaveTo(&earlier, optim.SaveOptions{}))
	train(opt, w, 4)
	check(opt.SaveTo(&file, optim.SaveOptions{}))
	want, err := opt.Fingerprint() // which you may note down, or publish
	check(err)

	for _, b := range [][]byte{earlier.Bytes(), file.Bytes()} {
		_, err := opt.LoadFrom(bytes.NewReader(b), int64(len(b)), optim.LoadOptions{Fingerprint: &want})
		fmt.Println(errors.Is(err, optim.ErrFingerprint), err)
	}
	// Output:
	// true optim: checkpoint: the fingerprint differs: it is 23e32e6721178e0d207488b0eaa70484, must be f739750930a0be43037cbd95dc308c1e
	// false <nil>
}

// A bfloat16 is a caller's own type: any type of 16 bits will do.
type bfloat16 uint16

func (x bfloat16) float32() float32 { return math.Float32frombits(uint32(x) << 16) }

// An accelerator, or the next layer, works in bf16: it gets a copy of the parameters and gives back gradients. The optimizer
// keeps the parameters themselves in float32, and its state in bf16.
func ExampleGroup() {
	w := []float32{0, 0}
	copied, g := make([]bfloat16, 2), make([]bfloat16, 2)

	rule := pnm.NewAdaPNM()
	rule.LR = 0.05
	opt, err := optim.Config{Seed: 1}.New(optim.Group{
		Rule:   rule,
		Params: pnm.Vectors(w),
		Copies: []pnm.Vector{pnm.BF16(copied)},
		State:  "bf16",
	})
	check(err)
	defer opt.Close()
	for range 1000 {
		d := make([]float32, 2)
		for i, x := range copied {
			d[i] = x.float32() - target[i]
		}
		_, err := pnm.BF16(g).Set(pnm.Float32(d)) // rounded to bf16
		check(err)
		_, err = opt.Step(pnm.Options{}, []pnm.Vector{pnm.BF16(g)})
		check(err)
	}
	fmt.Printf("%.1f\n", w)
	// Output: [3.0 -2.0]
}

// Errors name the tensor and tell the numbers, and nothing has been written.
func ExampleOptimizer_Step_errors() {
	opt := start(pnm.NewPNM(0.5), make([]float32, 4))
	defer opt.Close()
	_, err := opt.Step(pnm.Options{}, pnm.Vectors(make([]float32, 3)))
	fmt.Println(err)
	var tensor *pnm.TensorError
	var length *pnm.LengthError
	if errors.As(err, &tensor) && errors.As(err, &length) {
		fmt.Println(tensor.Name, "lacks", length.Want-length.Len)
	}
	// Output:
	// pnm: tensor 0 ("fc.weight"): length of grads is 3, must be 4
	// fc.weight lacks 1
}
