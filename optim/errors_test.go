package optim

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/posneg/pnm"
)

// A refusal is a call that must be refused, with the error that it must give.
type refusal struct {
	name string
	call func(memory []float32) error
	want error  // compared as a whole, somewhere behind what is returned
	text string // a part of the message
}

// refuse makes each call on memory with a fill that shows any write, and on nothing else.
func refuse(t *testing.T, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			memory := lcg[float32](7, 64)
			before := slices.Clone(memory)
			err := c.call(memory)
			if got := reflect.New(reflect.TypeOf(c.want)); err == nil || !errors.As(err, got.Interface()) || !sameError(got.Elem().Interface(), c.want) {
				t.Errorf("got %T %+v, want %+v", err, err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("the message %q does not contain %q", err, c.text)
			}
			wantSame(t, "memory", memory, before)
		})
	}
}

// sameError compares errors as a whole; those that are nothing but a text, by it.
func sameError(got, want any) bool {
	if want == any(wrapped) {
		return true
	}
	a, ok := got.(*pnm.TensorError)
	b, also := want.(*pnm.TensorError)
	if ok && also {
		return a.Tensor == b.Tensor && a.Name == b.Name && (reflect.DeepEqual(a.Err, b.Err) || a.Err.Error() == b.Err.Error() && reflect.TypeOf(a.Err) == reflect.TypeOf(b.Err))
	}
	return reflect.DeepEqual(got, want)
}

func atTensor(i int, err error) error {
	return &pnm.TensorError{Tensor: i, Name: fmt.Sprint(i), Err: err}
}

func overlap(tensor, other int, arg, otherArg string, n int) error {
	return &pnm.OverlapError{Arg: arg, OtherArg: otherArg, Elements: n, Tensors: []int{tensor, other}, Names: []string{fmt.Sprint(tensor), fmt.Sprint(other)}}
}

// wrapped is what errors of groups are, whose text is all that there is to compare.
var wrapped = &located{}

func TestOptimizerErrors(t *testing.T) {
	bad := pnm.NewAdaPNM()
	bad.Beta2 = 1.5
	small := pnm.NewPNM(1e-3)
	badErr := bad.Validate()
	if badErr == nil {
		t.Fatal("Beta2 = 1.5 is legal")
	}
	// optimizer has the tensors x[:8], x[8:16] | x[16:24], the last with AdaPNM.
	optimizer := func(x []float32) *Optimizer {
		return optimizerOf(t, groupOf(small, x[:8], x[8:16]), groupOf(pnm.NewAdaPNM(), x[16:24]))
	}
	step := func(grads ...[]float32) func(x []float32) error {
		return func(x []float32) error {
			o := optimizer(x)
			err := stepOf(o, grads...)
			wantSameState(t, "the state", o, optimizer(x))
			return err
		}
	}
	add := func(g func(x []float32) Group) func(x []float32) error {
		return func(x []float32) error {
			o := optimizer(x)
			err := o.AddGroup(g(x))
			if o.Tensors() != 3 || o.Groups() != 2 || len(o.Names()) != 3 {
				t.Error("the group was added")
			}
			before := slices.Clone(x)
			wantNoError(t, stepOf(o, lcg[float32](1, 8), nil, nil)) // it works
			copy(x, before)
			wantNoError(t, o.AddGroup(groupOf(small, x[30:32]))) // with the next number
			if o.Names()[3] != "3" || o.Rule(2) != pnm.Rule(small) {
				t.Errorf("the next group is %v", o.Names())
			}
			return err
		}
	}
	move := func(params ...[]float32) func(x []float32) error { // and a step then finds the old parameters
		return func(x []float32) error {
			o := optimizer(x)
			err := o.SetParams(pnm.Vectors(params...), nil)
			before := slices.Clone(x)
			wantNoError(t, stepOf(o, lcg[float32](1, 8), nil, nil))
			if slices.Equal(x, before) {
				t.Error("the parameters were replaced")
			}
			copy(x, before)
			return err
		}
	}
	build := func(groups func(x []float32) []Group) func(x []float32) error {
		return func(x []float32) error {
			o, err := New(groups(x)...)
			if o != nil {
				t.Error("there is an optimizer")
			}
			return err
		}
	}
	one := func(r pnm.Rule) func(x []float32) error {
		return build(func(x []float32) []Group { return []Group{groupOf(r, x)} })
	}
	named := func(names ...string) func(x []float32) Group {
		return func(x []float32) Group {
			return Group{Rule: small, Params: pnm.Vectors(x[40:44], x[44:48]), Names: names}
		}
	}
	g := make([]float32, 8)
	refuse(t, []refusal{
		{"moved params, one too few", move(g, g), &pnm.LengthError{Arg: "params", Len: 2, Want: 3}, "length of params is 2, must be 3"},
		{"moved params, too short", move(make([]float32, 8), g, g[:7]), atTensor(2, &pnm.LengthError{Arg: "params", Len: 7, Want: 8}), "tensor 2: length of params is 7, must be 8"},
		{"moved params overlap", move(make([]float32, 8), g, g), overlap(1, 2, "params", "params", 8), "share 8"},
		{"no rule", one(nil), wrapped, "optim: group 0: "},
		{"a rule of another package", one(struct{ pnm.Rule }{}), wrapped, "optim: group 0: "},
		{"a pointer to a rule", one(&small), wrapped, "optim: group 0: "},
		{"a negative learning rate", one(pnm.NewPNM(-1)), &pnm.ValueError{Of: "PNM", Field: "LR", Value: -1, Legal: "finite and ≥ 0"}, "optim: group 0: PNM.LR is -1, must be finite and ≥ 0"},
		{"no learning rate", one(pnm.NewPNM(math.NaN())), wrapped, "optim: group 0: PNM.LR is NaN"},
		{"overlapping params", build(func(x []float32) []Group { return []Group{groupOf(small, x[20:30], x[:8], x[29:40])} }),
			overlap(0, 2, "params", "params", 1), "share 1 elements"},
		{"params within params", build(func(x []float32) []Group { return []Group{groupOf(small, x, x[8:16])} }), overlap(0, 1, "params", "params", 8), "share 8"},
		{"params within those of another group", build(func(x []float32) []Group { return []Group{groupOf(small, x), groupOf(small, x[8:16])} }),
			overlap(0, 1, "params", "params", 8), "share 8"},
		{"added params overlap", add(func(x []float32) Group { return groupOf(small, x[40:44], x[14:18]) }), overlap(1, 4, "params", "params", 2), "share 2"},
		{"added rule is bad", add(func(x []float32) Group { return groupOf(bad, x[40:]) }), badErr, "optim: group 2: AdaPNM.Beta2 is 1.5, must be in [0, 1)"},
		{"added state of no format", add(func(x []float32) Group { return Group{Rule: small, Params: pnm.Vectors(x[40:]), State: "int8"} }), wrapped, "optim: group 2: "},
		{"added state of f16", add(func(x []float32) Group { return Group{Rule: small, Params: pnm.Vectors(x[40:]), State: "f16"} }),
			&pnm.FormatError{Arg: "state", Format: "f16", Want: "float32, float64, bf16 or mxfp8"}, "optim: group 2: "},
		{"added state of float64", add(func(x []float32) Group { return Group{Rule: small, Params: pnm.Vectors(x[40:]), State: "float64"} }),
			&pnm.TensorError{Tensor: 3, Name: "3", Err: &pnm.FormatError{Arg: "pos_momentum", Format: "float64", Want: "float32 like params, since one of the two is float64"}}, "tensor 3"},
		{"a name too few", add(named("a")), &pnm.LengthError{Arg: "names", Len: 1, Want: 2}, "optim: group 2: length of names is 1, must be 2"},
		{"a name twice", add(named("a", "a")), &pnm.TensorError{Tensor: 4, Name: "a", Err: errors.New(`tensor 3 has the same name, "a"`)}, `tensor 4 ("a"): tensor 3 has`},
		{"a name that is a number", add(named("a", "1")), &pnm.TensorError{Tensor: 4, Name: "1", Err: errors.New(`tensor 1 has the same name, "1"`)}, `tensor 4 ("1"): tensor 1 has the same name, "1"`},
		{"no name", add(named("a", "")), &pnm.TensorError{Tensor: 4, Err: errors.New(`its name is "", must be UTF-8 and not empty`)}, "tensor 4"},
		{"a name that is no text", add(named("\xff", "b")), &pnm.TensorError{Tensor: 3, Err: errors.New(`its name is "\xff", must be UTF-8 and not empty`)}, `"\xff"`},
		{"a gradient too few", step(g, g), &pnm.LengthError{Arg: "gradients", Len: 2, Want: 3}, "length of gradients is 2, must be 3"},
		{"a gradient too short", step(g, g, g[:7]), atTensor(2, &pnm.LengthError{Arg: "grads", Len: 7, Want: 8}), "tensor 2: length of grads is 7, must be 8"},
		{"a gradient within params", func(x []float32) error { return stepOf(optimizer(x), g, x[20:28], g) }, overlap(2, 1, "params", "grads", 4), "share 4 elements"},
		{"a gradient of nobody", func(x []float32) error {
			_, err := optimizer(x).StepNamed(pnm.Options{}, map[string]pnm.Vector{"0": pnm.Float32(g), "b": {}, "a": {}})
			return err
		}, errors.New(`optim: there is a gradient for "a", but no tensor of that name`), `there is a gradient for "a"`},
		{"SetLR below 0", func(x []float32) error {
			o := optimizer(x)
			err := o.SetLR(-1)
			if o.Rule(0) != pnm.Rule(small) || o.Rule(1) != pnm.Rule(pnm.NewAdaPNM()) {
				t.Error("a rule was changed")
			}
			return err
		}, &pnm.ValueError{Of: "PNM", Field: "LR", Value: -1, Legal: "finite and ≥ 0"}, "group 0: PNM.LR is -1"},
		{"SetLR of a group that is not there", func(x []float32) error {
			o := optimizer(x)
			err := o.SetGroupLR(2, 0.5)
			if o.Rule(0) != pnm.Rule(small) {
				t.Error("a rule was changed")
			}
			return err
		}, wrapped, "optim: group 2: there is no such group, the optimizer has 2"},
		{"SetRule of another rule", func(x []float32) error { return optimizer(x).SetRule(0, pnm.NewAdaPNM()) }, wrapped,
			"optim: group 0: its rule is PNM with state pos_momentum, neg_momentum, the new rule is AdaPNM with state exp_avg"},
		{"SetRule without AMSGrad", func(x []float32) error { return optimizer(x).SetRule(1, with(pnm.NewAdaPNM(), "amsgrad", false)) }, wrapped, "group 1"},
		{"SetRule of no group", func(x []float32) error { return optimizer(x).SetRule(-1, small) }, wrapped, "optim: group -1: there is no such group"},
		{"SetRule to one below 0", func(x []float32) error { return optimizer(x).SetRule(0, pnm.NewPNM(-1)) },
			&pnm.ValueError{Of: "PNM", Field: "LR", Value: -1, Legal: "finite and ≥ 0"}, "group 0"},
		{"a coefficient of step 2", one(pnm.SGD{LR: 1, Momentum: 0.9, Dampening: 1e39}),
			&pnm.ValueError{Of: "SGD", Field: "Dampening", Value: -1e39, Legal: "small enough for its coefficient to be finite in float32"}, "group 0: SGD.Dampening"},
		{"SetLR beyond float32", func(x []float32) error { return optimizer(x).SetGroupLR(1, 1e39) }, wrapped, "group 1: AdaPNM.LR leads to"},
		{"SetRule to a bad one", func(x []float32) error { return optimizer(x).SetRule(1, bad) }, badErr, "optim: group 1: AdaPNM.Beta2 is 1.5"},
		{"SetRule to nil", func(x []float32) error { return optimizer(x).SetRule(1, nil) }, wrapped, "nil"},
		{"SetSteps of no tensor", func(x []float32) error { return optimizer(x).SetSteps(3, 0) },
			&pnm.TensorError{Tensor: 3, Err: errors.New("there is no such tensor, the optimizer has 3")}, "tensor 3"},
		{"SetSteps below 0", func(x []float32) error { return optimizer(x).SetSteps(1, -1) }, atTensor(1, &StateError{"step", "is -1, must be ≥ 0"}), `tensor 1: state "step" is -1`},
		{"SetSteps of too many", func(x []float32) error { return optimizer(x).SetSteps(1, math.MaxInt) }, &StateError{"step", fmt.Sprintf("is %d, which no step can follow", math.MaxInt)}, "follow"},
	})
}

func TestStateErrors(t *testing.T) {
	z := func(n int) pnm.Vector { return pnm.Float64(make([]float64, n)) }
	type buffers = map[string]pnm.Vector
	good := TensorState{3, buffers{"pos_momentum": pnm.Float64([]float64{1, 2}), "neg_momentum": pnm.Float64([]float64{3, 4})}}
	for _, c := range []struct {
		name   string
		states []TensorState
		want   string
	}{
		{"too few", []TensorState{good}, "pnm: length of tensor states is 1, must be 2"},
		{"step below 0", []TensorState{good, {-1, good.Buffers}}, `pnm: tensor 1: state "step" is -1, must be ≥ 0`},
		{"the last step", []TensorState{good, {math.MaxInt, good.Buffers}}, fmt.Sprintf(`pnm: tensor 1: state "step" is %d, which no step can follow`, math.MaxInt)},
		{"no buffers", []TensorState{good, {Step: 1}}, `pnm: tensor 1: state "pos_momentum" is missing`},
		{"one buffer", []TensorState{good, {1, buffers{"pos_momentum": z(2)}}}, `pnm: tensor 1: state "neg_momentum" is missing`},
		{"short buffer", []TensorState{good, {1, buffers{"pos_momentum": z(2), "neg_momentum": z(1)}}}, `pnm: tensor 1: length of neg_momentum is 1, must be 2`},
		{"another rule's", []TensorState{good, {1, buffers{"exp_avg": z(2), "neg_exp_avg": z(2), "exp_avg_sq": z(2)}}},
			`pnm: tensor 1: state "exp_avg" is unknown, the rule's state is pos_momentum, neg_momentum`},
		{"one too many", []TensorState{good, {1, buffers{"pos_momentum": z(2), "neg_momentum": z(2), "step": z(1)}}},
			`pnm: tensor 1: state "step" is unknown, the rule's state is pos_momentum, neg_momentum`},
		{"another format", []TensorState{good, {1, buffers{"pos_momentum": z(2), "neg_momentum": pnm.Float32([]float32{1, 2})}}},
			`pnm: tensor 1: the format of neg_momentum is float32, must be float64`},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := optimizerOf(t, groupOf(pnm.NewPNM(0.1), []float64{1, 2}, []float64{3, 4}))
			wantNoError(t, stepOf(opt, []float64{5, 6}, []float64{7, 8}))
			before := stateOf(t, opt)
			err := opt.SetState(c.states)
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if !errors.As(err, new(*StateError)) && !errors.As(err, new(*pnm.LengthError)) && !errors.As(err, new(*pnm.FormatError)) {
				t.Errorf("%T", err)
			}
			if !slices.Equal(describe(stateOf(t, opt)), describe(before)) {
				t.Error("the state was changed")
			}
		})
	}
}

// What is in an error is what the tensor is called.
func TestErrorsName(t *testing.T) {
	o := optimizerOf(t, Group{Rule: pnm.NewPNM(1), Params: pnm.Vectors([]float32{1, 2}, []float32{3}), Names: []string{"dense.weight", "bias"}})
	err := stepOf(o, make([]float32, 1), nil)
	var e *pnm.TensorError
	if !errors.As(err, &e) || e.Tensor != 0 || e.Name != "dense.weight" || err.Error() != `pnm: tensor 0 ("dense.weight"): length of grads is 1, must be 2` {
		t.Error(err)
	}
	g := make([]float32, 2)
	var shared *pnm.OverlapError
	_, err = o.Step(pnm.Options{ZeroGrads: true}, pnm.Vectors(g, g[1:]))
	if !errors.As(err, &shared) || !slices.Equal(shared.Names, []string{"dense.weight", "bias"}) || !strings.Contains(err.Error(), "bias") {
		t.Error(err)
	}
}

func TestFormatErrors(t *testing.T) {
	r, sgd := pnm.NewAdaPNM(), pnm.SGD{LR: 1, Momentum: 0.9}
	half := func(x []float32) pnm.Vector {
		return pnm.BF16(unsafe.Slice((*uint16)(unsafe.Pointer(&x[0])), 2*len(x)))
	}
	at := func(x []float32, i int) pnm.Vector { return half(x[4*i : 4*i+4]) } // 8 elements of 16 bits
	p := func(x []float32) pnm.Vector { return pnm.Float32(x[32:40]) }
	none := func(format string) pnm.Vector { return newVector(format, 8) }
	group := func(g func(x []float32) Group) func(x []float32) error {
		return func(x []float32) error { _, err := New(g(x)); return err }
	}
	with := func(g Group, do func(o *Optimizer, x []float32) error) func(x []float32) error {
		return func(x []float32) error {
			g.Params = []pnm.Vector{p(x)}
			return do(optimizerOf(t, g), x)
		}
	}
	step := func(g Group, grads func(x []float32) pnm.Vector) func(x []float32) error {
		return with(g, func(o *Optimizer, x []float32) error {
			_, err := o.Step(pnm.Options{}, []pnm.Vector{grads(x)})
			return err
		})
	}
	format := func(tensor int, arg, format, want string) error {
		return atTensor(tensor, &pnm.FormatError{Arg: arg, Format: format, Want: want})
	}
	refuse(t, []refusal{
		{"f16", group(func(x []float32) Group { return Group{Rule: r, Params: []pnm.Vector{p(x), none("f16")}} }),
			format(1, "params", "f16", "float32, bf16 or low16"), "tensor 1: the format of params is f16"},
		{"float64 behind float32", group(func(x []float32) Group { return Group{Rule: r, Params: []pnm.Vector{p(x), none("float64")}} }),
			format(1, "params", "float64", "float32, bf16 or low16, like the first tensor of the group"), "tensor 1: the format of params is float64"},
		{"float32 behind float64", group(func(x []float32) Group { return Group{Rule: r, Params: []pnm.Vector{none("float64"), p(x)}} }),
			format(1, "params", "float32", "float64, like the first tensor of the group"), "tensor 1: the format of params is float32"},
		{"bf16 state of float64", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{none("float64")}, State: "bf16"}
		}),
			format(0, "exp_avg", "bf16", "float64 like params, since one of the two is float64"), "exp_avg is bf16"},
		{"a copy of bf16", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{at(x, 0)}, Copies: []pnm.Vector{at(x, 1)}}
		}), format(0, "params", "bf16", "float32 or low16 to have a copy"), "to have a copy"},
		{"a copy in float32", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, Copies: []pnm.Vector{pnm.Float32(x[:8])}}
		}), format(0, "copy", "float32", "bf16 or f16"), "copy is float32"},
		{"low16 without copies", group(func(x []float32) Group { return Group{Rule: r, Params: []pnm.Vector{none("low16")}} }),
			format(0, "copy", "nil", "bf16, the upper halves of low16 params"), "tensor 0: the format of copy is nil, must be bf16"},
		{"low16 with an f16 copy", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x), none("low16")}, Copies: []pnm.Vector{{}, none("f16")}}
		}), format(1, "copy", "f16", "bf16, the upper halves of low16 params"), "tensor 1: the format of copy is f16"},
		{"low16 behind float64", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{none("float64"), none("low16")}, Copies: []pnm.Vector{{}, at(x, 0)}}
		}), format(1, "params", "low16", "float64, like the first tensor of the group"), "tensor 1: the format of params is low16"},
		{"nothing to follow", group(func(x []float32) Group { return Group{Rule: r, Params: []pnm.Vector{p(x)}, Follow: true} }),
			wrapped, "optim: group 0: there are no Copies, but Follow is set"},
		{"low16 state", with(Group{Rule: sgd}, func(o *Optimizer, x []float32) error {
			return o.SetState([]TensorState{{1, map[string]pnm.Vector{"momentum_buffer": none("low16")}}})
		}), format(0, "momentum_buffer", "low16", "float32, bf16, f16 or mxfp8"), "momentum_buffer is low16"},
		{"low16 state of float64", func(x []float32) error {
			o := optimizerOf(t, Group{Rule: sgd, Params: []pnm.Vector{none("float64")}})
			return o.SetState([]TensorState{{1, map[string]pnm.Vector{"momentum_buffer": none("low16")}}})
		}, format(0, "momentum_buffer", "low16", "float64"), "momentum_buffer is low16"},
		{"a low16 gradient", step(Group{Rule: r}, func([]float32) pnm.Vector { return none("low16") }),
			format(0, "grads", "low16", "float32, bf16 or f16"), "grads is low16"},
		{"moved low16, no copies", func(x []float32) error {
			o := optimizerOf(t, Group{Rule: r, Params: []pnm.Vector{none("low16")}, Copies: []pnm.Vector{at(x, 0)}})
			return o.SetParams([]pnm.Vector{none("low16")}, nil)
		}, format(0, "copy", "nil", "bf16, the upper halves of low16 params"), "copy is nil"},
		{"no copies", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, Copies: []pnm.Vector{}}
		}), &pnm.LengthError{Arg: "copies", Len: 0, Want: 1}, "group 0: length of copies is 0"},
		{"a short copy", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, Copies: []pnm.Vector{at(x, 0).Slice(0, 1)}}
		}), atTensor(0, &pnm.LengthError{Arg: "copy", Len: 1, Want: 8}), "tensor 0: length of copy is 1"},
		{"roundings", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, Rounding: make([]pnm.Rounding, 2)}
		}), &pnm.LengthError{Arg: "roundings", Len: 2, Want: 1}, "length of roundings is 2"},
		{"rows", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, State: mxfp8Format, Rows: make([]int, 2)}
		}), &pnm.LengthError{Arg: "rows", Len: 2, Want: 1}, "optim: group 0: length of rows is 2, must be 1"},
		{"a row that does not divide", func(x []float32) error {
			o := optimizerOf(t, groupOf(r, x[:4]))
			return o.AddGroup(Group{Rule: r, Params: pnm.Vectors(x[4:8], x[8:12]), Names: []string{"a", "b"}, State: mxfp8Format, Rows: []int{2, 3}})
		}, &pnm.TensorError{Tensor: 2, Name: "b", Err: &pnm.ValueError{Of: "MXFP8", Field: "row", Value: 3, Legal: "a divisor of the number of elements, 4"}},
			`tensor 2 ("b"): MXFP8.row is 3, must be a divisor of the number of elements, 4`},
		{"a row below 0", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, State: mxfp8Format, Rows: []int{-1}}
		}), atTensor(0, &pnm.ValueError{Of: "MXFP8", Field: "row", Value: -1, Legal: "in [0, 2³²)"}), "MXFP8.row is -1"},
		{"a part that begins within a row", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, State: mxfp8Format, Rows: []int{4}, Rounding: []pnm.Rounding{{First: 6}}}
		}), atTensor(0, &pnm.ValueError{Of: "Rounding", Field: "First", Value: 6, Legal: "between rows of 4 of exp_avg, which is mxfp8: 4 or 8"}), "4 or 8"},
		{"a part that begins within a block", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x)}, State: mxfp8Format, Rounding: []pnm.Rounding{{First: 33}}}
		}), atTensor(0, &pnm.ValueError{Of: "Rounding", Field: "First", Value: 33, Legal: "between blocks of exp_avg, which is mxfp8: 32 or 64"}), "32 or 64"},
		{"mxfp8 parameters", group(func(x []float32) Group { return Group{Rule: r, Params: []pnm.Vector{none(mxfp8Format)}} }),
			format(0, "params", "mxfp8", "float32, bf16 or low16"), "params is mxfp8"},
		{"an mxfp8 gradient", step(Group{Rule: r}, func([]float32) pnm.Vector { return none(mxfp8Format) }),
			format(0, "grads", "mxfp8", "float32, bf16 or f16"), "grads is mxfp8"},
		{"mxfp8 state of float64", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{none("float64")}, State: mxfp8Format}
		}), format(0, "exp_avg", "mxfp8", "float64 like params, since one of the two is float64"), "exp_avg is mxfp8"},
		{"mxfp8 state into float64", func(x []float32) error {
			o := optimizerOf(t, Group{Rule: sgd, Params: []pnm.Vector{none("float64")}})
			return o.SetState([]TensorState{{1, map[string]pnm.Vector{"momentum_buffer": none(mxfp8Format)}}})
		}, format(0, "momentum_buffer", "mxfp8", "float64"), "momentum_buffer is mxfp8"},
		{"a float64 gradient", step(Group{Rule: r}, func([]float32) pnm.Vector { return none("float64") }),
			format(0, "grads", "float64", "float32, bf16 or f16"), "grads is float64"},
		{"float64 state", with(Group{Rule: sgd}, func(o *Optimizer, x []float32) error {
			return o.SetState([]TensorState{{1, map[string]pnm.Vector{"momentum_buffer": none("float64")}}})
		}), format(0, "momentum_buffer", "float64", "float32, bf16, f16 or mxfp8"), "momentum_buffer is float64"},
		{"short state", with(Group{Rule: sgd, State: "bf16"}, func(o *Optimizer, x []float32) error {
			return o.SetState([]TensorState{{1, map[string]pnm.Vector{"momentum_buffer": at(x, 0).Slice(0, 5)}}})
		}), atTensor(0, &pnm.LengthError{Arg: "momentum_buffer", Len: 5, Want: 8}), "momentum_buffer is 5"},
		{"copies overlap params", group(func(x []float32) Group {
			return Group{Rule: r, Params: []pnm.Vector{p(x), pnm.Float32(x[0:8])}, Copies: []pnm.Vector{half(x[2:6]), half(x[8:12])}}
		}), overlap(0, 1, "copy", "params", 4), "share 4"},
		{"moved params, format", with(Group{Rule: r}, func(o *Optimizer, x []float32) error { return o.SetParams([]pnm.Vector{at(x, 0)}, nil) }),
			format(0, "params", "bf16", "float32, as before"), "params is bf16, must be float32, as before"},
		{"moved params, copies", with(Group{Rule: r}, func(o *Optimizer, x []float32) error { return o.SetParams([]pnm.Vector{p(x)}, []pnm.Vector{}) }),
			&pnm.LengthError{Arg: "copies", Len: 0, Want: 1}, "length of copies is 0"},
		{"moved params, copy", with(Group{Rule: r}, func(o *Optimizer, x []float32) error {
			return o.SetParams([]pnm.Vector{p(x)}, []pnm.Vector{half(x[38:42])})
		}), &pnm.OverlapError{Arg: "params", OtherArg: "copy", Elements: 2}, "share 2"},
		{"a copy as gradient", func(x []float32) error {
			return step(Group{Rule: r, Copies: []pnm.Vector{at(x, 0)}}, func(x []float32) pnm.Vector { return at(x, 0) })(x)
		}, &pnm.OverlapError{Arg: "copy", OtherArg: "grads", Elements: 8}, "share 8"},
		{"a short gradient", step(Group{Rule: r}, func(x []float32) pnm.Vector { return at(x, 0).Slice(0, 2) }),
			atTensor(0, &pnm.LengthError{Arg: "grads", Len: 2, Want: 8}), "length of grads is 2"},
	})
}
