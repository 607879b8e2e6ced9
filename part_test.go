package pnm

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// cuts returns a random partition of n elements, in random order.
func cuts(rng *rand.Rand, n int) (parts []elements) {
	for lo := 0; lo < n; {
		hi := min(n, lo+1+rng.IntN(n/2+1))
		parts = append(parts, elements{lo, hi})
		lo = hi
	}
	rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return parts
}

// A step done in parts, in any order, has the bits of a whole one.
func TestPartsAreTheWhole(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, PoolConfig{Workers: 3})
	rng := rand.New(rand.NewPCG(51, 52))
	for _, r := range sampleRules() {
		whole, parts := newListRun[float64](t, r, pool), newListRun[float64](t, r, pool)
		for step := 1; step <= 5; step++ {
			o := Options{LossScale: 3, ClipValue: 0.2, ZeroGrads: step%2 == 0}
			if step == 4 {
				wantNoError(t, whole.opt.SetLR(0.01))
				wantNoError(t, parts.opt.SetLR(0.01))
			}
			var grads [][]float64
			type part struct {
				tensor int
				elements
			}
			var all []part
			for i, p := range whole.params {
				grads = append(grads, lcg[float64](uint64(10*step+i), len(p)))
				for _, e := range cuts(rng, len(p)) {
					all = append(all, part{i, e})
				}
				if len(p) == 0 {
					all = append(all, part{i, elements{}})
				}
			}
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			pieces := clones(grads)
			for _, e := range all {
				wantNoError(t, parts.opt.StepPart(o, Part[float64]{e.tensor, step, e.lo, pieces[e.tensor][e.lo:e.hi]}))
			}
			_, err := whole.opt.StepWith(o, grads)
			wantNoError(t, err)
			for i := range grads {
				wantSame(t, fmt.Sprintf("%+v: grads", r), pieces[i], grads[i])
				wantSame(t, fmt.Sprintf("%+v: params", r), parts.params[i], whole.params[i])
			}
		}
		if !reflect.DeepEqual(stateOf(t, parts.opt), stateOf(t, whole.opt)) {
			t.Errorf("%+v: the state differs", r)
		}
	}
}

// An optimizer over a part of each tensor, as a process of several has it, does to that part what one over all does.
func TestOwnedPart(t *testing.T) {
	const n, lo, hi = 1000, 123, 777
	for _, r := range sampleRules() {
		p := lcg[float32](1, n)
		q := slices.Clone(p)
		whole, err := NewOptimizer(Group[float32]{r, [][]float32{p}})
		wantNoError(t, err)
		part, err := NewOptimizer(Group[float32]{r, [][]float32{q[lo:hi]}})
		wantNoError(t, err)
		for step := range 5 {
			g := lcg[float32](uint64(step), n)
			wantNoError(t, whole.Step([][]float32{g}))
			wantNoError(t, part.Step([][]float32{g[lo:hi]}))
		}
		wantSame(t, "owned", q[lo:hi], p[lo:hi])
		wantSame(t, "in front", q[:lo], lcg[float32](1, n)[:lo])
	}
}

func TestPartErrors(t *testing.T) {
	// optimizer has the tensors x[:8] | x[8:16]; of step 1 tensor 0 has had the elements 2 … 4.
	optimizer := func(x []float32) *Optimizer[float32] {
		o, err := NewOptimizer(Group[float32]{NewPNM(0), [][]float32{x[:8]}}, Group[float32]{NewPNM(0), [][]float32{x[8:16]}})
		wantNoError(t, err)
		wantNoError(t, o.StepPart(Options{}, Part[float32]{0, 1, 2, x[34:37]}))
		copy(x, lcg[float32](7, 64))
		return o
	}
	part := func(o Options, tensor, lo, n int) func(x []float32) error {
		return func(x []float32) error { return optimizer(x).StepPart(o, Part[float32]{tensor, 1, lo, x[32 : 32+n]}) }
	}
	missing := &RangeError{0, 1, 0, 2, incomplete}
	within := &RangeError{0, 1, 6, 9, "are not all within the tensor, which has 8"}
	refuse(t, []refusal{
		{"twice", part(Options{}, 0, 0, 8), &RangeError{0, 1, 2, 5, "have been updated already"}, "tensor 0: step 1: elements [2, 5) have been updated already"},
		{"partly twice", part(Options{}, 0, 4, 2), &RangeError{0, 1, 4, 5, "have been updated already"}, "[4, 5)"},
		{"behind the end", part(Options{}, 0, 6, 3), within, "which has 8"},
		{"before the begin", part(Options{}, 0, -1, 3), &RangeError{0, 1, -1, 2, within.Problem}, "[-1, 2)"},
		{"far behind the end", part(Options{}, 0, int(^uint(0)>>1), 1), &RangeError{0, 1, int(^uint(0) >> 1), int(^uint(0) >> 1), within.Problem}, "tensor 0"},
		{"no such tensor", part(Options{}, 2, 0, 1), &TensorError{2, 2}, "there is no tensor 2, the optimizer has 2"},
		{"the next step", func(x []float32) error { return optimizer(x).StepPart(Options{}, Part[float32]{0, 2, 2, x[32:35]}) },
			&RangeError{0, 1, 0, 2, "must have their part of it before step 2"}, "before step 2"},
		{"of another tensor", func(x []float32) error { return optimizer(x).StepPart(Options{}, Part[float32]{1, 2, 0, x[32:40]}) },
			&RangeError{1, 1, 0, 8, "must have their part of it before step 2"}, "tensor 1: step 1: elements [0, 8) must have"},
		{"the last step", func(x []float32) error {
			o := optimizer(x)
			wantNoError(t, o.StepPart(Options{}, Part[float32]{1, 1, 0, x[32:40]}))
			copy(x, lcg[float32](7, 64))
			return o.StepPart(Options{}, Part[float32]{1, 1, 3, x[32:34]})
		}, &RangeError{1, 1, 3, 5, "have been updated already"}, "already"},
		{"no step", func(x []float32) error { return optimizer(x).StepPart(Options{}, Part[float32]{0, 0, 0, x[32:34]}) }, &StepError{0}, "step is 0"},
		{"clip by norm", part(Options{ClipNorm: 1}, 1, 0, 8), &HyperparameterError{"Options", "ClipNorm", 1, "0 for a part of a step"}, "ClipNorm"},
		{"skip", part(Options{SkipNonFinite: true}, 1, 0, 8), &HyperparameterError{"Options", "SkipNonFinite", 1, "off for a part of a step"}, "SkipNonFinite"},
		{"another loss scale", part(Options{LossScale: 2}, 0, 0, 2), &HyperparameterError{"Options", "LossScale", 2, "1, as for other parts of the step"},
			"Options.LossScale is 2, must be 1, as for other parts of the step"},
		{"another bound", part(Options{ClipValue: 2}, 0, 0, 2), &HyperparameterError{"Options", "ClipValue", 2, "0, as for other parts of the step"}, "ClipValue"},
		{"a bad option", part(Options{ClipValue: -1}, 1, 0, 8), &HyperparameterError{"Options", "ClipValue", -1, "> 0, or 0 for none"}, "ClipValue"},
		{"a gradient within params", func(x []float32) error { return optimizer(x).StepPart(Options{}, Part[float32]{1, 1, 0, x[6:10]}) },
			&OverlapError{0, 1, "params", "grads", 2}, "share"},
		{"a whole step", func(x []float32) error { return optimizer(x).Step([][]float32{x[16:24], x[24:32]}) }, missing, "[0, 2) must have their part of it first, by StepPart"},
		{"a whole step of others", func(x []float32) error { return optimizer(x).Step([][]float32{nil, x[24:32]}) }, missing, "first"},
		{"saving", func(x []float32) error { _, err := optimizer(x).State(); return err }, missing, "first"},
		{"SetLR", func(x []float32) error { return optimizer(x).SetLR(1, 1, 0) }, missing, "first"},
		{"SetRule", func(x []float32) error { return optimizer(x).SetRule(0, NewPNM(2)) }, missing, "first"},
		{"the last missing", func(x []float32) error {
			o := optimizer(x)
			wantNoError(t, o.StepPart(Options{}, Part[float32]{0, 1, 0, x[32:34]}))
			wantNoError(t, o.StepPart(Options{}, Part[float32]{0, 1, 7, x[32:33]}))
			copy(x, lcg[float32](7, 64))
			return o.Step([][]float32{x[16:24], x[24:32]})
		}, &RangeError{0, 1, 5, 7, incomplete}, "[5, 7)"},
	})

	x := lcg[float32](7, 64)
	o := optimizer(x)
	wantNoError(t, o.SetLR(1, 1)) // the other group is not in the middle of a step
	wantNoError(t, o.StepPart(Options{}, Part[float32]{1, 1, 0, nil}))
	wantNoError(t, o.StepPart(Options{}, Part[float32]{0, 1, 8, nil}))
	if o.parts.open != 1 { // nothing is no part
		t.Errorf("%d tensors have had a part", o.parts.open)
	}
	wantNoError(t, o.StepPart(Options{LossScale: 1, ZeroGrads: true}, Part[float32]{0, 1, 0, x[32:34]})) // as before
	wantNoError(t, o.StepPart(Options{LossScale: 2}, Part[float32]{1, 1, 0, x[32:34]}))                  // of another tensor
	wantNoError(t, o.StepPart(Options{LossScale: 2}, Part[float32]{1, 1, 2, x[32:38]}))
	wantNoError(t, o.StepPart(Options{LossScale: 3}, Part[float32]{1, 2, 0, x[32:34]})) // of the next step
	if o.Steps(0) != 0 || o.Steps(1) != 1 || o.Steps(2) != 0 || o.Steps(-1) != 0 {
		t.Errorf("steps %d and %d", o.Steps(0), o.Steps(1))
	}
	wantNoError(t, o.SetState(make([]TensorState[float32], 2))) // drops what was done
	wantNoError(t, o.Step([][]float32{x[16:24], x[24:32]}))
	if s := stateOf(t, o); s[0].Step != 1 || s[1].Step != 1 {
		t.Errorf("steps %d and %d", s[0].Step, s[1].Step)
	}
}

// Once closed, an optimizer refuses all that needs its state.
func TestClosed(t *testing.T) {
	optimizer := func(x []float32) *Optimizer[float32] {
		o, err := NewOptimizer(Group[float32]{NewPNM(1), [][]float32{x[:8]}})
		wantNoError(t, err)
		o.Close()
		o.Close()
		return o
	}
	refuse(t, []refusal{
		{"Step", func(x []float32) error { return optimizer(x).Step([][]float32{x[8:16]}) }, ErrClosed, "closed"},
		{"StepPart", func(x []float32) error { return optimizer(x).StepPart(Options{}, Part[float32]{0, 1, 0, x[8:16]}) }, ErrClosed, "closed"},
		{"State", func(x []float32) error { _, err := optimizer(x).State(); return err }, ErrClosed, "closed"},
		{"SetState", func(x []float32) error { return optimizer(x).SetState(make([]TensorState[float32], 1)) }, ErrClosed, "closed"},
		{"AddGroup", func(x []float32) error { return optimizer(x).AddGroup(Group[float32]{NewPNM(1), [][]float32{x[8:16]}}) }, ErrClosed, "closed"},
	})
}
