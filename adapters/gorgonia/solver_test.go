package pnmgorgonia

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// rules are some with each number of state buffers.
var rules = []struct {
	name string
	rule pnm.Rule
}{
	{"PNM", pnm.PNM{LR: 0.2, Beta1: 0.9, Beta0: 1, WeightDecay: 1e-3, Decoupled: true}},
	{"AdaPNM", pnm.NewAdaPNM()},
	{"SGD", pnm.NewSGD(0.05)},
	{"SGD with momentum", pnm.SGD{LR: 0.02, Momentum: 0.9, WeightDecay: 1e-3}},
	{"Adam", pnm.NewAdam()},
	{"AdamW with AMSGrad", pnm.Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01, Decoupled: true, AMSGrad: true}},
}

// A fake is a node that a test is free to make.
type fake struct {
	name string
	v, g gorgonia.Value
	err  error
}

func (f *fake) Name() string                  { return f.name }
func (f *fake) Value() gorgonia.Value         { return f.v }
func (f *fake) Grad() (gorgonia.Value, error) { return f.g, f.err }

func dense[T pnm.Float](x ...T) *tensor.Dense {
	return tensor.New(tensor.WithShape(len(x)), tensor.WithBacking(x))
}

func clone[T any](lists [][]T) [][]T {
	c := make([][]T, len(lists))
	for i, l := range lists {
		c[i] = slices.Clone(l)
	}
	return c
}

func equal[T comparable](a, b [][]T) bool { return slices.EqualFunc(a, b, slices.Equal[[]T]) }

func mustSolver(t testing.TB, rule pnm.Rule, model []gorgonia.ValueGrad) *Solver {
	t.Helper()
	s, err := NewSolver(rule, model)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A training run gives the bits of the engine's calls on slices, fed with the same gradients; the loss goes down, the gradients
// are zero after each step, and every value stays where it is. So it is with dual values and with gradients that move.
func TestBits(t *testing.T) {
	for _, bind := range []bool{true, false} {
		for _, r := range rules {
			t.Run(r.name, func(t *testing.T) {
				testBits[float32](t, r.rule, bind)
				testBits[float64](t, r.rule, bind)
			})
		}
	}
}

func testBits[T pnm.Float](t *testing.T, rule pnm.Rule, bind bool) {
	const steps = 40
	n := newNet[T](t, 7, bind)
	s := mustSolver(t, rule, n.model)
	s.Options = pnm.Options{LossScale: 0.5, ClipNorm: 1.5, ClipValue: 0.3}

	memory := values[T](t, n.model)
	updates := make([]pnm.Update, len(memory))
	params := clone(memory)
	for i, p := range params {
		updates[i] = pnm.Update{Rule: rule, Params: pnm.Vectors(p)[0]}
		for range rule.State() {
			updates[i].State = append(updates[i].State, pnm.Vectors(make([]T, len(p)))...)
		}
	}
	first, last := 0.0, 0.0
	for step := range steps {
		last = backward[T](t, n)
		if step == 0 {
			first = last
		}
		gradients := grads[T](t, n.model)
		for i, g := range clone(gradients) {
			updates[i].Step, updates[i].Grads = step+1, pnm.Vectors(g)[0]
		}
		if err := s.Step(n.model); err != nil {
			t.Fatal(err)
		}
		report, err := pnm.UpdateAll(s.Options, updates)
		if err != nil || report != s.Report() || report.GradNorm == 0 {
			t.Fatalf("step %d reports %v, must be %v (%v)", step, s.Report(), report, err)
		}
		if !equal(memory, params) {
			t.Fatalf("step %d gives other bits", step)
		}
		for i, g := range gradients {
			if slices.ContainsFunc(g, func(x T) bool { return x != 0 }) {
				t.Fatalf("step %d leaves a gradient of %s", step, n.nodes[i].Name())
			}
		}
		n.vm.Reset()
	}
	if !(last < 0.9*first) {
		t.Errorf("the loss goes from %g to %g", first, last)
	}
	for i, x := range values[T](t, n.model) {
		if unsafe.SliceData(x) != unsafe.SliceData(memory[i]) {
			t.Errorf("%s has moved", n.nodes[i].Name())
		}
	}
}

// A node that gets other memory, by Let or in another graph, goes on with the state it has.
func TestMovedValues(t *testing.T) {
	const steps = 9
	still := newNet[float32](t, 3, true)
	want := train[float32](t, still, mustSolver(t, pnm.NewAdaPNM(), still.model), steps)

	n := newNet[float32](t, 3, true)
	s := mustSolver(t, pnm.NewAdaPNM(), n.model)
	var got []float64
	for step := range steps {
		var left [][]float32
		if step == 4 { // another graph, with the values and images of this one
			next := newNet[float32](t, 3, true)
			for range step {
				backward[float32](t, next)
				next.vm.Reset()
			}
			for _, g := range grads[float32](t, next.model) {
				clear(g) // dual values add up what no solver has zeroed
			}
			for i, v := range values[float32](t, n.model) {
				copy(values[float32](t, next.model)[i], v)
			}
			n = next
		} else if step%2 == 1 {
			left = values[float32](t, n.model)
			for _, node := range n.nodes[step/2%4:] {
				if err := gorgonia.Let(node, node.Value().(*tensor.Dense).Clone()); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := clone(left)
		got = append(got, train[float32](t, n, s, 1)...)
		for i := step / 2 % 4; i < len(left); i++ {
			if !slices.Equal(left[i], before[i]) {
				t.Fatalf("step %d writes to what %s has left", step, n.nodes[i].Name())
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the losses are %v, must be %v", got, want)
	}
	if !equal(values[float32](t, n.model), values[float32](t, still.model)) {
		t.Error("the values differ")
	}
}

// Scalars, in both representations, and gradients in the other one.
func TestScalars(t *testing.T) {
	one := func(x float64) *tensor.Dense { return tensor.New(tensor.FromScalar(x)) }
	nodes := []*fake{
		{"a", gorgonia.NewF64(2), gorgonia.NewF64(0), nil},
		{"b", one(2), one(0), nil},
		{"c", one(2), gorgonia.NewF64(0), nil},
		{"d", gorgonia.NewF64(2), dense(0.0), nil},
		{"e", tensor.New(tensor.WithShape(1, 1), tensor.WithBacking([]float64{2})), gorgonia.NewF64(0), nil},
	}
	var model []gorgonia.ValueGrad
	for _, n := range nodes {
		model = append(model, n)
	}
	rule := pnm.SGD{LR: 0.5, Momentum: 0.5}
	s := mustSolver(t, rule, model)
	for range 2 {
		for _, g := range grads[float64](t, model) {
			g[0] = 1
		}
		if err := s.Step(model); err != nil {
			t.Fatal(err)
		}
	}
	for i, x := range values[float64](t, model) {
		if g := grads[float64](t, model)[i][0]; x[0] != 2-0.5-0.75 || g != 0 {
			t.Errorf("%s is %g, must be 0.75; its gradient %g, must be 0", nodes[i].name, x[0], g)
		}
	}
}

// Without dual values the terms of a sum have one gradient in common: it counts for each.
func TestSharedGradient(t *testing.T) {
	g := gorgonia.NewGraph()
	leaf := func(name string, x ...float32) *gorgonia.Node {
		return gorgonia.NewVector(g, gorgonia.Float32, gorgonia.WithShape(len(x)), gorgonia.WithName(name), gorgonia.WithValue(dense(x...)))
	}
	a, b, factors := leaf("a", 1, 2), leaf("b", 3, 4), leaf("factors", 10, 20)
	cost := gorgonia.Must(gorgonia.Sum(gorgonia.Must(gorgonia.HadamardProd(factors, gorgonia.Must(gorgonia.Add(a, b))))))
	if _, err := gorgonia.Grad(cost, a, b); err != nil {
		t.Fatal(err)
	}
	vm := gorgonia.NewTapeMachine(g)
	defer vm.Close()
	if err := vm.RunAll(); err != nil {
		t.Fatal(err)
	}
	model := gorgonia.NodesToValueGrads(gorgonia.Nodes{a, b})
	shared := grads[float32](t, model)
	if unsafe.SliceData(shared[0]) != unsafe.SliceData(shared[1]) {
		t.Fatal("the gradient is not shared: there is nothing to test")
	}
	s := mustSolver(t, pnm.NewSGD(0.5), model)
	if err := s.Step(model); err != nil {
		t.Fatal(err)
	}
	if v := values[float32](t, model); !equal(v, [][]float32{{-4, -8}, {-2, -6}}) {
		t.Errorf("the values are %v", v)
	}
	if !equal(shared, [][]float32{{0, 0}, {0, 0}}) {
		t.Errorf("the gradient is left at %v", shared[0])
	}
}

// Without dual values the gradient of a scalar that is added is a constant which Gorgonia has once, for all graphs: it stays.
func TestConstantGradient(t *testing.T) {
	for range 2 {
		g := gorgonia.NewGraph()
		leaf := func(name string, x float64) *gorgonia.Node {
			return gorgonia.NewScalar(g, gorgonia.Float64, gorgonia.WithName(name), gorgonia.WithValue(x))
		}
		a, b := leaf("a", 1), leaf("b", 2)
		if _, err := gorgonia.Grad(gorgonia.Must(gorgonia.Add(a, b)), a, b); err != nil {
			t.Fatal(err)
		}
		vm := gorgonia.NewTapeMachine(g)
		defer vm.Close()
		model := gorgonia.NodesToValueGrads(gorgonia.Nodes{a, b})
		s := mustSolver(t, pnm.NewSGD(0.25), model)
		for range 2 {
			if err := vm.RunAll(); err != nil {
				t.Fatal(err)
			}
			if err := s.Step(model); err != nil {
				t.Fatal(err)
			}
			vm.Reset()
		}
		if v := values[float64](t, model); !equal(v, [][]float64{{0.5}, {1.5}}) {
			t.Errorf("the values are %v", v)
		}
	}
}

// Rules by node: the biases' group has no decay, and a learning rate of its own.
func TestGroups(t *testing.T) {
	decay := pnm.SGD{LR: 0.5, WeightDecay: 0.5}
	plain := pnm.SGD{LR: 0.5}
	nodes := []*fake{{"b1", dense(1.0), dense(0.0), nil}, {"w1", dense(1.0), dense(0.0), nil},
		{"b2", dense(1.0), dense(2.0), nil}, {"w2", dense(1.0), dense(2.0), nil}}
	model := []gorgonia.ValueGrad{nodes[0], nodes[1], nodes[2], nodes[3]}
	s, err := NewSolverFor(model, func(n gorgonia.ValueGrad) pnm.Rule {
		if strings.HasPrefix(n.(gorgonia.Namer).Name(), "b") {
			return plain
		}
		return decay
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Groups() != 2 || s.Rule(0) != plain || s.Rule(1) != decay {
		t.Fatalf("%d groups, with %v and %v", s.Groups(), s.Rule(0), s.Rule(1))
	}
	step := func(want ...float64) {
		t.Helper()
		if err := s.Step(model); err != nil {
			t.Fatal(err)
		}
		if got := slices.Concat(values[float64](t, model)...); !slices.Equal(got, want) {
			t.Errorf("the values are %v, must be %v", got, want)
		}
	}
	step(1, 0.75, 0, -0.25)
	if err := s.SetGroupLR(1, 0); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.g = dense(1.0)
	}
	step(0.5, 0.75, -0.5, -0.25)
	if err := s.SetLR(-1); err == nil || s.Rule(0) != plain {
		t.Errorf("a learning rate of −1: %v, and the rule is %v", err, s.Rule(0))
	}
	if err := s.SetRule(1, pnm.NewSGD(1)); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.g = dense(1.0)
	}
	step(0, -0.25, -1, -1.25)
	if s.LR(0) != 0.5 || s.LR(1) != 1 || s.LR(2) != 0 {
		t.Errorf("the learning rates are %g and %g", s.LR(0), s.LR(1))
	}
}

// A group has values of one type; another one may have another.
func TestBothTypes(t *testing.T) {
	narrow, wide := &fake{"narrow", dense[float32](1), dense[float32](2), nil}, &fake{"wide", dense(1.0), dense(2.0), nil}
	s, err := NewSolverFor([]gorgonia.ValueGrad{narrow, wide}, func(n gorgonia.ValueGrad) pnm.Rule {
		return pnm.NewSGD(map[gorgonia.ValueGrad]float64{narrow: 0.25, wide: 0.5}[n])
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Step([]gorgonia.ValueGrad{narrow, wide}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(narrow.v.Data(), wide.v.Data()); got != "[0.5] [0]" {
		t.Errorf("the values are %s", got)
	}
}

// The state comes and goes in the model's order, whatever that of the groups is.
func TestState(t *testing.T) {
	nodes := []*fake{{"w1", dense(1.0, 2), dense(3.0, 4), nil}, {"b", dense(5.0), dense(6.0), nil}, {"w2", dense(7.0, 8, 9), dense(1.0, 2, 3), nil}}
	model := []gorgonia.ValueGrad{nodes[0], nodes[1], nodes[2]}
	byLength := func(n gorgonia.ValueGrad) pnm.Rule {
		return pnm.SGD{LR: 1, Momentum: 0.5 + float64(len(n.(*fake).name))/8}
	}
	s, err := NewSolverFor(model, byLength)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Step(model); err != nil {
		t.Fatal(err)
	}
	state, err := s.State()
	if err != nil {
		t.Fatal(err)
	}
	equalStates := func(a, b []optim.TensorState) bool {
		return slices.EqualFunc(a, b, func(a, b optim.TensorState) bool {
			return a.Step == b.Step && maps.EqualFunc(a.Buffers, b.Buffers, func(x, y pnm.Vector) bool { return slices.Equal(x.Float64(), y.Float64()) })
		})
	}
	buffer := func(x ...float64) optim.TensorState {
		return optim.TensorState{Step: 1, Buffers: map[string]pnm.Vector{"momentum_buffer": pnm.Float64(x)}}
	}
	want := []optim.TensorState{buffer(3, 4), buffer(6), buffer(1, 2, 3)}
	if !equalStates(state, want) {
		t.Fatalf("the state is %v, must be %v", state, want)
	}
	want[2].Buffers["momentum_buffer"].Float64()[1] = 10
	if err := s.SetState(want); err != nil {
		t.Fatal(err)
	}
	if state, err = s.State(); err != nil || !equalStates(state, want) {
		t.Errorf("the state is %v, must be %v (%v)", state, want, err)
	}
	for _, bad := range []struct {
		states []optim.TensorState
		want   string
	}{
		{want[:2], "length of tensor states is 2, must be 3"},
		{[]optim.TensorState{want[0], want[1], want[0]}, `("w2"): length of momentum_buffer is 2, must be 3`},
		{[]optim.TensorState{want[0], {Step: -1}, want[2]}, `("b"): state "step" is -1`},
	} {
		if err := s.SetState(bad.states); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v, want %q", err, bad.want)
		}
	}
	s.Close()
	if _, err := s.State(); err != optim.ErrClosed {
		t.Errorf("after Close: %v", err)
	}
	if err := s.Step(model); err != optim.ErrClosed {
		t.Errorf("after Close: %v", err)
	}
}

// A step that is not finite is skipped if asked for, counts as none, and leaves no gradient behind.
func TestSkip(t *testing.T) {
	n := &fake{"w", dense[float32](1, 2), dense(1, float32(math.Inf(1))), nil}
	model := []gorgonia.ValueGrad{n}
	s := mustSolver(t, pnm.NewAdaPNM(), model)
	s.Options.SkipNonFinite = true
	if err := s.Step(model); err != nil || !s.Report().Skipped {
		t.Fatalf("report %v, error %v", s.Report(), err)
	}
	if got := values[float32](t, model)[0]; !slices.Equal(got, []float32{1, 2}) {
		t.Errorf("a skipped step makes %v of the value", got)
	}
	if got := grads[float32](t, model)[0]; !slices.Equal(got, []float32{0, 0}) {
		t.Errorf("a skipped step leaves the gradient at %v", got)
	}
	if state, err := s.State(); err != nil || state[0].Step != 0 {
		t.Errorf("a skipped step counts: %v, %v", state, err)
	}
	n.g = dense[float32](3, 4)
	if err := s.Step(model); err != nil || s.Report() != (pnm.Report{GradNorm: 5}) {
		t.Errorf("report %v, error %v", s.Report(), err)
	}
}

// What cannot be updated in place gives an error that names the node and says what is wrong, and nothing is written.
func TestErrors(t *testing.T) {
	matrix := func(shape ...int) *tensor.Dense {
		x := make([]float32, tensor.Shape(shape).TotalSize())
		for i := range x {
			x[i] = float32(i + 1)
		}
		return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(x))
	}
	transposed := matrix(3, 2)
	if err := transposed.T(); err != nil {
		t.Fatal(err)
	}
	slice, err := matrix(2, 4).Slice(nil, tensor.S(0, 3))
	if err != nil {
		t.Fatal(err)
	}
	steps, err := matrix(3, 4).Slice(tensor.S(0, 3, 2)) // which tensor takes for one row of four
	if err != nil {
		t.Fatal(err)
	}
	masked := matrix(2, 3)
	masked.ResetMask(false)
	sparse := tensor.CSRFromCoord(tensor.Shape{2, 3}, []int{0, 1}, []int{1, 2}, []float32{1, 2})
	fortran := tensor.New(tensor.AsFortran([]float32{1, 2, 3, 4, 5, 6}), tensor.WithShape(2, 3))
	elsewhere := tensor.New(tensor.Of(tensor.Float32), tensor.WithShape(2, 3), tensor.WithEngine(device{}))
	wide := tensor.New(tensor.WithShape(2, 3), tensor.WithBacking(make([]float64, 6)))
	none := (*tensor.Dense)(nil)
	shared := matrix(2, 2, 3)
	half := func(i int) *tensor.Dense {
		h, err := shared.Slice(tensor.S(i))
		if err != nil {
			t.Fatal(err)
		}
		return h.(*tensor.Dense)
	}
	for _, c := range []struct {
		what string
		v    gorgonia.Value
		want string // after "its value " or "its gradient "
	}{
		{"int", tensor.New(tensor.WithShape(2, 3), tensor.WithBacking([]int{1, 2, 3, 4, 5, 6})), "is of int, must be of float32 or float64"},
		{"a scalar of a type without rules", gorgonia.NewI(1), "is a *gorgonia.I of int, must be a *tensor.Dense or a scalar of float32 or float64"},
		{"sparse", sparse, "is a *tensor.CS of float32, must be a *tensor.Dense"},
		{"transposed", transposed, "has shape (2, 3) and strides [1 2], must be in row-major order"},
		{"a view with gaps", slice.(*tensor.Dense), "has shape (2, 3) and strides [4 1], must be in row-major order"},
		{"a view in steps", steps.(*tensor.Dense), "has 12 elements in memory, and shape (4)"},
		{"column-major", fortran, "has shape (2, 3) and strides [1 2], must be in row-major order"},
		{"masked", masked, "is masked"},
		{"another device's memory", elsewhere, "lies in memory of pnmgorgonia.device, which Go cannot reach"},
	} {
		node := &fake{"odd", c.v, matrix(2, 3), nil}
		expect(t, c.what, `node "odd": its value `+c.want, func() error {
			_, err := NewSolver(pnm.NewAdam(), []gorgonia.ValueGrad{&fake{"even", matrix(2, 3), matrix(2, 3), nil}, node})
			return err
		})
		refused(t, c.what+" as value", `node "odd": its value `+c.want, func(first, odd *fake) { odd.v = c.v })
		refused(t, c.what+" as gradient", `node "odd": its gradient `+c.want, func(first, odd *fake) { odd.g = c.v })
	}

	for _, c := range []struct {
		what, want string
		spoil      func(first, odd *fake)
	}{
		{"no value", `node "odd": has no value yet`, func(_, odd *fake) { odd.v = nil }},
		{"a nil tensor", `node "odd": has no value yet`, func(_, odd *fake) { odd.v = none }},
		{"no gradient", `node "odd": has no gradient (none here): it must be among the nodes given to gorgonia.Grad`,
			func(_, odd *fake) { odd.g, odd.err = nil, errors.New("none here") }},
		{"a nil gradient", `node "odd": its gradient is nil`, func(_, odd *fake) { odd.g = nil }},
		{"a nil tensor as gradient", `node "odd": its gradient is nil`, func(_, odd *fake) { odd.g = none }},
		{"another shape", `node "odd": its shape is (3, 2), was (2, 3) before`, func(_, odd *fake) { odd.v = matrix(3, 2) }},
		{"a gradient of another shape", `node "odd": the shape of its gradient is (3, 2), must be (2, 3)`, func(_, odd *fake) { odd.g = matrix(3, 2) }},
		{"another name", `node "else": number 1 of the model was "odd" before`, func(_, odd *fake) { odd.name = "else" }},
		{"names exchanged", `node "odd": number 0 of the model was "first" before`, func(first, odd *fake) { first.name, odd.name = odd.name, first.name }},
		{"a value of another type", `tensor 1 ("odd"): the format of params is float64, must be float32`, func(_, odd *fake) { odd.v = wide }},
		{"a gradient of another type", `tensor 1 ("odd"): the format of grads is float64, must be float32`, func(_, odd *fake) { odd.g = wide }},
		{"one value for both", `params of tensor 0 ("first") and params of tensor 1 ("odd") share 6 elements in memory`, func(first, odd *fake) { odd.v = first.v }},
		{"a value as another's gradient", `params of tensor 0 ("first") and grads of tensor 1 ("odd") share 6 elements in memory`,
			func(first, odd *fake) { odd.g = first.v }},
		{"a value as its own gradient", `tensor 1 ("odd"): params and grads share 6 elements in memory`,
			func(_, odd *fake) { odd.g = odd.v }},
	} {
		refused(t, c.what, c.want, c.spoil)
	}
	expect(t, "two types in one group", `tensor 1 ("b"): the format of params is float64, must be float32`, func() error {
		_, err := NewSolver(pnm.NewAdam(), []gorgonia.ValueGrad{&fake{"a", matrix(2, 3), nil, nil}, &fake{"b", wide, nil, nil}})
		return err
	})
	expect(t, "overlapping values", `params of tensor 0 ("a") and params of tensor 1 ("b") share 6 elements in memory`, func() error {
		_, err := NewSolver(pnm.NewAdam(), []gorgonia.ValueGrad{&fake{"a", half(0), nil, nil}, &fake{"b", half(0), nil, nil}})
		return err
	})
	if _, err := NewSolver(pnm.NewAdam(), []gorgonia.ValueGrad{&fake{"a", half(0), nil, nil}, &fake{"b", half(1), nil, nil}}); err != nil {
		t.Errorf("two views without gaps: %v", err)
	}
	part, err := matrix(1, 4).Slice(nil, tensor.S(1, 3)) // strides [4 1], but one row
	if err != nil {
		t.Fatal(err)
	}
	row, err := valueOf(&fake{"row", part.(*tensor.Dense), nil, nil})
	if err != nil || !slices.Equal(row.elements.Float32(), []float32{2, 3}) {
		t.Errorf("a part of a row is %v (%v)", row.elements, err)
	}
	expect(t, "no nodes", "the model has no nodes", func() error { _, err := NewSolver(pnm.NewAdam(), nil); return err })
	expect(t, "a nil node", `node "0": is nil`, func() error {
		_, err := NewSolver(pnm.NewAdam(), []gorgonia.ValueGrad{nil})
		return err
	})
	expect(t, "a nil *Node", `node "0": is nil`, func() error {
		_, err := NewSolver(pnm.NewAdam(), gorgonia.NodesToValueGrads(gorgonia.Nodes{nil}))
		return err
	})
	expect(t, "a nameless node without value", `node "0": has no value yet`, func() error {
		_, err := NewSolver(pnm.NewAdam(), gorgonia.NodesToValueGrads(gorgonia.Nodes{gorgonia.NewScalar(gorgonia.NewGraph(), gorgonia.Float32)}))
		return err
	})
	expect(t, "no rule", "Rule is nil", func() error {
		_, err := NewSolver(nil, []gorgonia.ValueGrad{&fake{"a", matrix(1), nil, nil}})
		return err
	})
	expect(t, "a bad rule", "PNM.LR is -1", func() error {
		_, err := NewSolver(pnm.NewPNM(-1), []gorgonia.ValueGrad{&fake{"a", matrix(1), nil, nil}})
		return err
	})
}

// The lists of nodes that are too long or too short.
func TestWrongLength(t *testing.T) {
	nodes := make([]gorgonia.ValueGrad, 4)
	for i := range nodes {
		nodes[i] = &fake{"abcd"[i : i+1], dense(1.0), dense(1.0), nil}
	}
	s := mustSolver(t, pnm.NewSGD(1), nodes[:3])
	for _, c := range []struct {
		model []gorgonia.ValueGrad
		want  string
	}{
		{nil, `node "a": is missing: the model has 0 nodes, had 3 before`},
		{nodes[:2], `node "c": is missing: the model has 2 nodes, had 3 before`},
		{nodes[1:3], `node "b": is not where it was: the model has 2 nodes, had 3 before`},
		{nodes, `node "d": is not where it was: the model has 4 nodes, had 3 before`},
	} {
		expect(t, "wrong length", c.want, func() error { return s.Step(c.model) })
	}
}

// refused expects that a step of two nodes, of which one is spoilt, fails and writes nothing; and that the next one, with the
// nodes mended, does not notice.
func refused(t *testing.T, what, want string, spoil func(first, odd *fake)) {
	t.Helper()
	fresh := func(name string) *fake {
		return &fake{name, tensor.New(tensor.WithShape(2, 3), tensor.WithBacking([]float32{1, 2, 3, 4, 5, 6})),
			tensor.New(tensor.WithShape(2, 3), tensor.WithBacking([]float32{1, 1, 1, 2, 2, 2})), nil}
	}
	first, odd := fresh("first"), fresh("odd")
	model := []gorgonia.ValueGrad{first, odd}
	s := mustSolver(t, pnm.NewAdaPNM(), model)
	v, g := values[float32](t, model), grads[float32](t, model)
	v0, g0 := clone(v), clone(g)
	good, alsoGood := *first, *odd

	spoil(first, odd)
	expect(t, what, want, func() error { return s.Step(model) })
	if !equal(v, v0) || !equal(g, g0) {
		t.Errorf("%s: the step failed, and wrote", what)
	}
	*first, *odd = good, alsoGood
	if err := s.Step(model); err != nil {
		t.Errorf("%s, mended: %v", what, err)
	}
	if equal(v, v0) || equal(g, g0) {
		t.Errorf("%s, mended: nothing was written", what)
	}
	if state, err := s.State(); err != nil || state[0].Step != 1 {
		t.Errorf("%s, mended: after 1 step the state is %v (%v)", what, state, err)
	}
}

func expect(t *testing.T, what, want string, do func() error) {
	t.Helper()
	if err := do(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: error %v, want %q", what, err, want)
	}
}

// A device is an engine whose memory Go cannot reach.
type device struct{ tensor.StdEng }

func (device) AllocAccessible() bool { return false }

// A step allocates nothing: neither with small tensors nor with large ones.
func TestAllocations(t *testing.T) {
	t.Run("float32", testAllocations[float32])
	t.Run("float64", testAllocations[float64])
}

func testAllocations[T pnm.Float](t *testing.T) {
	n := newNet[T](t, 1, true)
	backward[T](t, n)
	large := &fake{"large", dense(make([]T, 1<<20)...), dense(make([]T, 1<<20)...), nil}
	model := append(slices.Clone(n.model), large)
	if dtypeOf[T]() == tensor.Float32 {
		model = append(model, &fake{"scalar", gorgonia.NewF32(1), gorgonia.NewF32(1), nil})
	} else {
		model = append(model, &fake{"scalar", gorgonia.NewF64(1), gorgonia.NewF64(1), nil})
	}
	for _, r := range rules {
		s := mustSolver(t, r.rule, model)
		s.Options.ClipNorm = 1
		step := func() {
			if err := s.Step(model); err != nil {
				t.Fatal(err)
			}
		}
		for _, when := range []string{"first", "after a value has moved"} {
			step()
			if a := testing.AllocsPerRun(20, step); a != 0 {
				t.Errorf("%s, %s: %v allocations a step", r.name, when, a)
			}
			large.v = dense(make([]T, 1<<20)...)
		}
	}
}
