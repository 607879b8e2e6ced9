//go:build (amd64 || 386.sse2 || arm64) && !purego

package optim

import (
	"bytes"
	"hash/fnv"
	"math"
	"runtime"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/floatmode"
)

// inMode runs f on a thread that is set to a mode, and fails unless f leaves it so.
func inMode(t *testing.T, mode uint32, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	saved := floatmode.Get()
	floatmode.Set(mode)
	set := floatmode.Get() // what the CPU has of it
	f()
	left := floatmode.Get()
	floatmode.Set(saved)
	if left&floatmode.Bits != set&floatmode.Bits {
		t.Errorf("the mode was %#x and is %#x", set, left)
	}
}

// perMode compares what f returns in each mode with what it returns without. It runs its argument in the mode; what is around
// that runs as usual.
func perMode(t *testing.T, f func(t *testing.T, in func(func())) uint64) {
	t.Helper()
	want := f(t, func(calls func()) { calls() })
	for name, mode := range floatmode.Foreign {
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if got := f(t, func(calls func()) { inMode(t, mode, calls) }); got != want {
				t.Errorf("other bits")
			}
		})
	}
}

func digest(vectors ...pnm.Vector) uint64 {
	h := fnv.New64a()
	for _, v := range vectors {
		h.Write(v.Bytes())
	}
	return h.Sum64()
}

// delicate returns numbers whose sums and products are rounded, many of them denormal.
func delicate(seed uint64, n int) []float64 {
	x := lcg[float64](seed, n)
	for i := range x {
		if i%3 == 0 {
			x[i] *= 1e-300
		} else if i%3 == 1 {
			x[i] = math.Float64frombits(math.Float64bits(x[i]) >> 12)
		}
	}
	return x
}

// What the thread of the caller is set to changes no bit of steps, whole or in parts, and stays.
func TestFloatModes(t *testing.T) {
	pool := newTestPool(t, 3)
	const n = 100_000
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		p, g := pnm.Float64(delicate(47, n)), pnm.Float64(lcg[float64](49, n))
		o := Config{Pool: pool}.of(t, Group{Rule: pnm.NewAdaPNM(), Params: []pnm.Vector{p}})
		var err error
		in(func() { _, err = o.Step(pnm.Options{LossScale: 3, ClipNorm: 2}, []pnm.Vector{g}) })
		wantNoError(t, err)
		in(func() {
			_, err = o.StepNamed(pnm.Options{LossScale: 3, ClipNorm: 2}, map[string]pnm.Vector{"0": g})
		})
		wantNoError(t, err)
		half := pnm.Options{LossScale: 7, ClipValue: 0.3}
		in(func() { err = partOf(o, half, Part{Step: 3, Lo: 1000, Grads: g.Slice(1000, n)}) })
		wantNoError(t, err)
		in(func() { err = partOf(o, half, Part{Step: 3, Grads: g.Slice(0, 1000)}) })
		wantNoError(t, err)
		return digest(p)
	})
}

// What a rule is, and what is legal, does not depend on the mode either, though the numbers be denormal.
func TestFloatModesOfRules(t *testing.T) {
	const tiny = math.SmallestNonzeroFloat64
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		p, g := []float64{1, tiny}, []float64{1e-310, 2}
		var file bytes.Buffer
		var states []TensorState
		in(func() {
			if _, err := New(groupOf(pnm.NewSGD(-tiny), p)); err == nil {
				t.Error("a negative learning rate is taken")
			}
			o := optimizerOf(t, groupOf(pnm.SGD{LR: 0.1, Momentum: tiny}, p))
			wantNoError(t, stepOf(o, g))
			if o.SetLR(-tiny) == nil {
				t.Error("a negative learning rate is set")
			}
			wantNoError(t, o.SetRule(0, pnm.SGD{LR: tiny, Momentum: tiny, WeightDecay: tiny}))
			wantNoError(t, stepOf(o, g))
			wantNoError(t, o.SaveTo(&file, SaveOptions{}))
			_, err := o.LoadFrom(bytes.NewReader(file.Bytes()), int64(file.Len()), LoadOptions{})
			wantNoError(t, err)
			states, err = o.State()
			wantNoError(t, err)
		})
		h := fnv.New64a()
		h.Write(file.Bytes())
		return h.Sum64() + digest(pnm.Float64(p), states[0].Buffers["momentum_buffer"])
	})
}

// State and parameters are converted as they are without.
func TestFloatModesOfConversions(t *testing.T) {
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		x := make([]float32, 1000)
		for i := range x {
			x[i] = math.Float32frombits(uint32(i) * 4_000_037)
		}
		p := newVector("bf16", 1000)
		o := optimizerOf(t, Group{Rule: pnm.SGD{LR: 1, Momentum: 0.5}, Params: []pnm.Vector{p}, State: "bf16"})
		from := optimizerOf(t, groupOf(pnm.SGD{LR: 1, Momentum: 0.5}, x))
		var err error
		in(func() {
			err = o.SetState([]TensorState{{1, map[string]pnm.Vector{"momentum_buffer": pnm.Float32(x)}}})
		})
		wantNoError(t, err)
		state := stateOf(t, o)[0].Buffers["momentum_buffer"]
		file := saved(t, from, SaveOptions{})
		in(func() { err = loadFrom(o, file, LoadOptions{}) })
		wantNoError(t, err)
		return digest(state, p)
	})
}

// What is computed on the way to a step, and besides steps.
func TestFloatModesOfSchedules(t *testing.T) {
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		scaler := NewLossScaler()
		scaler.GrowthInterval, scaler.GrowthFactor, scaler.BackoffFactor = 1, 1.1, 0.7
		out := make([]float64, 0, 1000)
		var err error
		in(func() {
			for i := 1; i < 100; i++ {
				out = append(out, CosineDecay(i, 77), WarmUp(i, 77), StepDecay(i, 3, 0.9))
				err = scaler.Update(i%3 == 0)
			}
		})
		wantNoError(t, err)
		return digest(pnm.Float64(append(out, scaler.Scale)))
	})
}

// Readings of the noise, whose squares may be denormal, and their averages.
func TestFloatModesOfNoise(t *testing.T) {
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		var numbers []float64
		for _, size := range []float64{1, 1e-160} {
			o := optimizerOf(t, groupOf(pnm.NewPNM(0), make([]float64, 10), make([]float64, 10)))
			wantNoError(t, o.ReadNoise(1, 0.9))
			for step := range uint64(8) {
				g := [][]float64{lcg[float64](step, 10), lcg[float64](step+100, 10)}
				for i := range 10 {
					g[0][i], g[1][i] = g[0][i]*size, g[1][i]*size
				}
				in(func() { wantNoError(t, stepOf(o, g...)) })
			}
			in(func() {
				now, err := o.NoiseScale()
				wantNoError(t, err)
				e := o.NoiseAverages()
				numbers = append(numbers, now.Total.Signal, now.Total.Variance)
				for _, e := range append(e.Tensors, e.Total) {
					numbers = append(numbers, e.Signal, e.Variance, e.SignalError, e.VarianceError, e.ScaleError)
				}
			})
		}
		return digest(pnm.Float64(numbers))
	})
}
