package pnm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/posneg/pnm/internal/allocated"
)

// A run is an optimizer over three tensors in two groups, and the gradients that it gets.
type run[T Float] struct {
	params [][]T
	opt    *Optimizer[T]
}

func newRun[T Float](t *testing.T, a, b Rule) *run[T] {
	t.Helper()
	r := &run[T]{params: [][]T{lcg[T](1, 33), lcg[T](2, 5), lcg[T](3, 16)}}
	opt, err := NewOptimizer(Group[T]{a, r.params[:2]}, Group[T]{b, r.params[2:]})
	wantNoError(t, err)
	r.opt = opt
	return r
}

// grads returns the gradients of a step; tensor 1 has none at every third step.
func (r *run[T]) grads(step int) [][]T {
	g := make([][]T, len(r.params))
	for i, p := range r.params {
		g[i] = lcg[T](uint64(100*step+i), len(p))
	}
	if step%3 == 0 {
		g[1] = nil
	}
	return g
}

func (r *run[T]) steps(t *testing.T, from, to int) {
	t.Helper()
	for step := from; step <= to; step++ {
		wantNoError(t, r.opt.Step(r.grads(step)))
	}
}

func (r *run[T]) wantSame(t *testing.T, what string, as *run[T]) {
	t.Helper()
	for i := range r.params {
		wantSame(t, fmt.Sprintf("%s, tensor %d", what, i), r.params[i], as.params[i])
	}
	a, b := stateOf(t, r.opt), stateOf(t, as.opt)
	for i := range a {
		if a[i].Step != b[i].Step {
			t.Fatalf("%s, tensor %d: step is %d, want %d", what, i, a[i].Step, b[i].Step)
		}
		for name := range b[i].Buffers {
			wantSame(t, fmt.Sprintf("%s, tensor %d: %s", what, i, name), a[i].Buffers[name], b[i].Buffers[name])
		}
	}
}

// An optimizer does to each tensor what the drop-in call does, with the tensor's own rule, learning rate and count of
// steps. A tensor without a gradient is skipped.
func TestOptimizerIsTheDropInCall(t *testing.T) {
	for _, a := range sampleRules() {
		for _, b := range sampleRules() {
			r := newRun[float32](t, a, b)
			rules := []Rule{a, a, b}
			var want [][]float32
			var state [][][]float32
			counts := make([]int, 3)
			for i, p := range r.params {
				want = append(want, slices.Clone(p))
				state = append(state, newState[float32](rules[i], len(p)))
			}
			for step := 1; step <= 12; step++ {
				if step == 5 { // another learning rate for all
					wantNoError(t, r.opt.SetLR(0.01))
					for i := range rules {
						rules[i] = withLR(rules[i], 0.01)
					}
				}
				if step == 8 { // for one group
					wantNoError(t, r.opt.SetLR(0.02, 1))
					rules[2] = withLR(rules[2], 0.02)
				}
				grads := r.grads(step)
				wantNoError(t, r.opt.Step(grads))
				for i, g := range grads {
					if g != nil {
						counts[i]++
						wantNoError(t, updateSlices(rules[i], counts[i], want[i], g, state[i]))
					}
				}
			}
			states := stateOf(t, r.opt)
			for i := range want {
				what := fmt.Sprintf("%T and %T, tensor %d", a, b, i)
				wantSame(t, what, r.params[i], want[i])
				if states[i].Step != counts[i] {
					t.Errorf("%s: step is %d, want %d", what, states[i].Step, counts[i])
				}
				for k, name := range forms[rules[i].form()].slots {
					wantSame(t, what+": "+name, states[i].Buffers[name], state[i][k])
				}
			}
		}
	}
}

// A run that is saved and resumed at any step, odd or even, gives the bits of one that was not.
func TestResume(t *testing.T) {
	const end = 9
	for _, r := range sampleRules() {
		whole := newRun[float64](t, r, NewAdaPNM())
		whole.steps(t, 1, end)
		for at := range end + 1 {
			first := newRun[float64](t, r, NewAdaPNM())
			first.steps(t, 1, at)
			saved := stateOf(t, first.opt)
			written, err := json.Marshal(saved) // as a file would have it
			wantNoError(t, err)

			second := newRun[float64](t, r, NewAdaPNM())
			second.steps(t, 1, 3) // something that the restored state must replace
			for i := range second.params {
				copy(second.params[i], first.params[i])
			}
			wantNoError(t, second.opt.SetState(saved))
			first.steps(t, at+1, end) // must change neither what was saved nor what was restored
			second.steps(t, at+1, end)
			what := fmt.Sprintf("%T saved at step %d", r, at)
			first.wantSame(t, what+", continued", whole)
			second.wantSame(t, what+", resumed", whole)

			if after, err := json.Marshal(saved); err != nil || string(after) != string(written) {
				t.Errorf("%s: the saved state has changed (%v)", what, err)
			}
		}
	}
}

// A state without buffers at step 0, as the authors' code has it before a tensor's first step, is a fresh one.
func TestResumeFresh(t *testing.T) {
	used, fresh := newRun[float32](t, NewPNM(0.1), NewAdaPNM()), newRun[float32](t, NewPNM(0.1), NewAdaPNM())
	used.steps(t, 1, 4)
	wantNoError(t, used.opt.SetState(make([]TensorState[float32], 3)))
	for i := range used.params {
		copy(used.params[i], fresh.params[i])
	}
	used.steps(t, 1, 4)
	fresh.steps(t, 1, 4)
	used.wantSame(t, "after the reset", fresh)
}

// A rule's options may change between steps, and a group may come later.
func TestGroupsChange(t *testing.T) {
	a, b := newRun[float32](t, NewPNM(0.1), NewAdaPNM()), newRun[float32](t, NewPNM(0.1), NewAdaPNM())
	decayed := NewPNM(0.2)
	decayed.WeightDecay, decayed.Beta0 = 0.1, 0.5
	wantNoError(t, a.opt.SetRule(0, decayed))
	a.steps(t, 1, 4)
	c := newRun[float32](t, decayed, NewAdaPNM())
	c.steps(t, 1, 4)
	a.wantSame(t, "after SetRule", c)

	b.steps(t, 1, 2)
	late, fresh := lcg[float32](9, 12), lcg[float32](9, 12)
	wantNoError(t, b.opt.AddGroup(Group[float32]{NewPNM(0.3), [][]float32{late}}))
	if b.opt.Groups() != 3 || b.opt.Tensors() != 4 || b.opt.Rule(2) != Rule(NewPNM(0.3)) || b.opt.Rule(3) != nil || b.opt.Rule(-1) != nil {
		t.Errorf("%d groups, %d tensors", b.opt.Groups(), b.opt.Tensors())
	}
	other, err := NewOptimizer(Group[float32]{NewPNM(0.3), [][]float32{fresh}})
	wantNoError(t, err)
	for step := 3; step <= 5; step++ {
		g := lcg[float32](uint64(step), 12)
		wantNoError(t, b.opt.Step(append(b.grads(step), g)))
		wantNoError(t, other.Step([][]float32{g}))
	}
	wantSame(t, "the late tensor", late, fresh)
}

// A group that comes later changes nothing of those that are there, and its parameters are looked at in later steps.
func TestGroupComesLater(t *testing.T) {
	const n = 3 * pageSize
	params := [2][]float32{lcg[float32](1, n), lcg[float32](1, n)}
	g, late := lcg[float32](2, n+8), make([]float32, 8)
	var opts [2]*Optimizer[float32]
	for i := range opts {
		var err error
		opts[i], err = NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{params[i]}})
		wantNoError(t, err)
		wantNoError(t, opts[i].Step([][]float32{g[:n]}))
	}
	wantNoError(t, opts[1].AddGroup(Group[float32]{NewPNM(1), [][]float32{late}}))
	wantNoError(t, opts[0].Step([][]float32{g[:n]}))
	wantNoError(t, opts[1].Step([][]float32{g[:n], nil}))
	wantSame(t, "params", params[1], params[0])
	a, b := stateOf(t, opts[0])[0], stateOf(t, opts[1])[0]
	for name := range a.Buffers {
		wantSame(t, name, b.Buffers[name], a.Buffers[name])
	}
	wantNoError(t, opts[1].AddGroup(Group[float32]{NewPNM(1), [][]float32{g[n-1:]}}))
	var e *OverlapError
	if err := opts[1].Step([][]float32{g[:n], nil, nil}); !errors.As(err, &e) || e.Tensor != 2 {
		t.Errorf("a gradient among parameters that came later: %v", err)
	}
}

// Spans that come in any order, a few at a time, are refused if and only if they share memory with each other or with those before,
// and are then all found.
func TestLayers(t *testing.T) {
	rng := rand.New(rand.NewPCG(71, 72))
	for range 300 {
		const addresses = 400
		var owner [addresses]int // of each, the tensor + 1
		var all layers
		for tensor := range 60 {
			var more regions
			apart := true
			taken := owner
			for range rng.IntN(4) {
				s := span{lo: uintptr(rng.IntN(addresses - 9)), size: 1, tensor: tensor, arg: "params"}
				s.hi = s.lo + uintptr(1+rng.IntN(9))
				for i := s.lo; i < s.hi; i++ {
					apart = apart && taken[i] == 0
					taken[i] = tensor + 1
				}
				more = append(more, s)
			}
			err := more.sort()
			var grown layers
			if err == nil {
				grown, err = all.with(more)
			}
			if (err == nil) != apart {
				t.Fatalf("%v and %v: %v", all, more, err)
			}
			if err == nil {
				all, owner = grown, taken
			}
			for i, l := range all {
				if len(l) == 0 || i > 0 && len(l) >= len(all[i-1]) {
					t.Fatalf("layer %d has %d spans: %v", i, len(l), all)
				}
			}
		}
		for i, tensor := range owner {
			if s, n := all.overlapping(span{lo: uintptr(i), hi: uintptr(i) + 1, size: 1}); n > 0 != (tensor > 0) || n > 0 && s.tensor != tensor-1 {
				t.Fatalf("address %d is tensor %d's: %v, %d", i, tensor-1, s, n)
			}
		}
	}
}

// Gradients that come in other places at every step cost nothing that lasts.
func TestMovingGradients(t *testing.T) {
	r := newRun[float32](t, NewPNM(0.1), NewAdaPNM())
	grads := [2][][]float32{r.grads(1), r.grads(2)}
	const (
		steps = 1000
		limit = 8 * steps
	)
	train := func() {
		for i := range steps {
			_, err := r.opt.StepWith(Options{ZeroGrads: true}, grads[i%2])
			wantNoError(t, err)
		}
	}
	train()
	if bytes := allocated.Bytes(limit, train); bytes > limit {
		t.Errorf("%d steps allocate %d bytes", steps, bytes)
	}
}

// Parameters that move are trained where they are, with the state that they had; the memory that they left is not written.
func TestSetParams(t *testing.T) {
	want, r := newRun[float32](t, NewPNM(0.1), NewAdaPNM()), newRun[float32](t, NewPNM(0.1), NewAdaPNM())
	for step := 1; step <= 6; step++ {
		want.steps(t, step, step)
		old, kept := r.params, clones(r.params)
		r.params = clones(old)
		wantNoError(t, r.opt.SetParams(r.params))
		r.steps(t, step, step)
		r.wantSame(t, fmt.Sprint("step ", step), want)
		for i := range old {
			wantSame(t, "the old memory", old[i], kept[i])
		}
	}

	grads := r.grads(1)
	wantNoError(t, r.opt.Step(grads)) // the gradients are found to be apart from the parameters
	moved := slices.Clone(r.params)
	moved[2] = grads[2]
	wantNoError(t, r.opt.SetParams(moved))
	var overlap *OverlapError
	if err := r.opt.Step(grads); !errors.As(err, &overlap) || overlap.Tensor != 2 {
		t.Errorf("a gradient where the parameters are now: %v", err)
	}
	r.opt.Close()
	if err := r.opt.SetParams(moved); err != ErrClosed {
		t.Errorf("closed: %v", err)
	}
}

// Optimizers that run at the same time do not know of each other.
func TestOptimizersAreIndependent(t *testing.T) {
	want := newRun[float64](t, NewPNM(0.1), NewAdaPNM())
	want.steps(t, 1, 50)
	var wg sync.WaitGroup
	runs := make([]*run[float64], 8)
	for i := range runs {
		runs[i] = newRun[float64](t, NewPNM(0.1), NewAdaPNM())
		wg.Go(func() { runs[i].steps(t, 1, 50) })
	}
	wg.Wait()
	for _, r := range runs {
		r.wantSame(t, "beside others", want)
	}
}

// An optimizer for float64 is one before it has tensors, too.
func TestEmptyOptimizerKnowsItsType(t *testing.T) {
	o, err := NewOptimizer(Group[float64]{Rule: NewSGD(1)})
	wantNoError(t, err)
	wantNoError(t, o.SetLR(1e300))
	_, err = o.StepWith(Options{LossScale: 1e200}, nil)
	wantNoError(t, err)
}

func TestNoAllocations(t *testing.T) {
	none := func(what string, f func() error) {
		t.Helper()
		if n := testing.AllocsPerRun(100, func() { wantNoError(t, f()) }); n != 0 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
	part := lcg[float64](1, 20)
	for _, rule := range sampleRules() {
		p, g, state := make([]float32, 16), make([]float32, 16), newState[float32](rule, 16)
		step := 0
		none(fmt.Sprintf("the drop-in call of %T", rule), func() error { step++; return updateSlices(rule, step, p, g, state) })
		r := newRun[float64](t, rule, rule)
		grads := r.grads(1)
		none(fmt.Sprintf("Step of %T", rule), func() error { return r.opt.Step(grads) })
		partStep := stateOf(t, r.opt)[0].Step
		none(fmt.Sprintf("StepPart of %T", rule), func() error { // 33 elements
			partStep++
			if err := r.opt.StepPart(Options{}, Part[float64]{0, partStep, 13, part}); err != nil {
				return err
			}
			return r.opt.StepPart(Options{}, Part[float64]{0, partStep, 0, part[:13]})
		})
	}

	sharing(t)
	all := Options{LossScale: 2, ClipNorm: 1, ClipValue: 1, SkipNonFinite: true, ZeroGrads: true, Pool: newTestPool(t, PoolConfig{Workers: 3})}
	const n = 5 * blockLen
	for _, rule := range sampleRules() {
		p, g, state := make([]float32, n), make([]float32, n), newState[float32](rule, n)
		none(fmt.Sprintf("a shared drop-in call of %T", rule), func() error { _, err := updateSlicesWith(all, rule, 1, p, g, state); return err })
		l := newListRun[float32](t, rule, all.Pool)
		grads := clones(l.params)
		none(fmt.Sprintf("a shared step of %T", rule), func() error { _, err := l.opt.StepWith(all, grads); return err })
	}
	grads := [][]float64{part, part}
	none("GradNorm", func() error { GradNorm(all.Pool, grads...); return nil })
}

// Momentum and Nesterov's have one state: a run may change from one to the other.
func TestSetRuleOfTheSameState(t *testing.T) {
	rules := []Rule{SGD{LR: 0.1, Momentum: 0.9}, SGD{LR: 0.2, Momentum: 0.8, Nesterov: true}}
	r := newRun[float32](t, rules[0], NewAdaPNM())
	want, m := slices.Clone(r.params[0]), newState[float32](rules[0], 33)
	for step := 1; step <= 6; step++ {
		rule := rules[step/4]
		wantNoError(t, r.opt.SetRule(0, rule))
		r.steps(t, step, step)
		wantNoError(t, updateSlices(rule, step, want, r.grads(step)[0], m))
	}
	wantSame(t, "params", r.params[0], want)
	wantSame(t, "momentum_buffer", stateOf(t, r.opt)[0].Buffers["momentum_buffer"], m[0])
}
