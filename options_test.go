package pnm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// byHand does to gradients what options say, one operation after the other, and returns them with their norm.
func byHand[T Float](o Options, grads [][]T) (done [][]T, norm float64) {
	scale := 1.0
	if o.LossScale != 0 {
		scale = div(1, o.LossScale)
	}
	if o.ClipNorm != 0 || o.SkipNonFinite {
		root := normOracle(grads...)
		norm = mul(scale, root)
		if o.ClipNorm != 0 && !(norm <= o.ClipNorm) {
			scale = mul(scale, div(div(o.ClipNorm, scale), root))
		}
	}
	for _, g := range grads {
		d := slices.Clone(g)
		for i := range d {
			d[i] = mul(T(scale), d[i])
			if c := T(o.ClipValue); c != 0 && d[i] > c {
				d[i] = c
			} else if c != 0 && d[i] < -c {
				d[i] = -c
			}
		}
		done = append(done, d)
	}
	return done, norm
}

func everyOption(rng *rand.Rand) Options {
	return Options{
		LossScale:     []float64{0, 1, 1024, 3, 0.7}[rng.IntN(5)],
		ClipNorm:      []float64{0, 0.5, 1e9, math.Inf(1)}[rng.IntN(4)],
		ClipValue:     []float64{0, 0.01, 1e9, math.Inf(1)}[rng.IntN(4)],
		SkipNonFinite: rng.IntN(2) == 0,
		ZeroGrads:     rng.IntN(2) == 0,
	}
}

func testOptions[T Float](t *testing.T, rng *rand.Rand, r Rule) {
	p := [][]T{lcg[T](1, 300), lcg[T](2, 7), lcg[T](3, 2*blockLen+5)}
	q := clones(p)
	f := vectorOf(p[0]).format
	formats := formatsOf{f, f, f, f32}
	fused, plain := listOf(r, formats, Vectors(p...)...), listOf(r, formats, Vectors(q...)...)
	for step := 1; step <= 4; step++ {
		o := everyOption(rng)
		what := fmt.Sprintf("%+v, %+v, step %d", r, o, step)
		var g [][]T
		for i := range p {
			g = append(g, lcg[T](uint64(10*step+i), len(p[i])))
		}
		scaled, norm := byHand(o, g)
		plain.next(t, Options{}, Vectors(scaled...))
		after := clones(g)
		if report := fused.next(t, o, Vectors(g...)); report != (Report{GradNorm: norm}) {
			t.Fatalf("%s: %+v, want norm %g", what, report, norm)
		}
		for i := range p {
			wantSame(t, what+": params", p[i], q[i])
			if o.ZeroGrads {
				clear(after[i])
			}
			wantSame(t, what+": grads", g[i], after[i])
		}
	}
	wantSameTraining(t, fmt.Sprintf("%+v", r), fused, plain)
}

// Options do what doing it by hand before and after a plain step does, bit for bit.
func TestOptionsAreDoneByHand(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(41, 42))
		for _, r := range append(sampleRules(), sampleRules()...) {
			testOptions[float32](t, rng, r)
			testOptions[float64](t, rng, r)
		}
	})
}

// UpdateAll over one tensor with options is a List over it with the same; a step that was skipped is done again.
func TestUpdateAllOptions(t *testing.T) {
	rng := rand.New(rand.NewPCG(43, 44))
	for _, r := range sampleRules() {
		const n = blockLen + 9
		p, state := lcg[float32](1, n), newState[float32](r, n)
		l := listOf(r, formatsOf{f32, f32, f32, f32}, Float32(slices.Clone(p)))
		step, skipped := 1, 0
		for i := range 10 {
			o := everyOption(rng)
			g := lcg[float32](uint64(i), n)
			if rng.IntN(3) == 0 {
				g[rng.IntN(n)] = float32(math.NaN())
				o.SkipNonFinite = true
			}
			h := slices.Clone(g)
			want := l.next(t, o, Vectors(h))
			got, err := updateSlicesWith(o, r, step, p, g, state)
			wantNoError(t, err)
			if !got.Skipped {
				step++
			} else {
				skipped++
			}
			if got.Skipped != want.Skipped || !sameBits(got.GradNorm, want.GradNorm) || l.Updates[0].Step != step {
				t.Fatalf("%+v: %+v, want %+v", o, got, want)
			}
			wantSame(t, "params", p, l.Updates[0].Params.Float32())
			wantSame(t, "grads", g, h)
		}
		if step == 1 || skipped == 10 {
			t.Errorf("%d steps, %d skipped", step-1, skipped)
		}
	}
}

// A gradient that is not finite, wherever it is, leaves all as it was, and is reported.
func TestSkipNonFinite(t *testing.T) {
	sharing(t)
	pool, f := newTestPool(t, 3), formatsOf{f32, f32, f32, f32}
	perTier(t, func(t *testing.T) {
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for tensor, n := range listSizes {
				for _, at := range []int{0, n / 2, n - 1} {
					if n == 0 {
						continue
					}
					l, before := mixedRun(NewAdaPNM(), f), mixedRun(NewAdaPNM(), f)
					l.next(t, Options{Pool: pool}, l.grads(f32, 1))
					before.next(t, Options{Pool: pool}, l.grads(f32, 1))
					g, grads := l.grads(f32, 2), l.grads(f32, 2)
					g[tensor].Float32()[at] = float32(bad)
					grads[tensor].Float32()[at] = float32(bad)
					zero := at == 0
					report := l.next(t, Options{SkipNonFinite: true, ZeroGrads: zero, Pool: pool}, g)
					if !report.Skipped || report.GradNorm-report.GradNorm == 0 {
						t.Fatalf("%g at %d of tensor %d: %+v", bad, at, tensor, report)
					}
					wantSameTraining(t, "skipped", l, before)
					for i := range g {
						if zero { // else it would be accumulated upon
							grads[i].Clear()
						}
						wantSameVector(t, "grads", g[i], grads[i])
					}
				}
			}
		}
	})
}

// Steps over parts of the gradients, each with the squares of all, do what one step over all does: clip, skip and report.
func TestOptionsOfSquares(t *testing.T) {
	r := NewAdaPNM()
	params := [][]float32{lcg[float32](1, 300), lcg[float32](2, 7), lcg[float32](3, 2*blockLen+5)}
	f := formatsOf{f32, f32, f32, f32}
	whole, apart, part := listOf(r, f, Vectors(clones(params)...)...), listOf(r, f, Vectors(clones(params)...)...), listOf(r, f, Vectors(params...)...)
	for step := 1; step <= 4; step++ {
		grads := Vectors(lcg[float32](4, 300), lcg[float32](5, 7), lcg[float32](6, 2*blockLen+5))
		if step == 3 {
			grads[1].Float32()[6] = float32(math.Inf(1))
		}
		o := Options{LossScale: 4, ClipNorm: 0.5, SkipNonFinite: true}
		want := whole.next(t, o, grads)
		if want.Skipped != (step == 3) {
			t.Fatalf("step %d: %+v", step, want)
		}
		var squares Squares
		for _, g := range grads {
			s := SumSquares(nil, g)
			squares.Add(&s)
		}
		o.Squares = &squares
		for i, g := range grads {
			u := &apart.Updates[i]
			u.Grads = g
			report, err := UpdateAll(o, apart.Updates[i:i+1])
			wantNoError(t, err)
			if report != want {
				t.Errorf("step %d, tensor %d: %+v, want %+v", step, i, report, want)
			}
			for _, cut := range [][2]int{{0, 3}, {3, g.n}} {
				report, err := part.StepPart(o, i, cut[0], g.cut(cut[0], cut[1]))
				wantNoError(t, err)
				if report != want {
					t.Errorf("step %d, a part of tensor %d: %+v, want %+v", step, i, report, want)
				}
			}
			if !report.Skipped {
				u.Step++
				part.Updates[i].Step++
			}
		}
	}
	wantSameTraining(t, "apart", apart, whole)
	wantSameTraining(t, "in parts", part, whole)
}

// A sum that no squares have is not finite.
func TestSquaresOfNothing(t *testing.T) {
	var s Squares
	s[4*43], s[4*43+3] = 1, -1
	p := []float32{1}
	report, err := updateSlicesWith(Options{SkipNonFinite: true, Squares: &s}, NewSGD(1), 1, p, []float32{1}, newState[float32](NewSGD(1), 1))
	if err != nil || !report.Skipped || report.GradNorm == report.GradNorm || p[0] != 1 {
		t.Errorf("a sum below 0: %+v, %v, %v", report, p, err)
	}
}

func clones[T Float](x [][]T) (c [][]T) {
	for _, s := range x {
		c = append(c, slices.Clone(s))
	}
	return c
}

// Unless it is to be skipped, what is not finite reaches parameters and state: clipping does not hide it.
func TestNonFiniteIsNotHidden(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1)} {
		for _, o := range []Options{{}, {ClipNorm: 1}, {LossScale: 8, ZeroGrads: true}} {
			r := NewAdaPNM()
			p, state := []float64{1, 2}, newState[float64](r, 2)
			report, err := updateSlicesWith(o, r, 1, p, []float64{0.5, bad}, state)
			wantNoError(t, err)
			if report.Skipped || p[1]-p[1] == 0 || state[0][1]-state[0][1] == 0 {
				t.Errorf("%g, %+v: p = %v, m = %v", bad, o, p, state[0])
			}
		}
	}
	for _, c := range []struct{ limit, bad, factor float64 }{ // where the gradient is finite
		{1, math.NaN(), math.NaN()}, {1, math.Inf(-1), 0}, {math.Inf(1), math.NaN(), 1}, {math.Inf(1), math.Inf(1), 1},
	} {
		state, beta1 := newState[float64](NewPNM(1), 2), NewPNM(1).Beta1
		_, err := updateSlicesWith(Options{ClipNorm: c.limit}, NewPNM(1), 1, make([]float64, 2), []float64{0.5, c.bad}, state)
		if want := mul(1-mul(beta1, beta1), 0.5*c.factor); err != nil || !sameBits(state[0][0], want) {
			t.Errorf("clipped to %g with a gradient of %g: m = %v, want %g (%v)", c.limit, c.bad, state[0], want, err)
		}
	}
	p := []float64{1}
	_, err := updateSlicesWith(Options{ClipValue: 1}, NewPNM(1), 1, p, []float64{math.NaN()}, newState[float64](NewPNM(1), 1))
	if err != nil || p[0] == p[0] {
		t.Errorf("a NaN that is clipped by value gives %v, %v", p, err)
	}
}

func TestOptionErrors(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	bad := map[string]Options{
		"LossScale":     {LossScale: -1},
		"LossScale NaN": {LossScale: nan},
		"LossScale Inf": {LossScale: inf},
		"LossScale 1e300, whose inverse is 0 in float32":         {LossScale: 1e300},
		"LossScale 1e-300, whose inverse is infinite in float32": {LossScale: 1e-300},
		"LossScale 1e38, whose inverse is subnormal in float32":  {LossScale: 1e38},
		"Squares that nothing needs":                             {Squares: new(Squares), ClipValue: 1},
		"ClipNorm":                                               {ClipNorm: -1},
		"ClipNorm NaN":                                           {ClipNorm: nan},
		"ClipValue":                                              {ClipValue: -1e-9},
		"ClipValue NaN":                                          {ClipValue: nan},
		"ClipValue 1e-300":                                       {ClipValue: 1e-300},
	}
	var cases []refusal
	for name, o := range bad {
		var field string
		fmt.Sscan(name, &field)
		value := 0.0 // the norm of no Squares
		if f := reflect.ValueOf(o).FieldByName(field); f.CanFloat() {
			value = f.Float()
		}
		check := func(err error) error {
			e, ok := err.(*ValueError)
			if !ok || e.Of != "Options" || e.Field != field || !sameBits(e.Value, value) || e.Legal == "" {
				return fmt.Errorf("wrong error: %v", err)
			}
			return errExpected
		}
		cases = append(cases,
			refusal{name, func(x []float32) error {
				_, err := updateSlicesWith(o, NewPNM(1), 1, x[:8], x[8:16], [][]float32{x[16:24], x[24:32]})
				return check(err)
			}, errExpected, ""},
			refusal{name + ", beside float64 that allows it", func(x []float32) error {
				double := Update{Rule: NewSGD(1), Step: 1, Params: Float64(make([]float64, 8)), Grads: Float64(make([]float64, 8))}
				single := Update{Rule: NewSGD(1), Step: 1, Params: Float32(x[:8]), Grads: Float32(x[8:16])}
				_, err := UpdateAll(o, []Update{double, single})
				return check(err)
			}, errExpected, ""},
			refusal{name + ", part", func(x []float32) error {
				l := List{Updates: []Update{{Rule: NewSGD(1), Step: 1, Params: Float32(x[:8])}}}
				_, err := l.StepPart(o, 0, 3, Float32(x[8:11]))
				return check(err)
			}, errExpected, ""})
	}
	// A list refuses gradients to be zeroed that share memory, not only the first time, and after steps that had others.
	zeroed := func(last int) func(x []float32) error {
		return func(x []float32) error {
			l := listOf(NewPNM(0), formatsOf{f32, f32, f32, f32}, Vectors(x[:8], x[8:16])...)
			l.next(t, Options{}, Vectors(x[20:28], x[24:32])) // only read
			l.next(t, Options{ZeroGrads: true}, Vectors(x[20:28], x[28:36]))
			copy(x, lcg[float32](7, 64))
			l.Updates[1].Grads = Float32(x[last : last+8])
			for range 2 {
				if _, err := l.Step(Options{ZeroGrads: true}); err == nil {
					return nil
				}
			}
			_, err := l.Step(Options{ZeroGrads: true})
			return err
		}
	}
	cases = append(cases,
		refusal{"gradients that are zeroed share memory", zeroed(24), &OverlapError{"grads", "grads", 4, []int{0, 1}, nil},
			"grads of tensor 0 and grads of tensor 1 share 4 elements"},
		refusal{"gradients that are zeroed share an element", zeroed(27), &OverlapError{"grads", "grads", 1, []int{0, 1}, nil}, "share 1 elements"})
	refuse(t, cases)
}

var errExpected = fmt.Errorf("as expected")
