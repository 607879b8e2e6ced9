package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/mlp"
	"github.com/posneg/pnm/examples/internal/stats"
	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/examples/internal/trials/trialstest"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

func head(t *testing.T, images int) (train, test fashionmnist.Set) {
	t.Helper()
	train, test, err := fashionmnist.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return train.Head(images), test.Head(images)
}

func formatNamed(t *testing.T, name string) format {
	t.Helper()
	i := slices.IndexFunc(formats, func(f format) bool { return f.name == name })
	if i < 0 {
		t.Fatalf("there is no format %q", name)
	}
	return formats[i]
}

// The numbers of docs/precision.md, and PNM's counted by hand.
func TestBytes(t *testing.T) {
	for name, want := range map[string]struct{ adapnmMemory, adapnmTraffic, pnmMemory, pnmTraffic float64 }{
		"float32":                       {24, 40, 16, 24},
		"bf16 gradients":                {22, 38, 14, 22},
		"f16 gradients":                 {22, 38 + 2, 14, 22 + 2},
		"bf16 gradients and copy":       {24, 40, 16, 24},
		"f16 gradients and copy":        {24, 40 + 2, 16, 24 + 2},
		"bf16 state":                    {16, 26, 12, 18},
		"bf16 parameters and gradients": {20, 34, 12, 18},
		"mxfp8 momenta":                 {14 + 1./16, 23 + 3./32, 10 + 1./16, 15 + 3./32},
		"all bf16":                      {12, 20, 8, 12},
		"all bf16, mxfp8 momenta":       {10 + 1./16, 17 + 3./32, 6 + 1./16, 9 + 3./32},
	} {
		f := formatNamed(t, name)
		opts := optimizers(defaults)
		got := want
		got.adapnmMemory, got.adapnmTraffic = f.memory(opts[0].buffers()), f.traffic(opts[0].buffers())
		got.pnmMemory, got.pnmTraffic = f.memory(opts[1].buffers()), f.traffic(opts[1].buffers())
		if got != want {
			t.Errorf("%s: %v, must be %v", name, got, want)
		}
	}
}

// What all else is compared with is what an optimizer that is all float32 does.
func TestYardstick(t *testing.T) {
	images, tests := head(t, 300)
	s := trials.Settings{Epochs: 2, Batch: 64, Hidden: 16}
	for _, o := range optimizers(defaults) {
		got, err := o.train(context.Background(), formats[0], s, 3, images, tests, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		run, err := training.New(images, s.Batch, s.Hidden, 3, training.Rules(o.rule, o.rule))
		if err != nil {
			t.Fatal(err)
		}
		want, err := s.Train(context.Background(), run, 3, o.lr, tests, func() float64 { return 0 }, func(int) {})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, must be %v (%v)", o.name, got, want, err)
		}
	}
}

// The network runs on numbers that the format can store.
func TestStored(t *testing.T) {
	for _, f := range formats {
		net := mlp.New(6, 5, 3, rand.New(rand.NewPCG(1, 2)))
		m, err := newMixed(f, pnm.NewAdaPNM(), 1, net)
		if err != nil {
			t.Fatal(err)
		}
		stored := max(f.params, f.copy)
		for step := range 3 {
			for _, p := range slices.Concat(net.Weights(), net.Biases()) {
				rounded := slices.Clone(p)
				if err := stored.round(rounded); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(rounded, p) {
					t.Fatalf("%s, step %d: parameters %v, rounded %v", f.name, step, p, rounded)
				}
			}
			before := slices.Clone(net.Weights()[0])
			net.Loss([]float32{0.1, 0.2, 0.3, 0.4, 0.5, 0.6}, []uint8{1})
			if err := m.Step(net.Grads()); err != nil {
				t.Fatal(err)
			}
			if slices.Equal(net.Weights()[0], before) {
				t.Errorf("%s: step %d changed nothing", f.name, step)
			}
		}
	}
}

// No two formats train the same network, and seeds of stochastic rounding make a difference where there is any.
func TestDistinct(t *testing.T) {
	follow := func(f format, seed uint64) string {
		rng := rand.New(rand.NewPCG(1, 2))
		net := mlp.New(20, 10, 3, rng)
		m, err := newMixed(f, pnm.NewAdaPNM(), seed, net)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for range 20 {
			x := make([]float32, 20)
			for i := range x {
				x[i] = float32(0.1 * rng.NormFloat64())
			}
			net.Loss(x, []uint8{uint8(rng.IntN(3))})
			if err := m.Step(net.Grads()); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprint(net.Weights())
	}
	seen := map[string]string{}
	for _, f := range formats {
		weights := follow(f, 1)
		if other, ok := seen[weights]; ok {
			t.Errorf("%s and %s give the same weights", other, f.name)
		}
		seen[weights] = f.name
		stochastic := f.params == bf16 && !f.nearest || f.state != f32
		if (follow(f, 2) != weights) != stochastic {
			t.Errorf("%s: the seed makes a difference, must be %v", f.name, stochastic)
		}
	}
}

// A step of less than half a unit in the last place moves a parameter on average, and never where it is rounded to nearest.
func TestSmallSteps(t *testing.T) {
	const steps, units = 400, 1000
	for _, c := range []struct {
		format          string
		want, tolerance float64
	}{
		{"float32", 0.04, 1e-5},
		{"bf16 gradients and copy", 0.04, 0x1p-8}, // the copy's rounding
		{"bf16 parameters and gradients", 0.04, 5 * 0x1p-7 * math.Sqrt(0.04/0x1p-7/units)}, // five standard deviations
		{"the same, to nearest", 0, 0},
	} {
		net := mlp.New(units, 1, 1, rand.New(rand.NewPCG(1, 2)))
		for _, w := range net.Weights() {
			for i := range w {
				w[i] = 1.5
			}
		}
		m, err := newMixed(formatNamed(t, c.format), pnm.NewSGD(1e-4), 1, net) // 1.5's unit is 2⁻⁷
		if err != nil {
			t.Fatal(err)
		}
		grads := net.Grads()
		for range steps {
			for _, g := range grads {
				for i := range g {
					g[i] = 1
				}
			}
			if err := m.Step(grads); err != nil {
				t.Fatal(err)
			}
		}
		moved := 0.0
		for _, x := range net.Weights()[0] {
			moved += (1.5 - float64(x)) / units
		}
		if !(math.Abs(moved-c.want) <= c.tolerance) {
			t.Errorf("%s: moved by %g, must be %g ± %g", c.format, moved, c.want, c.tolerance)
		}
	}
}

// Averages of squares in bf16 have the mean that they have in float32 and more noise, of which AMSGrad keeps the largest: what
// docs/precision.md says of it, of gradients from a normal distribution.
func TestLargestAverage(t *testing.T) {
	const elements, steps = 1000, 20000
	follow := func(state kind) (average, std, largest float64) {
		opt, err := optim.Config{Seed: 1}.New(
			optim.Group{Rule: pnm.NewAdaPNM(), Params: []pnm.Vector{f32.vector(elements)}, State: state.String()})
		if err != nil {
			t.Fatal(err)
		}
		defer opt.Close()
		rng, grads := rand.New(rand.NewPCG(1, 1)), make([]float32, elements)
		for range steps {
			for i := range grads {
				grads[i] = float32(rng.NormFloat64())
			}
			if _, err := opt.Step(pnm.Options{}, pnm.Vectors(grads)); err != nil {
				t.Fatal(err)
			}
		}
		states, err := opt.State()
		if err != nil {
			t.Fatal(err)
		}
		of := func(buffer string) (mean, std float64) {
			wide := make([]float32, elements)
			if _, err := pnm.Float32(wide).Set(states[0].Buffers[buffer]); err != nil {
				t.Fatal(err)
			}
			x := make([]float64, elements)
			for i, a := range wide {
				x[i] = float64(a)
			}
			return stats.Spread(x)
		}
		average, std = of("exp_avg_sq")
		largest, _ = of("max_exp_avg_sq")
		return average, std, largest
	}
	for _, c := range []struct {
		state        kind
		std, largest float64
	}{{f32, 0.032, 1.08}, {bf16, 0.054, 1.14}} {
		average, std, largest := follow(c.state)
		if math.Abs(average-1) > 0.01 || math.Abs(std-c.std) > 0.004 || math.Abs(largest-c.largest) > 0.01 {
			t.Errorf("%v state: average %.4f ± %.4f, must be 1 ± %g; largest %.4f, must be %g", c.state, average, std, c.std, largest, c.largest)
		}
	}
}

// Slow averages follow small gradients beside large ones, and decay without any: what docs/precision.md says of Lion's in MXFP8. In bf16,
// which rounds them to nearest, they stop short.
func TestSlowAverage(t *testing.T) {
	const elements = 32 * 64
	for _, c := range []struct {
		state           kind
		want, tolerance float64
	}{{f32, 0.02, 1e-6}, {bf16, 0.0156, 1e-4}, {mxfp8, 0.02, 2e-4}} {
		opt, err := optim.Config{Seed: 1}.New(
			optim.Group{Rule: pnm.NewLion(), Params: []pnm.Vector{f32.vector(elements)}, State: c.state.String()})
		if err != nil {
			t.Fatal(err)
		}
		defer opt.Close()
		rng, grads := rand.New(rand.NewPCG(1, 1)), make([]float32, elements)
		quiet := func(steps int, mean, noise float64) float64 { // mean of the momenta that get no noise
			for range steps {
				for i := range grads {
					grads[i] = float32(mean)
					if i%2 > 0 {
						grads[i] += float32(noise * rng.NormFloat64())
					}
				}
				if _, err := opt.Step(pnm.Options{}, pnm.Vectors(grads)); err != nil {
					t.Fatal(err)
				}
			}
			states, err := opt.State()
			if err != nil {
				t.Fatal(err)
			}
			m, sum := make([]float32, elements), 0.0
			if _, err := pnm.Float32(m).Set(states[0].Buffers["exp_avg"]); err != nil {
				t.Fatal(err)
			}
			for i := 0; i < elements; i += 2 {
				sum += float64(m[i])
			}
			return sum / (elements / 2)
		}
		if mean := quiet(2000, 0.02, 1); math.Abs(mean-c.want) > c.tolerance {
			t.Errorf("%v state: the momentum is %.5f, must be %.5f", c.state, mean, c.want)
		}
		if mean := quiet(500, 0, 0); mean > 0.02*c.want || mean < 0 {
			t.Errorf("%v state: %.5f is left of the momentum after 500 steps without gradients", c.state, mean)
		}
	}
}

// Where sizes differ much within a block of MXFP8 momenta, Adam's steps are uneven: what docs/precision.md says of them, of sizes with a normal
// logarithm.
func TestSizesInBlock(t *testing.T) {
	const elements, steps, last = 1 << 14, 1200, 200
	follow := func(state kind, spread float64) (largest float64) {
		rule := pnm.NewAdam()
		rule.LR = 1
		p, grads, sizes := make([]float32, elements), make([]float32, elements), make([]float64, elements)
		opt, err := optim.Config{Seed: 1}.New(optim.Group{Rule: rule, Params: pnm.Vectors(p), State: state.String()})
		if err != nil {
			t.Fatal(err)
		}
		defer opt.Close()
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range sizes {
			sizes[i] = math.Exp(spread * rng.NormFloat64())
		}
		for step := range steps {
			for i, size := range sizes {
				grads[i] = float32(size * (0.1 + rng.NormFloat64()))
			}
			clear(p)
			if _, err := opt.Step(pnm.Options{}, pnm.Vectors(grads)); err != nil {
				t.Fatal(err)
			}
			if step >= steps-last {
				for _, u := range p {
					largest = max(largest, math.Abs(float64(u)))
				}
			}
		}
		return largest
	}
	for _, c := range []struct {
		state                  kind
		spread, least, largest float64
	}{{f32, 3, 1, 2}, {mxfp8, 1, 1, 2}, {mxfp8, 3, 20, 60}} {
		if u := follow(c.state, c.spread); u < c.least || u > c.largest {
			t.Errorf("%v state, spread %g: the largest step is %.3g, must be in [%g, %g]", c.state, c.spread, u, c.least, c.largest)
		}
	}
}

// A loss scale is divided out; a step whose gradients overflow is skipped, and the next one has half the scale.
func TestLossScale(t *testing.T) {
	weights := func(name string, gradient float32) (*mixed, []float32) {
		net := mlp.New(4, 3, 2, rand.New(rand.NewPCG(1, 2)))
		m, err := newMixed(formatNamed(t, name), pnm.NewPNM(0.5), 1, net)
		if err != nil {
			t.Fatal(err)
		}
		grads := net.Grads()
		for _, g := range grads {
			for i := range g {
				g[i] = gradient
			}
		}
		if err := m.Step(grads); err != nil {
			t.Fatal(err)
		}
		return m, net.Weights()[0]
	}
	start := mlp.New(4, 3, 2, rand.New(rand.NewPCG(1, 2))).Weights()[0]

	const small = 0x1p-30 // f16 has nothing below 2⁻²⁴
	m, got := weights("f16 gradients", small)
	if _, want := weights("float32", small); m.skipped != 0 || !slices.Equal(got, want) {
		t.Errorf("a gradient of 2⁻³⁰ gives %v, must give %v", got, want)
	}
	m, got = weights("f16 gradients", 2)
	if m.skipped != 1 || m.scaler.Scale != 32768 || !slices.Equal(got, start) {
		t.Errorf("a gradient that overflows: %d skipped, scale %g, weights %v", m.skipped, m.scaler.Scale, got)
	}
}

// Differences are to float32, between runs with the same seed.
func TestDifference(t *testing.T) {
	o := optimizer{runs: make([][]trials.Result, 3)}
	for i, errors := range [][]float64{{0.10, 0.20}, {0.5, 0.5}, {0.11, 0.23}} {
		for _, e := range errors {
			o.runs[i] = append(o.runs[i], trials.Result{Epochs: []trials.Epoch{{TestError: e}}})
		}
	}
	for _, m := range measures {
		if mean, stderr := o.difference(2, m); math.Abs(mean-2) > 1e-12 || math.Abs(stderr-1) > 1e-12 { // of 1 and 3
			t.Errorf("%s: %g ± %g", m.name, mean, stderr)
		}
	}
}

// Student's t with two degrees of freedom is beyond ±1 with a probability of 1 − 1/√3, with four 0.374.
func TestBeyondByChance(t *testing.T) {
	for numbers, want := range map[int]float64{2: 0.5, 3: 1 - 1/math.Sqrt(3), 5: 0.3739} {
		if got := beyondByChance(numbers); math.Abs(got-want) > 1e-4 {
			t.Errorf("%d numbers: %g, must be %g", numbers, got, want)
		}
	}
}

// The whole program, small: every file is written, and holds every run.
func TestRun(t *testing.T) {
	for _, seeds := range []int{1, 2} {
		prefix := filepath.Join(t.TempDir(), "x")
		s := trials.Settings{Out: prefix, Images: 500, Epochs: 1, Batch: 250, Hidden: 4, Seeds: seeds, Seed: 1}
		opts := optimizers(defaults)
		if err := run(opts, s); err != nil {
			t.Fatal(err)
		}
		trialstest.Pictures(t, prefix, "all bf16", "-differences", "-curves")
		trialstest.Pictures(t, prefix, "mxfp8 momenta", "-state")
		contenders := 0
		for _, o := range opts {
			contenders += len(o.formats)
		}
		trialstest.Rows(t, prefix, contenders*seeds)
	}
}

// The examples in the docs are those that are compiled.
func TestDocs(t *testing.T) {
	docs, err := os.ReadFile("../../docs/precision.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	body := strings.ReplaceAll(string(source), "\n\t", "\n")
	examples := strings.Split(string(docs), "```go\n")[1:]
	if len(examples) != 2 {
		t.Errorf("the docs have %d examples, want 2", len(examples))
	}
	for _, e := range examples {
		if code, _, found := strings.Cut(e, "```"); !found || !strings.Contains(body, code) {
			t.Errorf("example_test.go has no such lines:\n%s", code)
		}
	}
}
