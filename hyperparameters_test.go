package pnm

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm/internal/equations"
)

// Every field of a rule is one hyperparameter: With sets it and no other, and Hyperparameters yields it.
func TestHyperparameters(t *testing.T) {
	rng := rand.New(rand.NewPCG(53, 54))
	for range 20 {
		for _, r := range append(sampleRules(), randomRule(rng)) {
			rows := r.table().rows
			if fields := reflect.TypeOf(r).NumField(); len(rows) != fields {
				t.Fatalf("%s has %d hyperparameters and %d fields", r.Name(), len(rows), fields)
			}
			i := 0
			for name, was := range r.Hyperparameters() {
				field := rows[i].field
				if i++; was != reflect.ValueOf(r).FieldByName(field).Interface() {
					t.Errorf("%#v has %s = %v", r, name, was)
				}
				var value any = rng.Float64()
				if is, ok := was.(bool); ok {
					value = !is
				}
				got, err := r.With(name, value)
				wantNoError(t, err)
				if want := changed(r, field, value); got != want {
					t.Errorf("with %s = %v, %#v becomes %#v, want %#v", name, value, r, got, want)
				}
			}
		}
	}
}

// The names and their order are part of files and of C.
func TestHyperparameterNames(t *testing.T) {
	if len(samples) != len(Rules()) {
		t.Fatalf("%d samples of %d rules", len(samples), len(Rules()))
	}
	for i, r := range Rules() {
		var names, first []string
		for name := range r.Hyperparameters() {
			names = append(names, name)
		}
		for name := range r.Hyperparameters() {
			if first = append(first, name); len(first) == 3 {
				break
			}
		}
		if got := strings.Join(names, " "); got != samples[i].names || !slices.Equal(first, names[:3]) {
			t.Errorf("%s has %s, want %s; the first three are %s", r.Name(), got, samples[i].names, first)
		}
	}
}

func TestWithRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		value any
		want  string
	}{
		{"beta2", 0.5, `pnm: PNM has no hyperparameter "beta2", only lr, beta1, beta0, weight_decay, decoupled, maximize`},
		{"LR", 0.5, `pnm: PNM has no hyperparameter "LR", only `},
		{"lr", 1, "pnm: lr of PNM must be a float64, not int"},
		{"lr", true, "pnm: lr of PNM must be a float64, not bool"},
		{"lr", nil, "pnm: lr of PNM must be a float64, not <nil>"},
		{"maximize", 1.0, "pnm: maximize of PNM must be a bool, not float64"},
	} {
		r, err := NewPNM(1).With(test.name, test.value)
		if r != nil || err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("With(%q, %v) is %v, %v, want %s", test.name, test.value, r, err, test.want)
		}
	}
	if r, err := NewPNM(1).With("beta1", math.Inf(1)); err != nil || r.Validate() == nil {
		t.Errorf("a value out of its range gives %v, %v", r, err)
	}
}

// Rules has each rule with forms once, and its state is that of the form.
func TestRules(t *testing.T) {
	var names []string
	for _, r := range Rules() {
		names = append(names, r.Name())
		wantNoError(t, changed(r, "LR", 1.0).Validate())
		if typ := reflect.TypeOf(r).Name(); r.Name() != typ || r.table().rule != typ {
			t.Errorf("%s has the name %s and the table of %s", typ, r.Name(), r.table().rule)
		}
	}
	var want []string
	for _, f := range equations.Forms {
		if !slices.Contains(want, f.Rule) {
			want = append(want, f.Rule)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("the rules are %q, those of the forms %q", names, want)
	}
	if got := NewAdaPNM().State(); !slices.Equal(got, []string{"exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq"}) {
		t.Errorf("the state of AdaPNM is %q", got)
	}
	if got := NewSGD(1).State(); got != nil {
		t.Errorf("the state of SGD is %q", got)
	}
}
