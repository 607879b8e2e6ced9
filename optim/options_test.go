package optim

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/posneg/pnm"
)

// byHand does to gradients what options say, one operation after the other, and returns them with their norm.
func byHand[T pnm.Float](o pnm.Options, grads [][]T) (done [][]T, norm float64) {
	scale := 1.0
	if o.LossScale != 0 {
		scale = 1 / o.LossScale
	}
	if o.ClipNorm != 0 || o.SkipNonFinite {
		root := normOf(pnm.Vectors(grads...)...)
		norm = scale * root
		if o.ClipNorm != 0 && !(norm <= o.ClipNorm) {
			scale *= o.ClipNorm / scale / root
		}
	}
	for _, g := range grads {
		d := slices.Clone(g)
		for i := range d {
			d[i] = T(scale) * d[i]
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

func everyOption(rng *rand.Rand) pnm.Options {
	return pnm.Options{
		LossScale:     []float64{0, 1, 1024, 3, 0.7}[rng.IntN(5)],
		ClipNorm:      []float64{0, 0.5, 1e9, math.Inf(1)}[rng.IntN(4)],
		ClipValue:     []float64{0, 0.01, 1e9, math.Inf(1)}[rng.IntN(4)],
		SkipNonFinite: rng.IntN(2) == 0,
		ZeroGrads:     rng.IntN(2) == 0,
	}
}

func testOptions[T pnm.Float](t *testing.T, rng *rand.Rand, r pnm.Rule) {
	p := [][]T{lcg[T](1, 300), lcg[T](2, 7), lcg[T](3, 2*4096+5)}
	q := clones(p)
	fused, plain := optimizerOf(t, groupOf(r, p...)), optimizerOf(t, groupOf(r, q...))
	for step := 1; step <= 4; step++ {
		o := everyOption(rng)
		what := fmt.Sprintf("%+v, %+v, step %d", r, o, step)
		var g [][]T
		for i := range p {
			g = append(g, lcg[T](uint64(10*step+i), len(p[i])))
		}
		scaled, norm := byHand(o, g)
		wantNoError(t, stepOf(plain, scaled...))
		after := clones(g)
		report, err := fused.Step(o, pnm.Vectors(g...))
		wantNoError(t, err)
		if report != (pnm.Report{GradNorm: norm}) {
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
	wantSameState(t, fmt.Sprintf("%+v", r), fused, plain)
}

// Options do what doing it by hand before and after a plain step does, bit for bit.
func TestOptionsAreDoneByHand(t *testing.T) {
	rng := rand.New(rand.NewPCG(41, 42))
	for _, r := range append(sampleRules(), sampleRules()...) {
		testOptions[float32](t, rng, r)
		testOptions[float64](t, rng, r)
	}
}

// The engine's step of one tensor with options is the optimizer's over it with the same.
func TestOptionsOfTheEngine(t *testing.T) {
	rng := rand.New(rand.NewPCG(43, 44))
	for _, r := range sampleRules() {
		const n = 4096 + 9
		p, state := lcg[float32](1, n), newState[float32](r, n)
		q := slices.Clone(p)
		opt := optimizerOf(t, groupOf(r, q))
		step := 1
		for i := range 10 {
			o := everyOption(rng)
			g := lcg[float32](uint64(i), n)
			if rng.IntN(3) == 0 {
				g[rng.IntN(n)] = float32(math.NaN())
				o.SkipNonFinite = true
			}
			h := slices.Clone(g)
			want, err := opt.Step(o, pnm.Vectors(h))
			wantNoError(t, err)
			got, err := updateAlone(o, r, step, p, g, state)
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

func TestOptionErrors(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	bad := map[string]pnm.Options{
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
	// optimizer has the tensors x[:8] and x[8:16], and has done a step.
	optimizer := func(x []float32, o pnm.Options, g, h []float32) *Optimizer {
		opt := optimizerOf(t, groupOf(pnm.NewPNM(0), x[:8], x[8:16]))
		_, err := opt.Step(o, pnm.Vectors(g, h))
		wantNoError(t, err)
		copy(x, lcg[float32](7, 64))
		return opt
	}
	var cases []refusal
	for name, o := range bad {
		var field string
		fmt.Sscan(name, &field)
		value := reflect.ValueOf(o).FieldByName(field).Float()
		cases = append(cases, refusal{name, func(x []float32) error {
			opt := optimizer(x, pnm.Options{}, x[16:24], x[24:32])
			_, err := opt.Step(o, pnm.Vectors(x[16:24], x[24:32]))
			var e *pnm.ValueError
			if !errors.As(err, &e) || e.Of != "Options" || e.Field != field || !sameBits(e.Value, value) || e.Legal == "" {
				return fmt.Errorf("wrong error: %v", err)
			}
			if opt.Steps(0) != 1 {
				t.Error("the step was counted")
			}
			return errExpected
		}, errExpected, ""})
	}
	cases = append(cases, refusal{"gradients that are zeroed share memory", func(x []float32) (err error) {
		opt := optimizer(x, pnm.Options{}, x[20:28], x[24:32])
		for range 2 { // not only the first time
			_, err = opt.Step(pnm.Options{ZeroGrads: true}, pnm.Vectors(x[20:28], x[24:32]))
		}
		return err
	}, overlap(0, 1, "grads", "grads", 4), "share 4 elements"})
	cases = append(cases, refusal{"gradients that are zeroed share memory since this step", func(x []float32) error {
		opt := optimizer(x, pnm.Options{ZeroGrads: true}, x[20:28], x[28:36])
		_, err := opt.Step(pnm.Options{ZeroGrads: true}, pnm.Vectors(x[20:28], x[27:35]))
		return err
	}, overlap(0, 1, "grads", "grads", 1), "share 1 elements"})
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
		if _, ok := s.Update(true).(*pnm.ValueError); !ok || !reflect.DeepEqual(s, before) && s.Scale == s.Scale {
			t.Errorf("%+v is legal, or was changed", s)
		}
	}
}

// A run that overflows at first finds its scale, and ends as one without a scale does: powers of two change no bit.
func TestLossScalerFindsItsScale(t *testing.T) {
	r := pnm.NewPNM(0.1)
	p, plain := lcg[float32](1, 50), lcg[float32](1, 50)
	opt, reference := optimizerOf(t, groupOf(r, p)), optimizerOf(t, groupOf(r, plain))
	scaler := NewLossScaler()
	scaler.Scale, scaler.GrowthInterval = 0x1p126, 10
	skips, done := 0, 0
	for done < 40 {
		g := lcg[float32](uint64(done), 50)
		scaled := slices.Clone(g)
		for i := range scaled {
			scaled[i] *= float32(scaler.Scale) * 0x1p20 // of a loss that is large
		}
		report, err := opt.Step(pnm.Options{LossScale: scaler.Scale, SkipNonFinite: true}, pnm.Vectors(scaled))
		wantNoError(t, err)
		wantNoError(t, scaler.Update(report.Skipped))
		if report.Skipped {
			skips++
			continue
		}
		for i := range g {
			g[i] *= 0x1p20
		}
		wantNoError(t, stepOf(reference, g))
		done++
	}
	if skips < 15 {
		t.Errorf("%d steps were skipped", skips)
	}
	wantSame(t, "params", p, plain)
}
