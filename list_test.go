package pnm

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
)

// updateList is a list of tensors of all rules and some formats, float64 among them.
func updateList(rules []Rule) []Update {
	var list []Update
	for i, n := range slices.Concat(listSizes, listSizes) {
		r := rules[i/3%len(rules)] // neighbours may have the same
		f := append(slices.Clone(someFormats), formatsOf{f32, f32, f32, f32})[i%7]
		u := Update{Rule: r, Step: i / 2 % 2, Rounding: Rounding{Seed: 1, Tensor: uint64(i)}}
		if i%5 == 4 {
			u.Params, u.Grads = Float64(lcg[float64](uint64(i), n)), Float64(make([]float64, n))
			for range forms[r.form()].slots {
				u.State = append(u.State, Float64(make([]float64, n)))
			}
		} else {
			u.Params, u.Grads = ordinary(f.p, uint64(i), n), newVector(f.g, n)
			for range forms[r.form()].slots {
				u.State = append(u.State, newVector(f.s, n))
			}
			if f.out != f32 {
				u.Copy = newVector(f.out, n)
			}
		}
		list = append(list, u)
	}
	return list
}

func (u *Update) vectors() []Vector { return append([]Vector{u.Params, u.Grads, u.Copy}, u.State...) }

// nextGrads counts the step and sets the gradients.
func nextGrads(list []Update) {
	for i := range list {
		u := &list[i]
		u.Step++
		seed := uint64(100*u.Step + i)
		if g := u.Grads.Float64(); g != nil {
			copy(g, lcg[float64](seed, len(g)))
		} else {
			convert(u.Grads, Float32(lcg[float32](seed, u.Grads.n)))
		}
	}
}

// A list has the bits of one call for each tensor, at the norm of all, for any number of workers.
func TestUpdateAll(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		rules := sampleRules()
		one, many, alone := updateList(rules), updateList(rules), updateList(rules)
		for range 3 {
			nextGrads(one)
			nextGrads(many)
			nextGrads(alone)
			norm := listNorm(one) / 4
			o := Options{LossScale: 4, ClipNorm: norm / 8, ZeroGrads: true} // by an eighth, exactly
			o.Pool = newTestPool(t, PoolConfig{Workers: 1})
			report, err := UpdateAll(o, one)
			wantNoError(t, err)
			if report.GradNorm != norm {
				t.Errorf("the norm is %g, want %g", report.GradNorm, norm)
			}
			o.Pool = newTestPool(t, PoolConfig{Workers: 5})
			other, err := UpdateAll(o, many)
			wantNoError(t, err)
			if report != other {
				t.Errorf("reports %+v and %+v", report, other)
			}
			for _, u := range alone {
				mixed := MixedOptions{Options{LossScale: 4 * 8, ZeroGrads: true}, u.Copy, u.Rounding}
				_, err := updateVectors(mixed, u.Rule, u.Step, u.Params, u.Grads, u.State)
				wantNoError(t, err)
			}
		}
		for i := range one {
			a, b, c := one[i].vectors(), many[i].vectors(), alone[i].vectors()
			for k := range a {
				if string(a[k].bytes()) != string(b[k].bytes()) {
					t.Fatalf("tensor %d, vector %d: 5 workers give other bits than one", i, k)
				}
				if string(a[k].bytes()) != string(c[k].bytes()) {
					t.Fatalf("tensor %d, vector %d: a drop-in call gives something else", i, k)
				}
			}
		}
	})
}

// listNorm is the norm of all gradients of a list.
func listNorm(list []Update) float64 {
	var wide [][]float64
	for _, u := range list {
		g := u.Grads.Float64()
		if g == nil {
			for _, x := range u.Grads.wide() {
				g = append(g, float64(x))
			}
		}
		wide = append(wide, g)
	}
	return GradNorm(nil, wide...)
}

// Without clipping, a list is exactly its drop-in calls.
func TestUpdateAllIsDropIn(t *testing.T) {
	perTier(t, func(t *testing.T) {
		list, alone := updateList(sampleRules()), updateList(sampleRules())
		for range 2 {
			nextGrads(list)
			nextGrads(alone)
			_, err := UpdateAll(Options{ClipValue: 0.3}, list)
			wantNoError(t, err)
			for _, u := range alone {
				_, err := updateVectors(MixedOptions{Options{ClipValue: 0.3}, u.Copy, u.Rounding}, u.Rule, u.Step, u.Params, u.Grads, u.State)
				wantNoError(t, err)
			}
		}
		for i := range list {
			for k, v := range list[i].vectors() {
				if string(v.bytes()) != string(alone[i].vectors()[k].bytes()) {
					t.Fatalf("tensor %d, vector %d differs", i, k)
				}
			}
		}
	})
}

// Rules that are equal have equal coefficients, also where one has −0.
func TestNegativeZeros(t *testing.T) {
	zero := math.Copysign(0, -1)
	for _, rules := range [][2]Rule{
		{PNM{LR: 1, Beta1: 0.5}, PNM{LR: 1, Beta1: 0.5, Beta0: zero, WeightDecay: zero}},
		{PNM{Beta1: 0.5, Beta0: -1}, PNM{LR: zero, Beta1: 0.5, Beta0: -1}},
		{SGD{LR: 1}, SGD{LR: 1, Dampening: zero, WeightDecay: zero}},
		{Adam{LR: 1, Eps: 1}, Adam{LR: 1, Beta1: zero, Beta2: zero, Eps: 1}},
	} {
		a, err := coefficients[float32](rules[0], 1)
		wantNoError(t, err)
		b, err := coefficients[float32](rules[1], 1)
		wantNoError(t, err)
		if rules[0] != rules[1] || fmt.Sprint(a) != fmt.Sprint(b) { // which tells −0 from 0
			t.Errorf("%+v has %v, %+v has %v", rules[0], a, rules[1], b)
		}
	}
}

func TestUpdateAllErrors(t *testing.T) {
	sgd := SGD{LR: 1, Momentum: 0.9}
	at := func(x []float32, i int) Vector { return Float32(x[8*i : 8*i+8]) }
	// Two tensors with their gradients and momenta; bad changes one of them.
	call := func(o Options, bad func(x []float32, u []Update)) func(x []float32) error {
		return func(x []float32) error {
			u := []Update{{Rule: sgd, Step: 1, Params: at(x, 0), Grads: at(x, 1), State: []Vector{at(x, 2)}},
				{Rule: sgd, Step: 2, Params: at(x, 3), Grads: at(x, 4), State: []Vector{at(x, 5)}}}
			bad(x, u)
			_, err := UpdateAll(o, u)
			return err
		}
	}
	refuse(t, []refusal{
		{"hyperparameter", call(Options{}, func(_ []float32, u []Update) { u[1].Rule = SGD{LR: math.Inf(-1), Momentum: 0.9} }),
			&UpdateError{1, &HyperparameterError{"SGD", "LR", math.Inf(-1), "finite"}}, "pnm: tensor 1: SGD.LR is -Inf"},
		{"step", call(Options{}, func(_ []float32, u []Update) { u[0].Step = 0 }), &StepError{0}, "tensor 0: step is 0"},
		{"state", call(Options{}, func(_ []float32, u []Update) { u[1].State = nil }), &LengthError{-1, "State (momentum_buffer)", 0, 1}, "State (momentum_buffer) is 0"},
		{"length", call(Options{}, func(x []float32, u []Update) { u[1].Grads = at(x, 4).cut(0, 5) }), &LengthError{-1, "grads", 5, 8}, "tensor 1: length of grads is 5"},
		{"float64", call(Options{}, func(_ []float32, u []Update) { u[1].Grads = Float64(make([]float64, 8)) }),
			&FormatError{-1, "grads", "float64", "float32 as params are, where one of them is float64"}, "grads is float64"},
		{"float64 params", call(Options{}, func(_ []float32, u []Update) {
			u[1].Params, u[1].Grads = Float64(make([]float64, 8)), Float64(make([]float64, 8))
		}), &FormatError{-1, "momentum_buffer", "float32", "float64 as params are, where one of them is float64"}, "momentum_buffer is float32"},
		{"no rule", call(Options{}, func(_ []float32, u []Update) { u[0].Rule = nil }), &UpdateError{0, reflect.ValueOf(checkRuleType(nil)).Interface().(error)}, "Rule is nil"},
		{"option", call(Options{ClipNorm: -1}, func([]float32, []Update) {}), &HyperparameterError{"Options", "ClipNorm", -1, "> 0, or 0 for none"}, "ClipNorm"},
		{"option of float32", call(Options{LossScale: 1e200}, func([]float32, []Update) {}),
			&HyperparameterError{"Options", "LossScale", 1e200, "> 0 with an inverse that is a normal number of float32, or 0 for 1"}, "float32"},
		{"shared params", call(Options{}, func(x []float32, u []Update) { u[1].Params = Float32(x[4:12]) }),
			&OverlapError{0, 1, "params", "params", 4}, "tensor 0: params and tensor 1: params share 4"},
		{"params as gradient", call(Options{}, func(x []float32, u []Update) { u[1].Grads = Float32(x[20:28]) }),
			&OverlapError{-1, -1, "params", "grads", 4}, "share 4"},
		{"another's state as gradient", call(Options{}, func(x []float32, u []Update) { u[1].Grads = Float32(x[12:20]) }),
			&OverlapError{0, 1, "momentum_buffer", "grads", 4}, "tensor 0: momentum_buffer and tensor 1: grads share 4"},
		{"shared gradients to be zeroed", call(Options{ZeroGrads: true}, func(x []float32, u []Update) { u[1].Grads = at(x, 1) }),
			&OverlapError{0, 1, "grads", "grads", 8}, "grads share 8"},
	})
	wide := func() Vector { return Float64(lcg[float64](1, 8)) }
	_, err := UpdateAll(Options{LossScale: 1e200}, []Update{{Rule: NewSGD(1), Step: 1, Params: wide(), Grads: wide()}})
	wantNoError(t, err) // in float64
	if _, err := UpdateAll(Options{ClipNorm: -1}, nil); err == nil {
		t.Error("an option out of its range is not refused where there is no tensor")
	}
	x := lcg[float32](1, 64)
	wantNoError(t, call(Options{}, func(x []float32, u []Update) { u[1].Grads = at(x, 1) })(x)) // shared, and only read
}

func TestUpdateAllAllocatesNothing(t *testing.T) {
	list := updateList(sampleRules())
	nextGrads(list)
	if n := testing.AllocsPerRun(20, func() {
		if _, err := UpdateAll(Options{ClipNorm: 1}, list); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Error(fmt.Sprint(n, " allocations"))
	}
}
