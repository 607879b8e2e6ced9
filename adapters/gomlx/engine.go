package pnmgomlx

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/posneg/pnm"
)

// An engine is a *pnm.Optimizer, whatever its element type.
type engine interface {
	Rule(group int) pnm.Rule
	SetRule(group int, r pnm.Rule) error
	SetLR(lr float64, groups ...int) error
	Save(path string, s pnm.SaveOptions) error
	SaveTo(w io.Writer, s pnm.SaveOptions) error
	Load(path string, l pnm.LoadOptions) (pnm.CheckpointInfo, error)
	LoadFrom(r io.ReaderAt, size int64, l pnm.LoadOptions) (pnm.CheckpointInfo, error)
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
	group    int
	flat     any // a []float32 or []float64
}

// bind sees to it that the engine updates the memory in which the variables, and those it knows already, now have their values.
// That changes at the first step of a graph, and after somebody else has moved a variable's value or given it another.
func (o *Optimizer) bind(variables []*model.Variable) error {
	now := o.with(variables)
	if err := o.check(now); err != nil {
		return err
	}
	changed := len(now) != len(o.variables)
	for i, b := range now {
		if err := b.share(o); err != nil {
			return &VariableError{b.variable.Path(), err}
		}
		changed = changed || b.variable != o.variables[i].variable || !sameMemory(b.flat, o.variables[i].flat)
	}
	if !changed {
		return nil
	}
	states, err := o.State()
	if err != nil {
		return err
	}
	return o.rebuild(now, states)
}

// with returns the engine's variables that are still in the store, in its order, and behind them those that it does not know. A
// variable keeps its group: Match may go by what changes. Their memory is yet to be found.
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
	return now
}

// check reports variables that the engine cannot update.
func (o *Optimizer) check(variables []*binding) error {
	for _, b := range variables {
		var problem error
		switch d, first := b.variable.DType(), variables[0].variable; {
		case d != dtypes.Float32 && d != dtypes.Float64:
			problem = fmt.Errorf("is %s, must be Float32 or Float64 to be trained: the model can convert its value", d)
		case b.group < 0:
			problem = fmt.Errorf("belongs to none of the %d groups", len(o.groups))
		case d != first.DType():
			problem = fmt.Errorf("is %s, must be %s as %q is", d, first.DType(), first.Path())
		default:
			continue
		}
		return &VariableError{b.variable.Path(), problem}
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
	return value.MutableFlatData(func(flat any) { b.flat = flat })
}

func sameMemory(a, b any) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	return x.Type() == y.Type() && x.Len() == y.Len() && x.Pointer() == y.Pointer()
}

// rebuild replaces the engine by one over other variables, with the state that they have by their paths.
func (o *Optimizer) rebuild(variables []*binding, states map[string]pnm.MixedTensorState) error {
	if o.closed {
		return pnm.ErrClosed
	}
	rules := make([]pnm.Rule, len(o.groups))
	params := make([][]any, len(rules))
	members := make([][]*binding, len(rules))
	for i := range rules {
		rules[i] = o.engine.Rule(i)
	}
	for _, b := range variables {
		i := b.group
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
			return &VariableError{b.variable.Path(), errors.New("the state is missing")}
		}
		list[i] = s
	}
	if len(states) != len(list) {
		return fmt.Errorf("pnmgomlx: there are states of %d variables, must be of %d", len(states), len(list))
	}
	return named(o.engine.setState(list), o.variables)
}
