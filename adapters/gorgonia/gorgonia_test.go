package pnmgorgonia

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/posneg/pnm"
	"gorgonia.org/gorgonia"
)

// largestDifference is that of the losses of two runs, relative to the first.
func largestDifference(a, b []float64) (d float64) {
	for i := range a {
		d = max(d, math.Abs(a[i]-b[i])/math.Abs(a[i]))
	}
	return d
}

// Gorgonia's solvers and ours train the same network on the same images, and the README's translation of options holds.
//
// Where both do the same operations the losses have the same bits. Elsewhere the bound is some 10 times the
// largest difference that rounding was seen to make in 200 steps: 3.1e-6 and 1.7e-14. The last rows have one
// thing wrong each, and must miss their bound by far.
func TestAgainstGorgonia(t *testing.T) {
	t.Run("float32", func(t *testing.T) { testAgainstGorgonia[float32](t, 3e-5, 3e-4) })
	t.Run("float64", func(t *testing.T) { testAgainstGorgonia[float64](t, 2e-13, 2e-13) })
}

func testAgainstGorgonia[T pnm.Float](t *testing.T, rounding, defaultBound float64) {
	const steps = 200

	// 1 − β is exact in float32 here. For 0.9 and 0.999 Gorgonia takes it from the rounded β, which makes 1−β2 too large by
	// 5e-5 of itself, and steps differ by half of that until the average has forgotten its beginning.
	adam := pnm.NewAdam()
	adam.LR, adam.Beta1, adam.Beta2 = 0.004, 0.875, 1-0x1p-10
	gorgoniaAdam := func(opts ...gorgonia.SolverOpt) gorgonia.Solver {
		return gorgonia.NewAdamSolver(append(opts, gorgonia.WithLearnRate(adam.LR), gorgonia.WithBeta1(adam.Beta1),
			gorgonia.WithBeta2(adam.Beta2))...)
	}
	decayed := adam
	decayed.WeightDecay = 0.01 / 4 // Gorgonia divides its term by the batch size, too
	defaultBetas := pnm.NewAdam()
	defaultBetas.LR = adam.LR
	otherBeta2 := adam
	otherBeta2.Beta2 = 1 - 0x1p-9
	otherEps := adam
	otherEps.Eps = 1e-4
	sgd := pnm.NewSGD(0.05)
	sgd.WeightDecay = 0.01
	momentum := pnm.NewSGD(0.005)
	momentum.Momentum = 0.9
	exactMomentum := pnm.NewSGD(0x1p-6) // η·m and m·μ with η inside or outside of m are the same
	exactMomentum.Momentum = 0.875

	for _, c := range []struct {
		name   string
		theirs gorgonia.Solver
		rule   pnm.Rule
		opts   pnm.Options
		done   int // steps that ours takes to be done, for the bias correction
		bound  float64
		wrong  bool
	}{
		{"Vanilla, L2", gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.05), gorgonia.WithL2Reg(0.01)), sgd, pnm.Options{}, 0, 0, false},
		{"Vanilla, batch size, clip", gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.5), gorgonia.WithBatchSize(6), gorgonia.WithClip(0.01)),
			pnm.NewSGD(0.5), pnm.Options{LossScale: 6, ClipValue: 0.01}, 0, 0, false},
		{"Momentum, exact", gorgonia.NewMomentum(gorgonia.WithLearnRate(0x1p-6), gorgonia.WithMomentum(0.875)), exactMomentum, pnm.Options{}, 0, 0, false},
		{"Momentum", gorgonia.NewMomentum(gorgonia.WithLearnRate(0.005)), momentum, pnm.Options{}, 0, rounding, false},
		{"Adam", gorgoniaAdam(), adam, pnm.Options{}, 0, rounding, false},
		{"Adam, L2, batch size", gorgoniaAdam(gorgonia.WithL2Reg(0.01), gorgonia.WithBatchSize(4)), decayed, pnm.Options{LossScale: 4}, 0, rounding, false},
		{"Adam, batch size, clip", gorgoniaAdam(gorgonia.WithClip(0.003), gorgonia.WithBatchSize(4)), adam,
			pnm.Options{LossScale: 4, ClipValue: 0.003}, 0, rounding, false},
		{"Adam with the default βs", gorgonia.NewAdamSolver(gorgonia.WithLearnRate(adam.LR)), defaultBetas, pnm.Options{}, 0, defaultBound, false},

		{"Adam with another β2", gorgoniaAdam(), otherBeta2, pnm.Options{}, 0, 100 * rounding, true},
		{"Adam with another ε", gorgoniaAdam(), otherEps, pnm.Options{}, 0, 100 * rounding, true},
		{"Adam without bias correction", gorgoniaAdam(), adam, pnm.Options{}, 1e6, 100 * rounding, true},
		{"Adam without the clip", gorgoniaAdam(gorgonia.WithClip(0.003)), adam, pnm.Options{}, 0, 100 * rounding, true},
		{"Momentum with another μ", gorgonia.NewMomentum(gorgonia.WithLearnRate(0.005), gorgonia.WithMomentum(0.89)), momentum, pnm.Options{}, 0, 100 * rounding, true},
	} {
		theirs, ours := newNet[T](t, 1, true), newNet[T](t, 1, true)
		solver, err := NewSolver(c.rule, ours.model)
		if err != nil {
			t.Fatal(err)
		}
		solver.Options = c.opts
		if c.done > 0 {
			states, err := solver.State()
			for i := range states {
				states[i].Step = c.done
			}
			if err == nil {
				err = solver.SetState(states)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		a, b := train[T](t, theirs, c.theirs, steps), train[T](t, ours, solver, steps)
		d := largestDifference(a, b)
		t.Logf("%-30s the loss goes from %.3f to %.3f, largest difference %.2g", c.name, a[0], a[steps-1], d)
		if c.wrong != (d > c.bound) {
			t.Errorf("%s: the losses differ by up to %g, bound %g", c.name, d, c.bound)
		}
		if !c.wrong && !(slices.Max(b[steps-10:]) < b[0]/2) {
			t.Errorf("%s: the loss goes from %g to %g", c.name, b[0], b[steps-10:])
		}
		solver.Close()
	}
}

// What the README says of Gorgonia's own solvers.
func TestGorgoniasOwn(t *testing.T) {
	n := newNet[float32](t, 1, true)
	before := clone(values[float32](t, n.model))
	train[float32](t, n, gorgonia.NewAdamW(), 3)
	if !equal(values[float32](t, n.model), before) {
		t.Error("AdamW changes the values")
	}

	scalar := func() *fake { return &fake{"w", gorgonia.NewF64(0), gorgonia.NewF64(1), nil} }
	plain, momentum := scalar(), scalar()
	withMomentum := gorgonia.NewMomentum()
	for range 3 {
		plain.g, momentum.g = gorgonia.NewF64(1), gorgonia.NewF64(1)
		if err := gorgonia.NewVanillaSolver().Step([]gorgonia.ValueGrad{plain}); err != nil {
			t.Fatal(err)
		}
		if err := withMomentum.Step([]gorgonia.ValueGrad{momentum}); err != nil {
			t.Fatal(err)
		}
	}
	if p, m := plain.v.Data(), momentum.v.Data(); p != m {
		t.Errorf("Momentum has momentum for scalars: %v, without %v", m, p)
	}

	a, b, g := dense[float64](1), dense[float64](1), dense[float64](1)
	if err := gorgonia.NewVanillaSolver().Step([]gorgonia.ValueGrad{&fake{"a", a, g, nil}, &fake{"b", b, g, nil}}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(a.Data(), b.Data()) != "[0.999] [1]" {
		t.Errorf("nodes that share a gradient become %v and %v", a.Data(), b.Data())
	}
}
