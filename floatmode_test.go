//go:build (amd64 || 386.sse2 || arm64) && !purego

package pnm

import (
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
		h.Write(v.Bytes())
		h.Write(v.Scales())
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
				in(func() { err = updateSlices(r, step, p, g, state) })
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
	pool := newTestPool(t, 3)
	perTier(t, func(t *testing.T) {
		t.Run("float32", dropInModes[float32])
		t.Run("float64", dropInModes[float64])
		t.Run("UpdateAll", func(t *testing.T) { perMode(t, listInMode(pool)) })
		t.Run("List", func(t *testing.T) { perMode(t, partsInMode(pool)) })
		t.Run("workers", func(t *testing.T) { perMode(t, workersInMode(pool)) })
		t.Run("SumSquares", func(t *testing.T) {
			perMode(t, func(t *testing.T, in func(func())) (h uint64) {
				rng := rand.New(rand.NewPCG(43, 44))
				for _, scale := range []float64{1, 0x1p-600, 0x1p600} {
					x := make([]float64, 10_000)
					for i := range x {
						x[i] = scale * rng.NormFloat64()
					}
					var norm float64
					in(func() { norm = normOf(pool, Float64(x)) })
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
				list = append(list, Update{Rule: r, Step: 3, Params: one.p, Grads: one.g, State: one.s[:len(forms[one.form].Slots)],
					Copy: one.out, Rounding: one.rounding})
			}
		}
		for _, u := range list { // no infinite norm, no NaN as factor
			for i, x := range u.Grads.wide() {
				if !(math.Abs(float64(x)) < 1e4) {
					u.Grads.Slice(i, i+1).Clear()
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

// partsInMode takes whole steps and parts of them.
func partsInMode(pool *Pool) func(t *testing.T, in func(func())) uint64 {
	return func(t *testing.T, in func(func())) uint64 {
		rng := rand.New(rand.NewPCG(47, 48))
		p, g := Float64(delicate[float64](rng, 5000)), Float64(lcg[float64](49, 5000))
		l := listOf(NewAdaPNM(), formatsOf{f64, f64, f64, f32}, p)
		var err error
		l.Updates[0].Grads = g
		in(func() { err = l.Check(0) })
		wantNoError(t, err)
		in(func() { err = l.Touch(pool, 0) })
		wantNoError(t, err)
		in(func() { _, err = l.Step(Options{Pool: pool, LossScale: 3, ClipNorm: 2}) })
		wantNoError(t, err)
		l.Updates[0].Step = 2
		for _, part := range [][2]int{{1000, 5000}, {0, 1000}} {
			in(func() {
				_, err = l.StepPart(Options{Pool: pool, LossScale: 7, ClipValue: 0.3}, 0, part[0], g.Slice(part[0], part[1]))
			})
			wantNoError(t, err)
		}
		return digest(append(l.Updates[0].State, p)...)
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
		r.scalars(3, &one.c64)
		wantNoError(t, one.round(one.form))
		b.plan(withGrads)
		for _, b.phase = range []phase{summing, updating} {
			pool.pool().run(foreigner{b, in}, 3, 2)
		}
		return digest(one.p, one.s[0], one.s[2], one.out, Float64([]float64{b.total.norm().value()}))
	}
}

// What a rule is, and what is legal, does not depend on the mode either, though the numbers be denormal.
func TestFloatModesOfRules(t *testing.T) {
	const tiny = math.SmallestNonzeroFloat64
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		p, g, m := []float64{1, tiny}, Float64([]float64{1e-310, 2}), make([]float64, 2)
		l := List{Updates: []Update{{Rule: SGD{LR: 0.1, Momentum: tiny}, Step: 1, Params: Float64(p), Grads: g, State: Vectors(m)}}}
		in(func() {
			if (SGD{Nesterov: true}).Validate() == nil {
				t.Error("Nesterov without momentum is taken")
			}
			_, err := l.Step(Options{})
			wantNoError(t, err)
			l.Updates[0].Rule, l.Updates[0].Step = SGD{LR: tiny, Momentum: tiny, WeightDecay: tiny}, 2
			wantNoError(t, l.Check(0))
			_, err = l.Step(Options{})
			wantNoError(t, err)
			a, err := AllocState(l.Updates[0].Rule, "float64", []int{2}, nil)
			wantNoError(t, err)
			if len(a.Vectors()) != 1 {
				t.Error("a denormal momentum has no state")
			}
		})
		return digest(Float64(p), Float64(m))
	})
}

// Parameters that follow an f16 copy are rounded, to compare them with it.
func TestFloatModesOfFingerprints(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, 3)
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		params := Float32(delicate[float32](rand.New(rand.NewPCG(54, 55)), 3*hashWords))
		copied := newVector(f16, params.n)
		convert(copied, params)
		var f Fingerprint
		in(func() { f = mustFingerprint(t, pool, Portion{Vector: params, Copy: copied}) })
		if plain := mustFingerprint(t, nil, Portion{Vector: params}); f != plain {
			t.Errorf("%s, want %s", f, plain)
		}
		return f[0]
	})
}

// What is rounded besides steps.
func TestFloatModesOfSet(t *testing.T) {
	perMode(t, func(t *testing.T, in func(func())) uint64 {
		from := Float32(delicate[float32](rand.New(rand.NewPCG(52, 53)), 1000))
		all := []Vector{newVector(bf16, 1000), newVector(f16, 1000), newVector(f32, 1000), newVector(f32, 1000)}
		overflows := make([]float64, 4)
		for i, from := range []Vector{from, from, all[0], all[1]} {
			in(func() {
				n, err := all[i].Set(from)
				wantNoError(t, err)
				overflows[i] = float64(n)
			})
		}
		return digest(append(all, Float64(overflows))...)
	})
}
