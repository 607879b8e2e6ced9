package pnm

import (
	"errors"
	"math"
	"math/rand/v2"
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
			&ValueError{"Update", "Step", 0, "≥ 1"}, "Update.Step is 0, must be ≥ 1"},
		{"step below 0", func(x []float32) error {
			return UpdateAdaPNM(adapnm, -3, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[40:48])
		}, &ValueError{"Update", "Step", -3, "≥ 1"}, "-3"},
		{"hyperparameter", func(x []float32) error { return UpdatePNM(bad, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&ValueError{"PNM", "Beta1", 1, "in [0, 1)"}, "PNM.Beta1 is 1, must be in [0, 1)"},
		{"hyperparameter of AdaPNM", func(x []float32) error {
			return UpdateAdaPNM(badAda, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[40:48])
		}, &ValueError{"AdaPNM", "Eps", -1, "finite and ≥ 0"}, "AdaPNM.Eps is -1"},
		{"an Eps that float32 does not have", func(x []float32) error {
			r := NewAdam()
			r.Eps = 1e-50
			return UpdateAdam(r, 1, x[:8], x[8:16], x[16:24], x[24:32], nil)
		}, &ValueError{"Adam", "Eps", 1e-50, "0, or large enough not to be 0 in float32"}, "Adam.Eps is 1e-50"},
		{"PNM that nobody filled", func(x []float32) error { return UpdatePNM(PNM{LR: 1}, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&ValueError{"PNM", "Beta1 and Beta0", 0, "set: NewPNM fills in the defaults"},
			"PNM.Beta1 and Beta0 are 0, must be set: NewPNM fills in the defaults"},
		{"AdaPNM that nobody filled", func(x []float32) error {
			return UpdateAdaPNM(AdaPNM{LR: 1, Beta0: 1}, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], nil)
		}, &ValueError{"AdaPNM", "Beta1, Beta2 and Eps", 0, "set: NewAdaPNM fills in the defaults"}, "NewAdaPNM fills in"},
		{"Adam that nobody filled", func(x []float32) error {
			return UpdateAdam(Adam{LR: 1, Decoupled: true}, 1, x[:8], x[8:16], x[16:24], x[24:32], nil)
		}, &ValueError{"Adam", "Beta1, Beta2 and Eps", 0, "set: NewAdam fills in the defaults"}, "NewAdam fills in"},
		{"coefficient beyond float32", func(x []float32) error { return UpdatePNM(huge, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&ValueError{"PNM", "LR", exactly(huge, 1).k1, finite32}, "finite in float32"},
		{"decay beyond float32", func(x []float32) error { return UpdatePNM(hugeDecay, 1, x[:8], x[8:16], x[16:24], x[24:32]) },
			&ValueError{"PNM", "LR·WeightDecay", exactly(hugeDecay, 1).keep, finite32}, "LR·WeightDecay"},
		{"momentum beyond float32", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Momentum: 1e39}, 1, x[:8], x[8:16], x[16:24])
		}, &ValueError{"SGD", "Momentum", 1e39, finite32}, "SGD.Momentum leads to 1e+39"},
		{"dampening beyond float32", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Momentum: 0.9, Dampening: 1e39}, 2, x[:8], x[8:16], x[16:24])
		}, &ValueError{"SGD", "Dampening", -1e39, finite32}, "SGD.Dampening"},
		{"Nesterov without momentum", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Nesterov: true}, 1, x[:8], x[8:16], nil)
		}, &ValueError{"SGD", "Momentum", 0, "finite and > 0 with Nesterov"}, "SGD.Momentum is 0, must be finite and > 0 with Nesterov"},
		{"Nesterov with dampening", func(x []float32) error {
			return UpdateSGD(SGD{LR: 1, Momentum: 0.9, Dampening: 0.1, Nesterov: true}, 1, x[:8], x[8:16], x[16:24])
		}, &ValueError{"SGD", "Dampening", 0.1, "0 with Nesterov"}, "SGD.Dampening is 0.1, must be 0 with Nesterov"},

		{"length of grads", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:15], x[16:24], x[24:32]) },
			&LengthError{"grads", 7, 8}, "length of grads is 7, must be 8"},
		{"nil grads", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], nil, x[16:24], x[24:32]) },
			&LengthError{"grads", 0, 8}, "grads is 0"},
		{"nil params", func(x []float32) error { return UpdatePNM(pnm, 1, nil, x[8:16], x[16:24], x[24:32]) },
			&LengthError{"grads", 8, 0}, "must be 0"},
		{"length of state", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:16], x[16:24], x[24:33]) },
			&LengthError{"neg_momentum", 9, 8}, "neg_momentum is 9"},
		{"no max_exp_avg_sq", func(x []float32) error {
			return UpdateAdaPNM(adapnm, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], nil)
		}, &LengthError{"max_exp_avg_sq", 0, 8}, "max_exp_avg_sq is 0"},
		{"max_exp_avg_sq without AMSGrad", func(x []float32) error {
			return UpdateAdaPNM(plain, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[40:48])
		}, &LengthError{"max_exp_avg_sq (AMSGrad is off)", 8, 0}, "AMSGrad is off"},
		{"momentum_buffer without momentum", func(x []float32) error { return UpdateSGD(sgd, 1, x[:8], x[8:16], x[16:24]) },
			&LengthError{"momentum_buffer (Momentum is 0)", 8, 0}, "Momentum is 0"},
		{"no momentum_buffer", func(x []float32) error { return UpdateSGD(momentum, 1, x[:8], x[8:16], nil) },
			&LengthError{"momentum_buffer", 0, 8}, "momentum_buffer is 0"},
		{"Adam's max_exp_avg_sq without AMSGrad", func(x []float32) error {
			return UpdateAdam(adam, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40])
		}, &LengthError{"max_exp_avg_sq (AMSGrad is off)", 8, 0}, "AMSGrad is off"},
		{"Adam's max_exp_avg_sq is short", func(x []float32) error {
			return UpdateAdam(amsgrad, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:39])
		}, &LengthError{"max_exp_avg_sq", 7, 8}, "max_exp_avg_sq is 7"},

		{"params are grads", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[:8], x[16:24], x[24:32]) },
			&OverlapError{Arg: "params", OtherArg: "grads", Elements: 8}, "params and grads share 8 elements"},
		{"state within params", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:16], x[16:24], x[7:15]) },
			&OverlapError{Arg: "params", OtherArg: "neg_momentum", Elements: 1}, "params and neg_momentum share 1 elements"},
		{"one momentum twice", func(x []float32) error { return UpdatePNM(pnm, 1, x[:8], x[8:16], x[16:24], x[16:24]) },
			&OverlapError{Arg: "pos_momentum", OtherArg: "neg_momentum", Elements: 8}, "pos_momentum and neg_momentum"},
		{"v and vmax", func(x []float32) error {
			return UpdateAdaPNM(adapnm, 1, x[:8], x[8:16], x[16:24], x[24:32], x[32:40], x[36:44])
		}, &OverlapError{Arg: "exp_avg_sq", OtherArg: "max_exp_avg_sq", Elements: 4}, "share 4 elements"},
		{"momentum_buffer within grads", func(x []float32) error { return UpdateSGD(momentum, 1, x[:8], x[8:16], x[15:23]) },
			&OverlapError{Arg: "grads", OtherArg: "momentum_buffer", Elements: 1}, "grads and momentum_buffer"},
		{"Adam's m and v", func(x []float32) error { return UpdateAdam(adam, 1, x[:8], x[8:16], x[16:24], x[16:24], nil) },
			&OverlapError{Arg: "exp_avg", OtherArg: "exp_avg_sq", Elements: 8}, "exp_avg and exp_avg_sq"},
	})
}

func TestEmptyIsNoOp(t *testing.T) {
	wantNoError(t, UpdatePNM[float32](NewPNM(1), 1, nil, nil, nil, nil))
	wantNoError(t, UpdateAdaPNM(NewAdaPNM(), 1, []float64{}, nil, []float64{}, nil, nil, nil))
	wantNoError(t, UpdateSGD[float32](NewSGD(1), 1, nil, nil, nil))
	wantNoError(t, UpdateAdam[float64](NewAdam(), 1, nil, nil, nil, nil, nil))
	for _, updates := range [][]Update{nil, {{Rule: NewPNM(1), Step: 1, State: make([]Vector, 2)}}} {
		_, err := UpdateAll(Options{}, updates)
		wantNoError(t, err)
	}
}

// Slices of a drop-in call may lie in any order, as long as none share memory. The error names the first two that do.
func TestDropInSeesOverlaps(t *testing.T) {
	rng := rand.New(rand.NewPCG(37, 38))
	names := append([]string{"params", "grads"}, NewAdaPNM().State()...)
	x := make([]float32, 60)
	refused, taken := 0, 0
	for range 20_000 {
		n := rng.IntN(8)
		var at [6]int
		var s [6][]float32
		var want *OverlapError
		for i := range s {
			at[i] = rng.IntN(len(x) - n)
			s[i] = x[at[i] : at[i]+n]
			for j := range i {
				if common := n - max(at[i]-at[j], at[j]-at[i]); common > 0 && want == nil {
					want = &OverlapError{Arg: names[j], OtherArg: names[i], Elements: common}
				}
			}
		}
		err := UpdateAdaPNM(NewAdaPNM(), 1, s[0], s[1], s[2], s[3], s[4], s[5])
		if want == nil {
			wantNoError(t, err)
			taken++
			continue
		}
		if got, ok := err.(*OverlapError); !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("%d elements at %d: %v, want %v", n, at, err, want)
		}
		refused++
	}
	if refused < 1000 || taken < 1000 {
		t.Errorf("%d calls were refused, and %d were not", refused, taken)
	}
}

// A literal whose decays and ε nobody has filled is refused, whatever else it has; SGD has none.
func TestUnfilled(t *testing.T) {
	for _, r := range Rules() {
		literal := set(reflect.Zero(reflect.TypeOf(r)).Interface().(Rule), "lr", 1.0)
		want := &ValueError{Of: r.Name(), Value: 0, Legal: "set: New" + r.Name() + " fills in the defaults"}
		err := literal.Validate()
		if _, ok := r.(SGD); ok {
			wantNoError(t, err)
			continue
		}
		var e *ValueError
		if errors.As(err, &e) {
			want.Field = e.Field
		}
		if e == nil || *e != *want || !strings.HasPrefix(e.Field, "Beta1") {
			t.Errorf("%#v: %v, want %+v", literal, err, want)
		}
	}
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
				var e *ValueError
				if err := changed(r, field.Name, x).Validate(); !errors.As(err, &e) || e.Field != field.Name || e.Legal == "" ||
					e.Of != reflect.TypeOf(r).Name() || !sameBits(e.Value, x) {
					t.Errorf("%T.%s = %g: %v", r, field.Name, x, err)
				}
			}
		}
		if fields == 0 {
			t.Errorf("%T has no fields", r)
		}
	}
}
