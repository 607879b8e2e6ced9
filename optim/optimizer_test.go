package optim

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/allocated"
)

// A duo is an optimizer over three tensors in two groups, and the gradients that it gets.
type duo[T pnm.Float] struct {
	params [][]T
	opt    *Optimizer
}

func newDuo[T pnm.Float](t *testing.T, a, b pnm.Rule) *duo[T] {
	t.Helper()
	r := &duo[T]{params: [][]T{lcg[T](1, 33), lcg[T](2, 5), lcg[T](3, 16)}}
	r.opt = optimizerOf(t, groupOf(a, r.params[:2]...), groupOf(b, r.params[2:]...))
	return r
}

// grads returns the gradients of a step; tensor 1 has none at every third step.
func (r *duo[T]) grads(step int) [][]T {
	g := make([][]T, len(r.params))
	for i, p := range r.params {
		g[i] = lcg[T](uint64(100*step+i), len(p))
	}
	if step%3 == 0 {
		g[1] = nil
	}
	return g
}

func (r *duo[T]) steps(t *testing.T, from, to int) {
	t.Helper()
	for step := from; step <= to; step++ {
		wantNoError(t, stepOf(r.opt, r.grads(step)...))
	}
}

func (r *duo[T]) wantSame(t *testing.T, what string, as *duo[T]) {
	t.Helper()
	for i := range r.params {
		wantSame(t, fmt.Sprintf("%s, tensor %d", what, i), r.params[i], as.params[i])
	}
	wantSameState(t, what, r.opt, as.opt)
}

// An optimizer does to each tensor what the engine alone does, with the tensor's own rule, learning rate and count of
// steps. A tensor without a gradient is skipped.
func TestOptimizerIsTheEngine(t *testing.T) {
	for _, a := range sampleRules() {
		for _, b := range sampleRules() {
			r := newDuo[float32](t, a, b)
			rules := []pnm.Rule{a, a, b}
			want := clones(r.params)
			var state [][][]float32
			counts := make([]int, 3)
			for i, p := range r.params {
				state = append(state, newState[float32](rules[i], len(p)))
			}
			for step := 1; step <= 12; step++ {
				if step == 5 { // another learning rate for all
					wantNoError(t, r.opt.SetLR(0.01))
					for i := range rules {
						rules[i] = with(rules[i], "lr", 0.01)
					}
				}
				if step == 8 { // for one group
					wantNoError(t, r.opt.SetGroupLR(1, 0.02))
					rules[2] = with(rules[2], "lr", 0.02)
				}
				grads := r.grads(step)
				wantNoError(t, stepOf(r.opt, grads...))
				for i, g := range grads {
					if g != nil {
						counts[i]++
						_, err := updateAlone(pnm.Options{}, rules[i], counts[i], want[i], g, state[i])
						wantNoError(t, err)
					}
				}
			}
			if r.opt.LR(0) != 0.01 || r.opt.LR(1) != 0.02 {
				t.Errorf("learning rates %g and %g", r.opt.LR(0), r.opt.LR(1))
			}
			states := stateOf(t, r.opt)
			for i := range want {
				what := fmt.Sprintf("%T and %T, tensor %d", a, b, i)
				wantSame(t, what, r.params[i], want[i])
				if states[i].Step != counts[i] || r.opt.Steps(i) != counts[i] {
					t.Errorf("%s: step is %d, want %d", what, states[i].Step, counts[i])
				}
				for k, name := range rules[i].State() {
					wantSame(t, what+": "+name, states[i].Buffers[name].Float32(), state[i][k])
				}
			}
		}
	}
}

// Groups of all formats, float64 among them, do in one optimizer what each does in one of its own; clipped, they have one norm.
func TestFormatsInOneOptimizer(t *testing.T) {
	formats := append([]formatsOf{{"float64", "float64", "float64", ""}}, someFormats...)
	sizes := []int{5, 0, 33, 1, 70}
	var alone []*run
	var groups []Group
	var params []pnm.Vector
	for i, f := range formats {
		r := newRun(t, pnm.NewAdaPNM(), f, Config{}, sizes)
		alone = append(alone, r)
		g := Group{Rule: pnm.NewAdaPNM(), Params: vectorClones(r.params), State: f.s, Rows: rowsFor(r.params, f.row), Copies: vectorClones(r.copies)}
		for k := range sizes { // as if each were alone
			g.Rounding = append(g.Rounding, pnm.Rounding{Tensor: uint64(k)})
			g.Names = append(g.Names, fmt.Sprint(i, ".", k))
		}
		groups, params = append(groups, g), append(params, g.Params...)
	}
	all := optimizerOf(t, groups...)
	for step := 1; step <= 3; step++ {
		var grads []pnm.Vector
		for _, r := range alone {
			grads = append(grads, r.grads(step)...)
		}
		norm := normOf(grads...)
		report, err := all.Step(pnm.Options{ClipNorm: norm / 4}, grads)
		wantNoError(t, err)
		if report.GradNorm != norm {
			t.Errorf("the norm is %g, want %g", report.GradNorm, norm)
		}
		for _, r := range alone { // by a power of two, exactly
			_, err := r.opt.Step(pnm.Options{LossScale: 4}, r.grads(step))
			wantNoError(t, err)
		}
	}
	states := stateOf(t, all)
	for i, f := range formats {
		for k, s := range stateOf(t, alone[i].opt) {
			n := i*len(sizes) + k
			what := fmt.Sprintf("%s, tensor %d", f, k)
			wantSameVector(t, what, params[n], alone[i].params[k])
			if f.out != "" {
				wantSameVector(t, what+", copy", groups[i].Copies[k], alone[i].copies[k])
			}
			for name, b := range s.Buffers {
				wantSameVector(t, what+", "+name, states[n].Buffers[name], b)
			}
		}
	}
	var file bytesBuffer
	wantNoError(t, all.SaveTo(&file, SaveOptions{}))
	wantNoError(t, loadFrom(all, file.Bytes(), LoadOptions{}))
	if !reflect.DeepEqual(describe(stateOf(t, all)), describe(states)) {
		t.Error("saved and loaded, the state is another one")
	}
}

// describe is what states say, wherever they lie.
func describe(states []TensorState) (all []string) {
	for _, s := range states {
		text, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		all = append(all, string(text))
	}
	return all
}

// A run that is saved and resumed at any step, odd or even, gives the bits of one that was not.
func TestResume(t *testing.T) {
	const end = 9
	for _, r := range sampleRules() {
		whole := newDuo[float64](t, r, pnm.NewAdaPNM())
		whole.steps(t, 1, end)
		for at := range end + 1 {
			first := newDuo[float64](t, r, pnm.NewAdaPNM())
			first.steps(t, 1, at)
			saved := stateOf(t, first.opt)
			written := describe(saved) // as a file would have it

			second := newDuo[float64](t, r, pnm.NewAdaPNM())
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
			if !slices.Equal(describe(saved), written) {
				t.Errorf("%s: the saved state has changed", what)
			}
		}
	}
}

// A state without buffers at step 0, as the authors' code has it before a tensor's first step, is a fresh one.
func TestResumeFresh(t *testing.T) {
	used, fresh := newDuo[float32](t, pnm.NewPNM(0.1), pnm.NewAdaPNM()), newDuo[float32](t, pnm.NewPNM(0.1), pnm.NewAdaPNM())
	used.steps(t, 1, 4)
	wantNoError(t, used.opt.SetState(make([]TensorState, 3)))
	for i := range used.params {
		copy(used.params[i], fresh.params[i])
	}
	used.steps(t, 1, 4)
	fresh.steps(t, 1, 4)
	used.wantSame(t, "after the reset", fresh)
}

// The count of steps that is set is the one that a tensor goes on from.
func TestSetSteps(t *testing.T) {
	r := pnm.NewAdaPNM()
	p, want := lcg[float32](1, 20), lcg[float32](1, 20)
	o := optimizerOf(t, groupOf[float32](r, []float32{1}, p))
	wantNoError(t, o.SetSteps(1, 6))
	state := newState[float32](r, 20)
	for step := 7; step <= 9; step++ {
		g := lcg[float32](uint64(step), 20)
		wantNoError(t, stepOf(o, nil, g))
		_, err := updateAlone(pnm.Options{}, r, step, want, g, state)
		wantNoError(t, err)
	}
	wantSame(t, "params", p, want)
	if o.Steps(0) != 0 || o.Steps(1) != 9 {
		t.Errorf("%d and %d steps", o.Steps(0), o.Steps(1))
	}
	wantNoError(t, o.SetSteps(1, math.MaxInt-1))
	wantNoError(t, o.SetSteps(1, 0))
}

// Gradients are found by their names, and those that are not there are none.
func TestStepNamed(t *testing.T) {
	params := [2][][]float32{{{1}, {2, 3}, {4}}, {{1}, {2, 3}, {4}}}
	g := groupOf(pnm.NewAdaPNM(), params[0]...)
	g.Names = []string{"a", "ä.b", "2"}
	named, plain := optimizerOf(t, g), optimizerOf(t, groupOf(pnm.NewAdaPNM(), params[1]...))
	if !slices.Equal(named.Names(), g.Names) || !slices.Equal(plain.Names(), []string{"0", "1", "2"}) {
		t.Errorf("the names are %q and %q", named.Names(), plain.Names())
	}
	x, y := pnm.Float32([]float32{5, -6}), pnm.Float32([]float32{7})
	for i, c := range []struct {
		byName map[string]pnm.Vector
		inTurn []pnm.Vector
	}{
		{map[string]pnm.Vector{"ä.b": x, "2": y}, []pnm.Vector{{}, x, y}},
		{map[string]pnm.Vector{"ä.b": x, "2": y, "a": {}}, []pnm.Vector{{}, x, y}},
		{map[string]pnm.Vector{"2": y}, []pnm.Vector{{}, {}, y}},
		{nil, make([]pnm.Vector, 3)},
	} {
		got, err := named.StepNamed(pnm.Options{ClipNorm: 1}, c.byName)
		wantNoError(t, err)
		want, err := plain.Step(pnm.Options{ClipNorm: 1}, c.inTurn)
		wantNoError(t, err)
		if got != want {
			t.Errorf("step %d: %+v, want %+v", i, got, want)
		}
		for k := range params[0] {
			wantSame(t, fmt.Sprintf("step %d, tensor %d", i, k), params[0][k], params[1][k])
		}
	}
	if named.Steps(0) != 0 || named.Steps(1) != 2 || named.Steps(2) != 3 {
		t.Errorf("%d, %d, %d steps", named.Steps(0), named.Steps(1), named.Steps(2))
	}
}

// A rule's options may change between steps, and a group may come later.
func TestGroupsChange(t *testing.T) {
	a, b := newDuo[float32](t, pnm.NewPNM(0.1), pnm.NewAdaPNM()), newDuo[float32](t, pnm.NewPNM(0.1), pnm.NewAdaPNM())
	decayed := pnm.NewPNM(0.2)
	decayed.WeightDecay, decayed.Beta0 = 0.1, 0.5
	wantNoError(t, a.opt.SetRule(0, decayed))
	a.steps(t, 1, 4)
	c := newDuo[float32](t, decayed, pnm.NewAdaPNM())
	c.steps(t, 1, 4)
	a.wantSame(t, "after SetRule", c)

	b.steps(t, 1, 2)
	late, fresh := lcg[float32](9, 12), lcg[float32](9, 12)
	wantNoError(t, b.opt.AddGroup(groupOf(pnm.NewPNM(0.3), late)))
	if b.opt.Groups() != 3 || b.opt.Tensors() != 4 || b.opt.Rule(2) != pnm.Rule(pnm.NewPNM(0.3)) || b.opt.Rule(3) != nil || b.opt.Rule(-1) != nil {
		t.Errorf("%d groups, %d tensors", b.opt.Groups(), b.opt.Tensors())
	}
	if b.opt.LR(2) != 0.3 || b.opt.LR(3) != 0 || b.opt.LR(-1) != 0 {
		t.Errorf("learning rates %g, %g", b.opt.LR(2), b.opt.LR(3))
	}
	other := optimizerOf(t, groupOf(pnm.NewPNM(0.3), fresh))
	for step := 3; step <= 5; step++ {
		g := lcg[float32](uint64(step), 12)
		wantNoError(t, stepOf(b.opt, append(b.grads(step), g)...))
		wantNoError(t, stepOf(other, g))
	}
	wantSame(t, "the late tensor", late, fresh)
}

// A group that comes later changes nothing of those that are there, and its parameters are looked at in later steps.
func TestGroupComesLater(t *testing.T) {
	const n = 100_000 // whose state is touched
	params := [2][]float32{lcg[float32](1, n), lcg[float32](1, n)}
	g, late := lcg[float32](2, n+8), make([]float32, n)
	var opts [2]*Optimizer
	for i := range opts {
		opts[i] = optimizerOf(t, groupOf(pnm.NewAdaPNM(), params[i]))
		wantNoError(t, stepOf(opts[i], g[:n]))
	}
	wantNoError(t, opts[1].AddGroup(groupOf(pnm.NewAdaPNM(), late)))
	wantNoError(t, stepOf(opts[0], g[:n]))
	wantNoError(t, stepOf(opts[1], g[:n], nil))
	wantSame(t, "params", params[1], params[0])
	a, b := stateOf(t, opts[0])[0], stateOf(t, opts[1])
	for name := range a.Buffers {
		wantSameVector(t, name, b[0].Buffers[name], a.Buffers[name])
		if !isZero(b[1].Buffers[name]) {
			t.Errorf("new state is not zero: %s", name)
		}
	}
	wantNoError(t, opts[1].AddGroup(groupOf(pnm.NewPNM(1), g[n-1:])))
	var e *pnm.OverlapError
	if err := stepOf(opts[1], g[:n], nil, nil); !errors.As(err, &e) || !slices.Equal(e.Tensors, []int{2, 0}) || !slices.Equal(e.Names, []string{"2", "0"}) {
		t.Errorf("a gradient among parameters that came later: %v", err)
	}
}

// An optimizer of very many groups is built in a time that does not grow with the square of their number; a group that fails in
// between changes nothing.
func TestManyGroups(t *testing.T) {
	const n = 10_000
	o := optimizerOf(t)
	p := make([]float32, 2*n)
	for i := range n {
		wantNoError(t, o.AddGroup(groupOf(pnm.NewPNM(1), p[2*i:2*i+1])))
	}
	if err := o.AddGroup(groupOf(pnm.NewPNM(1), p[1:2], p[n:n+1])); !errors.As(err, new(*pnm.OverlapError)) {
		t.Error(err)
	}
	wantNoError(t, o.AddGroup(groupOf(pnm.NewPNM(1), p[1:2])))
	if names := o.Names(); o.Tensors() != n+1 || names[n] != strconv.Itoa(n) {
		t.Errorf("%d tensors", o.Tensors())
	}
}

// Gradients that come in other places at every step cost nothing that lasts.
func TestMovingGradients(t *testing.T) {
	r := newDuo[float32](t, pnm.NewPNM(0.1), pnm.NewAdaPNM())
	grads := [2][]pnm.Vector{pnm.Vectors(r.grads(1)...), pnm.Vectors(r.grads(2)...)}
	const (
		steps = 1000
		limit = 8 * steps
	)
	train := func() {
		for i := range steps {
			_, err := r.opt.Step(pnm.Options{ZeroGrads: true}, grads[i%2])
			wantNoError(t, err)
		}
	}
	train()
	if bytes := allocated.Bytes(limit, train); bytes > limit {
		t.Errorf("%d steps allocate %d bytes", steps, bytes)
	}
}

// Between steps an optimizer holds on to no gradient.
func TestGradientsAreLetGo(t *testing.T) {
	type big = [1 << 16]float32
	o := optimizerOf(t, groupOf(pnm.NewPNM(1), make([]float32, len(big{}))))
	freed := make(chan struct{})
	func() {
		g := new(big)
		runtime.AddCleanup(g, func(struct{}) { close(freed) }, struct{}{})
		wantNoError(t, stepOf(o, g[:]))
		_, err := o.StepNamed(pnm.Options{}, map[string]pnm.Vector{"0": pnm.Float32(g[:])})
		wantNoError(t, err)
		wantNoError(t, partOf(o, pnm.Options{}, Part{Step: 3, Grads: pnm.Float32(g[:])}))
	}()
	eventually(t, "a gradient is kept", func() bool {
		select {
		case <-freed:
			return true
		default:
			return false
		}
	})
	runtime.KeepAlive(o)
}

// An optimizer keeps nothing of a group that it refused.
func TestRefusedParamsAreLetGo(t *testing.T) {
	o := optimizerOf(t, groupOf(pnm.NewPNM(1), make([]float32, 8)))
	first := func() weak.Pointer[float32] {
		p := make([]float32, 1000)
		if o.AddGroup(groupOf(pnm.NewPNM(1), p, p)) == nil {
			t.Error("the same parameters are added twice")
		}
		return weak.Make(&p[0])
	}()
	eventually(t, "parameters that were refused are kept", func() bool { runtime.GC(); return first.Value() == nil })
	runtime.KeepAlive(o)
}

// Parameters that move are trained where they are, with the state that they had; the memory that they left is not written.
func TestSetParams(t *testing.T) {
	want, r := newDuo[float32](t, pnm.NewPNM(0.1), pnm.NewAdaPNM()), newDuo[float32](t, pnm.NewPNM(0.1), pnm.NewAdaPNM())
	for step := 1; step <= 6; step++ {
		want.steps(t, step, step)
		old, kept := r.params, clones(r.params)
		r.params = clones(old)
		wantNoError(t, r.opt.SetParams(pnm.Vectors(r.params...), nil))
		r.steps(t, step, step)
		r.wantSame(t, fmt.Sprint("step ", step), want)
		for i := range old {
			wantSame(t, "the old memory", old[i], kept[i])
		}
	}

	grads := r.grads(1)
	wantNoError(t, stepOf(r.opt, grads...)) // the gradients are found to be apart from the parameters
	moved := slices.Clone(r.params)
	moved[2] = grads[2]
	wantNoError(t, r.opt.SetParams(pnm.Vectors(moved...), nil))
	var overlap *pnm.OverlapError
	if err := stepOf(r.opt, grads...); !errors.As(err, &overlap) || overlap.Tensors != nil && !slices.Equal(overlap.Tensors, []int{2, 2}) {
		t.Errorf("a gradient where the parameters are now: %v", err)
	}
	wantNoError(t, r.opt.AddGroup(groupOf(pnm.NewPNM(1), r.params[2]))) // which have left it
	r.opt.Close()
	if err := r.opt.SetParams(pnm.Vectors(moved...), nil); err != ErrClosed {
		t.Errorf("closed: %v", err)
	}
}

// Optimizers that run at the same time do not know of each other.
func TestOptimizersAreIndependent(t *testing.T) {
	want := newDuo[float64](t, pnm.NewPNM(0.1), pnm.NewAdaPNM())
	want.steps(t, 1, 50)
	var wg sync.WaitGroup
	runs := make([]*duo[float64], 8)
	for i := range runs {
		runs[i] = newDuo[float64](t, pnm.NewPNM(0.1), pnm.NewAdaPNM())
		wg.Go(func() { runs[i].steps(t, 1, 50) })
	}
	wg.Wait()
	for _, r := range runs {
		r.wantSame(t, "beside others", want)
	}
}

// Steps that share a pool at the same time do not disturb each other.
func TestConcurrentSteps(t *testing.T) {
	pool := newTestPool(t, 4)
	o := pnm.Options{ClipNorm: 1, ZeroGrads: true}
	f := formatsOf{"float64", "float64", "", ""}
	want := newRun(t, pnm.NewAdaPNM(), f, Config{Pool: pool}, listSizes)
	for step := 1; step <= 4; step++ {
		_, err := want.opt.Step(o, want.grads(step))
		wantNoError(t, err)
	}
	runs := make([]*run, 6)
	t.Run("at once", func(t *testing.T) {
		for i := range runs {
			runs[i] = newRun(t, pnm.NewAdaPNM(), f, Config{Pool: pool}, listSizes)
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for step := 1; step <= 4; step++ {
					_, err := runs[i].opt.Step(o, runs[i].grads(step))
					wantNoError(t, err)
				}
			})
		}
	})
	for _, r := range runs {
		for i := range want.params {
			wantSameVector(t, "params", r.params[i], want.params[i])
		}
	}
}

// Large steps, parts and new state are shared by the pool of the optimizer, or by that of the options.
func TestPoolIsUsed(t *testing.T) {
	const n = 1 << 18 // a step of AdaPNM touches 6 MiB
	const workers = 3
	p, g := lcg[float32](1, n), pnm.Float32(lcg[float32](2, n))
	pools := make([]*pnm.Pool, 5)
	for i := range pools {
		pools[i] = newTestPool(t, workers)
	}
	// A pool starts its helpers when it first shares something.
	uses := func(what string, call func() error) {
		t.Helper()
		before := helpers()
		wantNoError(t, call())
		for end := time.Now().Add(10 * time.Second); helpers()-before < workers-1 && time.Now().Before(end); { // one may not have run yet
			time.Sleep(time.Millisecond)
		}
		if got := helpers() - before; got != workers-1 {
			t.Errorf("%s: %d helpers were started, want %d", what, got, workers-1)
		}
	}
	var o *Optimizer
	uses("New", func() (err error) {
		o, err = Config{Pool: pools[0]}.New(Group{Rule: pnm.NewAdaPNM(), Params: []pnm.Vector{pnm.Float32(p)}})
		return err
	})
	defer o.Close()
	o.config.Pool = pools[1]
	uses("Step", func() error { _, err := o.Step(pnm.Options{}, []pnm.Vector{g}); return err })
	o.config.Pool = pools[2]
	uses("StepPart", func() error { return partOf(o, pnm.Options{}, Part{Step: 2, Grads: g}) })
	uses("Step with a pool of its own", func() error { _, err := o.Step(pnm.Options{Pool: pools[3]}, []pnm.Vector{g}); return err })
	uses("StepPart with a pool of its own", func() error { return partOf(o, pnm.Options{Pool: pools[4]}, Part{Step: 4, Grads: g}) })
}

// helpers is how many goroutines help a pool. Others may end at any time, those of tests before this one, too.
func helpers() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "pnm.(*pool).help(")
}

// A group without tensors takes what a group of any tensors would; so does an optimizer without tensors.
func TestEmpty(t *testing.T) {
	o := optimizerOf(t, Group{Rule: pnm.NewSGD(1)})
	wantNoError(t, o.SetLR(1e300))
	_, err := o.Step(pnm.Options{LossScale: 1e200}, nil)
	wantNoError(t, err)

	o = optimizerOf(t, groupOf[float32](pnm.NewPNM(1), nil, []float32{}), Group{Rule: pnm.NewAdaPNM()})
	wantNoError(t, stepOf(o, []float32{}, nil))
	if o.Steps(0) != 1 || o.Steps(1) != 0 {
		t.Errorf("%d and %d steps", o.Steps(0), o.Steps(1))
	}
	none := optimizerOf(t)
	_, err = none.Step(pnm.Options{}, nil)
	wantNoError(t, err)
	wantNoError(t, none.SetLR(1))
	if none.Tensors() != 0 || len(none.Names()) != 0 {
		t.Error("there are tensors")
	}
}

func TestNoAllocations(t *testing.T) {
	none := func(what string, f func() error) {
		t.Helper()
		wantNoError(t, f())
		if n := testing.AllocsPerRun(50, func() { wantNoError(t, f()) }); n != 0 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
	part := lcg[float64](1, 20)
	for _, rule := range sampleRules() {
		r := newDuo[float64](t, rule, rule)
		grads := pnm.Vectors(r.grads(1)...)
		step := func(o pnm.Options) func() error {
			return func() error { _, err := r.opt.Step(o, grads); return err }
		}
		none(fmt.Sprintf("Step of %T", rule), step(pnm.Options{}))
		none(fmt.Sprintf("Step of %T with options", rule), step(pnm.Options{LossScale: 2, ClipNorm: 1, ClipValue: 1, SkipNonFinite: true, ZeroGrads: true}))
		wantNoError(t, r.opt.ReadNoise(2, 0))
		none(fmt.Sprintf("Step of %T that reads noise", rule), step(pnm.Options{}))
		wantNoError(t, r.opt.ReadNoise(0, 0))
		named := map[string]pnm.Vector{"0": grads[0], "2": grads[2]}
		none(fmt.Sprintf("StepNamed of %T", rule), func() error { _, err := r.opt.StepNamed(pnm.Options{}, named); return err })
		partStep := r.opt.Steps(0)
		none(fmt.Sprintf("StepPart of %T", rule), func() error { // 33 elements
			partStep++
			if err := partOf(r.opt, pnm.Options{}, Part{0, partStep, 13, pnm.Float64(part)}); err != nil {
				return err
			}
			return partOf(r.opt, pnm.Options{}, Part{0, partStep, 0, pnm.Float64(part[:13])})
		})
	}
	all := pnm.Options{LossScale: 2, ClipNorm: 1, ClipValue: 1, SkipNonFinite: true, ZeroGrads: true, Pool: newTestPool(t, 3)}
	for _, f := range someFormats {
		m := newRun(t, pnm.NewAdaPNM(), f, Config{}, listSizes)
		g := m.grads(1)
		none(fmt.Sprintf("a shared step, %s", f), func() error { _, err := m.opt.Step(all, g); return err })
	}
}

// Momentum and Nesterov's have one state: a run may change from one to the other.
func TestSetRuleOfTheSameState(t *testing.T) {
	rules := []pnm.Rule{pnm.SGD{LR: 0.1, Momentum: 0.9}, pnm.SGD{LR: 0.2, Momentum: 0.8, Nesterov: true}}
	r := newDuo[float32](t, rules[0], pnm.NewAdaPNM())
	want, m := slices.Clone(r.params[0]), newState[float32](rules[0], 33)
	for step := 1; step <= 6; step++ {
		rule := rules[step/4]
		wantNoError(t, r.opt.SetRule(0, rule))
		r.steps(t, step, step)
		_, err := updateAlone(pnm.Options{}, rule, step, want, r.grads(step)[0], m)
		wantNoError(t, err)
	}
	wantSame(t, "params", r.params[0], want)
	wantSame(t, "momentum_buffer", stateOf(t, r.opt)[0].Buffers["momentum_buffer"].Float32(), m[0])
}

// The streams of a tensor lie at different offsets, wherever they come from: parameters and gradients in arenas of their own.
func TestStreamsAreSpread(t *testing.T) {
	const page = 4 << 10
	lengths := make([]int, 70)
	for i := range lengths {
		lengths[i] = 16 << 10
	}
	var arenas [2][]pnm.Vector
	for i := range arenas {
		a, err := pnm.Alloc("float32", lengths...)
		wantNoError(t, err)
		t.Cleanup(a.Close)
		arenas[i] = a.Vectors()
	}
	o := optimizerOf(t, Group{Rule: pnm.NewAdaPNM(), Params: arenas[0]})
	for i := range lengths {
		offsets := map[uintptr]bool{}
		for _, s := range append([]pnm.Vector{arenas[0][i], arenas[1][i]}, o.list.Updates[i].State...) {
			offsets[reflect.ValueOf(s.Bytes()).Pointer()%page] = true
		}
		if len(offsets) != 6 {
			t.Fatalf("the 6 streams of tensor %d lie at %d offsets", i, len(offsets))
		}
	}
}

// An optimizer over a part of each tensor, as a process of several has it, does to that part what one over all does.
func TestOwnedPart(t *testing.T) {
	const n, lo, hi = 1000, 123, 777
	for _, r := range sampleRules() {
		p := lcg[float32](1, n)
		q := slices.Clone(p)
		whole, part := optimizerOf(t, groupOf(r, p)), optimizerOf(t, groupOf(r, q[lo:hi]))
		for step := range 5 {
			g := lcg[float32](uint64(step), n)
			wantNoError(t, stepOf(whole, g))
			wantNoError(t, stepOf(part, g[lo:hi]))
		}
		wantSame(t, "owned", q[lo:hi], p[lo:hi])
		wantSame(t, "in front", q[:lo], lcg[float32](1, n)[:lo])
	}
}

// Spans that come in any order are refused if and only if they share memory with each other or with those before, and are then not
// there: groups and moved parameters alike.
func TestOverlapsAreFound(t *testing.T) {
	rng := rand.New(rand.NewPCG(71, 72))
	for range 60 {
		memory := make([]float32, 100)
		var taken [100]bool
		o := optimizerOf(t)
		for range 12 {
			var params [][]float32
			now, apart := taken, true
			for range rng.IntN(4) {
				lo := rng.IntN(len(memory) - 9)
				hi := lo + rng.IntN(9)
				params = append(params, memory[lo:hi])
				for i := lo; i < hi; i++ {
					apart = apart && !now[i]
					now[i] = true
				}
			}
			before := o.Tensors()
			err := o.AddGroup(groupOf(pnm.NewPNM(1), params...))
			switch {
			case apart && err == nil:
				taken = now
			case apart || !errors.As(err, new(*pnm.OverlapError)) || o.Tensors() != before:
				t.Fatalf("apart: %v, but %v", apart, err)
			}
		}
		grads := make([][]float32, o.Tensors())
		for i := range grads {
			grads[i] = make([]float32, o.list.Updates[i].Params.Len())
		}
		wantNoError(t, stepOf(o, grads...))
	}
}
