package pnmgomlx

import (
	"errors"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/posneg/pnm"
)

// An engine is a *pnm.Optimizer, whatever its element type.
type engine interface {
	Rule(group int) pnm.Rule
	SetRule(group int, r pnm.Rule) error
	SetLR(lr float64, groups ...int) error
	Save(path string, s pnm.SaveOptions) error
	Load(path string, l pnm.LoadOptions) (pnm.CheckpointInfo, error)
	Close()

	step(o pnm.Options, grads []any) (pnm.Report, error) // a []T, or nil, for each tensor
	state() ([]pnm.MixedTensorState, error)
	setState([]pnm.MixedTensorState) error
}

type typed[T pnm.Float] struct {
	*pnm.Optimizer[T]
	grads [][]T
}

// newEngine returns one over params: for each rule, a []T for each tensor.
func newEngine[T pnm.Float](c pnm.Config, rules []pnm.Rule, params [][]any) (engine, error) {
	groups := make([]pnm.Group[T], len(rules))
	for i, r := range rules {
		groups[i].Rule = r
		for _, p := range params[i] {
			groups[i].Params = append(groups[i].Params, p.([]T))
		}
	}
	o, err := pnm.NewOptimizerWith(c, groups...)
	if err != nil {
		return nil, err
	}
	return &typed[T]{o, make([][]T, o.Tensors())}, nil
}

func (e *typed[T]) step(o pnm.Options, grads []any) (pnm.Report, error) {
	for i, g := range grads {
		e.grads[i], _ = g.([]T)
	}
	defer clear(e.grads)
	return e.StepWith(o, e.grads)
}

func (e *typed[T]) state() ([]pnm.MixedTensorState, error) {
	states, err := e.State()
	mixed := make([]pnm.MixedTensorState, len(states))
	for i, s := range states {
		mixed[i] = pnm.MixedTensorState{Step: s.Step, Buffers: make(map[string]pnm.Vector, len(s.Buffers))}
		for name, b := range s.Buffers {
			mixed[i].Buffers[name] = vectorOf(b)
		}
	}
	return mixed, err
}

func (e *typed[T]) setState(mixed []pnm.MixedTensorState) error {
	states := make([]pnm.TensorState[T], len(mixed))
	for i, s := range mixed {
		states[i] = pnm.TensorState[T]{Step: s.Step, Buffers: make(map[string][]T, len(s.Buffers))}
		for name, v := range s.Buffers {
			b, ok := sliceOf[T](v)
			if !ok {
				return &pnm.FormatError{Tensor: i, Arg: name, Format: v.Format(), Want: vectorOf[T](nil).Format()}
			}
			states[i].Buffers[name] = b
		}
	}
	return e.SetState(states)
}

func vectorOf[T pnm.Float](x []T) pnm.Vector {
	switch x := any(x).(type) {
	case []float32:
		return pnm.Float32(x)
	case []float64:
		return pnm.Float64(x)
	}
	panic("unreachable")
}

func sliceOf[T pnm.Float](v pnm.Vector) ([]T, bool) {
	if x, ok := any(v.Float32()).([]T); ok {
		return x, v.Format() == "float32"
	}
	x, ok := any(v.Float64()).([]T)
	return x, ok && v.Format() == "float64"
}

// A binding is a variable with the memory that the engine updates.
type binding struct {
	variable *model.Variable
	value    *tensors.Tensor // whose memory flat is
	flat     any
}

// bind sees to it that the engine updates the memory in which the variables, and those it knows already, now have their values.
// It is nothing to do but for the first step of a graph, and after somebody else has given a variable another value.
func (o *Optimizer) bind(variables []*model.Variable) error {
	var now []*binding
	changed := false
	for _, b := range o.variables {
		v := o.store.GetVariable(b.variable.Path())
		if v == nil || !v.HasValue() { // deleted since
			changed = true
			continue
		}
		value, err := v.Value()
		if err != nil {
			return err
		}
		changed = changed || value != b.value
		now = append(now, &binding{variable: v})
	}
	known := make(map[*model.Variable]bool, len(now))
	for _, b := range now {
		known[b.variable] = true
	}
	for _, v := range variables {
		if !known[v] {
			now, changed = append(now, &binding{variable: v}), true
		}
	}
	if !changed {
		return nil
	}
	for _, b := range now {
		if err := b.share(o); err != nil {
			return fmt.Errorf("pnmgomlx: variable %q: %w", b.variable.Path(), err)
		}
	}
	states, err := o.State()
	if err != nil {
		return err
	}
	return o.rebuild(now, states)
}

// share puts the variable's value into a buffer of the backend that Go can write, and gets hold of it. A backend without such
// buffers copies the value to its device when it next runs a graph.
func (b *binding) share(o *Optimizer) error {
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
	b.value = value
	// The buffer stays where it is for as long as the variable has this value: none of its graphs is given it to write.
	return value.MutableFlatData(func(flat any) { b.flat = flat })
}

// rebuild replaces the engine by one over other variables, with the state that they have by their paths.
func (o *Optimizer) rebuild(variables []*binding, states map[string]pnm.MixedTensorState) error {
	rules := make([]pnm.Rule, len(o.groups))
	params := make([][]any, len(rules))
	members := make([][]*binding, len(rules))
	for i := range rules {
		rules[i] = o.engine.Rule(i)
	}
	for _, b := range variables {
		i := o.group(b.variable)
		params[i], members[i] = append(params[i], b.flat), append(members[i], b)
	}
	var ordered []*binding
	var list []pnm.MixedTensorState
	for _, m := range members {
		for _, b := range m {
			ordered, list = append(ordered, b), append(list, states[b.variable.Path()])
		}
	}
	build := newEngine[float64]
	if len(ordered) > 0 && ordered[0].variable.DType() == dtypes.Float32 {
		build = newEngine[float32]
	}
	e, err := build(o.config, rules, params)
	if err != nil {
		return named(err, ordered)
	}
	if err := e.setState(list); err != nil {
		e.Close()
		return named(err, ordered)
	}
	o.engine.Close()
	o.engine, o.variables = e, ordered
	return nil
}

// named puts the path of the variable before an error that has its number.
func named(err error, variables []*binding) error {
	tensor := -1
	var (
		length *pnm.LengthError
		format *pnm.FormatError
		state  *pnm.StateError
	)
	switch {
	case errors.As(err, &length):
		tensor = length.Tensor
	case errors.As(err, &format):
		tensor = format.Tensor
	case errors.As(err, &state):
		tensor = state.Tensor
	}
	if tensor < 0 || tensor >= len(variables) {
		return err
	}
	return fmt.Errorf("pnmgomlx: variable %q: %w", variables[tensor].variable.Path(), err)
}

// State returns a copy of the state of all variables that had a step, by their paths ("/dense/weights"). Together with the values
// of all variables it is what a later run needs to continue with the same bits.
func (o *Optimizer) State() (map[string]pnm.MixedTensorState, error) {
	list, err := o.engine.state()
	if err != nil {
		return nil, err
	}
	states := make(map[string]pnm.MixedTensorState, len(list))
	for i, s := range list {
		states[o.variables[i].variable.Path()] = s
	}
	return states, nil
}

// SetState replaces the state of all variables by a copy of states. It needs the same variables as the optimizer has had steps
// of; before the first step use [Optimizer.Load]. Buffers have the variables' type, and otherwise errors are those of
// [pnm.Optimizer.SetState], and name the variable. The optimizer is then as it was.
func (o *Optimizer) SetState(states map[string]pnm.MixedTensorState) error {
	list := make([]pnm.MixedTensorState, len(o.variables))
	for i, b := range o.variables {
		s, ok := states[b.variable.Path()]
		if !ok {
			return fmt.Errorf("pnmgomlx: the state of variable %q is missing", b.variable.Path())
		}
		list[i] = s
	}
	if len(states) != len(list) {
		return fmt.Errorf("pnmgomlx: there are states of %d variables, must be of %d", len(states), len(list))
	}
	return named(o.engine.setState(list), o.variables)
}
