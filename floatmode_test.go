//go:build (amd64 || 386.sse2 || arm64) && !purego

package pnm

import (
	"bytes"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

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

// delicate returns numbers whose sums and products are rounded, and denormal ones.
func delicate[T Float](rng *rand.Rand, n int) []T {
	x := random[T](rng, n)
	for i := range x {
		switch rng.IntN(3) {
		case 0:
			x[i] = fromBits[T](rng.Uint64() >> 11) // of float64
			if sizeOf[T]() == 4 {
				x[i] = fromBits[T](rng.Uint64() >> 41)
			}
		case 1:
			x[i] = T(rng.NormFloat64())
		}
	}
	return x
}

func digest(vectors ...Vector) uint64 {
	h := fnv.New64a()
	for _, v := range vectors {
		h.Write(v.bytes())
	}
	return h.Sum64()
}

func dropInModes[T Float](t *testing.T) {
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		rng := rand.New(rand.NewPCG(41, 42))
		var all []Vector
		for _, r := range sampleRules() {
			const n = 100
			p, g, state := delicate[T](rng, n), delicate[T](rng, n), newState[T](r, n)
			for _, s := range state {
				copy(s, delicate[T](rng, n))
				all = append(all, vectorOf(s))
			}
			all = append(all, vectorOf(p))
			for step := 1; step <= 4; step++ {
				var err error
				in(func() { _, err = updateSlicesWith(Options{LossScale: 3, ClipValue: 2}, r, step, p, g, state) })
				wantNoError(t, err)
			}
		}
		return digest(all...)
	})
}

// What the thread of the caller, or of a worker, is set to changes no bit, and stays. Each way into the engine must see to it.
func TestFloatModes(t *testing.T) {
	saved := leastShard
	leastShard = 1 << 12
	defer func() { leastShard = saved }()
	pool := newTestPool(t, PoolConfig{Workers: 3})
	perTier(t, func(t *testing.T) {
		t.Run("float32", dropInModes[float32])
		t.Run("float64", dropInModes[float64])
		t.Run("UpdateAll", func(t *testing.T) { perMode(t, listInMode(pool)) })
		t.Run("Optimizer", func(t *testing.T) { perMode(t, optimizerInMode(pool)) })
		t.Run("workers", func(t *testing.T) { perMode(t, workersInMode(pool)) })
		t.Run("GradNorm", func(t *testing.T) {
			perMode(t, func(t *testing.T, in func(func())) (h uint64) {
				rng := rand.New(rand.NewPCG(43, 44))
				for _, scale := range []float64{1, 0x1p-600, 0x1p600} {
					x := make([]float64, 10_000)
					for i := range x {
						x[i] = scale * rng.NormFloat64()
					}
					var norm float64
					in(func() { norm = GradNorm(pool, x) })
					h = 31*h + math.Float64bits(norm)
				}
				return h
			})
		})
	})
}

// listInMode updates tensors of all formats, with all options.
func listInMode(pool *Pool) func(t *testing.T, in func(func())) uint64 {
	return func(t *testing.T, in func(func())) uint64 {
		rng := rand.New(rand.NewPCG(45, 46))
		var list []Update
		var all []Vector
		for _, r := range sampleRules() {
			for _, f := range allFormats(r) {
				one := mixedTensor(rng, r, f, 3, 500, anywhere(rng))
				for i := range one.vectors() {
					if v := one.vector(i).Float32(); v != nil {
						copy(v, delicate[float32](rng, len(v)))
					}
					all = append(all, *one.vector(i))
				}
				list = append(list, Update{Rule: r, Step: 3, Params: one.p, Grads: one.g, State: one.s[:len(forms[one.form].slots)],
					Copy: one.out, Rounding: one.rounding})
			}
		}
		for _, u := range list { // no infinite norm, no NaN as factor
			for i, x := range u.Grads.wide() {
				if !(math.Abs(float64(x)) < 1e4) {
					clear(u.Grads.cut(i, i+1).bytes())
				}
			}
		}
		var report Report
		var err error
		in(func() { report, err = UpdateAll(Options{Pool: pool, LossScale: 3, ClipNorm: 5, ClipValue: 0.1}, list) })
		wantNoError(t, err)
		all = append(all, Float64([]float64{report.GradNorm, float64(report.Overflows)}))
		return digest(all...)
	}
}

// optimizerInMode takes whole steps and parts of them.
func optimizerInMode(pool *Pool) func(t *testing.T, in func(func())) uint64 {
	return func(t *testing.T, in func(func())) uint64 {
		rng := rand.New(rand.NewPCG(47, 48))
		p, g := delicate[float64](rng, 5000), lcg[float64](49, 5000)
		o, err := NewOptimizerWith(Config{Pool: pool}, Group[float64]{NewAdaPNM(), [][]float64{p}})
		wantNoError(t, err)
		defer o.Close()
		grads := [][]float64{g}
		in(func() { _, err = o.StepWith(Options{LossScale: 3, ClipNorm: 2}, grads) })
		wantNoError(t, err)
		in(func() {
			err = o.StepPart(Options{LossScale: 7, ClipValue: 0.3}, Part[float64]{Step: 2, Lo: 1000, Grads: g[1000:]})
		})
		wantNoError(t, err)
		in(func() {
			err = o.StepPart(Options{LossScale: 7, ClipValue: 0.3}, Part[float64]{Step: 2, Grads: g[:1000]})
		})
		wantNoError(t, err)
		return digest(Float64(p))
	}
}

// A foreigner is a task whose workers have threads that are set otherwise.
type foreigner struct {
	task
	in func(func())
}

func (f foreigner) run(part, parts int) { f.in(func() { f.task.run(part, parts) }) }

func workersInMode(pool *Pool) func(t *testing.T, in func(func())) uint64 {
	return func(t *testing.T, in func(func())) uint64 {
		rng := rand.New(rand.NewPCG(50, 51))
		r := NewAdaPNM()
		b := new(batch)
		b.tensors = append(b.tensors, *mixedTensor(rng, r, formatsOf{f32, f32, f32, bf16}, 3, 30_000, anywhere(rng)))
		one := &b.tensors[0]
		copy(one.g.Float32(), delicate[float32](rng, one.g.n))
		exact := r.scalars(3)
		wantNoError(t, one.round(&exact))
		b.plan(withGrads)
		b.sums, b.scale = make([]float64, b.blocks[1]), 1
		for _, b.phase = range []phase{summing, updating} {
			pool.pool().run(foreigner{b, in}, 3, 2)
		}
		return digest(one.p, one.s[0], one.s[2], one.out, Float64(b.sums))
	}
}

// What a rule is, and what is legal, does not depend on the mode either, though the numbers be denormal.
func TestFloatModesOfRules(t *testing.T) {
	const tiny = math.SmallestNonzeroFloat64
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		p, g := []float64{1, tiny}, []float64{1e-310, 2}
		var file bytes.Buffer
		var states []TensorState[float64]
		in(func() {
			if (SGD{Nesterov: true}).Validate() == nil {
				t.Error("Nesterov without momentum is taken")
			}
			o, err := NewOptimizer(Group[float64]{SGD{LR: 0.1, Momentum: tiny}, [][]float64{p}})
			wantNoError(t, err)
			wantNoError(t, o.Step([][]float64{g}))
			wantNoError(t, o.SetRule(0, SGD{LR: tiny, Momentum: tiny, WeightDecay: tiny}))
			wantNoError(t, o.Step([][]float64{g}))
			wantNoError(t, o.SaveTo(&file, SaveOptions{}))
			_, err = o.LoadFrom(bytes.NewReader(file.Bytes()), int64(file.Len()), LoadOptions{})
			wantNoError(t, err)
			states, err = o.State()
			wantNoError(t, err)
		})
		h := fnv.New64a()
		h.Write(file.Bytes())
		return h.Sum64() + digest(Float64(p), Float64(states[0].Buffers["momentum_buffer"]))
	})
}

// What is computed on the way to a step, and besides steps.
func TestFloatModesOfSchedules(t *testing.T) {
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		scaler := NewLossScaler()
		scaler.GrowthInterval, scaler.GrowthFactor, scaler.BackoffFactor = 1, 1.1, 0.7
		from, to := delicate[float32](rand.New(rand.NewPCG(52, 53)), 1000), make([]uint16, 1000)
		out := make([]float64, 0, 1000)
		var err, err2 error
		overflows := 0
		in(func() {
			for i := 1; i < 100; i++ {
				out = append(out, CosineDecay(i, 77), WarmUp(i, 77), StepDecay(i, 3, 0.9))
				err = scaler.Update(i%3 == 0)
			}
			overflows, err2 = Convert(F16(to), Float32(from))
		})
		wantNoError(t, err)
		wantNoError(t, err2)
		return digest(Float64(out), Float64([]float64{scaler.Scale, float64(overflows)}), F16(to))
	})
}
