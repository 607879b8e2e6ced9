package pnm

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const goldenFile = "testdata/golden.json"

var golden = flag.String("golden", "", "replay this `file` of trajectories, as "+goldenFile+", and print the largest error of each case")

// goldenLimit is how far a parameter may be from the recorded one, in eps of its type, see goldenError.
const goldenLimit = 16

type goldenCase struct {
	Name         string
	Rule         string
	Dtype        string
	N, Steps     int
	Seed         uint64
	Hyper        map[string]any
	LRs          []float64                  // one for each step; null: hyper's
	GradScale    float64                    `json:"grad_scale"`
	SkippedSteps []int                      `json:"skipped_steps"`          // from 0: the gradient is None
	Params       [][]hexFloat               `json:"params_after_each_step"` // null: not recorded
	FinalState   map[string]json.RawMessage `json:"final_state"`
}

// A hexFloat is a number written as a string, "-0x1.8p-3".
type hexFloat float64

func (h *hexFloat) UnmarshalText(text []byte) error {
	x, err := strconv.ParseFloat(string(text), 64)
	*h = hexFloat(x)
	return err
}

// officialRule returns the rule of an official class, in lower case, with its constructor's defaults: NaN for a learning rate that
// must be given.
func officialRule(class string) (Rule, bool) {
	if class == "adamw" {
		return NewAdamW(), true
	}
	for _, r := range Rules() {
		if strings.ToLower(r.Name()) == class {
			if changed(r, "LR", 0.0) == r {
				r = changed(r, "LR", math.NaN())
			}
			return r, true
		}
	}
	return nil, false
}

// rule translates the arguments of the official constructor, all of them: weight_decay sets WeightDecay. ok is false if this
// package does not have the rule.
func (c goldenCase) rule() (r Rule, ok bool, err error) {
	r, ok = officialRule(c.Rule)
	if !ok {
		return nil, false, nil
	}
	for name, value := range c.Hyper {
		names, values := []string{name}, []any{value}
		if name == "betas" {
			names = nil
			for name := range r.Hyperparameters() {
				if strings.HasPrefix(name, "beta") {
					names = append(names, name)
				}
			}
			values, _ = value.([]any)
		}
		if len(names) != len(values) {
			return nil, true, fmt.Errorf("%s of %s: %v", name, c.Rule, value)
		}
		for i, v := range values {
			if r, err = r.With(names[i], v); err != nil {
				return nil, true, fmt.Errorf("%s of %s: %w", name, c.Rule, err)
			}
		}
	}
	return r, true, nil
}

// TestGolden replays the trajectories of the official implementations; with -golden=FILE (or -v) it prints case by case.
func TestGolden(t *testing.T) {
	ran := 0
	report := func(format string, a ...any) {
		if *golden != "" || testing.Verbose() {
			fmt.Printf(format, a...)
		}
	}
	file := cmp.Or(*golden, goldenFile)
	for _, c := range readGolden(t, file) {
		name := c.Name + "/" + c.Dtype
		r, ok, err := c.rule()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !ok {
			report("%-36s not run: this package has no rule %q\n", name, c.Rule)
			if file == goldenFile {
				t.Errorf("%s was not run", name)
			}
			continue
		}
		ran++
		t.Run(name, func(t *testing.T) {
			var worst float64
			var step int
			switch c.Dtype {
			case "float32":
				worst, step, _ = replay[float32](t, c, r)
			case "float64":
				worst, step, _ = replay[float64](t, c, r)
			default:
				t.Fatalf("unknown dtype %q", c.Dtype)
			}
			report("%-36s largest error %5.2f eps, at step %d of %d\n", name, worst, step, c.Steps)
			if !(worst <= goldenLimit) { // a NaN fails, too
				t.Errorf("largest error is %.2f eps at step %d, the limit is %d", worst, step, goldenLimit)
			}
		})
	}
	if ran == 0 {
		t.Error("no case was run")
	}
}

// The exported state has the official names and values.
func TestStateIsOfficial(t *testing.T) {
	ran := 0
	for _, c := range readGolden(t, goldenFile) {
		if r, ok, _ := c.rule(); ok && c.FinalState != nil {
			ran++
			t.Run(c.Name+"/"+c.Dtype, func(t *testing.T) {
				if c.Dtype == "float32" {
					compareState[float32](t, c, r)
				} else {
					compareState[float64](t, c, r)
				}
			})
		}
	}
	if ran == 0 {
		t.Error("no case was run")
	}
}

// Torch's defaults; those of the other arguments are in the golden cases that do not give them.
func TestDefaultsOfAdamW(t *testing.T) {
	if got, want := NewAdamW(), (Adam{1e-3, 0.9, 0.999, 1e-8, 0.01, true, false, false}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func readGolden(t *testing.T, file string) []goldenCase {
	t.Helper()
	data, err := os.ReadFile(file)
	wantNoError(t, err)
	var content struct{ Cases []goldenCase }
	wantNoError(t, json.Unmarshal(data, &content))
	return content.Cases
}

// replay runs a case and returns the largest error of a parameter, the step (from 1) where it was, and the update at the end.
func replay[T Float](t *testing.T, c goldenCase, r Rule) (worst float64, at int, final Update) {
	t.Helper()
	if len(c.Params) != c.Steps || len(c.LRs) > 0 && len(c.LRs) != c.Steps {
		t.Fatalf("%d steps, but %d entries of parameters and %d of learning rates", c.Steps, len(c.Params), len(c.LRs))
	}
	p := lcg[T](c.Seed, c.N)
	u := Update{Rule: r, Params: vectorOf(p), State: Vectors(newState[T](r, c.N)...)}
	for s, want := range c.Params {
		if len(c.LRs) > 0 {
			u.Rule = changed(r, "LR", c.LRs[s])
		}
		g := lcg[T](c.Seed+1000+uint64(s), c.N)
		for i := range g {
			g[i] *= T(c.GradScale)
		}
		if !slices.Contains(c.SkippedSteps, s) {
			u.Step++
			u.Grads = vectorOf(g)
			_, err := UpdateAll(Options{}, []Update{u})
			wantNoError(t, err)
		}
		if want == nil {
			continue
		}
		if err := goldenError(t, p, want); !(err <= worst) && worst == worst { // a NaN stays
			worst, at = err, s+1
		}
	}
	return worst, at, u
}

// goldenError is the largest difference in eps of T, relative to the expected value or, where that is smaller, to 5 % of
// the larger of 1 and the largest expected value.
func goldenError[T Float](t *testing.T, got []T, want []hexFloat) (worst float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d values, %d are expected", len(got), len(want))
	}
	scale := 1.0
	for _, w := range want {
		scale = max(scale, math.Abs(float64(w)))
	}
	for i, w := range want {
		d := math.Abs(float64(got[i])-float64(w)) / max(math.Abs(float64(w)), 0.05*scale)
		worst = max(worst, d)
	}
	return worst / float64(eps[T]())
}

// eps is the distance from 1 to the next larger number in T.
func eps[T Float]() T {
	e := T(1)
	for 1+e/2 > 1 {
		e /= 2
	}
	return e
}

func compareState[T Float](t *testing.T, c goldenCase, r Rule) {
	_, _, final := replay[T](t, c, r)
	want := fmt.Sprint(final.Step)
	if c.Rule == "sgd" { // torch's does not count its steps
		want = ""
	}
	if got := string(c.FinalState["step"]); got != want {
		t.Errorf("the official step is %q, want %q", got, want)
	}
	delete(c.FinalState, "step")
	slots := forms[r.form()].Slots
	if len(c.FinalState) != len(slots) {
		t.Errorf("%d buffers of state, officially there are %d", len(slots), len(c.FinalState))
	}
	for name, data := range c.FinalState {
		var want []hexFloat
		wantNoError(t, json.Unmarshal(data, &want))
		k := slices.Index(slots, name)
		if k < 0 {
			t.Fatalf("no buffer %q", name)
		}
		if err := goldenError(t, sliceOf[T](final.State[k]), want); !(err <= goldenLimit) {
			t.Errorf("%s: largest error is %.2f eps, the limit is %d", name, err, goldenLimit)
		}
	}
}
