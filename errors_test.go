package pnm

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A refusal is a call that must be refused, with the error that it must give.
type refusal struct {
	name string
	call func(memory []float32) error
	want error  // compared as a whole
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
			if got := reflect.New(reflect.TypeOf(c.want)); err == nil || !errors.As(err, got.Interface()) || !reflect.DeepEqual(got.Elem().Interface(), c.want) {
				t.Errorf("got %T %+v, want %+v", err, err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("the message %q does not contain %q", err, c.text)
			}
			wantSame(t, "memory", memory, before)
		})
	}
}

func TestDropInErrors(t *testing.T) {
	pnm, adapnm, plain := NewPNM(0.1), NewAdaPNM(), NewAdaPNM()
	plain.AMSGrad = false
	bad := pnm
	bad.Beta1 = 1
	badAda := adapnm
	badAda.Eps = -1
	huge := pnm
	huge.LR = 1e39
	hugeDecay := pnm
	hugeDecay.LR, hugeDecay.WeightDecay = 1e30, 1e30
	sgd, momentum, adam := NewSGD(0.1), SGD{LR: 0.1, Momentum: 0.9}, NewAdam()
	amsgrad := adam
	amsgrad.AMSGrad = true
	const finite32 = "small enough for its coefficient to be finite in float32"

	refuse(t, []refusal{
		{"step 0", func(x []float32) error { return UpdatePNM(pnm, 0, x[:8], x[8:16], x[16:24], x[24:32]) },
			&StepError{0}, "step is 0, must be ≥ 1"},
		{"step below 0", func(x []float32) error {
			return UpdateAdaPNM(adapnm, -3, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[40:48])
		}, &StepError{-3}, "-3"},
		{"hyperparameter", func(x []float32) error { return UpdatePNM(bad, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&HyperparameterError{"PNM", "Beta1", 1, "in [0, 1)"}, "PNM.Beta1 is 1, must be in [0, 1)"},
		{"hyperparameter of AdaPNM", func(x []float32) error {
			return UpdateAdaPNM(badAda, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[40:48])
		}, &HyperparameterError{"AdaPNM", "Eps", -1, "finite and ≥ 0"}, "AdaPNM.Eps is -1"},
		{"an Eps that float32 does not have", func(x []float32) error {
			r := NewAdam()
			r.Eps = 1e-50
			return UpdateAdam(r, 1, x[:8], x[8:16], x[16:24], x[24:32], nil)
		}, &HyperparameterError{"Adam", "Eps", 1e-50, "0, or large enough not to be 0 in float32"}, "Adam.Eps is 1e-50"},
		{"PNM that nobody filled", func(x []float32) error { return UpdatePNM(PNM{LR: 1}, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&HyperparameterError{"PNM", "Beta1 and Beta0", 0, "set: NewPNM fills the defaults"},
			"PNM.Beta1 and Beta0 are 0, must be set: NewPNM fills the defaults"},
		{"AdaPNM that nobody filled", func(x []float32) error {
			return UpdateAdaPNM(AdaPNM{LR: 1, Beta0: 1}, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], nil)
		}, &HyperparameterError{"AdaPNM", "Beta1, Beta2 and Eps", 0, "set: NewAdaPNM fills the defaults"}, "NewAdaPNM fills"},
		{"Adam that nobody filled", func(x []float32) error {
			return UpdateAdam(Adam{LR: 1, Decoupled: true}, 1, x[:8], x[8:16], x[16:24], x[24:32], nil)
		}, &HyperparameterError{"Adam", "Beta1, Beta2 and Eps", 0, "set: NewAdam fills the defaults"}, "NewAdam fills"},
		{"coefficient beyond float32", func(x []float32) error { return UpdatePNM(huge, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&HyperparameterError{"PNM", "LR", huge.scalars(1).k1, finite32}, "finite in float32"},
		{"decay beyond float32", func(x []float32) error { return UpdatePNM(hugeDecay, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&HyperparameterError{"PNM", "LR·WeightDecay", hugeDecay.scalars(1).keep, finite32}, "LR·WeightDecay"},
		{"momentum beyond float32", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Momentum: 1e39}, 1, x[:8], x[8:16], x[16:24])
		}, &HyperparameterError{"SGD", "Momentum", 1e39, finite32}, "SGD.Momentum leads to 1e+39"},
		{"dampening beyond float32", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Momentum: 0.9, Dampening: 1e39}, 2, x[:8], x[8:16], x[16:24])
		}, &HyperparameterError{"SGD", "Dampening", -1e39, finite32}, "SGD.Dampening"},
		{"Nesterov without momentum", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Nesterov: true}, 1, x[:8], x[8:16], nil)
		}, &HyperparameterError{"SGD", "Momentum", 0, "finite and > 0 with Nesterov"}, "SGD.Momentum is 0, must be finite and > 0 with Nesterov"},
		{"Nesterov with dampening", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Momentum: 0.9, Dampening: 0.1, Nesterov: true}, 1, x[:8], x[8:16], x[16:24])
		}, &HyperparameterError{"SGD", "Dampening", 0.1, "0 with Nesterov"}, "SGD.Dampening is 0.1, must be 0 with Nesterov"},

		{"length of grads", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:15], x[16:24], x[24:32]) },
			&LengthError{-1, "grads", 7, 8}, "length of grads is 7, must be 8"},
		{"nil grads", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], nil, x[16:24], x[24:32]) },
			&LengthError{-1, "grads", 0, 8}, "grads is 0"},
		{"nil params", func(x []float32) error { return UpdatePNM(pnm, 1, nil, x[8:16], x[16:24], x[24:32]) },
			&LengthError{-1, "grads", 8, 0}, "must be 0"},
		{"length of state", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:16], x[16:24], x[24:33]) },
			&LengthError{-1, "neg_momentum", 9, 8}, "neg_momentum is 9"},
		{"no max_exp_avg_sq", func(x []float32) error {
			return UpdateAdaPNM(adapnm, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], nil)
		}, &LengthError{-1, "max_exp_avg_sq", 0, 8}, "max_exp_avg_sq is 0"},
		{"max_exp_avg_sq without AMSGrad", func(x []float32) error {
			return UpdateAdaPNM(plain, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[40:48])
		}, &LengthError{-1, "max_exp_avg_sq (AMSGrad is off)", 8, 0}, "AMSGrad is off"},
		{"momentum_buffer without momentum", func(x []float32) error { return UpdateSGD(sgd, 1, x[:8], x[8:16], x[16:24]) },
			&LengthError{-1, "momentum_buffer (Momentum is 0)", 8, 0}, "Momentum is 0"},
		{"no momentum_buffer", func(x []float32) error { return UpdateSGD(momentum, 1, x[:8], x[8:16], nil) },
			&LengthError{-1, "momentum_buffer", 0, 8}, "momentum_buffer is 0"},
		{"Adam's max_exp_avg_sq without AMSGrad", func(x []float32) error {
			return UpdateAdam(adam, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40])
		}, &LengthError{-1, "max_exp_avg_sq (AMSGrad is off)", 8, 0}, "AMSGrad is off"},
		{"Adam's max_exp_avg_sq is short", func(x []float32) error {
			return UpdateAdam(amsgrad, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:39])
		}, &LengthError{-1, "max_exp_avg_sq", 7, 8}, "max_exp_avg_sq is 7"},

		{"params are grads", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[:8], x[16:24], x[24:32]) },
			&OverlapError{-1, -1, "params", "grads", 8}, "params and grads share 8 elements"},
		{"state within params", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:16], x[16:24], x[7:15]) },
			&OverlapError{-1, -1, "params", "neg_momentum", 1}, "params and neg_momentum share 1 elements"},
		{"one momentum twice", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:16], x[16:24], x[16:24]) },
			&OverlapError{-1, -1, "pos_momentum", "neg_momentum", 8}, "pos_momentum and neg_momentum"},
		{"v and vmax", func(x []float32) error {
			return UpdateAdaPNM(adapnm, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[36:44])
		}, &OverlapError{-1, -1, "exp_avg_sq", "max_exp_avg_sq", 4}, "share 4 elements"},
		{"momentum_buffer within grads", func(x []float32) error { return UpdateSGD(momentum, 1, x[:8], x[8:16], x[15:23]) },
			&OverlapError{-1, -1, "grads", "momentum_buffer", 1}, "grads and momentum_buffer"},
		{"Adam's m and v", func(x []float32) error { return UpdateAdam(adam, 1, x[:8], x[8:16], x[16:24], x[16:24], nil) },
			&OverlapError{-1, -1, "exp_avg", "exp_avg_sq", 8}, "exp_avg and exp_avg_sq"},
	})
}

func TestEmptyIsNoOp(t *testing.T) {
	wantNoError(t, UpdatePNM[float32](NewPNM(1), 1, nil, nil, nil, nil))
	wantNoError(t, UpdateAdaPNM(NewAdaPNM(), 1, []float64{}, nil, []float64{}, nil, nil, nil))
	wantNoError(t, UpdateSGD[float32](NewSGD(1), 1, nil, nil, nil))
	wantNoError(t, UpdateAdam[float64](NewAdam(), 1, nil, nil, nil, nil, nil))
	opt, err := NewOptimizer(Group[float32]{NewPNM(1), [][]float32{nil, {}}}, Group[float32]{Rule: NewAdaPNM()})
	wantNoError(t, err)
	wantNoError(t, opt.Step([][]float32{{}, nil}))
	none, err := NewOptimizer[float64]()
	wantNoError(t, err)
	wantNoError(t, none.Step(nil))
}

func TestValidate(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	illegal := map[string][]float64{
		"LR":          {nan, inf, -inf},
		"Beta1":       {-1e-300, 1, 2, nan, inf, -inf},
		"Beta2":       {-1e-300, 1, 2, nan, inf, -inf},
		"Beta0":       {nan, inf, -inf},
		"Momentum":    {-1e-300, nan, inf, -inf},
		"Dampening":   {nan, inf, -inf},
		"Eps":         {-1e-300, nan, inf, -inf},
		"WeightDecay": {-1e-300, nan, inf, -inf},
	}
	legal := map[string][]float64{
		"LR":          {-math.MaxFloat64, -1, 0, 1e-300, math.MaxFloat64},
		"Beta1":       {0, 1e-300, 1 - 0x1p-53},
		"Beta2":       {0, 1e-300, 1 - 0x1p-53},
		"Beta0":       {-math.MaxFloat64, -1, 0, 2, math.MaxFloat64},
		"Momentum":    {0, 1e-300, 1, 2, math.MaxFloat64},
		"Dampening":   {-math.MaxFloat64, -1, 0, 2, math.MaxFloat64},
		"Eps":         {0, math.MaxFloat64},
		"WeightDecay": {0, math.MaxFloat64},
	}
	for _, r := range append(Rules(), NewAdamW()) {
		fields := 0
		for i := range reflect.TypeOf(r).NumField() {
			field := reflect.TypeOf(r).Field(i)
			if field.Type.Kind() != reflect.Float64 {
				continue
			}
			fields++
			if illegal[field.Name] == nil || legal[field.Name] == nil {
				t.Fatalf("%s is not tested", field.Name)
			}
			for _, x := range legal[field.Name] {
				wantNoError(t, changed(r, field.Name, x).Validate())
			}
			for _, x := range illegal[field.Name] {
				var e *HyperparameterError
				if err := changed(r, field.Name, x).Validate(); !errors.As(err, &e) || e.Field != field.Name || e.Legal == "" ||
					e.Rule != reflect.TypeOf(r).Name() || !sameBits(e.Value, x) {
					t.Errorf("%T.%s = %g: %v", r, field.Name, x, err)
				}
			}
		}
		if fields == 0 {
			t.Errorf("%T has no fields", r)
		}
	}
}

func TestOptimizerErrors(t *testing.T) {
	bad := NewAdaPNM()
	bad.Beta2 = 1.5
	small := NewPNM(1e-3)
	badErr := bad.Validate()
	if badErr == nil {
		t.Fatal("Beta2 = 1.5 is legal")
	}
	// optimizer has the tensors x[:8], x[8:16] | x[16:24], the last with AdaPNM.
	optimizer := func(x []float32) *Optimizer[float32] {
		o, err := NewOptimizer(Group[float32]{small, [][]float32{x[:8], x[8:16]}}, Group[float32]{NewAdaPNM(), [][]float32{x[16:24]}})
		wantNoError(t, err)
		return o
	}
	step := func(grads ...[]float32) func(x []float32) error {
		return func(x []float32) error {
			o := optimizer(x)
			err := o.Step(grads)
			if !reflect.DeepEqual(stateOf(t, o), stateOf(t, optimizer(x))) {
				t.Error("the state was changed")
			}
			return err
		}
	}
	add := func(g func(x []float32) Group[float32]) func(x []float32) error {
		return func(x []float32) error {
			o := optimizer(x)
			err := o.AddGroup(g(x))
			if o.Tensors() != 3 || o.Groups() != 2 {
				t.Error("the group was added")
			}
			return err
		}
	}
	move := func(params ...[]float32) func(x []float32) error { // and a step then finds the old parameters
		return func(x []float32) error {
			o := optimizer(x)
			err := o.SetParams(params)
			before := slices.Clone(x)
			wantNoError(t, o.Step([][]float32{lcg[float32](1, 8), nil, nil}))
			if slices.Equal(x, before) {
				t.Error("the parameters were replaced")
			}
			copy(x, before)
			return err
		}
	}
	g := make([]float32, 8)
	refuse(t, []refusal{
		{"moved params, one too few", move(g, g), &LengthError{-1, "params", 2, 3}, "length of params is 2, must be 3"},
		{"moved params, too short", move(make([]float32, 8), g, g[:7]), &LengthError{2, "params", 7, 8}, "tensor 2: length of params is 7, must be 8"},
		{"moved params overlap", move(make([]float32, 8), g, g), &OverlapError{1, 2, "params", "params", 8}, "tensor 1: params and tensor 2: params"},
		{"no rule", func(x []float32) error { _, err := NewOptimizer(Group[float32]{Params: [][]float32{x}}); return err },
			&GroupError{0, errors.New("Rule is nil")}, "group 0: Rule is nil"},
		{"a rule of another package", func(x []float32) error {
			_, err := NewOptimizer(Group[float32]{struct{ Rule }{}, [][]float32{x}})
			return err
		}, &GroupError{0, errors.New("Rule is a struct { pnm.Rule }, must be one of this package's rules, by value")}, "group 0"},
		{"a pointer to a rule", func(x []float32) error { _, err := NewOptimizer(Group[float32]{&small, [][]float32{x}}); return err },
			&GroupError{0, errors.New("Rule is a *pnm.PNM, must be one of this package's rules, by value")}, "group 0: Rule is a *pnm.PNM"},
		{"overlapping params", func(x []float32) error {
			_, err := NewOptimizer(Group[float32]{small, [][]float32{x[20:30], x[:8], x[29:40]}})
			return err
		}, &OverlapError{0, 2, "params", "params", 1}, "tensor 0: params and tensor 2: params share 1 elements"},
		{"params within params", func(x []float32) error {
			_, err := NewOptimizer(Group[float32]{small, [][]float32{x, x[8:16]}})
			return err
		}, &OverlapError{0, 1, "params", "params", 8}, "share 8"},
		{"added params overlap", add(func(x []float32) Group[float32] { return Group[float32]{small, [][]float32{x[40:44], x[14:18]}} }),
			&OverlapError{1, 4, "params", "params", 2}, "tensor 1: params and tensor 4: params"},
		{"added rule is bad", add(func(x []float32) Group[float32] { return Group[float32]{bad, [][]float32{x[40:]}} }),
			&GroupError{2, badErr}, "group 2: AdaPNM.Beta2 is 1.5, must be in [0, 1)"},
		{"a gradient too few", step(g, g), &LengthError{-1, "gradients", 2, 3}, "length of gradients is 2, must be 3"},
		{"a gradient too short", step(g, g, g[:7]), &LengthError{2, "grads", 7, 8}, "tensor 2: length of grads is 7, must be 8"},
		{"a gradient within params", func(x []float32) error { return optimizer(x).Step([][]float32{g, x[20:28], g}) },
			&OverlapError{2, 1, "params", "grads", 4}, "tensor 2: params and tensor 1: grads share 4 elements"},
		{"SetLR below 0", func(x []float32) error {
			o := optimizer(x)
			err := o.SetLR(-1)
			if o.Rule(0) != Rule(small) || o.Rule(1) != Rule(NewAdaPNM()) {
				t.Error("a rule was changed")
			}
			return err
		}, &HyperparameterError{"PNM", "LR", -1, "finite and ≥ 0"}, "group 0: PNM.LR is -1"},
		{"SetLR of one group, and of one that is not there", func(x []float32) error {
			o := optimizer(x)
			err := o.SetLR(0.5, 0, 2)
			if o.Rule(0) != Rule(small) {
				t.Error("a rule was changed")
			}
			return err
		}, &GroupError{2, errors.New("there is no such group, the optimizer has 2")}, "group 2"},
		{"SetRule of another rule", func(x []float32) error { return optimizer(x).SetRule(0, NewAdaPNM()) },
			&GroupError{0, errors.New("its state is pos_momentum, neg_momentum; the new rule's would be exp_avg, neg_exp_avg, exp_avg_sq, max_exp_avg_sq")}, "group 0"},
		{"SetRule to another rule without state", func(x []float32) error { return optimizer(x).SetRule(0, NewSGD(1)) },
			&GroupError{0, errors.New("its state is pos_momentum, neg_momentum; the new rule's would be empty")}, "would be empty"},
		{"dampening beyond float32", func(x []float32) error {
			_, err := NewOptimizer(Group[float32]{SGD{LR: 1, Momentum: 0.9, Dampening: 1e39}, [][]float32{x}})
			return err
		}, &HyperparameterError{"SGD", "Dampening", -1e39, "small enough for its coefficient to be finite in float32"}, "group 0: SGD.Dampening"},
		{"SetRule to a bad one", func(x []float32) error { return optimizer(x).SetRule(1, bad) }, &GroupError{1, badErr}, "Beta2 is 1.5"},
		{"SetRule to nil", func(x []float32) error { return optimizer(x).SetRule(1, nil) }, &GroupError{1, errors.New("Rule is nil")}, "nil"},
	})
}

func TestStateErrors(t *testing.T) {
	z := func(n int) []float64 { return make([]float64, n) }
	good := TensorState[float64]{3, map[string][]float64{"pos_momentum": {1, 2}, "neg_momentum": {3, 4}}}
	for _, c := range []struct {
		name   string
		states []TensorState[float64]
		want   string
	}{
		{"too few", []TensorState[float64]{good}, "pnm: length of tensor states is 1, must be 2"},
		{"step below 0", []TensorState[float64]{good, {-1, good.Buffers}}, `pnm: tensor 1: state "step" is -1, must be ≥ 0`},
		{"no buffers", []TensorState[float64]{good, {Step: 1}}, `pnm: tensor 1: state "pos_momentum" is missing`},
		{"one buffer", []TensorState[float64]{good, {1, map[string][]float64{"pos_momentum": z(2)}}}, `pnm: tensor 1: state "neg_momentum" is missing`},
		{"short buffer", []TensorState[float64]{good, {1, map[string][]float64{"pos_momentum": z(2), "neg_momentum": z(1)}}}, `pnm: tensor 1: length of neg_momentum is 1, must be 2`},
		{"another rule's", []TensorState[float64]{good, {1, map[string][]float64{"exp_avg": z(2), "neg_exp_avg": z(2), "exp_avg_sq": z(2)}}},
			`pnm: tensor 1: state "exp_avg" is unknown, the rule's state is pos_momentum, neg_momentum`},
		{"one too many", []TensorState[float64]{good, {1, map[string][]float64{"pos_momentum": z(2), "neg_momentum": z(2), "step": z(1)}}},
			`pnm: tensor 1: state "step" is unknown, the rule's state is pos_momentum, neg_momentum`},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt, err := NewOptimizer(Group[float64]{NewPNM(0.1), [][]float64{{1, 2}, {3, 4}}})
			wantNoError(t, err)
			wantNoError(t, opt.Step([][]float64{{5, 6}, {7, 8}}))
			before := stateOf(t, opt)
			err = opt.SetState(c.states)
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			var s *StateError
			var l *LengthError
			if !errors.As(err, &s) && !errors.As(err, &l) {
				t.Errorf("%T", err)
			}
			if !reflect.DeepEqual(stateOf(t, opt), before) {
				t.Error("the state was changed")
			}
		})
	}
}
