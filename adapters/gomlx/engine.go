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

// A binding is a variable and the memory of its value, which the engine updates.
type binding struct {
	variable *model.Variable
	group    int
	values   pnm.Vector
}

// ofVariable returns err as an error of a variable.
func ofVariable(path string, err error) error {
	return fmt.Errorf("pnmgomlx: variable %q: %w", path, err)
}

// bind makes the engine update the memory that now has the values of these variables, and of those it knows already. That memory
// changes at the first step of a graph, and when others move a variable's value or set a new one.
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

// with returns the engine's variables that are still in the store, and the new ones, in the order of their groups, without their memory.
// A variable keeps its group, even if Match would now answer differently.
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

// check reports a variable that the engine cannot update. The variables are in the order of their groups.
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

// share moves the variable's value to a buffer of the backend that Go can write, and takes a reference to it. A backend without such
// buffers drops its own copy of the value, and makes a new one when it next runs a graph, which is after the step.
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
	// The value does not move within a step: no graph that trains it gets its buffer to write.
	return value.MutableFlatData(func(flat any) { b.values = vectorOf(flat) })
}

// vectorOf returns a []float32 or []float64 as a vector.
func vectorOf(flat any) pnm.Vector {
	if x, ok := flat.([]float64); ok {
		return pnm.Float64(x)
	}
	return pnm.Float32(flat.([]float32))
}

// rebuild replaces the engine by one for other variables, in the order of their groups, with the states by their paths.
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

// State returns a copy of the state of all variables that have been updated, with their paths ("/dense/weights") as keys. With this state
// and the values of all variables, a later run continues bit-identically.
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

// SetState replaces the state of all variables by a copy of states, which must have exactly the variables that have been updated. Before
// the first step, use [Optimizer.Load]. The errors are those of [optim.Optimizer.SetState]; the optimizer is unchanged then.
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
