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
	fused, err := NewOptimizer(Group[T]{r, p})
	wantNoError(t, err)
	plain, err := NewOptimizer(Group[T]{r, q})
	wantNoError(t, err)
	for step := 1; step <= 4; step++ {
		o := everyOption(rng)
		what := fmt.Sprintf("%+v, %+v, step %d", r, o, step)
		var g [][]T
		for i := range p {
			g = append(g, lcg[T](uint64(10*step+i), len(p[i])))
		}
		scaled, norm := byHand(o, g)
		wantNoError(t, plain.Step(scaled))
		after := clones(g)
		report, err := fused.StepWith(o, g)
		wantNoError(t, err)
		if report != (Report{GradNorm: norm}) {
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
	a, b := stateOf(t, fused), stateOf(t, plain)
	for i := range a {
		for name := range b[i].Buffers {
			wantSame(t, name, a[i].Buffers[name], b[i].Buffers[name])
		}
	}
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

// The drop-in call with options is the optimizer over one tensor with the same.
func TestDropInOptions(t *testing.T) {
	rng := rand.New(rand.NewPCG(43, 44))
	for _, r := range sampleRules() {
		const n = blockLen + 9
		p, state := lcg[float32](1, n), newState[float32](r, n)
		q := slices.Clone(p)
		opt, err := NewOptimizer(Group[float32]{r, [][]float32{q}})
		wantNoError(t, err)
		step := 1
		for i := range 10 {
			o := everyOption(rng)
			g := lcg[float32](uint64(i), n)
			if rng.IntN(3) == 0 {
				g[rng.IntN(n)] = float32(math.NaN())
				o.SkipNonFinite = true
			}
			h := slices.Clone(g)
			want, err := opt.StepWith(o, [][]float32{h})
			wantNoError(t, err)
			got, err := updateSlicesWith(o, r, step, p, g, state)
			wantNoError(t, err)
			if !got.Skipped {
				step++
			}
			if got.Skipped != want.Skipped || !sameBits(got.GradNorm, want.GradNorm) {
				t.Fatalf("%+v: %+v, want %+v", o, got, want)
			}
			wantSame(t, "params", p, q)
			wantSame(t, "grads", g, h)
		}
	}
}

// A gradient that is not finite, wherever it is, leaves all as it was, and is reported.
func TestSkipNonFinite(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, PoolConfig{Workers: 3})
	perTier(t, func(t *testing.T) {
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for tensor, n := range listSizes {
				for _, at := range []int{0, n / 2, n - 1} {
					if n == 0 {
						continue
					}
					l := newListRun[float32](t, NewAdaPNM(), pool)
					l.step(t, Options{}, 1)
					params, state := clones(l.params), stateOf(t, l.opt)
					var g [][]float32
					for i, p := range l.params {
						g = append(g, lcg[float32](uint64(i), len(p)))
					}
					g[tensor][at] = float32(bad)
					zero := at == 0
					grads := clones(g)
					report, err := l.opt.StepWith(Options{SkipNonFinite: true, ZeroGrads: zero}, g)
					wantNoError(t, err)
					if !report.Skipped || report.GradNorm-report.GradNorm == 0 {
						t.Fatalf("%g at %d of tensor %d: %+v", bad, at, tensor, report)
					}
					for i := range g {
						wantSame(t, "params", l.params[i], params[i])
						if zero { // else it would be accumulated upon
							clear(grads[i])
						}
						wantSame(t, "grads", g[i], grads[i])
					}
					if !reflect.DeepEqual(stateOf(t, l.opt), state) {
						t.Fatal("the state has changed")
					}
				}
			}
		}
	})
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
	for _, c := range []struct{ bad, factor float64 }{{math.NaN(), math.NaN()}, {math.Inf(-1), 0}} { // where the gradient is finite
		state := newState[float64](NewPNM(1), 2)
		_, err := updateSlicesWith(Options{ClipNorm: 1}, NewPNM(1), 1, make([]float64, 2), []float64{0.5, c.bad}, state)
		if want := 0.5 * c.factor; err != nil || !sameBits(state[0][0], want) {
			t.Errorf("clipped for a norm of %g: m = %v, want %g (%v)", c.bad, state[0], want, err)
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
		"ClipNorm":         {ClipNorm: -1},
		"ClipNorm NaN":     {ClipNorm: nan},
		"ClipValue":        {ClipValue: -1e-9},
		"ClipValue NaN":    {ClipValue: nan},
		"ClipValue 1e-300": {ClipValue: 1e-300},
	}
	var cases []refusal
	for name, o := range bad {
		var field string
		fmt.Sscan(name, &field)
		value := reflect.ValueOf(o).FieldByName(field).Float()
		check := func(err error) error {
			e, ok := err.(*HyperparameterError)
			if !ok || e.Rule != "Options" || e.Field != field || !sameBits(e.Value, value) || e.Legal == "" {
				return fmt.Errorf("wrong error: %v", err)
			}
			return errExpected
		}
		cases = append(cases,
			refusal{name + ", drop-in", func(x []float32) error {
				_, err := updateSlicesWith(o, NewPNM(1), 1, x[:8], x[8:16], [][]float32{x[16:24], x[24:32]})
				return check(err)
			}, errExpected, ""},
			refusal{name + ", optimizer", func(x []float32) error {
				opt, err := NewOptimizer(Group[float32]{NewPNM(1), [][]float32{x[:8]}})
				wantNoError(t, err)
				_, err = opt.StepWith(o, [][]float32{x[8:16]})
				return check(err)
			}, errExpected, ""})
	}
	cases = append(cases, refusal{"gradients that are zeroed share memory", func(x []float32) error {
		opt, err := NewOptimizer(Group[float32]{NewPNM(1), [][]float32{x[:8], x[8:16]}})
		wantNoError(t, err)
		wantNoError(t, opt.Step([][]float32{x[20:28], x[24:32]}))
		copy(x, lcg[float32](7, 64))
		for range 2 { // not only the first time
			_, err = opt.StepWith(Options{ZeroGrads: true}, [][]float32{x[20:28], x[24:32]})
		}
		return err
	}, &OverlapError{0, 1, "grads", "grads", 4}, "tensor 0: grads and tensor 1: grads share 4 elements"})
	cases = append(cases, refusal{"gradients that are zeroed share memory since this step", func(x []float32) error {
		opt, err := NewOptimizer(Group[float32]{NewPNM(0), [][]float32{x[:8], x[8:16]}})
		wantNoError(t, err)
		_, err = opt.StepWith(Options{ZeroGrads: true}, [][]float32{x[20:28], x[28:36]})
		wantNoError(t, err)
		copy(x, lcg[float32](7, 64))
		_, err = opt.StepWith(Options{ZeroGrads: true}, [][]float32{x[20:28], x[27:35]})
		return err
	}, &OverlapError{0, 1, "grads", "grads", 1}, "share 1 elements"})
	refuse(t, cases)
}

var errExpected = fmt.Errorf("as expected")

// The scale grows after enough finite steps, backs off after others, and stays in its range; see torch's GradScaler.
func TestLossScaler(t *testing.T) {
	s := LossScaler{Scale: 1024, GrowthFactor: 2, BackoffFactor: 0.25, GrowthInterval: 3}
	for i, c := range []struct {
		skipped bool
		scale   float64
	}{{false, 1024}, {false, 1024}, {false, 2048}, {false, 2048}, {false, 2048}, {true, 512}, {false, 512}, {true, 128}, {false, 128}, {false, 128}, {false, 256}} {
		wantNoError(t, s.Update(c.skipped))
		if s.Scale != c.scale {
			t.Fatalf("update %d: scale %g, want %g", i, s.Scale, c.scale)
		}
	}
	for range 5000 {
		wantNoError(t, s.Update(false))
	}
	if s.Scale != 0x1p126 {
		t.Errorf("it has grown to %g", s.Scale)
	}
	for range 5000 {
		wantNoError(t, s.Update(true))
	}
	if s.Scale != 0x1p-126 {
		t.Errorf("it has backed off to %g", s.Scale)
	}
	for _, bad := range []func(*LossScaler){
		func(s *LossScaler) { s.Scale = 0 }, func(s *LossScaler) { s.Scale = math.NaN() }, func(s *LossScaler) { s.GrowthFactor = 0.5 },
		func(s *LossScaler) { s.BackoffFactor = 0 }, func(s *LossScaler) { s.BackoffFactor = 1.5 }, func(s *LossScaler) { s.GrowthInterval = 0 },
		func(s *LossScaler) { s.FiniteSteps = -1 }, func(s *LossScaler) { *s = LossScaler{} },
	} {
		s := NewLossScaler()
		bad(&s)
		before := s
		if _, ok := s.Update(true).(*HyperparameterError); !ok || !reflect.DeepEqual(s, before) && s.Scale == s.Scale {
			t.Errorf("%+v is legal, or was changed", s)
		}
	}
}

// A run that overflows at first finds its scale, and ends as one without a scale does: powers of two change no bit.
func TestLossScalerFindsItsScale(t *testing.T) {
	r := NewPNM(0.1)
	p, plain := lcg[float32](1, 50), lcg[float32](1, 50)
	opt, err := NewOptimizer(Group[float32]{r, [][]float32{p}})
	wantNoError(t, err)
	reference, err := NewOptimizer(Group[float32]{r, [][]float32{plain}})
	wantNoError(t, err)
	scaler := NewLossScaler()
	scaler.Scale, scaler.GrowthInterval = 0x1p126, 10
	skips, done := 0, 0
	for done < 40 {
		g := lcg[float32](uint64(done), 50)
		scaled := slices.Clone(g)
		for i := range scaled {
			scaled[i] *= float32(scaler.Scale) * 0x1p20 // of a loss that is large
		}
		report, err := opt.StepWith(Options{LossScale: scaler.Scale, SkipNonFinite: true}, [][]float32{scaled})
		wantNoError(t, err)
		wantNoError(t, scaler.Update(report.Skipped))
		if report.Skipped {
			skips++
			continue
		}
		for i := range g {
			g[i] *= 0x1p20
		}
		wantNoError(t, reference.Step([][]float32{g}))
		done++
	}
	if skips < 15 {
		t.Errorf("%d steps were skipped", skips)
	}
	wantSame(t, "params", p, plain)
}
