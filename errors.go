package pnm

import (
	"errors"
	"fmt"
	"strings"
)

// A HyperparameterError reports a field of a rule, or of options, that is out of its legal range.
type HyperparameterError struct {
	Rule  string  // "PNM", "AdaPNM", "SGD", "Adam", "Options", "LossScaler"
	Field string  // "Beta1"; a product such as "LR·WeightDecay" if only that is too large; "Beta1, Beta2 and Eps" if these are all 0
	Value float64 // the offending value, or the coefficient that it leads to if Legal speaks of one
	Legal string  // the legal range: "in [0, 1)"
}

func (e *HyperparameterError) Error() string {
	is := "is"
	switch {
	case strings.Contains(e.Legal, "coefficient"):
		is = "leads to"
	case strings.Contains(e.Field, " and "):
		is = "are"
	}
	return fmt.Sprintf("pnm: %s.%s %s %v, must be %s", e.Rule, e.Field, is, e.Value, e.Legal)
}

// A StepError reports a step number below 1. Steps are counted from 1, for each tensor on its own.
type StepError struct {
	Step int
}

func (e *StepError) Error() string {
	return fmt.Sprintf("pnm: step is %d, must be ≥ 1", e.Step)
}

// A LengthError reports a slice or a [Vector] whose length differs from that of the parameters it belongs to, or a list whose
// length differs from the number of tensors, or of what a rule has for state.
type LengthError struct {
	Tensor int    // index of the tensor in its optimizer, -1 in a drop-in call or for a list
	Arg    string // the slice: "grads", "exp_avg", "copy", …; or the list: "gradients", "tensor states", "copies", …
	Len    int    // its length
	Want   int    // the length that it should have
}

func (e *LengthError) Error() string {
	return fmt.Sprintf("pnm: %slength of %s is %d, must be %d", of(e.Tensor), e.Arg, e.Len, e.Want)
}

// A FormatError reports a [Vector] in a format that its place cannot have.
type FormatError struct {
	Tensor int    // index of the tensor in its optimizer, -1 in a drop-in call
	Arg    string // the vector: "grads", "exp_avg", …
	Format string // its format
	Want   string // what it may have
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("pnm: %sthe format of %s is %s, must be %s", of(e.Tensor), e.Arg, e.Format, e.Want)
}

// An OverlapError reports two slices, or vectors, that share memory.
type OverlapError struct {
	Tensor, OtherTensor int    // indices of the tensors in their optimizer or list; -1 in a drop-in call and within one tensor of a list
	Arg, OtherArg       string // the two slices: "params", "exp_avg", …
	Elements            int    // how many elements they share
}

func (e *OverlapError) Error() string {
	return fmt.Sprintf("pnm: %s%s and %s%s share %d elements in memory",
		of(e.Tensor), e.Arg, of(e.OtherTensor), e.OtherArg, e.Elements)
}

// A TensorError reports the number of a tensor that an optimizer does not have.
type TensorError struct {
	Tensor  int
	Tensors int // how many it has
}

func (e *TensorError) Error() string {
	return fmt.Sprintf("pnm: there is no tensor %d, the optimizer has %d", e.Tensor, e.Tensors)
}

// A RangeError reports elements of a tensor that cannot have their part of a step, or have not had it where a complete step
// is needed. See [Optimizer.StepPart].
type RangeError struct {
	Tensor  int    // index of the tensor in its optimizer
	Step    int    // the step that the part was for, or that is incomplete
	Lo, Hi  int    // the elements Lo … Hi−1
	Problem string // what is wrong with them
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("pnm: %sstep %d: elements [%d, %d) %s", of(e.Tensor), e.Step, e.Lo, e.Hi, e.Problem)
}

// ErrBusy is what a call on an optimizer returns, having done nothing, if another goroutine's call is running: see [Optimizer].
var ErrBusy = errors.New("pnm: the optimizer is busy with a call of another goroutine: let one goroutine at a time call it")

// ErrClosed is what calls on a closed optimizer return.
var ErrClosed = errors.New("pnm: the optimizer has been closed")

// A StateError reports an imported state that does not fit its tensor.
type StateError struct {
	Tensor  int    // index of the tensor in its optimizer
	Name    string // the official name of the entry: "step", "exp_avg", …
	Problem string
}

func (e *StateError) Error() string {
	return fmt.Sprintf("pnm: %sstate %q %s", of(e.Tensor), e.Name, e.Problem)
}

// A GroupError reports an error in a parameter group of an optimizer.
type GroupError struct {
	Group int // index of the group
	Err   error
}

func (e *GroupError) Error() string {
	return fmt.Sprintf("pnm: group %d: %s", e.Group, withoutPrefix(e.Err))
}

func (e *GroupError) Unwrap() error { return e.Err }

// An UpdateError reports an error in an update of a list.
type UpdateError struct {
	Tensor int // its index in the list
	Err    error
}

func (e *UpdateError) Error() string { return "pnm: " + of(e.Tensor) + withoutPrefix(e.Err) }

func (e *UpdateError) Unwrap() error { return e.Err }

// An ISAError reports that the environment variable PNM_ISA names an implementation that is unknown or that this machine
// or build does not have.
type ISAError struct {
	Pin       string   // the value of PNM_ISA
	Available []string // what it could be
}

func (e *ISAError) Error() string {
	return fmt.Sprintf("pnm: PNM_ISA is %q, but must be one of those that this machine and build have: %s, or empty for the last of them",
		e.Pin, strings.Join(e.Available, ", "))
}

// withoutPrefix is what an error says behind the package's name.
func withoutPrefix(err error) string { return strings.TrimPrefix(err.Error(), "pnm: ") }

// of names a tensor in front of what is said of it.
func of(tensor int) string {
	if tensor < 0 {
		return ""
	}
	return fmt.Sprintf("tensor %d: ", tensor)
}
