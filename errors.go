package pnm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrBusy is the error of a call on a [List] or on an optimizer of package optim, if another call on the same List or optimizer is still
// running. The refused call has done nothing.
var ErrBusy = errors.New("pnm: a call of another goroutine is still running: call from one goroutine at a time")

// A TensorError reports which tensor of a list an error is about.
type TensorError struct {
	Tensor int    // its index in the list, or in the optimizer
	Name   string // its name in an optimizer; "" in a list
	Err    error
}

func (e *TensorError) Error() string {
	return fmt.Sprintf("pnm: %s: %s", tensorName(e.Tensor, e.Name), withoutPrefix(e.Err))
}

func (e *TensorError) Unwrap() error { return e.Err }

// tensorName names a tensor in an error.
func tensorName(i int, name string) string {
	if name == "" || name == strconv.Itoa(i) {
		return fmt.Sprintf("tensor %d", i)
	}
	return fmt.Sprintf("tensor %d (%s)", i, strconv.Quote(name))
}

// A ValueError reports a number that is out of its legal range, such as a field of a rule, of options or of an update.
type ValueError struct {
	Of    string  // what the field belongs to: the rule's name, "Options", "Update", …
	Field string  // "Beta1"; a product such as "LR·WeightDecay" if only that is too large; "Beta1, Beta2 and Eps" if all of them are 0
	Value float64 // the offending value; the coefficient computed from it, if Legal mentions one; the norm, for Squares
	Legal string  // the legal range: "in [0, 1)"
}

func (e *ValueError) Error() string {
	is := "is"
	switch {
	case strings.HasPrefix(e.Legal, "nil"):
		return fmt.Sprintf("pnm: %s.%s is set, must be %s", e.Of, e.Field, e.Legal)
	case strings.Contains(e.Legal, "coefficient"):
		is = "leads to"
	case strings.Contains(e.Field, " and "):
		is = "are"
	}
	return fmt.Sprintf("pnm: %s.%s %s %v, must be %s", e.Of, e.Field, is, e.Value, e.Legal)
}

// A LengthError reports a slice or a [Vector] that is not as long as its parameters, or a list whose length is not the number of
// tensors or of state buffers.
type LengthError struct {
	Arg  string // the slice: "grads", "exp_avg", "copy", …; or the list: "gradients", …
	Len  int    // its length
	Want int    // the length that it must have
}

func (e *LengthError) Error() string {
	return fmt.Sprintf("pnm: length of %s is %d, must be %d", e.Arg, e.Len, e.Want)
}

// A FormatError reports a [Vector] whose format is not allowed for its argument.
type FormatError struct {
	Arg    string // the vector: "grads", "exp_avg", …
	Format string // its format
	Want   string // the formats that are allowed
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("pnm: the format of %s is %s, must be %s", e.Arg, e.Format, e.Want)
}

// An OverlapError reports two slices or vectors that share memory.
type OverlapError struct {
	Arg, OtherArg string   // the two: "params", "exp_avg", …
	Elements      int      // how many elements they share
	Tensors       []int    // the indices of their two tensors in the list; nil if both belong to the same tensor
	Names         []string // the names of the two tensors in an optimizer; nil in a list
}

func (e *OverlapError) Error() string {
	of := [2]string{}
	for i, t := range e.Tensors {
		name := ""
		if e.Names != nil {
			name = e.Names[i]
		}
		of[i] = " of " + tensorName(t, name)
	}
	return fmt.Sprintf("pnm: %s%s and %s%s share %d elements in memory", e.Arg, of[0], e.OtherArg, of[1], e.Elements)
}

// An ISAError reports that the environment variable PNM_ISA names an implementation that is unknown, or that this machine or build
// does not have.
type ISAError struct {
	Pin       string   // the value of PNM_ISA
	Available []string // the values that it may have
}

func (e *ISAError) Error() string {
	return fmt.Sprintf("pnm: PNM_ISA is %q, must be one that this machine and build have (%s), or empty for the best of these",
		e.Pin, strings.Join(e.Available, ", "))
}

// withoutPrefix returns an error's text without the package's name.
func withoutPrefix(err error) string { return strings.TrimPrefix(err.Error(), "pnm: ") }
