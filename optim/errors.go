package optim

import (
	"errors"
	"fmt"
	"strings"

	"github.com/posneg/pnm"
)

// ErrClosed is the error of calls on a closed optimizer.
var ErrClosed = errors.New("optim: the optimizer has been closed")

// ErrChecksum is wrapped by the error of a damaged checkpoint: its content differs from what was written.
var ErrChecksum = errors.New("the checksum differs: the file is damaged")

// ErrFingerprint is wrapped by the error of a checkpoint whose content does not have [LoadOptions].Fingerprint: it is of another run, or of
// another step.
var ErrFingerprint = errors.New("the fingerprint differs")

// A StateError reports imported state that does not fit its tensor. A [pnm.TensorError] wraps it.
type StateError struct {
	Name    string // the official name of the entry: "step", "exp_avg", …
	Problem string
}

func (e *StateError) Error() string { return fmt.Sprintf("state %q %s", e.Name, e.Problem) }

// A PartError reports elements of a tensor that cannot be updated in this part of a step, or that must be updated before a call that needs
// a complete step: see [Optimizer.StepPart]. A [pnm.TensorError] wraps it.
type PartError struct {
	Step    int    // the step of the part, or the incomplete step
	Lo, Hi  int    // the elements Lo … Hi−1
	Problem string // what is wrong with them
}

func (e *PartError) Error() string {
	return fmt.Sprintf("step %d: elements [%d, %d) %s", e.Step, e.Lo, e.Hi, e.Problem)
}

// A located error says where another error happened.
type located struct {
	text string
	err  error
}

func (e *located) Error() string { return e.text }

func (e *located) Unwrap() error { return e.err }

// at returns err with a place in front of its text.
func at(where string, err error) error {
	said := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "pnm: "), "optim: ")
	return &located{where + ": " + said, err}
}

// inGroup returns err as an error of a group.
func inGroup(group int, err error) error { return at(fmt.Sprintf("optim: group %d", group), err) }

// inTensor returns err as an error of a tensor.
func (o *Optimizer) inTensor(i int, err error) error {
	return &pnm.TensorError{Tensor: i, Name: o.names[i], Err: err}
}

// checkTensor reports a tensor number out of range.
func (o *Optimizer) checkTensor(i int) error {
	if i < 0 || i >= len(o.names) {
		return &pnm.TensorError{Tensor: i, Err: fmt.Errorf("there is no such tensor, the optimizer has %d", len(o.names))}
	}
	return nil
}

// named adds the names of the tensors to an error of the engine.
func named(err error, names []string) error {
	if e := (*pnm.TensorError)(nil); errors.As(err, &e) {
		e.Name = names[e.Tensor]
	}
	if e := (*pnm.OverlapError)(nil); errors.As(err, &e) {
		for _, i := range e.Tensors {
			e.Names = append(e.Names, names[i])
		}
	}
	return err
}
