package optim

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/posneg/pnm"
)

// A TensorState is the state of one tensor, with the names that the official implementation (the authors' or
// torch's) uses in state_dict()["state"].
type TensorState struct {
	// Step is the number of steps done ("step"). Its parity tells which of the two momenta is due next, so save and restore
	// it together with them. Torch's SGD does not count steps: for its momentum_buffer, any Step ≥ 1 is right.
	Step int

	// Buffers has a vector, as long as the tensor, for each name in the rule's [pnm.Rule.State]. It may be empty if Step is 0: official
	// code creates the state of a tensor at its first step.
	Buffers map[string]pnm.Vector
}

// State returns a copy of the state of all tensors, in the optimizer's order and in its formats. With the state, the parameters and the
// rules, a later run continues bit-identically: see [Optimizer.SetState]. Stochastic rounding has no state of its own: the later run
// needs the same seed.
//
// It returns a *PartError while a step of [Optimizer.StepPart] is incomplete, and [ErrClosed] after Close.
func (o *Optimizer) State() ([]TensorState, error) {
	if err := o.calls.beginReading(); err != nil {
		return nil, err
	}
	defer o.calls.endReading()
	if o.closed {
		return nil, ErrClosed
	}
	if err := o.wholeSteps(0, len(o.names)); err != nil {
		return nil, err
	}
	states := make([]TensorState, len(o.names))
	for i := range states {
		u := &o.list.Updates[i]
		states[i] = TensorState{u.Step - 1, make(map[string]pnm.Vector)}
		for k, name := range u.Rule.State() {
			states[i].Buffers[name] = u.State[k].Clone()
		}
	}
	return states, nil
}

// SetState replaces the state of all tensors by a copy of states, which has one state for each tensor, in the optimizer's order. Buffers in
// another format, or in mxfp8 with other rows, are widened or rounded to nearest even; float64 is not converted. SetState drops an
// incomplete step of [Optimizer.StepPart].
//
// SetState returns a *pnm.LengthError for a list or a buffer of a wrong length, a *pnm.FormatError for a format that is not converted,
// and a *StateError for a name that is missing or unknown, or for a step below 0.
func (o *Optimizer) SetState(states []TensorState) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if o.closed {
		return ErrClosed
	}
	if err := o.checkLength("tensor states", len(states)); err != nil {
		return err
	}
	for i, s := range states {
		if err := checkState(&o.list.Updates[i], s); err != nil {
			return o.inTensor(i, err)
		}
	}
	o.restartNoise()
	for i, s := range states {
		u := &o.list.Updates[i]
		u.Step = s.Step + 1
		o.parts.drop(i)
		for k, name := range u.Rule.State() {
			if b, ok := s.Buffers[name]; ok {
				set(u.State[k], b)
			} else {
				u.State[k].Clear()
			}
		}
	}
	return nil
}

// set is [pnm.Vector.Set] for vectors that have been checked.
func set(to, from pnm.Vector) {
	if _, err := to.Set(from); err != nil {
		panic(err)
	}
}

// checkSteps reports a number of steps out of range.
func checkSteps(n int) error {
	switch {
	case n < 0:
		return &StateError{"step", fmt.Sprintf("is %d, must be ≥ 0", n)}
	case n == math.MaxInt:
		return &StateError{"step", fmt.Sprintf("is %d, which no step can follow", n)}
	}
	return nil
}

// checkState reports state that does not fit a tensor.
func checkState(u *pnm.Update, s TensorState) error {
	if err := checkSteps(s.Step); err != nil {
		return err
	}
	if len(s.Buffers) == 0 && s.Step == 0 {
		return nil
	}
	slots := u.Rule.State()
	for _, name := range slices.Sorted(maps.Keys(s.Buffers)) {
		if !slices.Contains(slots, name) {
			return &StateError{name, "is unknown, the rule's state is " + joined(slots)}
		}
	}
	for _, name := range slots {
		b, ok := s.Buffers[name]
		switch {
		case !ok:
			return &StateError{name, "is missing"}
		case b.Len() != u.Params.Len():
			return &pnm.LengthError{Arg: name, Len: b.Len(), Want: u.Params.Len()}
		case (isWide(b) || b.Format() == low16Format) && !isWide(u.Params):
			return &pnm.FormatError{Arg: name, Format: b.Format(), Want: "float32, bf16, f16 or mxfp8"}
		case !isWide(b) && isWide(u.Params):
			return &pnm.FormatError{Arg: name, Format: b.Format(), Want: float64Format}
		}
	}
	return nil
}
