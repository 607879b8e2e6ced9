package pnm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// formatsOf are the formats of a tensor's vectors; out is f32 for no copy.
type formatsOf struct{ p, g, s, out format }

// copiesF16 tells whether kernels' copies in f16 are tested: Bochs, in which .ci/with-avx512 may run the tests, rounds them wrongly.
var copiesF16 = os.Getenv("PNM_TEST_NO_F16_COPIES") == ""

// allFormats are all combinations of formats that a rule can have.
func allFormats(r Rule) (all []formatsOf) {
	states := []format{f32, bf16}
	if len(forms[r.form()].slots) == 0 {
		states = states[:1]
	}
	for _, s := range states {
		for _, g := range []format{f32, bf16, f16} {
			for _, x := range [][2]format{{f32, f32}, {f32, bf16}, {f32, f16}, {bf16, f32}} {
				if x[1] == f16 && !copiesF16 {
					continue
				}
				all = append(all, formatsOf{x[0], g, s, x[1]})
			}
		}
	}
	return all
}

func (f formatsOf) String() string {
	return fmt.Sprintf("params %s, grads %s, state %s, copy %s", f.p, f.g, f.s, f.out)
}

// vector returns a vector of n elements, in memory that place chooses.
func vector(f format, n int, place func(bytes int) []byte) Vector {
	return Vector{unsafe.Pointer(unsafe.SliceData(place(n * f.size()))), n, f}
}

// anywhere places memory at some multiple of two bytes.
func anywhere(rng *rand.Rand) func(int) []byte {
	return func(n int) []byte {
		words := make([]uint64, (n+64)/8+1)
		at := 2 * rng.IntN(32)
		return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))[at : at+n]
	}
}

// fill sets a vector to specials, arbitrary bits and ordinary numbers.
func (v Vector) fill(rng *rand.Rand) {
	x := random[float32](rng, v.n)
	narrow(v.at, v.format, 0, x, func(i int, x float32) uint16 {
		switch {
		case rng.IntN(3) == 0:
			return uint16(rng.Uint32())
		case v.format == f16:
			return narrowF16(x)
		}
		return narrowBF16(x)
	})
}

// mixedTensor returns a tensor of a rule at a step, filled if there is an rng.
func mixedTensor(rng *rand.Rand, r Rule, f formatsOf, step, n int, place func(bytes int) []byte) *tensor {
	t := &tensor{form: r.form(), step: step, p: vector(f.p, n, place), g: vector(f.g, n, place)}
	for i := range forms[t.form].slots {
		t.s[i] = vector(f.s, n, place)
	}
	if f.out != f32 {
		t.out = vector(f.out, n, place)
	}
	if rng == nil {
		return t
	}
	t.rounding = Rounding{rng.Uint64(), rng.Uint64(), []uint64{0, rng.Uint64(), 1<<32 - uint64(n/2)}[rng.IntN(3)]}
	for i := range t.vectors() {
		t.vector(i).fill(rng)
	}
	if f.out == f16 && rng.IntN(2) == 0 { // where f16 ends
		for i, x := range t.p.Float32() {
			t.p.Float32()[i] = float32(math.Copysign(65500+40*rng.Float64(), float64(x)))
		}
	}
	return t
}

// clone returns a tensor with the same in memory of its own.
func (t *tensor) clone() *tensor {
	c := *t
	for i := range t.vectors() {
		v := c.vector(i)
		*v = v.clone()
	}
	return &c
}

// wide is v as float32.
func (v Vector) wide() []float32 {
	x := make([]float32, v.n)
	convert(Float32(x), v)
	return x
}

// wantSameTensor compares everything that a step may touch.
func wantSameTensor(t *testing.T, what string, got, want *tensor) {
	t.Helper()
	for i := range want.vectors() {
		g, w := got.vector(i), want.vector(i)
		if string(g.bytes()) != string(w.bytes()) {
			wantSame(t, what+": "+want.argument(i), g.wide(), w.wide())
		}
	}
}

// mixedLikeReference updates a tensor by the active tier and by the reference.
func mixedLikeReference(t *testing.T, rng *rand.Rand, r Rule, f formatsOf, step, n int, place func(bytes int) []byte) {
	t.Helper()
	got := mixedTensor(rng, r, f, step, n, place)
	o := Options{ClipValue: []float64{0, 1}[rng.IntN(2)], ZeroGrads: rng.IntN(2) == 0}
	exact := r.scalars(step)
	wantNoError(t, got.round(&exact))
	got.apply(&o, []float64{1, 0.7, 1e30}[rng.IntN(3)])
	want := got.clone()
	over := got.update(0, n, rng.IntN(2)*prefetchAhead, o.ZeroGrads)
	tier := active
	active = generic
	wantOver := want.update(0, n, 0, o.ZeroGrads)
	active = tier
	what := fmt.Sprintf("%+v, %s, %d elements, step %d", r, f, n, step)
	wantSameTensor(t, what, got, want)
	if over != wantOver {
		t.Fatalf("%s: %d overflows, want %d", what, over, wantOver)
	}
}

// Every tier gives the bits of the reference for every rule and combination of formats, for all lengths up to three blocks.
func TestMixedTiersAgree(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(31, 32))
		for _, r := range sampleRules() {
			for _, f := range allFormats(r) {
				for n := range 3*mixedBlock + 1 {
					mixedLikeReference(t, rng, r, f, 1+n%5, n, anywhere(rng))
				}
				mixedLikeReference(t, rng, r, f, 2, blockLen+33, anywhere(rng))
			}
		}
	})
}

// updateVectors is the drop-in call of whatever rule r is, in mixed precision.
func updateVectors(o MixedOptions, r Rule, t int, p, g Vector, s []Vector) (Report, error) {
	var state [maxSlots]Vector
	copy(state[:], s)
	switch r := r.(type) {
	case PNM:
		return UpdatePNMMixed(o, r, t, p, g, state[0], state[1])
	case AdaPNM:
		return UpdateAdaPNMMixed(o, r, t, p, g, state[0], state[1], state[2], state[3])
	case SGD:
		return UpdateSGDMixed(o, r, t, p, g, state[0])
	case Adam:
		return UpdateAdamMixed(o, r, t, p, g, state[0], state[1], state[2])
	}
	panic(fmt.Sprintf("no drop-in call for %T", r))
}

// mixedRun is a few tensors that are trained for some steps, by an optimizer.
type mixedRun struct {
	opt    *MixedOptimizer
	params []Vector
	copies []Vector
	f      formatsOf
	r      Rule
}

func newVector(f format, n int) Vector {
	return vector(f, n, func(n int) []byte { return anywhereZero(n) })
}

func anywhereZero(n int) []byte {
	words := make([]uint64, n/8+1)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n)
}

// ordinary returns a vector of ordinary numbers, as lcg makes them.
func ordinary(f format, seed uint64, n int) Vector {
	v := newVector(f, n)
	convert(v, Float32(lcg[float32](seed, n)))
	return v
}

func newMixedRun(t *testing.T, r Rule, f formatsOf, c Config) *mixedRun {
	t.Helper()
	m := &mixedRun{f: f, r: r}
	for i, n := range listSizes {
		m.params = append(m.params, ordinary(f.p, uint64(i), n))
		if f.out != f32 {
			m.copies = append(m.copies, newVector(f.out, n))
		}
	}
	var groups []MixedGroup
	for _, at := range [][2]int{{0, 4}, {4, len(m.params)}} {
		g := MixedGroup{Rule: r, Params: m.params[at[0]:at[1]], BF16State: f.s == bf16}
		if m.copies != nil {
			g.Copies = m.copies[at[0]:at[1]]
		}
		groups = append(groups, g)
	}
	opt, err := NewMixedOptimizer(c, groups...)
	wantNoError(t, err)
	t.Cleanup(opt.Close)
	m.opt = opt
	return m
}

func (m *mixedRun) grads(step int) []Vector {
	g := make([]Vector, len(m.params))
	for i, p := range m.params {
		g[i] = ordinary(m.f.g, uint64(100*step+i), p.n)
	}
	return g
}

// wantSameRun compares parameters, copies and state.
func wantSameRun(t *testing.T, what string, got, want *mixedRun) {
	t.Helper()
	a, err := got.opt.State()
	wantNoError(t, err)
	b, err := want.opt.State()
	wantNoError(t, err)
	for i := range want.params {
		wantSame(t, fmt.Sprintf("%s: params %d", what, i), got.params[i].wide(), want.params[i].wide())
		if want.copies != nil {
			wantSame(t, fmt.Sprintf("%s: copy %d", what, i), got.copies[i].wide(), want.copies[i].wide())
		}
		if a[i].Step != b[i].Step {
			t.Fatalf("%s: tensor %d has made %d steps, want %d", what, i, a[i].Step, b[i].Step)
		}
		for name, v := range b[i].Buffers {
			wantSame(t, fmt.Sprintf("%s: %s %d", what, name, i), a[i].Buffers[name].wide(), v.wide())
		}
	}
}

// vectorClones returns copies in other memory; nil stays nil.
func vectorClones(vectors []Vector) (copies []Vector) {
	for _, v := range vectors {
		copies = append(copies, v.clone())
	}
	return copies
}

// someFormats are the formats that a user would choose.
var someFormats = []formatsOf{{f32, bf16, f32, f32}, {f32, f16, f32, f16}, {f32, f32, bf16, f32}, {f32, bf16, bf16, bf16}, {bf16, bf16, bf16, f32}, {bf16, bf16, f32, f32}}

// The same bits come from an optimizer on any number of workers, from drop-in calls, from parts in any order, and from
// optimizers that own but parts of tensors, with all that options do.
func TestMixedWaysAgree(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(33, 34))
		for i, r := range []Rule{NewAdaPNM(), NewPNM(0.1), SGD{LR: 0.1, Momentum: 0.9}, NewAdamW()} {
			for _, f := range someFormats {
				if active == generic && i > 0 && !*thorough {
					continue
				}
				what := fmt.Sprintf("%T, %s", r, f)
				o := Options{LossScale: 8, ClipValue: 0.05}
				want := newMixedRun(t, r, f, Config{Pool: newTestPool(t, PoolConfig{Workers: 1}), Seed: 5})
				many := newMixedRun(t, r, f, Config{Pool: newTestPool(t, PoolConfig{Workers: 3}), Seed: 5})
				parts := newMixedRun(t, r, f, Config{Seed: 5})
				alone := newMixedRun(t, r, f, Config{})
				state := make([][]Vector, len(alone.params))
				var owners []*MixedOptimizer
				owned := newMixedRun(t, r, f, Config{})
				cut := func(v []Vector, i, lo, hi int) []Vector {
					if v == nil {
						return nil
					}
					return []Vector{v[i].cut(lo, hi)}
				}
				for i, p := range alone.params {
					for range forms[r.form()].slots {
						state[i] = append(state[i], newVector(f.s, p.n))
					}
					for k := range 2 {
						lo, hi := p.n*k/2, p.n*(k+1)/2
						opt, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: r, Params: cut(owned.params, i, lo, hi), Copies: cut(owned.copies, i, lo, hi),
							BF16State: f.s == bf16, Rounding: []Rounding{{5, uint64(i), uint64(lo)}}})
						wantNoError(t, err)
						t.Cleanup(opt.Close)
						owners = append(owners, opt)
					}
				}
				for step := 1; step <= 3; step++ {
					g := want.grads(step)
					report, err := want.opt.StepWith(o, g)
					wantNoError(t, err)
					many.params, many.copies = vectorClones(many.params), vectorClones(many.copies)
					wantNoError(t, many.opt.SetParams(many.params, many.copies))
					other, err := many.opt.StepWith(o, g)
					wantNoError(t, err)
					if !reflect.DeepEqual(report, other) {
						t.Errorf("%s: reports %+v and %+v", what, report, other)
					}
					for i, p := range alone.params {
						mixed := MixedOptions{Options: o, Rounding: Rounding{Seed: 5, Tensor: uint64(i)}}
						if alone.copies != nil {
							mixed.Copy = alone.copies[i]
						}
						_, err := updateVectors(mixed, r, step, p, g[i], state[i])
						wantNoError(t, err)
						borders := []int{0, rng.IntN(p.n + 1), rng.IntN(p.n + 1), p.n}
						slices.Sort(borders)
						for _, k := range rng.Perm(3) {
							lo, hi := borders[k], borders[k+1]
							if lo == hi && (p.n > 0 || k > 0) {
								continue
							}
							_, err := parts.opt.StepPart(o, MixedPart{i, step, lo, g[i].cut(lo, hi)})
							wantNoError(t, err)
						}
						for k := range 2 {
							_, err := owners[2*i+k].StepWith(o, cut(g, i, p.n*k/2, p.n*(k+1)/2))
							wantNoError(t, err)
						}
					}
				}
				wantSameRun(t, what+", 3 workers, moving", many, want)
				wantSameRun(t, what+", parts", parts, want)
				for i := range want.params {
					wantSame(t, what+", drop-in", alone.params[i].wide(), want.params[i].wide())
					wantSame(t, what+", owners", owned.params[i].wide(), want.params[i].wide())
					if want.copies != nil {
						wantSame(t, what+", copies", alone.copies[i].wide(), want.copies[i].wide())
						wantSame(t, what+", copies of owners", owned.copies[i].wide(), want.copies[i].wide())
					}
				}
			}
		}
	})
}

// Where nothing is rounded, mixed precision is float32: gradients of 16 bits count as what they are, and a copy is what Convert
// makes of the parameters.
func TestMixedIsFloat32(t *testing.T) {
	perTier(t, func(t *testing.T) {
		for _, r := range sampleRules() {
			for _, f := range []formatsOf{{f32, f32, f32, f32}, {f32, bf16, f32, f32}, {f32, f16, f32, bf16}, {f32, f32, f32, f16}} {
				if f.out == f16 && !copiesF16 {
					continue
				}
				m := newMixedRun(t, r, f, Config{})
				var params, q [][]float32
				for _, p := range m.params {
					params = append(params, p.wide())
				}
				opt, err := NewOptimizer(Group[float32]{r, params})
				wantNoError(t, err)
				for step := 1; step <= 3; step++ {
					g := m.grads(step)
					q = q[:0]
					for _, v := range g {
						q = append(q, v.wide())
					}
					report, err := m.opt.StepWith(Options{ClipNorm: 3, ZeroGrads: true}, g)
					wantNoError(t, err)
					want, err := opt.StepWith(Options{ClipNorm: 3}, q)
					wantNoError(t, err)
					if report != want || report.GradNorm == 0 {
						t.Errorf("%s: report %+v, want %+v", f, report, want)
					}
					for i, v := range g {
						if strings.Trim(string(v.bytes()), "\x00") != "" {
							t.Fatalf("%s: gradients %d are not zeroed", f, i)
						}
					}
				}
				states := stateOf(t, opt)
				mixed, err := m.opt.State()
				wantNoError(t, err)
				for i, p := range params {
					wantSame(t, "params", m.params[i].Float32(), p)
					for name, b := range states[i].Buffers {
						wantSame(t, name, mixed[i].Buffers[name].Float32(), b)
					}
					if f.out != f32 {
						c := newVector(f.out, len(p))
						convert(c, Float32(p))
						wantSame(t, "copy", m.copies[i].wide(), c.wide())
					}
				}
			}
		}
	})
}

// The norm of 16 bits is that of the same numbers in float32, for any number of workers; a gradient that is not finite skips
// the step.
func TestMixedNorm(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		for _, f := range []format{f32, bf16, f16} {
			m := newMixedRun(t, NewAdaPNM(), formatsOf{f32, f, bf16, f16}, Config{Pool: newTestPool(t, PoolConfig{Workers: 3})})
			before := newMixedRun(t, NewAdaPNM(), m.f, Config{})
			g := m.grads(1)
			var wide [][]float32
			for _, v := range g {
				wide = append(wide, v.wide())
			}
			want := GradNorm(newTestPool(t, PoolConfig{Workers: 1}), wide...)
			if got := GradNormMixed(m.opt.config.Pool, g...); got != want || want == 0 {
				t.Errorf("%s: the norm is %g, want %g", f, got, want)
			}
			bad := newVector(f, g[2].n)
			convert(bad, g[2])
			inf := newVector(f, 1)
			convert(inf, Float32([]float32{float32(math.Inf(-1))}))
			copy(bad.cut(bad.n-1, bad.n).bytes(), inf.bytes())
			g[2] = bad
			report, err := m.opt.StepWith(Options{SkipNonFinite: true, ZeroGrads: true}, g)
			wantNoError(t, err)
			if !report.Skipped || !math.IsInf(report.GradNorm, 1) {
				t.Errorf("%s: %+v", f, report)
			}
			wantSameRun(t, "skipped", m, before)
			if string(g[2].bytes()) != strings.Repeat("\x00", len(g[2].bytes())) {
				t.Errorf("%s: the gradients of a skipped step were not zeroed", f)
			}
		}
	})
}

// Finite parameters that f16 cannot hold are counted, on any number of workers; those that are infinite themselves are not.
func TestOverflows(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		const n = 3*blockLen + 5
		for _, workers := range []int{1, 4} {
			p, g, out := make([]float32, n), make([]float32, n), make([]uint16, n)
			for i := 0; i < n; i += 7 {
				p[i] = []float32{65519.99, 65520, -1e30, 3e38}[i/7%4]
				g[i] = []float32{0, 0, 0, -3e38}[i/7%4] // infinite itself after the step
			}
			want := (n+6)/7/4*2 + []int{0, 0, 1, 2}[(n+6)/7%4]
			report, err := UpdateSGDMixed(MixedOptions{Options: Options{Pool: newTestPool(t, PoolConfig{Workers: workers})}, Copy: F16(out)},
				NewSGD(1), 1, Float32(p), Float32(g), Vector{})
			wantNoError(t, err)
			if report.Overflows != want || out[0] != 0x7bff || out[7] != 0x7c00 || out[14] != 0xfc00 || out[21] != 0x7c00 {
				t.Errorf("%d overflows, want %d; %x %x %x %x", report.Overflows, want, out[0], out[7], out[14], out[21])
			}
			opt, err := NewMixedOptimizer(Config{Pool: newTestPool(t, PoolConfig{Workers: workers})},
				MixedGroup{Rule: NewSGD(0), Params: []Vector{Float32(p)}, Copies: []Vector{F16(out)}})
			wantNoError(t, err)
			report, err = opt.StepWith(Options{}, []Vector{Float32(g)})
			wantNoError(t, err)
			part, err := opt.StepPart(Options{}, MixedPart{0, 2, 0, Float32(g[:n/2])})
			wantNoError(t, err)
			other, err := opt.StepPart(Options{}, MixedPart{0, 2, n / 2, Float32(g[n/2:])})
			wantNoError(t, err)
			if report.Overflows != want || part.Overflows+other.Overflows != want || part.Overflows == 0 || other.Overflows == 0 {
				t.Errorf("%d overflows, and %d and %d in parts, want %d", report.Overflows, part.Overflows, other.Overflows, want)
			}
		}
	})
}

// Parameters that move by less than half a bf16 ulp keep moving at the right rate, and an average of squares without new gradients
// decays as it should; to the nearest, both would stand still.
func TestStochasticRoundingMoves(t *testing.T) {
	const n, steps = 1 << 14, 200
	perTier(t, func(t *testing.T) {
		p, g := newVector(bf16, n), newVector(bf16, n)
		one := make([]float32, n)
		for i := range one {
			one[i] = 1
		}
		convert(p, Float32(one))
		convert(g, Float32(one))
		lr := 1e-4 // an ulp below 1 is 2⁻⁸
		for step := 1; step <= steps; step++ {
			_, err := UpdateSGDMixed(MixedOptions{Rounding: Rounding{Seed: 9}}, NewSGD(lr), step, p, g, Vector{})
			wantNoError(t, err)
		}
		wantMean(t, "params", p.wide(), 1-lr*steps)

		r := NewAdaPNM()
		exp := make([]Vector, 4)
		for i := range exp {
			exp[i] = newVector(bf16, n)
		}
		convert(exp[2], Float32(one))
		for step := 1; step <= steps; step++ {
			_, err := UpdateAdaPNMMixed(MixedOptions{}, r, step, newVector(f32, n), newVector(bf16, n), exp[0], exp[1], exp[2], exp[3])
			wantNoError(t, err)
		}
		wantMean(t, "exp_avg_sq", exp[2].wide(), math.Pow(float64(float32(r.Beta2)), steps))
		if narrowBF16(float32(r.Beta2)) != 0x3f80 {
			t.Error("β2·1 is not 1 to the nearest: the test shows nothing")
		}
	})
}

// wantMean fails unless the mean is within five standard errors of what it should be, with a spread.
func wantMean(t *testing.T, what string, x []float32, want float64) {
	t.Helper()
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	mean := sum / float64(len(x))
	se := math.Sqrt((squares/float64(len(x)) - mean*mean) / float64(len(x)))
	if se == 0 || math.Abs(mean-want) > 5*se {
		t.Errorf("%s: the mean is %g ± %g, want %g", what, mean, se, want)
	}
}

// An element draws the same number wherever a call begins, also where the counter of 32 bits begins anew.
func TestRoundingFarOut(t *testing.T) {
	const n = 100
	perTier(t, func(t *testing.T) {
		for _, first := range []uint64{1<<31 - n/2, 1<<32 - n/2, 3<<32 - 1, 1<<63 - 7, math.MaxUint64 - n/2} {
			whole, g := ordinary(bf16, 1, n), ordinary(f32, 2, n)
			one := whole.clone()
			_, err := UpdateSGDMixed(MixedOptions{Rounding: Rounding{First: first}}, NewSGD(0.01), 1, whole, g, Vector{})
			wantNoError(t, err)
			for i := range n {
				_, err := UpdateSGDMixed(MixedOptions{Rounding: Rounding{First: first + uint64(i)}}, NewSGD(0.01), 1, one.cut(i, i+1), g.cut(i, i+1), Vector{})
				wantNoError(t, err)
			}
			wantSame(t, fmt.Sprintf("params from %d on", first), whole.wide(), one.wide())
		}
	})
}

// The largest average so far never falls below the average, although both are rounded.
func TestLargestStaysLargest(t *testing.T) {
	const n = 1 << 12
	perTier(t, func(t *testing.T) {
		m := make([]Vector, 4)
		for i := range m {
			m[i] = newVector(bf16, n)
		}
		p := newVector(f32, n)
		for step := 1; step <= 30; step++ {
			_, err := UpdateAdaPNMMixed(MixedOptions{}, NewAdaPNM(), step, p, ordinary(bf16, uint64(step), n), m[0], m[1], m[2], m[3])
			wantNoError(t, err)
			v, x := m[2].wide(), m[3].wide()
			for i := range v {
				if x[i] < v[i] {
					t.Fatalf("step %d: the largest average is %g, the average %g", step, x[i], v[i])
				}
			}
		}
	})
}

// A run continues from its exported state with the same bits, and state in another format is converted.
func TestMixedState(t *testing.T) {
	for _, f := range someFormats {
		a := newMixedRun(t, NewAdaPNM(), f, Config{Seed: 3})
		for step := 1; step <= 3; step++ {
			wantNoError(t, a.opt.Step(a.grads(step)))
		}
		state, err := a.opt.State()
		wantNoError(t, err)
		b := newMixedRun(t, NewAdaPNM(), f, Config{Seed: 3})
		for i, p := range a.params {
			copy(b.params[i].bytes(), p.bytes())
		}
		wantNoError(t, b.opt.SetState(state))
		for step := 4; step <= 5; step++ {
			wantNoError(t, a.opt.Step(a.grads(step)))
			wantNoError(t, b.opt.Step(b.grads(step)))
		}
		wantSameRun(t, f.String(), b, a)

		other := f
		other.s = bf16 - f.s // the other of f32 and bf16
		c := newMixedRun(t, NewAdaPNM(), other, Config{})
		wantNoError(t, c.opt.SetState(state))
		converted, err := c.opt.State()
		wantNoError(t, err)
		for i := range state {
			for name, v := range state[i].Buffers {
				w := converted[i].Buffers[name]
				want := newVector(other.s, v.n)
				convert(want, v)
				if w.format != other.s {
					t.Fatalf("%s is %s", name, w.format)
				}
				wantSame(t, name, w.wide(), want.wide())
			}
		}
	}
}

// Vectors are saved and read again, in binary and as text.
func TestVectorIsSaved(t *testing.T) {
	for _, v := range []Vector{{}, ordinary(bf16, 1, 5), ordinary(f16, 2, 3), ordinary(f32, 3, 7), Float64(lcg[float64](4, 2))} {
		b, err := v.MarshalBinary()
		wantNoError(t, err)
		text, err := json.Marshal(map[string]Vector{"exp_avg": v})
		wantNoError(t, err)
		var u Vector
		var m map[string]Vector
		wantNoError(t, u.UnmarshalBinary(b))
		wantNoError(t, json.Unmarshal(text, &m))
		for _, w := range []Vector{u, m["exp_avg"]} {
			if w.format != v.format || w.n != v.n || string(w.bytes()) != string(v.bytes()) {
				t.Errorf("%v becomes %v", v, w)
			}
		}
	}
	b, err := BF16([]uint16{0x0102}).MarshalBinary()
	wantNoError(t, err)
	if string(b) != "\x02\x02\x01" {
		t.Errorf("bf16 0x0102 is saved as % x", b)
	}
	for _, bad := range [][]byte{{}, {4}, {0, 1, 2}, {2, 1}} {
		if err := new(Vector).UnmarshalBinary(bad); err == nil {
			t.Errorf("% x is read", bad)
		}
	}
	if err := new(Vector).UnmarshalText([]byte("*")); err == nil {
		t.Error("* is read")
	}
}

// Empty slices that lie in somebody's memory are no state.
func TestEmptyStateIsNone(t *testing.T) {
	perTier(t, func(t *testing.T) {
		for _, r := range sampleRules() {
			const n = 21
			memory := ordinary(bf16, 9, 2*n)
			before := memory.clone()
			p, g := ordinary(f32, 1, n), ordinary(bf16, 2, n)
			var state []Vector
			for range forms[r.form()].slots {
				state = append(state, newVector(bf16, n))
			}
			for len(state) < maxSlots {
				state = append(state, memory.cut(0, 0))
			}
			_, err := updateVectors(MixedOptions{}, r, 1, p, g, state)
			wantNoError(t, err)
			if string(memory.bytes()) != string(before.bytes()) {
				t.Errorf("%T wrote to memory behind an empty slice", r)
			}
		}
	})
}

// A step in mixed precision allocates nothing.
func TestMixedAllocatesNothing(t *testing.T) {
	sharing(t)
	for _, f := range someFormats {
		m := newMixedRun(t, NewAdaPNM(), f, Config{Pool: newTestPool(t, PoolConfig{Workers: 2})})
		g := m.grads(1)
		state := []Vector{newVector(f.s, 100), newVector(f.s, 100), newVector(f.s, 100), newVector(f.s, 100)}
		p, q := newVector(f.p, 100), newVector(f.g, 100)
		step := 0
		if n := testing.AllocsPerRun(20, func() {
			step++
			if _, err := m.opt.StepWith(Options{ClipNorm: 1, ZeroGrads: true}, g); err != nil {
				t.Fatal(err)
			}
			if _, err := UpdateAdaPNMMixed(MixedOptions{}, NewAdaPNM(), step, p, q, state[0], state[1], state[2], state[3]); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %g allocations", f, n)
		}
	}
}

func TestMixedErrors(t *testing.T) {
	r, sgd := NewAdaPNM(), SGD{LR: 1, Momentum: 0.9}
	half := func(x []float32) Vector { return BF16(unsafe.Slice((*uint16)(unsafe.Pointer(&x[0])), 2*len(x))) }
	as := func(v Vector, f format) Vector { return Vector{v.at, v.n, f} }
	at := func(x []float32, i int) Vector { return half(x[4*i : 4*i+4]) } // 8 elements of 16 bits
	p := func(x []float32) Vector { return Float32(x[32:40]) }
	step := func(x []float32, o MixedOptions, p, g, m, n, v, w Vector) error {
		_, err := UpdateAdaPNMMixed(o, r, 1, p, g, m, n, v, w)
		return err
	}
	group := func(x []float32, g MixedGroup) error {
		_, err := NewMixedOptimizer(Config{}, g)
		return err
	}
	refuse(t, []refusal{
		{"f16 params", func(x []float32) error {
			return step(x, MixedOptions{}, as(at(x, 0), f16), at(x, 1), at(x, 2), at(x, 3), at(x, 4), at(x, 5))
		}, &FormatError{-1, "params", "f16", "float32 or bf16"}, "the format of params is f16, must be float32 or bf16"},
		{"f16 state", func(x []float32) error {
			return step(x, MixedOptions{}, p(x), at(x, 1), at(x, 2), at(x, 3), as(at(x, 4), f16), at(x, 5))
		}, &FormatError{-1, "exp_avg_sq", "f16", "float32 or bf16"}, "exp_avg_sq is f16"},
		{"state of two formats", func(x []float32) error {
			return step(x, MixedOptions{}, p(x), at(x, 1), at(x, 2), at(x, 3), Float32(x[40:48]), at(x, 5))
		}, &FormatError{-1, "exp_avg_sq", "float32", "bf16 as exp_avg are"}, "bf16 as exp_avg are"},
		{"the last buffer in another format", func(x []float32) error {
			return step(x, MixedOptions{}, p(x), Float32(x[8:16]), Float32(x[0:8]), Float32(x[16:24]), Float32(x[40:48]), at(x, 12))
		}, &FormatError{-1, "max_exp_avg_sq", "bf16", "float32 as exp_avg are"}, "float32 as exp_avg are"},
		{"copy of bf16", func(x []float32) error {
			return step(x, MixedOptions{Copy: at(x, 6)}, at(x, 0), at(x, 1), at(x, 2), at(x, 3), at(x, 4), at(x, 5))
		}, &FormatError{-1, "params", "bf16", "float32 where there is a copy of them"}, "float32 where there is a copy"},
		{"copy in float32", func(x []float32) error {
			return step(x, MixedOptions{Copy: Float32(x[40:48])}, p(x), at(x, 1), at(x, 2), at(x, 3), at(x, 4), at(x, 5))
		}, &FormatError{-1, "copy", "float32", "bf16 or f16"}, "copy is float32"},
		{"short copy", func(x []float32) error {
			return step(x, MixedOptions{Copy: at(x, 6).cut(0, 7)}, p(x), at(x, 1), at(x, 2), at(x, 3), at(x, 4), at(x, 5))
		}, &LengthError{-1, "copy", 7, 8}, "length of copy is 7, must be 8"},
		{"short gradient", func(x []float32) error {
			return step(x, MixedOptions{}, p(x), at(x, 1).cut(0, 3), at(x, 2), at(x, 3), at(x, 4), at(x, 5))
		}, &LengthError{-1, "grads", 3, 8}, "length of grads is 3"},
		{"gradient in params", func(x []float32) error {
			return step(x, MixedOptions{}, p(x), half(x[38:42]), at(x, 2), at(x, 3), at(x, 4), at(x, 5))
		}, &OverlapError{-1, -1, "params", "grads", 2}, "params and grads share 2 elements"},
		{"copy in state", func(x []float32) error {
			return step(x, MixedOptions{Copy: half(x[11:15])}, p(x), at(x, 1), at(x, 2), at(x, 3), at(x, 4), at(x, 5))
		}, &OverlapError{-1, -1, "exp_avg", "copy", 2}, "exp_avg and copy share 2 elements"},
		{"copy as the parameters are", func(x []float32) error {
			_, err := UpdateSGDMixed(MixedOptions{Copy: Float32(x[40:48])}, NewSGD(1), 1, p(x), Float32(x[0:8]), Vector{})
			return err
		}, &FormatError{-1, "copy", "float32", "bf16 or f16"}, "the format of copy is float32, must be bf16 or f16"},
		{"copy in float64", func(x []float32) error {
			wide := func() Vector { return Float64(make([]float64, 8)) }
			_, err := UpdateSGDMixed(MixedOptions{Copy: wide()}, NewSGD(1), 1, wide(), wide(), Vector{})
			return err
		}, &FormatError{-1, "params", "float64", "float32 where there is a copy of them"}, "params is float64"},
		{"loss scale", func(x []float32) error {
			_, err := UpdateSGDMixed(MixedOptions{Options: Options{LossScale: 1e300}}, sgd, 1, p(x), at(x, 1), at(x, 2))
			return err
		}, &HyperparameterError{"Options", "LossScale", 1e300, "> 0 with an inverse that is a normal number of float32, or 0 for 1"}, "of float32"},
		{"LR", func(x []float32) error {
			_, err := UpdateSGDMixed(MixedOptions{}, NewSGD(1e39), 1, at(x, 0), at(x, 1), Vector{})
			return err
		}, &HyperparameterError{"SGD", "LR", 1e39, "small enough for its coefficient to be finite in float32"}, "LR leads to"},
		{"group, f16", func(x []float32) error {
			return group(x, MixedGroup{Rule: r, Params: []Vector{p(x), as(at(x, 0), f16)}})
		},
			&FormatError{1, "params", "f16", "float32 or bf16"}, "tensor 1: the format of params is f16"},
		{"group, copies", func(x []float32) error {
			return group(x, MixedGroup{Rule: r, Params: []Vector{p(x)}, Copies: []Vector{}})
		},
			&LengthError{-1, "copies", 0, 1}, "length of copies is 0"},
		{"group, length", func(x []float32) error {
			return group(x, MixedGroup{Rule: r, Params: []Vector{p(x)}, Copies: []Vector{at(x, 0).cut(0, 1)}})
		}, &LengthError{0, "copy", 1, 8}, "tensor 0: length of copy is 1"},
		{"group, roundings", func(x []float32) error {
			return group(x, MixedGroup{Rule: r, Params: []Vector{p(x)}, Rounding: make([]Rounding, 2)})
		}, &LengthError{-1, "roundings", 2, 1}, "length of roundings is 2"},
		{"group, float64", func(x []float32) error {
			return group(x, MixedGroup{Rule: r, Params: []Vector{Float64(make([]float64, 8))}})
		},
			&FormatError{0, "params", "float64", "float32 or bf16"}, "tensor 0: the format of params is float64"},
		{"optimizer, float64", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: r, Params: []Vector{p(x)}})
			wantNoError(t, err)
			return o.Step([]Vector{Float64(make([]float64, 8))})
		}, &FormatError{0, "grads", "float64", "float32, bf16 or f16"}, "grads is float64"},
		{"state, float64", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: sgd, Params: []Vector{p(x)}})
			wantNoError(t, err)
			return o.SetState([]MixedTensorState{{1, map[string]Vector{"momentum_buffer": Float64(make([]float64, 8))}}})
		}, &FormatError{0, "momentum_buffer", "float64", "float32, bf16 or f16"}, "momentum_buffer is float64"},
		{"group, overlap", func(x []float32) error {
			return group(x, MixedGroup{Rule: r, Params: []Vector{p(x), Float32(x[0:8])}, Copies: []Vector{half(x[2:6]), half(x[8:12])}})
		}, &OverlapError{0, 1, "copy", "params", 4}, "tensor 0: copy and tensor 1: params share 4"},
		{"moved params, format", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: r, Params: []Vector{p(x)}})
			wantNoError(t, err)
			return o.SetParams([]Vector{at(x, 0)}, nil)
		}, &FormatError{0, "params", "bf16", "float32, as before"}, "params is bf16, must be float32, as before"},
		{"moved params, copies", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: r, Params: []Vector{p(x)}})
			wantNoError(t, err)
			return o.SetParams([]Vector{p(x)}, []Vector{})
		}, &LengthError{-1, "copies", 0, 1}, "length of copies is 0"},
		{"moved params, copy", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: r, Params: []Vector{p(x)}})
			wantNoError(t, err)
			return o.SetParams([]Vector{p(x)}, []Vector{half(x[38:42])})
		}, &OverlapError{0, 0, "params", "copy", 2}, "share 2"},
		{"optimizer, copy as gradient", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: r, Params: []Vector{p(x)}, Copies: []Vector{at(x, 0)}})
			wantNoError(t, err)
			return o.Step([]Vector{at(x, 0)})
		}, &OverlapError{0, 0, "copy", "grads", 8}, "copy and tensor 0: grads share 8"},
		{"optimizer, length", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: r, Params: []Vector{p(x)}})
			wantNoError(t, err)
			return o.Step([]Vector{at(x, 0).cut(0, 2)})
		}, &LengthError{0, "grads", 2, 8}, "length of grads is 2"},
		{"state, length", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: sgd, Params: []Vector{p(x)}, BF16State: true})
			wantNoError(t, err)
			return o.SetState([]MixedTensorState{{1, map[string]Vector{"momentum_buffer": at(x, 0).cut(0, 5)}}})
		}, &LengthError{0, "momentum_buffer", 5, 8}, "momentum_buffer is 5"},
		{"closed", func(x []float32) error {
			o, err := NewMixedOptimizer(Config{}, MixedGroup{Rule: sgd, Params: []Vector{p(x)}})
			wantNoError(t, err)
			o.Close()
			return errors.Join(o.Step([]Vector{at(x, 0)}), o.AddGroup(MixedGroup{Rule: sgd}))
		}, errors.Join(ErrClosed, ErrClosed), "closed"},
	})
}
