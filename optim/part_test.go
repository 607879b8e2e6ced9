package optim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/posneg/pnm"
)

// cuts returns a random partition of n elements at multiples of border, in random order.
func cuts(rng *rand.Rand, n, border int) (parts []elements) {
	for lo := 0; lo < n; {
		hi := min(n, lo+(1+rng.IntN(n/2/border+1))*border)
		parts = append(parts, elements{lo, hi})
		lo = hi
	}
	rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return parts
}

// A step done in parts, in any order, has the bits of a whole one.
func TestPartsAreTheWhole(t *testing.T) {
	c := Config{Pool: newTestPool(t, 3)}
	rng := rand.New(rand.NewPCG(51, 52))
	f := formatsOf{"float64", "float64", "", ""}
	for _, r := range sampleRules() {
		whole, parts := newRun(t, r, f, c, listSizes), newRun(t, r, f, c, listSizes)
		for step := 1; step <= 5; step++ {
			o := pnm.Options{LossScale: 3, ClipValue: 0.2, ZeroGrads: step%2 == 0}
			if step == 4 {
				wantNoError(t, whole.opt.SetLR(0.01))
				wantNoError(t, parts.opt.SetLR(0.01))
			}
			type part struct {
				tensor int
				elements
			}
			var all []part
			for i, p := range whole.params {
				for _, e := range cuts(rng, p.Len(), 1) {
					all = append(all, part{i, e})
				}
				if p.Len() == 0 {
					all = append(all, part{i, elements{}})
				}
			}
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			grads := whole.grads(step)
			pieces := vectorClones(grads)
			for _, e := range all {
				wantNoError(t, partOf(parts.opt, o, Part{e.tensor, step, e.lo, pieces[e.tensor].Slice(e.lo, e.hi)}))
			}
			_, err := whole.opt.Step(o, grads)
			wantNoError(t, err)
			for i := range grads {
				wantSameVector(t, fmt.Sprintf("%+v: grads", r), pieces[i], grads[i])
			}
		}
		wantSameRun(t, fmt.Sprintf("%+v", r), parts, whole)
	}
}

// squaresOf are the squares of one number.
func squaresOf(x float64) *pnm.Squares {
	s := pnm.SumSquares(nil, pnm.Float64([]float64{x}))
	return &s
}

// Parts clip and skip by the squares of all gradients, as a whole step does. Those of a skipped step are due again.
func TestPartsOfClippedSteps(t *testing.T) {
	x, y := lcg[float32](1, 40), lcg[float32](1, 40)
	whole, parts := optimizerOf(t, groupOf(pnm.NewAdaPNM(), x)), optimizerOf(t, groupOf(pnm.NewAdaPNM(), y))
	for i := range 6 {
		g := lcg[float32](uint64(2+i), 40)
		if i%3 == 1 {
			g[35] = float32(math.NaN())
		}
		o := pnm.Options{ClipNorm: 0.1, SkipNonFinite: true, ZeroGrads: true}
		squares, pieces, step := pnm.SumSquares(nil, pnm.Float32(g)), slices.Clone(g), parts.Steps(0)+1
		o.Squares = &squares
		for _, e := range []elements{{30, 40}, {0, 7}, {7, 30}} {
			report, err := parts.StepPart(o, Part{0, step, e.lo, pnm.Float32(pieces[e.lo:e.hi])})
			wantNoError(t, err)
			if report.Skipped != (i%3 == 1) || !sameBits(report.GradNorm, squares.Norm()) {
				t.Errorf("step %d, elements %v: %+v", i, e, report)
			}
		}
		o.Squares = nil
		_, err := whole.Step(o, pnm.Vectors(g))
		wantNoError(t, err)
		wantSame(t, "grads", pieces, g)
	}
	wantSame(t, "params", y, x)
	wantSameState(t, "parts", parts, whole)
}

func TestPartErrors(t *testing.T) {
	// optimizer has the tensors x[:8] | x[8:16]; of step 1 tensor 0 has had the elements 2 … 4.
	optimizer := func(x []float32) *Optimizer {
		o := optimizerOf(t, groupOf(pnm.NewPNM(0), x[:8]), groupOf(pnm.NewPNM(0), x[8:16]))
		wantNoError(t, partOf(o, pnm.Options{}, Part{0, 1, 2, pnm.Float32(x[34:37])}))
		copy(x, lcg[float32](7, 64))
		return o
	}
	part := func(tensor, step, lo, from, to int) func(x []float32) error {
		return func(x []float32) error {
			return partOf(optimizer(x), pnm.Options{}, Part{tensor, step, lo, pnm.Float32(x[from:to])})
		}
	}
	options := func(o pnm.Options, tensor, n int) func(x []float32) error {
		return func(x []float32) error { return partOf(optimizer(x), o, Part{tensor, 1, 0, pnm.Float32(x[32 : 32+n])}) }
	}
	value := func(field string, value float64, legal string) error {
		return &pnm.ValueError{Of: "Options", Field: field, Value: value, Legal: legal}
	}
	missing := atTensor(0, &PartError{1, 0, 2, incomplete})
	const within = "are not all in the tensor, which has 8"
	refuse(t, []refusal{
		{"twice", part(0, 1, 0, 32, 40), atTensor(0, &PartError{1, 2, 5, already}), "tensor 0: step 1: elements [2, 5) have been updated already"},
		{"partly twice", part(0, 1, 4, 32, 34), atTensor(0, &PartError{1, 4, 5, already}), "[4, 5)"},
		{"behind the end", part(0, 1, 6, 32, 35), atTensor(0, &PartError{1, 6, 9, within}), "which has 8"},
		{"before the begin", part(0, 1, -1, 32, 35), atTensor(0, &PartError{1, -1, 2, within}), "[-1, 2)"},
		{"far behind the end", part(0, 1, math.MaxInt, 32, 33), atTensor(0, &PartError{1, math.MaxInt, math.MaxInt, within}), "tensor 0"},
		{"no such tensor", part(2, 1, 0, 32, 33), &pnm.TensorError{Tensor: 2, Err: fmt.Errorf("there is no such tensor, the optimizer has 2")}, "tensor 2: there is no such"},
		{"the next step", part(0, 2, 2, 32, 35), atTensor(0, &PartError{1, 0, 2, "must be updated before step 2"}), "before step 2"},
		{"of another tensor", part(1, 2, 0, 32, 40), atTensor(1, &PartError{1, 0, 8, "must be updated before step 2"}), "tensor 1: step 1: elements [0, 8) must be updated"},
		{"the last step", func(x []float32) error {
			o := optimizer(x)
			wantNoError(t, partOf(o, pnm.Options{}, Part{1, 1, 0, pnm.Float32(x[32:40])}))
			copy(x, lcg[float32](7, 64))
			return partOf(o, pnm.Options{}, Part{1, 1, 3, pnm.Float32(x[32:34])})
		}, atTensor(1, &PartError{1, 3, 5, already}), "already"},
		{"no step", part(0, 0, 0, 32, 34), atTensor(0, &pnm.ValueError{Of: "Part", Field: "Step", Value: 0, Legal: "≥ 1"}), "Part.Step is 0, must be ≥ 1"},
		{"clip by norm", options(pnm.Options{ClipNorm: 1}, 1, 8), value("ClipNorm", 1, "0 for a part of a step, unless Squares is set"), "ClipNorm"},
		{"skip", options(pnm.Options{SkipNonFinite: true}, 1, 8), value("SkipNonFinite", 1, "off for a part of a step, unless Squares is set"), "SkipNonFinite"},
		{"another bound of the norm", options(pnm.Options{ClipNorm: 1, Squares: squaresOf(5)}, 0, 2), value("ClipNorm", 1, "0, as for other parts of the step"), "ClipNorm"},
		{"skipped now", options(pnm.Options{SkipNonFinite: true, Squares: squaresOf(5)}, 0, 2), value("SkipNonFinite", 1, "0, as for other parts of the step"), "SkipNonFinite"},
		{"squares of nothing", options(pnm.Options{Squares: squaresOf(5)}, 0, 2), value("Squares", 5, "nil unless ClipNorm or SkipNonFinite is set"), "Squares is set, must be nil"},
		{"other squares", func(x []float32) error {
			o := optimizer(x)
			wantNoError(t, partOf(o, pnm.Options{SkipNonFinite: true, Squares: squaresOf(5)}, Part{1, 1, 0, pnm.Float32(x[32:34])}))
			copy(x, lcg[float32](7, 64))
			return partOf(o, pnm.Options{SkipNonFinite: true, Squares: squaresOf(math.Inf(1))}, Part{1, 1, 2, pnm.Float32(x[34:36])})
		}, value("Squares", math.Inf(1), "those of the other parts of the step, whose norm is 5"), "Squares is +Inf, must be those of"},
		{"another loss scale", options(pnm.Options{LossScale: 2}, 0, 2), value("LossScale", 2, "1, as for other parts of the step"),
			"Options.LossScale is 2, must be 1, as for other parts of the step"},
		{"another bound", options(pnm.Options{ClipValue: 2}, 0, 2), value("ClipValue", 2, "0, as for other parts of the step"), "ClipValue"},
		{"a bad option", options(pnm.Options{ClipValue: -1}, 1, 8), value("ClipValue", -1, "> 0, or 0 for none"), "ClipValue"},
		{"a gradient within params", part(1, 1, 0, 6, 10), &pnm.OverlapError{Arg: "params", OtherArg: "grads", Elements: 2, Tensors: []int{0, 1}, Names: []string{"0", "1"}}, "share 2"},
		{"a gradient of float64", func(x []float32) error {
			return partOf(optimizer(x), pnm.Options{}, Part{1, 1, 0, pnm.Float64([]float64{1})})
		}, atTensor(1, &pnm.FormatError{Arg: "grads", Format: "float64", Want: "float32, bf16 or f16"}), "grads is float64"},
		{"a whole step", func(x []float32) error { return stepOf(optimizer(x), x[16:24], x[24:32]) }, missing, "[0, 2) must be updated first, by StepPart"},
		{"a whole step of others", func(x []float32) error { return stepOf(optimizer(x), nil, x[24:32]) }, missing, "first"},
		{"a named step", func(x []float32) error {
			_, err := optimizer(x).StepNamed(pnm.Options{}, map[string]pnm.Vector{"1": pnm.Float32(x[24:32])})
			return err
		}, missing, "first"},
		{"saving", func(x []float32) error { _, err := optimizer(x).State(); return err }, missing, "first"},
		{"SetParams", func(x []float32) error {
			return optimizer(x).SetParams(pnm.Vectors(make([]float32, 8), make([]float32, 8)), nil)
		}, missing, "first"},
		{"SetLR", func(x []float32) error { return optimizer(x).SetLR(1) }, missing, "first"},
		{"SetRule", func(x []float32) error { return optimizer(x).SetRule(0, pnm.NewPNM(2)) }, missing, "first"},
		{"SetSteps", func(x []float32) error { return optimizer(x).SetSteps(0, 2) }, missing, "first"},
		{"the last missing", func(x []float32) error {
			o := optimizer(x)
			wantNoError(t, partOf(o, pnm.Options{}, Part{0, 1, 0, pnm.Float32(x[32:34])}))
			wantNoError(t, partOf(o, pnm.Options{}, Part{0, 1, 7, pnm.Float32(x[32:33])}))
			copy(x, lcg[float32](7, 64))
			return stepOf(o, x[16:24], x[24:32])
		}, atTensor(0, &PartError{1, 5, 7, incomplete}), "[5, 7)"},
	})

	x := lcg[float32](7, 64)
	mx := func(n, row, lo, hi int) func(x []float32) error {
		return func(x []float32) error {
			o := optimizerOf(t, Group{Rule: pnm.NewPNM(0), Params: pnm.Vectors(x[:n]), State: mxfp8Format, Rows: []int{row}})
			return partOf(o, pnm.Options{}, Part{0, 1, lo, pnm.Float32(make([]float32, hi-lo))})
		}
	}
	border := func(field string, value float64, of string) error {
		return atTensor(0, &pnm.ValueError{Of: "StepPart", Field: field, Value: value, Legal: "between " + of})
	}
	refuse(t, []refusal{
		{"within a row", mx(40, 10, 5, 10), border("lo", 5, "rows of 10 of pos_momentum, which is mxfp8: 0 or 10"), "0 or 10"},
		{"to within a row", mx(40, 10, 10, 25), border("lo + length of grads", 25, "rows of 10 of pos_momentum, which is mxfp8: 20 or 30"), "20 or 30"},
		{"within a block", mx(40, 0, 10, 40), border("lo", 10, "blocks of pos_momentum, which is mxfp8: 0 or 32"), "0 or 32"},
		{"to within the last block", mx(40, 0, 32, 39), border("lo + length of grads", 39, "blocks of pos_momentum, which is mxfp8: 32 or 40"), "32 or 40"},
	})
	wantNoError(t, mx(40, 10, 10, 30)(x))
	wantNoError(t, mx(40, 0, 32, 40)(x))

	x = lcg[float32](7, 64)
	o := optimizer(x)
	do := func(opts pnm.Options, tensor, step, lo, n int) {
		t.Helper()
		wantNoError(t, partOf(o, opts, Part{tensor, step, lo, pnm.Float32(x[32 : 32+n])}))
	}
	wantNoError(t, o.SetGroupLR(1, 1)) // the other group is not in the middle of a step
	wantNoError(t, o.SetSteps(1, 0))
	do(pnm.Options{}, 1, 1, 0, 0)
	do(pnm.Options{}, 0, 1, 8, 0)
	if o.parts.open != 1 { // nothing is no part
		t.Errorf("%d tensors have had a part", o.parts.open)
	}
	do(pnm.Options{LossScale: 1, ZeroGrads: true}, 0, 1, 0, 2) // as before
	do(pnm.Options{LossScale: 2}, 1, 1, 0, 2)                  // of another tensor
	do(pnm.Options{LossScale: 2}, 1, 1, 2, 6)
	do(pnm.Options{LossScale: 3}, 1, 2, 0, 2) // of the next step
	if o.Steps(0) != 0 || o.Steps(1) != 1 || o.Steps(2) != 0 || o.Steps(-1) != 0 {
		t.Errorf("steps %d and %d", o.Steps(0), o.Steps(1))
	}
	wantNoError(t, o.SetState(make([]TensorState, 2))) // drops what was done
	wantNoError(t, stepOf(o, x[16:24], x[24:32]))
	if s := stateOf(t, o); s[0].Step != 1 || s[1].Step != 1 {
		t.Errorf("steps %d and %d", s[0].Step, s[1].Step)
	}
}

// Once closed, an optimizer refuses all that needs its state.
func TestClosed(t *testing.T) {
	optimizer := func(x []float32) *Optimizer {
		o := optimizerOf(t, groupOf(pnm.NewPNM(1), x[:8]))
		o.Close()
		o.Close()
		return o
	}
	refuse(t, []refusal{
		{"Step", func(x []float32) error { return stepOf(optimizer(x), x[8:16]) }, ErrClosed, "closed"},
		{"StepNamed", func(x []float32) error { _, err := optimizer(x).StepNamed(pnm.Options{}, nil); return err }, ErrClosed, "closed"},
		{"StepPart", func(x []float32) error {
			return partOf(optimizer(x), pnm.Options{}, Part{0, 1, 0, pnm.Float32(x[8:16])})
		}, ErrClosed, "closed"},
		{"State", func(x []float32) error { _, err := optimizer(x).State(); return err }, ErrClosed, "closed"},
		{"SetState", func(x []float32) error { return optimizer(x).SetState(make([]TensorState, 1)) }, ErrClosed, "closed"},
		{"SetParams", func(x []float32) error { return optimizer(x).SetParams(pnm.Vectors(x[8:16]), nil) }, ErrClosed, "closed"},
		{"AddGroup", func(x []float32) error { return optimizer(x).AddGroup(groupOf(pnm.NewPNM(1), x[8:16])) }, ErrClosed, "closed"},
		{"NoiseScale", func(x []float32) error { _, err := optimizer(x).NoiseScale(); return err }, ErrClosed, "closed"},
		{"ReadNoise", func(x []float32) error { return optimizer(x).ReadNoise(1, 0) }, ErrClosed, "closed"},
	})
}
