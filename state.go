package pnm

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// A TensorState is the state of one tensor, with the names that the official implementation (the authors' or
// torch's) uses in state_dict()["state"].
type TensorState[T Float] struct {
	// Step is the number of steps done ("step"). Its parity tells which of the two momenta is due next, so it must be
	// saved and restored together with them. Torch's SGD does not count; for its momentum_buffer any Step ≥ 1 is right.
	Step int

	// Buffers holds, with as many elements as the tensor has,
	//
	//	PNM:    pos_momentum, neg_momentum
	//	AdaPNM: exp_avg, neg_exp_avg, exp_avg_sq and, with AMSGrad, max_exp_avg_sq
	//	SGD:    momentum_buffer, or nothing if Momentum is 0
	//	Adam:   exp_avg, exp_avg_sq and, with AMSGrad, max_exp_avg_sq
	//
	// It may be empty if Step is 0: official code creates the state of a tensor at its first step.
	Buffers map[string][]T
}

// State returns a copy of the state of all tensors, in the optimizer's order. Together with the parameters and the rules
// it is all that a later run needs to continue with the same bits, see [Optimizer.SetState].
//
// It fails with a *RangeError while [Optimizer.StepPart] has done a part of a step, and with [ErrClosed] after Close.
func (o *Optimizer[T]) State() ([]TensorState[T], error) {
	states, err := o.state()
	if err != nil {
		return nil, err
	}
	typed := make([]TensorState[T], len(states))
	for i, s := range states {
		typed[i] = TensorState[T]{s.Step, make(map[string][]T, len(s.Buffers))}
		for name, b := range s.Buffers {
			typed[i].Buffers[name] = sliceOf[T](b)
		}
	}
	return typed, nil
}

func (o *optimizer) state() ([]MixedTensorState, error) {
	if err := o.calls.beginReading(); err != nil {
		return nil, err
	}
	defer o.calls.endReading()
	if o.closed {
		return nil, ErrClosed
	}
	if err := o.wholeSteps(-1); err != nil {
		return nil, err
	}
	states := make([]MixedTensorState, len(o.batch.tensors))
	for i := range o.batch.tensors {
		t := &o.batch.tensors[i]
		states[i] = MixedTensorState{t.step - 1, make(map[string]Vector)}
		for k, name := range forms[t.form].slots {
			states[i].Buffers[name] = t.s[k].clone()
		}
	}
	return states, nil
}

// SetState replaces the state of all tensors by a copy of states, one for each tensor in the optimizer's order. A list of
// the wrong length or a buffer of the wrong length gives a *LengthError; a name that is missing or unknown, or a step
// below 0, a *StateError. The optimizer is then as it was. What [Optimizer.StepPart] has done of an incomplete step no
// longer counts.
func (o *Optimizer[T]) SetState(states []TensorState[T]) error {
	vectors := make([]MixedTensorState, len(states))
	for i, s := range states {
		vectors[i] = MixedTensorState{s.Step, make(map[string]Vector, len(s.Buffers))}
		for name, b := range s.Buffers {
			vectors[i].Buffers[name] = vectorOf(b)
		}
	}
	return o.setState(vectors)
}

func (o *optimizer) setState(states []MixedTensorState) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if o.closed {
		return ErrClosed
	}
	if len(states) != len(o.batch.tensors) {
		return &LengthError{-1, "tensor states", len(states), len(o.batch.tensors)}
	}
	for i, s := range states {
		if err := o.checkState(i, s); err != nil {
			return err
		}
	}
	for i, s := range states {
		t := &o.batch.tensors[i]
		t.step = s.Step + 1
		o.parts.drop(i)
		for k, name := range forms[t.form].slots {
			if b, ok := s.Buffers[name]; ok {
				convert(t.s[k], b)
			} else {
				t.s[k].clear()
			}
		}
	}
	return nil
}

// checkState reports a state that does not fit tensor i.
func (o *optimizer) checkState(i int, s MixedTensorState) error {
	if s.Step < 0 {
		return &StateError{i, "step", fmt.Sprintf("is %d, must be ≥ 0", s.Step)}
	}
	if s.Step == math.MaxInt {
		return &StateError{i, "step", fmt.Sprintf("is %d, which no step can follow", s.Step)}
	}
	if len(s.Buffers) == 0 && s.Step == 0 {
		return nil
	}
	t := &o.batch.tensors[i]
	slots := forms[t.form].slots
	for _, name := range slices.Sorted(maps.Keys(s.Buffers)) {
		if !slices.Contains(slots, name) {
			return &StateError{i, name, "is unknown, the rule's state is " + t.form.state()}
		}
	}
	for _, name := range slots {
		b, ok := s.Buffers[name]
		if !ok {
			return &StateError{i, name, "is missing"}
		}
		if b.n != t.p.n {
			return &LengthError{i, name, b.n, t.p.n}
		}
		if b.format == f64 != t.wide() {
			return &FormatError{i, name, b.format.String(), "float32, bf16 or f16"} // a MixedOptimizer's
		}
	}
	return nil
}
