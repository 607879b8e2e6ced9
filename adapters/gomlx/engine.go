package pnmgomlx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
)

// A binding is a variable with the memory that the engine updates.
type binding struct {
	variable *model.Variable
	group    int
	values   pnm.Vector
}

// ofVariable returns an error as one of a variable.
func ofVariable(path string, err error) error {
	return fmt.Errorf("pnmgomlx: variable %q: %w", path, err)
}

// bind sees to it that the engine updates the memory in which the variables, and those it knows already, now have their values.
// That changes at the first step of a graph, and after somebody else has moved a variable's value or given it another.
func (o *Optimizer) bind(variables []*model.Variable) error {
	now := o.with(variables)
	if err := o.check(now); err != nil {
		return err
	}
	params := make([]pnm.Vector, len(now))
	for i, b := range now {
		if err := b.share(o); err != nil {
			return ofVariable(b.variable.Path(), err)
		}
		params[i] = b.values
	}
	same := func(a, b *binding) bool { return *a == *b }
	samePath := func(a, b *binding) bool { return a.variable.Path() == b.variable.Path() }
	switch {
	case slices.EqualFunc(now, o.variables, same):
		return nil
	case slices.EqualFunc(now, o.variables, samePath):
		if err := o.engine.SetParams(params, nil); err != nil {
			return err
		}
		o.variables = now
		return nil
	}
	states, err := o.State()
	if err != nil {
		return err
	}
	return o.rebuild(now, states)
}

// with returns the engine's variables that are still in the store, and those that it does not know, in the order of their groups.
// A variable keeps its group: Match may go by what changes. Their memory is yet to be found.
func (o *Optimizer) with(variables []*model.Variable) (now []*binding) {
	for _, b := range o.variables {
		if v := o.store.GetVariable(b.variable.Path()); v != nil {
			now = append(now, &binding{variable: v, group: b.group})
		}
	}
	for _, v := range variables {
		if !slices.ContainsFunc(now, func(b *binding) bool { return b.variable == v }) {
			now = append(now, &binding{variable: v, group: o.group(v)})
		}
	}
	slices.SortStableFunc(now, func(a, b *binding) int { return a.group - b.group })
	return now
}

// check reports variables that the engine cannot update, of those in the order of their groups.
func (o *Optimizer) check(variables []*binding) error {
	for i, b := range variables {
		before := variables[max(i-1, 0)]
		var problem error
		switch d, other := b.variable.DType(), before.variable.DType(); {
		case d != dtypes.Float32 && d != dtypes.Float64:
			problem = fmt.Errorf("is %s, must be Float32 or Float64 to be trained: the model can convert its value", d)
		case b.group < 0:
			problem = fmt.Errorf("belongs to none of the %d groups", len(o.groups))
		case b.group == before.group && d != other:
			problem = fmt.Errorf("is %s, must be %s as %q of the same group is", d, other, before.variable.Path())
		default:
			continue
		}
		return ofVariable(b.variable.Path(), problem)
	}
	return nil
}

// group is the index of v's group, or −1.
func (o *Optimizer) group(v *model.Variable) int {
	return slices.IndexFunc(o.groups, func(g Group) bool { return g.Match == nil || g.Match(v) })
}

// share puts the variable's value into a buffer of the backend that Go can write, and gets hold of it. A backend without such
// buffers loses its copy, and makes another when it next runs a graph, which is after the step.
func (b *binding) share(o *Optimizer) error {
	if !b.variable.HasValue() {
		return errors.New("has no value: set one, or delete the variable from the store")
	}
	value, err := b.variable.Value()
	if err != nil {
		return err
	}
	if o.backend.HasSharedBuffers() && !value.IsShared() {
		if err := value.ToLocal(); err != nil {
			return err
		}
		if err := value.MaterializeOnDevice(o.backend, true, 0); err != nil {
			return err
		}
	}
	// Nobody moves the value within a step: no graph that trains it is given its buffer to write.
	return value.MutableFlatData(func(flat any) { b.values = vectorOf(flat) })
}

// vectorOf returns a []float32 or []float64 as a vector.
func vectorOf(flat any) pnm.Vector {
	if x, ok := flat.([]float64); ok {
		return pnm.Float64(x)
	}
	return pnm.Float32(flat.([]float32))
}

// rebuild replaces the engine by one over other variables, in the order of their groups, with the state that they have by their
// paths.
func (o *Optimizer) rebuild(variables []*binding, states map[string]optim.TensorState) error {
	if o.closed {
		return optim.ErrClosed
	}
	groups := make([]optim.Group, len(o.groups))
	for i := range groups {
		groups[i].Rule = o.engine.Rule(i)
	}
	list := make([]optim.TensorState, len(variables))
	for i, b := range variables {
		path, g := b.variable.Path(), &groups[b.group]
		g.Params, g.Names = append(g.Params, b.values), append(g.Names, path)
		list[i] = states[path]
	}
	e, err := optim.New(groups...)
	if err != nil {
		return err
	}
	if err := e.SetState(list); err != nil {
		e.Close()
		return err
	}
	o.engine.Close()
	o.engine, o.variables = e, variables
	return nil
}

// State returns a copy of the state of all variables that had a step, by their paths ("/dense/weights"). Together with the values
// of all variables it is what a later run needs to continue with the same bits.
func (o *Optimizer) State() (map[string]optim.TensorState, error) {
	list, err := o.engine.State()
	if err != nil {
		return nil, err
	}
	states := make(map[string]optim.TensorState, len(list))
	for i, path := range o.engine.Names() {
		states[path] = list[i]
	}
	return states, nil
}

// SetState replaces the state of all variables by a copy of states. It needs the same variables as the optimizer has had steps
// of; before the first step use [Optimizer.Load]. It fails as [optim.Optimizer.SetState] does, and the optimizer is then as it
// was.
func (o *Optimizer) SetState(states map[string]optim.TensorState) error {
	paths := o.engine.Names()
	list := make([]optim.TensorState, len(paths))
	for i, path := range paths {
		s, ok := states[path]
		if !ok {
			return ofVariable(path, errors.New("the state is missing"))
		}
		list[i] = s
	}
	if len(states) != len(list) {
		return fmt.Errorf("pnmgomlx: there are states of %d variables, must be of %d", len(states), len(list))
	}
	return o.engine.SetState(list)
}
