package pnmgomlx

import (
	"fmt"
	"strings"

	"github.com/posneg/pnm"
)

// A VariableError reports a variable that an [Optimizer] cannot work with. It wraps pnm's error where there is one, without the
// number that the engine gave to the variable.
type VariableError struct {
	Path string // "/dense/weights"
	Err  error
}

func (e *VariableError) Error() string {
	return fmt.Sprintf("pnmgomlx: variable %q: %s", e.Path, strings.TrimPrefix(e.Err.Error(), "pnm: "))
}

func (e *VariableError) Unwrap() error { return e.Err }

// named puts the paths of variables into an error of the engine that has their numbers there.
func named(err error, variables []*binding) error {
	path := func(tensor int) string { return variables[tensor].variable.Path() }
	switch e := err.(type) {
	case *pnm.LengthError:
		if e.Tensor >= 0 {
			return &VariableError{path(e.Tensor), &pnm.LengthError{Tensor: -1, Arg: e.Arg, Len: e.Len, Want: e.Want}}
		}
	case *pnm.FormatError:
		return &VariableError{path(e.Tensor), &pnm.FormatError{Tensor: -1, Arg: e.Arg, Format: e.Format, Want: e.Want}}
	case *pnm.StateError:
		return &VariableError{path(e.Tensor), &pnm.StateError{Tensor: -1, Name: e.Name, Problem: e.Problem}}
	case *pnm.OverlapError:
		return &VariableError{path(e.Tensor), fmt.Errorf("%s and %s of %q share %d elements in memory: give each a tensor of its own",
			what(e.Arg), what(e.OtherArg), path(e.OtherTensor), e.Elements)}
	}
	return err
}

// what is GoMLX's word for an argument of a step.
func what(arg string) string {
	if arg == "grads" {
		return "the gradient"
	}
	return "the value"
}
