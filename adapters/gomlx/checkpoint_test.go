package pnmgomlx

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/model/checkpoint"
	"github.com/gomlx/gomlx/ml/train"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
)

// A run that is saved and resumed, at an odd and at an even step, gives the bits of one that was not.
func TestResume(t *testing.T) {
	const steps, size = 5, 2
	for _, rule := range pnm.Rules() {
		rule, err := rule.With("lr", 0.1)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{3, 4} {
			// With variables that the graph sets, and random numbers, GoMLX's checkpoint is needed; without, ours is enough.
			for _, theirs := range []bool{false, true} {
				t.Run(fmt.Sprintf("%T, step %d, GoMLX's checkpoint %v", rule, at, theirs), func(t *testing.T) {
					t.Parallel()
					params, f := map[string]any(nil), linear
					if theirs {
						params, f = map[string]any{"cnn_dropout_rate": 0.5}, cnn
					}
					dir, path := t.TempDir(), filepath.Join(t.TempDir(), "state.safetensors")
					store := newStore(t, params)
					handler, err := checkpoint.Build(store).Dir(dir).Done()
					if err != nil {
						t.Fatal(err)
					}
					o := newOptimizer(t, store, Group{Rule: rule})
					loop := train.NewLoop(newTrainer(store, f, o))
					o.Attach(loop)
					var saved pnm.Fingerprint
					loop.OnStep("save", 0, func(loop *train.Loop, _ []*tensors.Tensor) error {
						if loop.LoopStep+1 != at {
							return nil
						}
						if theirs {
							if err := handler.Save(); err != nil {
								return err
							}
						}
						saved, err = o.Fingerprint()
						return errors.Join(err, o.Save(path, SaveOptions{StateOnly: theirs, Metadata: map[string]string{"epoch": "5"}}))
					})
					run(t, loop, batches{n: steps, size: size})

					other := model.NewStore()
					other.SetParams(params)
					if theirs {
						if _, err := checkpoint.Load(other).Dir(dir).Done(); err != nil {
							t.Fatal(err)
						}
					}
					// The rule is the file's.
					p := newOptimizer(t, other, Group{Rule: withLR(rule, 77)})
					if _, err := p.Load(path, LoadOptions{StateOnly: theirs, Fingerprint: new(pnm.Fingerprint)}); !errors.Is(err, optim.ErrFingerprint) {
						t.Errorf("another fingerprint: %v", err)
					}
					info, err := p.Load(path, LoadOptions{StateOnly: theirs})
					if err != nil {
						t.Fatal(err)
					}
					if f, err := p.Fingerprint(); err != nil || f != saved {
						t.Errorf("the fingerprint is %v, saved %v (%v)", f, saved, err)
					}
					if info.Metadata["epoch"] != "5" || p.Rule(0) != rule {
						t.Errorf("metadata %v, rule %v", info.Metadata, p.Rule(0))
					}
					loop = train.NewLoop(newTrainer(other, f, p))
					if loop.LoopStep != at {
						t.Errorf("the loop begins at step %d", loop.LoopStep)
					}
					p.Attach(loop)
					if _, err := loop.RunSteps(batches{first: at, n: steps - at, size: size}, steps-at); err != nil {
						t.Fatal(err)
					}
					want, got := values(t, store), values(t, other)
					if len(want) == 0 || len(got) != len(want) {
						t.Fatalf("%d and %d variables", len(got), len(want))
					}
					for path, x := range want {
						if !sameBits(got[path], x) {
							t.Errorf("variable %q has other bits", path)
						}
					}
					a, err := o.State()
					if err != nil {
						t.Fatal(err)
					}
					b, err := p.State()
					if err != nil {
						t.Fatal(err)
					}
					for path, s := range a {
						if s.Step != steps || b[path].Step != steps {
							t.Errorf("%q: %d and %d steps", path, s.Step, b[path].Step)
						}
						for name, v := range s.Buffers {
							if !sameBits(v.Float32(), b[path].Buffers[name].Float32()) {
								t.Errorf("%q: %s has other bits", path, name)
							}
						}
					}
					if g := optimizer.GetGlobalStep(other); g != steps {
						t.Errorf("the global step is %d", g)
					}
				})
			}
		}
	}
}

// GoMLX's checkpoints have the loss scale, too: what SetOptions says counts.
func TestLossScaleOfCheckpoint(t *testing.T) {
	dir := t.TempDir()
	store := newStore(t, nil)
	handler, err := checkpoint.Build(store).Dir(dir).Done()
	if err != nil {
		t.Fatal(err)
	}
	o := newOptimizer(t, store, adapnm)
	if err := o.SetOptions(pnm.Options{LossScale: 1024}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.TrainStep(newTrainer(store, linear, o), batches{size: 4}.batch(0)); err != nil {
		t.Fatal(err)
	}
	if err := handler.Save(); err != nil {
		t.Fatal(err)
	}
	s := newStepper(t, model.NewStore(), linear, adapnm)
	options, _ := s.twin(func(string) int { return 0 }, adapnm.Rule)
	*options = pnm.Options{LossScale: 4}
	if err := s.o.SetOptions(*options); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Load(s.o.store).Dir(dir).Done(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		s.step(batches{size: 4}.batch(i))
		scale := s.o.store.GetVariable(lossScalePath)
		if x := scalar(scale.MustValue()); x != 4 {
			t.Errorf("step %d: the loss scale is %g", i+1, x)
		}
		if err := scale.SetValue(tensors.FromScalar(float32(8))); err != nil { // as a checkpoint in mid-run
			t.Fatal(err)
		}
	}
}

func withLR(r pnm.Rule, lr float64) pnm.Rule {
	r, err := r.With("lr", lr)
	if err != nil {
		panic(err)
	}
	return r
}

// State and SetState do the same within a process, also in float64.
func TestState(t *testing.T) {
	store := newStore(t, nil)
	o := newOptimizer(t, store, adapnm)
	trainer := newTrainer(store, linear, o)
	step := func(i int) {
		t.Helper()
		if _, err := o.TrainStep(trainer, batches{size: 4, dtype: dtypes.Float64}.batch(i)); err != nil {
			t.Fatal(err)
		}
	}
	const path = "/model/dense/weights"
	weights := func() *tensors.Tensor { return store.GetVariable(path).MustValue() }
	for i := range 3 {
		step(i)
	}
	states, err := o.State()
	if err != nil {
		t.Fatal(err)
	}
	before := make(map[*model.Variable][]float64)
	for v := range store.IterVariables() {
		if v.Trainable {
			before[v] = tensors.MustCopyFlatData[float64](v.MustValue())
		}
	}
	step(3)
	want := tensors.MustCopyFlatData[float64](weights())
	step(4)
	for v, x := range before {
		if err := tensors.AssignFlatData(v.MustValue(), x); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.SetState(states); err != nil {
		t.Fatal(err)
	}
	step(3)
	if got := tensors.MustCopyFlatData[float64](weights()); !slices.Equal(got, want) {
		t.Error("a step that was taken again has other bits")
	}
	for _, c := range []struct {
		change func(map[string]optim.TensorState)
		want   string
	}{
		{func(s map[string]optim.TensorState) { delete(s, path) }, `variable "/model/dense/weights": the state is missing`},
		{func(s map[string]optim.TensorState) { s["/other"] = s[path] }, "states of 3 variables, must be of 2"},
		{func(s map[string]optim.TensorState) {
			s[path] = optim.TensorState{Step: 3, Buffers: map[string]pnm.Vector{"exp_avg": pnm.Float64(make([]float64, 7840))}}
		}, `("/model/dense/weights"): state "neg_exp_avg" is missing`},
		{func(s map[string]optim.TensorState) {
			b := maps.Clone(s[path].Buffers)
			b["exp_avg"] = pnm.Float32(make([]float32, 7840))
			s[path] = optim.TensorState{Step: 3, Buffers: b}
		}, `("/model/dense/weights"): the format of exp_avg is float32, must be float64`},
	} {
		s := maps.Clone(states)
		c.change(s)
		if err := o.SetState(s); !says(err, c.want) {
			t.Errorf("%v\nmust say %s", err, c.want)
		}
	}
}

// What a file lacks, or has too much, is told before anything is changed.
func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	store := newStore(t, nil)
	o := newOptimizer(t, store, adapnm)
	if err := o.Save(filepath.Join(dir, "none"), SaveOptions{}); !says(err, "nothing to save before the first step") {
		t.Errorf("Save before the first step: %v", err)
	}
	trainer := newTrainer(store, linear, o)
	for i := range 3 {
		if _, err := o.TrainStep(trainer, batches{size: 4}.batch(i)); err != nil {
			t.Fatal(err)
		}
	}
	state, full, short := filepath.Join(dir, "state"), filepath.Join(dir, "full"), filepath.Join(dir, "short")
	if err := o.Save(state, SaveOptions{StateOnly: true}); err != nil {
		t.Fatal(err)
	}
	if err := o.Save(full, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := o.Save(full, SaveOptions{Metadata: map[string]string{"gomlx.global_step": "1"}}); err == nil {
		t.Error("a reserved key of metadata was taken")
	}
	b, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(`"params./model/dense/weights"`)) || !bytes.Contains(b, []byte(`"shape":[784,10]`)) {
		t.Errorf("the header is %s", b[:min(len(b), 1500)])
	}
	if err := os.WriteFile(short, b[:len(b)-1], 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		rule       pnm.Rule
		prepare    func(*model.Store)
		want       string
	}{
		{"another step", state, adapnm.Rule, nil, "it is of global step 3, but the model of global step 0, and StateOnly is set"},
		{"no variables", state, adapnm.Rule, func(s *model.Store) {
			_ = optimizer.GetGlobalStepVar(s).SetValue(tensors.FromScalar(int64(3)))
		},
			`variable "/model/dense/weights": is not in the store`},
		{"another rule", full, pnm.NewAdam(), nil, `("/model/dense/weights"): in the file its rule is AdaPNM`},
		{"short", short, adapnm.Rule, nil, "short"},
		{"no file", filepath.Join(dir, "missing"), adapnm.Rule, nil, "missing"},
		{"another shape", full, adapnm.Rule, func(s *model.Store) { s.VariableWithValue("/model/dense/weights", make([]float32, 3)) },
			`("/model/dense/weights")`},
		{"transposed", full, adapnm.Rule, func(s *model.Store) {
			s.VariableWithValue("/model/dense/weights", tensors.FromShape(shapes.Make(dtypes.Float32, 10, 784)))
		}, `("/model/dense/weights")`},
		{"another type", full, adapnm.Rule, func(s *model.Store) { s.VariableWithValue("/model/dense/weights", int32(3)) },
			`variable "/model/dense/weights": is Int32, must be Float32 or Float64`},
	} {
		s := newStore(t, nil)
		if c.prepare != nil {
			c.prepare(s)
		}
		optimizer.GetGlobalStepVar(s)
		before := paths(s)
		p := newOptimizer(t, s, Group{Rule: c.rule})
		if _, err := p.Load(c.path, LoadOptions{StateOnly: c.path == state}); !says(err, c.want) {
			t.Errorf("%s: %v\nmust say %s", c.name, err, c.want)
		}
		if after := paths(s); !slices.Equal(after, before) {
			t.Errorf("%s: the store had %v, and has %v", c.name, before, after)
		}
		if states, err := p.State(); len(states) != 0 || err != nil || p.Rule(0) != c.rule {
			t.Errorf("%s: state of %d variables, %v, rule %v", c.name, len(states), err, p.Rule(0))
		}
	}

	// A model of another shape finds the file's variable, and says so; KeepRules keeps the rule.
	s := newStore(t, nil)
	p := newOptimizer(t, s, Group{Rule: withLR(adapnm.Rule, 7)})
	if _, err := p.Load(full, LoadOptions{KeepRules: true}); err != nil || p.Rule(0) != withLR(adapnm.Rule, 7) {
		t.Errorf("%v, rule %v", err, p.Rule(0))
	}
	// Loading again, into variables that have had steps, goes back.
	for i := range 3 {
		if _, err := o.TrainStep(trainer, batches{size: 4}.batch(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.GetVariable("/model/dense/biases").SetValue(tensors.FromValue(make([]float32, 10))); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Load(full, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	for path, x := range values(t, s) {
		if !sameBits(values(t, store)[path], x) {
			t.Errorf("variable %q has other bits", path)
		}
	}
	if step := optimizer.GetGlobalStep(store); step != 3 {
		t.Errorf("the global step is %d", step)
	}
	for _, path := range []string{state, full} {
		if _, err := o.Load(path, LoadOptions{StateOnly: true}); err != nil { // of the same step
			t.Error(err)
		}
	}
	if _, err := o.Load(state, LoadOptions{}); !says(err, "does not have its parameters, only its state") {
		t.Errorf("variables of a file without: %v", err)
	}
	var stream bytes.Buffer
	if err := o.SaveTo(&stream, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	if info, err := o.LoadFrom(bytes.NewReader(stream.Bytes()), int64(stream.Len()), LoadOptions{}); err != nil || info.Metadata[globalStepKey] != "3" {
		t.Errorf("LoadFrom: %v, %v", info.Metadata, err)
	}
	if _, err := o.Load(short, LoadOptions{}); !says(err, short) {
		t.Errorf("%v", err)
	}
}

func paths(s *model.Store) (p []string) {
	for v := range s.IterVariables() {
		p = append(p, v.Path())
	}
	slices.Sort(p)
	return p
}
