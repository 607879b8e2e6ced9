// Package pnmgorgonia updates the weights of Gorgonia models with pnm. A [Solver] is a gorgonia.Solver: it takes the place of
// Gorgonia's own in a training loop, which stays as it is.
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
	// Gorgonia's tensor package asks for a release of this one that refuses to start on Go 1.20 and newer. The newest asks the
	// runtime instead. That this module requires it is enough: Go takes the newest release that any module of a build requires.
	_ "go4.org/unsafe/assume-no-moving-gc"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// A Solver updates the values of a model's nodes in place, by pnm's rules, and then sets the gradients to zero, as Gorgonia's
// own solvers do. It copies neither, and a step allocates nothing.
//
// Values are *tensor.Dense of float32 or float64 in row-major order, as Gorgonia makes them, or the scalars *gorgonia.F32 and
// *gorgonia.F64. They may move: a node may be bound to another value between two steps (gorgonia.Let), and keeps its state.
// Gradients may be elsewhere at every step.
//
// One Solver must not be used by several goroutines at once.
type Solver struct {
	// Options are what is done around each step: scaling, clipping, skipping; they may change between steps. LossScale is where
	// the batch size goes that gorgonia.WithBatchSize divides by. ZeroGrads is always on.
	Options pnm.Options

	opt      *optim.Optimizer
	nodes    []node
	params   []pnm.Vector // the values that the optimizer updates, in its order, as all that follow
	values   []pnm.Vector // scratch: those that the nodes have now
	grads    []pnm.Vector // scratch
	writable []bool       // scratch: which gradients may be set to zero
	shared   bool         // nodes have had a gradient in common
	report   pnm.Report
}

// A node is what is known of a node of the model.
type node struct {
	gorgonia.ValueGrad
	name   string
	shape  tensor.Shape
	tensor int // its number in the optimizer
}

var _ gorgonia.Solver = (*Solver)(nil)

// NewSolver returns a solver that updates all nodes of a model by one rule of pnm's, as a value. The nodes must have their
// values, all of one type, and different names. An error names the node whose value cannot be updated in place; otherwise it is
// one of [optim.New], which knows the nodes by their names.
func NewSolver(rule pnm.Rule, model []gorgonia.ValueGrad) (*Solver, error) {
	return NewSolverFor(model, func(gorgonia.ValueGrad) pnm.Rule { return rule })
}

// NewSolverFor is [NewSolver] with a rule for each node. Nodes of equal rules form a group, and have values of one type; groups
// are numbered from 0 in the order in which the model has the first node of each.
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

// Step performs one step and sets the gradients to zero. The model has the same nodes in the same order as when the solver was
// made, or nodes of another graph with the same names and shapes. Every node must have a gradient, as in Gorgonia's solvers;
// nodes may share one.
//
// An error names the node that does not fit, and says what is wrong with it; an option out of its range gives a *pnm.ValueError.
// Nothing is written then.
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
		// Nodes of a sum share their gradient, where the machine does not bind dual values. It counts for each of them.
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

// follow compares a model with the solver's nodes, and has the optimizer update the values that they have now.
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

// Report tells what became of the last step: its gradient norm, and whether it was skipped. It is zero if that step failed.
func (s *Solver) Report() pnm.Report { return s.report }

// LR returns the learning rate of a group, or 0 if there is no such group.
func (s *Solver) LR(group int) float64 { return s.opt.LR(group) }

// SetLR sets the learning rate of all groups from the next step on. It fails as [optim.Optimizer.SetLR] does.
func (s *Solver) SetLR(lr float64) error { return s.opt.SetLR(lr) }

// SetGroupLR is [optim.Optimizer.SetGroupLR].
func (s *Solver) SetGroupLR(group int, lr float64) error { return s.opt.SetGroupLR(group, lr) }

// Groups returns the number of groups: 1, unless [NewSolverFor] found several rules.
func (s *Solver) Groups() int { return s.opt.Groups() }

// Rule returns the rule of a group, or nil if there is no such group.
func (s *Solver) Rule(group int) pnm.Rule { return s.opt.Rule(group) }

// SetRule replaces the rule of a group from the next step on. It fails as [optim.Optimizer.SetRule] does.
func (s *Solver) SetRule(group int, r pnm.Rule) error { return s.opt.SetRule(group, r) }

// State returns a copy of the state of all nodes, in the model's order, under the names of the authors' implementation or
// torch's. After Close it fails with optim.ErrClosed.
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

// SetState replaces the state of all nodes by a copy of a state in the model's order. It fails as [optim.Optimizer.SetState]
// does, and the solver is then as it was.
func (s *Solver) SetState(states []optim.TensorState) error {
	return s.opt.SetState(inTensorOrder(s, states))
}

// Close gives the memory of the state back to the system; a step then fails with optim.ErrClosed. The garbage collector
// eventually frees a solver that was not closed.
func (s *Solver) Close() { s.opt.Close() }

// inTensorOrder returns what is listed in the model's order in that of the optimizer. It leaves a list of another length to the
// optimizer to refuse.
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
