// Package pnmgorgonia updates the weights of Gorgonia models with pnm. A [Solver] is a gorgonia.Solver: it replaces one of
// Gorgonia's solvers in a training loop, without other changes.
//
//	model := gorgonia.NodesToValueGrads(learnables)
//	solver, err := pnmgorgonia.NewSolver(pnm.NewAdaPNM(), model)
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

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
	// Gorgonia's tensor package requires an old release of this module, which refuses to start on Go 1.20 and later. The newest
	// release works. Go takes the newest release that any module of a build requires, so requiring it here is enough.
	_ "go4.org/unsafe/assume-no-moving-gc"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// A Solver updates the values of a model's nodes in place, with the rules of pnm, and then sets the gradients to zero, like Gorgonia's
// own solvers. It does not copy values or gradients, and a step allocates nothing.
//
// Values are *tensor.Dense of float32 or float64 in row-major order, as Gorgonia makes them, or the scalars *gorgonia.F32 and
// *gorgonia.F64. A node may be bound to another value between two steps (gorgonia.Let); it keeps its state. Gradients may be in other
// memory at every step.
//
// Only one goroutine at a time may use a Solver.
type Solver struct {
	// Options are the options of each step, such as scaling, clipping and skipping. They may change between steps. To divide by the batch
	// size, as gorgonia.WithBatchSize does, set LossScale to it. ZeroGrads is always on.
	Options pnm.Options

	opt      *optim.Optimizer
	nodes    []node
	params   []pnm.Vector // the values that the optimizer updates; this and the next three are in the optimizer's order
	values   []pnm.Vector // scratch: the nodes' current values
	grads    []pnm.Vector // scratch
	writable []bool       // scratch: whether a gradient may be set to zero
	shared   bool         // nodes have shared a gradient
	report   pnm.Report
}

// A node is a node of the model, as the solver has seen it.
type node struct {
	gorgonia.ValueGrad
	name   string
	shape  tensor.Shape
	tensor int // its number in the optimizer
}

var _ gorgonia.Solver = (*Solver)(nil)

// NewSolver returns a solver that updates all nodes of a model with one rule of pnm (a value, not a pointer). The nodes must have
// values, all of one type, and different names. If a node's value cannot be updated in place, the error names the node. Other errors are
// those of [optim.New], with the nodes' names.
func NewSolver(rule pnm.Rule, model []gorgonia.ValueGrad) (*Solver, error) {
	return NewSolverFor(model, func(gorgonia.ValueGrad) pnm.Rule { return rule })
}

// NewSolverFor is [NewSolver] with a rule for each node. Nodes with equal rules form a group; their values have one type. Groups
// are numbered from 0, in the order of their first nodes in the model.
func NewSolverFor(model []gorgonia.ValueGrad, ruleOf func(node gorgonia.ValueGrad) pnm.Rule) (*Solver, error) {
	if len(model) == 0 {
		return nil, errors.New("pnmgorgonia: the model has no nodes")
	}
	if ruleOf == nil {
		return nil, errors.New("pnmgorgonia: ruleOf is nil")
	}
	s := &Solver{nodes: make([]node, len(model))}
	var groups []optim.Group
	members := make([][]*node, 0, 1) // of each group
	for i, v := range model {
		n := &s.nodes[i]
		*n = node{ValueGrad: v, name: nameOf(v, i)}
		x, err := valueOf(v)
		if err != nil {
			return nil, ofNode(n.name, err)
		}
		n.shape = x.shape.Clone()
		rule := ruleOf(v)
		k := slices.IndexFunc(groups, func(g optim.Group) bool { return g.Rule == rule })
		if k < 0 {
			k = len(groups)
			groups, members = append(groups, optim.Group{Rule: rule}), append(members, nil)
		}
		groups[k].Params = append(groups[k].Params, x.elements)
		groups[k].Names = append(groups[k].Names, n.name)
		members[k] = append(members[k], n)
	}
	for k, g := range groups {
		for i, n := range members[k] {
			n.tensor = len(s.params) + i
		}
		s.params = append(s.params, g.Params...)
	}
	s.values = make([]pnm.Vector, len(model))
	s.grads = make([]pnm.Vector, len(model))
	s.writable = make([]bool, len(model))
	var err error
	if s.opt, err = optim.New(groups...); err != nil {
		return nil, err
	}
	return s, nil
}

// Step performs one step and sets the gradients to zero. The model must have the same nodes in the same order as in NewSolver, or
// nodes of another graph with the same names and shapes. Every node must have a gradient, as for Gorgonia's solvers;
// nodes may share one.
//
// If a node does not fit, the error names it and says why. An option out of its range returns a *pnm.ValueError. After an error, nothing
// has been written.
func (s *Solver) Step(model []gorgonia.ValueGrad) error {
	s.report = pnm.Report{}
	if err := s.follow(model); err != nil {
		return err
	}
	defer clear(s.grads)
	o := s.Options
	o.ZeroGrads = !s.shared
	for i := range s.nodes {
		n := &s.nodes[i]
		g, writable, err := gradOf(n)
		if err != nil {
			return ofNode(n.name, err)
		}
		s.grads[n.tensor] = g
		s.writable[n.tensor] = writable
		o.ZeroGrads = o.ZeroGrads && writable
	}

	report, err := s.opt.Step(o, s.grads)
	if overlap, ok := errors.AsType[*pnm.OverlapError](err); ok && overlap.Arg == "grads" && overlap.OtherArg == "grads" {
		// If the machine does not bind dual values, the nodes of a sum share a gradient. It counts for each of them.
		s.shared = true
		o.ZeroGrads = false
		report, err = s.opt.Step(o, s.grads)
	}
	if err != nil {
		return err
	}
	s.report = report
	if !o.ZeroGrads {
		for i, g := range s.grads {
			if s.writable[i] {
				g.Clear()
			}
		}
	}
	return nil
}

// follow compares a model with the solver's nodes, and makes the optimizer update the nodes' current values.
func (s *Solver) follow(model []gorgonia.ValueGrad) error {
	if len(model) != len(s.nodes) {
		return s.wrongLength(model)
	}
	for i, v := range model {
		n := &s.nodes[i]
		if name := n.nameIn(v, i); name != n.name {
			return ofNode(name, fmt.Errorf("number %d of the model was %q before: the nodes must be the same in the same order", i, n.name))
		}
		x, err := valueOf(v)
		if err != nil {
			return ofNode(n.name, err)
		}
		if !slices.Equal(x.shape, n.shape) {
			return ofNode(n.name, fmt.Errorf("its shape is %v, was %v before", x.shape, n.shape))
		}
		s.values[n.tensor] = x.elements
	}
	for i, v := range model {
		s.nodes[i].ValueGrad = v
	}
	if slices.Equal(s.values, s.params) {
		return nil
	}
	if err := s.opt.SetParams(s.values, nil); err != nil {
		return err
	}
	copy(s.params, s.values)
	return nil
}

// Report returns the report of the last step: its gradient norm, and whether it was skipped. It is zero if that step failed.
func (s *Solver) Report() pnm.Report { return s.report }

// LR returns the learning rate of a group, or 0 if there is no such group.
func (s *Solver) LR(group int) float64 { return s.opt.LR(group) }

// SetLR sets the learning rate of all groups from the next step on. Its errors are those of [optim.Optimizer.SetLR].
func (s *Solver) SetLR(lr float64) error { return s.opt.SetLR(lr) }

// SetGroupLR is [optim.Optimizer.SetGroupLR].
func (s *Solver) SetGroupLR(group int, lr float64) error { return s.opt.SetGroupLR(group, lr) }

// Groups returns the number of groups: 1, unless [NewSolverFor] found several rules.
func (s *Solver) Groups() int { return s.opt.Groups() }

// Rule returns the rule of a group, or nil if there is no such group.
func (s *Solver) Rule(group int) pnm.Rule { return s.opt.Rule(group) }

// SetRule replaces the rule of a group from the next step on. Its errors are those of [optim.Optimizer.SetRule].
func (s *Solver) SetRule(group int, r pnm.Rule) error { return s.opt.SetRule(group, r) }

// State returns a copy of the state of all nodes, in the model's order, with the names that the authors' implementation or torch uses.
// After Close it returns optim.ErrClosed.
func (s *Solver) State() ([]optim.TensorState, error) {
	state, err := s.opt.State()
	if err != nil {
		return nil, err
	}
	ordered := make([]optim.TensorState, len(state))
	for i, n := range s.nodes {
		ordered[i] = state[n.tensor]
	}
	return ordered, nil
}

// SetState replaces the state of all nodes by a copy of states, which are in the model's order. Its errors are those of
// [optim.Optimizer.SetState]; the solver is unchanged then.
func (s *Solver) SetState(states []optim.TensorState) error {
	return s.opt.SetState(inTensorOrder(s, states))
}

// Close gives the memory of the state back to the system. Later steps return optim.ErrClosed. The garbage collector eventually
// frees a solver that was not closed.
func (s *Solver) Close() { s.opt.Close() }

// inTensorOrder reorders a list from the model's order to the optimizer's. It returns a list of another length unchanged: the optimizer
// refuses it.
func inTensorOrder[E any](s *Solver, list []E) []E {
	if len(list) != len(s.nodes) {
		return list
	}
	ordered := make([]E, len(list))
	for i, x := range list {
		ordered[s.nodes[i].tensor] = x
	}
	return ordered
}
