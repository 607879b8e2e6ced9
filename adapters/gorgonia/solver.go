// Package pnmgorgonia updates the weights of Gorgonia models with pnm. A [Solver] is a gorgonia.Solver: it takes the place of
// Gorgonia's own in a training loop, which stays as it is.
//
//	model := gorgonia.NodesToValueGrads(learnables)
//	solver, err := pnmgorgonia.NewSolver[float32](pnm.NewAdaPNM(), model)
//	…
//	for … {
//		vm.RunAll()
//		solver.Step(model)
//		vm.Reset()
//	}
package pnmgorgonia

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/posneg/pnm"
	// Gorgonia's tensor package asks for a release of this one that refuses to start on Go 1.20 and newer. The newest asks the
	// runtime instead. That this module requires it is enough: Go takes the newest release that any module of a build requires.
	_ "go4.org/unsafe/assume-no-moving-gc"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// A Solver updates the values of a model's nodes in place, by pnm's rules, and then sets the gradients to zero, as Gorgonia's
// own solvers do. T is the type of all values and gradients. It copies none of them, and a step allocates nothing.
//
// Values are *tensor.Dense in row-major order, as Gorgonia makes them, or the scalars *gorgonia.F32 and *gorgonia.F64. They may
// move: a node may be bound to another value between two steps (gorgonia.Let), and goes on with the state it has. Gradients may be
// elsewhere at every step.
//
// One Solver must not be used by several goroutines at once.
type Solver[T pnm.Float] struct {
	// Options are what is done around each step: scaling, clipping, skipping; they may change between steps. LossScale is where
	// the batch size goes that gorgonia.WithBatchSize divides by. ZeroGrads is always on.
	Options pnm.Options

	opt      *pnm.Optimizer[T]
	nodes    []node
	names    []string // of the nodes, in the optimizer's order, as all that follow
	params   [][]T    // the values that the optimizer updates
	values   [][]T    // scratch: those that the nodes have now
	grads    [][]T    // scratch
	writable []bool   // scratch: which gradients may be set to zero
	shared   bool     // nodes have had a gradient in common
	report   pnm.Report
}

// A node is what is known of a node of the model.
type node struct {
	gorgonia.ValueGrad
	name   string
	shape  tensor.Shape
	tensor int // its number in the optimizer
}

var _ gorgonia.Solver = (*Solver[float32])(nil)

// NewSolver returns a solver that updates all nodes of a model by one rule: pnm.PNM, AdaPNM, SGD or Adam, as a value. The nodes
// must have their values. A *NodeError names a node whose value is not of type T or cannot be updated in place, or that shares
// memory with another; a bad hyperparameter gives pnm's *GroupError.
func NewSolver[T pnm.Float](rule pnm.Rule, model []gorgonia.ValueGrad) (*Solver[T], error) {
	return NewSolverFor[T](model, func(gorgonia.ValueGrad) pnm.Rule { return rule })
}

// NewSolverFor is [NewSolver] with a rule for each node. Nodes of equal rules form a group; groups are numbered from 0 in the
// order in which the model has the first node of each.
func NewSolverFor[T pnm.Float](model []gorgonia.ValueGrad, ruleOf func(node gorgonia.ValueGrad) pnm.Rule) (*Solver[T], error) {
	if len(model) == 0 {
		return nil, errors.New("pnmgorgonia: the model has no nodes")
	}
	if ruleOf == nil {
		return nil, errors.New("pnmgorgonia: ruleOf is nil")
	}
	s := &Solver[T]{nodes: make([]node, len(model))}
	var rules []pnm.Rule
	groups := make([]int, len(model))
	for i, v := range model {
		n := node{ValueGrad: v, name: nameOf(v, i)}
		x, err := valueOf[T](v)
		if err != nil {
			return nil, &NodeError{n.name, err}
		}
		n.shape = x.shape.Clone()
		s.nodes[i] = n
		s.values = append(s.values, x.elements)
		rule := ruleOf(v)
		if groups[i] = slices.Index(rules, rule); groups[i] < 0 {
			groups[i] = len(rules)
			rules = append(rules, rule)
		}
	}
	list := make([]pnm.Group[T], len(rules))
	for g, rule := range rules {
		first := len(s.params)
		for i := range s.nodes {
			if groups[i] == g {
				s.nodes[i].tensor = len(s.params)
				s.names = append(s.names, s.nodes[i].name)
				s.params = append(s.params, s.values[i])
			}
		}
		list[g] = pnm.Group[T]{Rule: rule, Params: s.params[first:]}
	}
	s.grads = make([][]T, len(model))
	s.writable = make([]bool, len(model))
	var err error
	if s.opt, err = pnm.NewOptimizer(list...); err != nil {
		return nil, s.named(err)
	}
	return s, nil
}

// Step performs one step and sets the gradients to zero. The model has the same nodes in the same order as when the solver was
// made, or nodes of another graph with the same names and shapes. Every node must have a gradient, as in Gorgonia's solvers;
// nodes may share one.
//
// A *NodeError names a node that does not fit, and what is wrong with it, an option out of its range gives pnm's
// *HyperparameterError, and nothing is written.
func (s *Solver[T]) Step(model []gorgonia.ValueGrad) error {
	s.report = pnm.Report{}
	if err := s.follow(model); err != nil {
		return err
	}
	defer clear(s.grads)
	o := s.Options
	o.ZeroGrads = !s.shared
	for i := range s.nodes {
		n := &s.nodes[i]
		g, writable, err := gradOf[T](n)
		if err != nil {
			return &NodeError{n.name, err}
		}
		s.grads[n.tensor] = g
		s.writable[n.tensor] = writable
		o.ZeroGrads = o.ZeroGrads && writable
	}

	report, err := s.opt.StepWith(o, s.grads)
	if overlap, ok := errors.AsType[*pnm.OverlapError](err); ok && overlap.Arg == "grads" && overlap.OtherArg == "grads" {
		// Nodes of a sum share their gradient, where the machine does not bind dual values. It counts for each of them.
		s.shared = true
		o.ZeroGrads = false
		report, err = s.opt.StepWith(o, s.grads)
	}
	if err != nil {
		return s.named(err)
	}
	s.report = report
	if !o.ZeroGrads {
		for i, g := range s.grads {
			if s.writable[i] {
				clear(g)
			}
		}
	}
	return nil
}

// follow compares a model with the solver's nodes, and has the optimizer update the values that they have now.
func (s *Solver[T]) follow(model []gorgonia.ValueGrad) error {
	if len(model) != len(s.nodes) {
		return s.wrongLength(model)
	}
	moved := false
	for i, v := range model {
		n := &s.nodes[i]
		if name := n.nameIn(v, i); name != n.name {
			return &NodeError{name, fmt.Errorf("number %d of the model was %q before: the nodes must be the same in the same order", i, n.name)}
		}
		x, err := valueOf[T](v)
		if err != nil {
			return &NodeError{n.name, err}
		}
		if !slices.Equal(x.shape, n.shape) {
			return &NodeError{n.name, fmt.Errorf("its shape is %v, was %v before", x.shape, n.shape)}
		}
		s.values[n.tensor] = x.elements
		moved = moved || unsafe.SliceData(x.elements) != unsafe.SliceData(s.params[n.tensor])
	}
	for i, v := range model {
		s.nodes[i].ValueGrad = v
	}
	if !moved {
		return nil
	}
	if err := s.opt.SetParams(s.values); err != nil {
		return s.named(err)
	}
	copy(s.params, s.values)
	return nil
}

// Report tells what became of the last step: its gradient norm, and whether it was skipped. It is zero if that step failed.
func (s *Solver[T]) Report() pnm.Report { return s.report }

// SetLR sets the learning rate of the given groups, or of all, from the next step on. It fails as pnm's Optimizer.SetLR does.
func (s *Solver[T]) SetLR(lr float64, groups ...int) error { return s.opt.SetLR(lr, groups...) }

// Groups returns the number of groups: 1, unless [NewSolverFor] found several rules.
func (s *Solver[T]) Groups() int { return s.opt.Groups() }

// Rule returns the rule of a group, or nil if there is no such group.
func (s *Solver[T]) Rule(group int) pnm.Rule { return s.opt.Rule(group) }

// SetRule replaces the rule of a group from the next step on. It fails as pnm's Optimizer.SetRule does.
func (s *Solver[T]) SetRule(group int, r pnm.Rule) error { return s.opt.SetRule(group, r) }

// State returns a copy of the state of all nodes, in the model's order, under the names of the authors' implementation or
// torch's. After Close it fails with pnm.ErrClosed.
func (s *Solver[T]) State() ([]pnm.TensorState[T], error) {
	state, err := s.opt.State()
	if err != nil {
		return nil, err
	}
	return inModelOrder(s, state), nil
}

// SetState replaces the state of all nodes by a copy of a state in the model's order. It fails as pnm's Optimizer.SetState does,
// with a *NodeError where one node is at fault, and the solver is then as it was.
func (s *Solver[T]) SetState(states []pnm.TensorState[T]) error {
	if len(states) != len(s.nodes) {
		return &pnm.LengthError{Tensor: -1, Arg: "tensor states", Len: len(states), Want: len(s.nodes)}
	}
	return s.named(s.opt.SetState(inTensorOrder(s, states)))
}

// Close gives the memory of the state back to the system; a step then fails with pnm.ErrClosed. A solver that is not closed is,
// by the garbage collector, some time after it was last used.
func (s *Solver[T]) Close() { s.opt.Close() }

// inTensorOrder returns what is listed in the model's order in that of the optimizer.
func inTensorOrder[T pnm.Float, E any](s *Solver[T], list []E) []E {
	ordered := make([]E, len(list))
	for i, x := range list {
		ordered[s.nodes[i].tensor] = x
	}
	return ordered
}

// inModelOrder is the inverse of inTensorOrder.
func inModelOrder[T pnm.Float, E any](s *Solver[T], list []E) []E {
	ordered := make([]E, len(list))
	for i := range list {
		ordered[i] = list[s.nodes[i].tensor]
	}
	return ordered
}
