package pnmgorgonia

import (
	"fmt"
	"strings"

	"github.com/posneg/pnm"
	"gorgonia.org/gorgonia"
)

// A NodeError reports a node of a model that a [Solver] cannot work with. It wraps pnm's error where there is one, without the
// number that the engine gave to the node.
type NodeError struct {
	Node string // its name; its number in the model, from 0, if it has none
	Err  error
}

func (e *NodeError) Error() string {
	return fmt.Sprintf("pnmgorgonia: node %q: %s", e.Node, strings.TrimPrefix(e.Err.Error(), "pnm: "))
}

func (e *NodeError) Unwrap() error { return e.Err }

// named puts the names of nodes into an error of the engine that has their numbers there.
func (s *Solver[T]) named(err error) error {
	switch e := err.(type) {
	case *pnm.LengthError:
		if e.Tensor >= 0 {
			return &NodeError{s.names[e.Tensor], &pnm.LengthError{Tensor: -1, Arg: e.Arg, Len: e.Len, Want: e.Want}}
		}
	case *pnm.StateError:
		return &NodeError{s.names[e.Tensor], &pnm.StateError{Tensor: -1, Name: e.Name, Problem: e.Problem}}
	case *pnm.OverlapError:
		return &NodeError{s.names[e.Tensor], fmt.Errorf("%s and %s of node %q share %d elements in memory",
			what(e.Arg), what(e.OtherArg), s.names[e.OtherTensor], e.Elements)}
	}
	return err
}

// what is Gorgonia's word for an argument of a step.
func what(arg string) string {
	if arg == "grads" {
		return "the gradient"
	}
	return "the value"
}

// wrongLength reports a model that has more nodes or fewer than before, by the first one that is new or missing.
func (s *Solver[T]) wrongLength(model []gorgonia.ValueGrad) error {
	for i := range max(len(model), len(s.nodes)) {
		switch {
		case i == len(model):
			return &NodeError{s.nodes[i].name, fmt.Errorf("is missing: the model has %d nodes, had %d before", len(model), len(s.nodes))}
		case i == len(s.nodes), s.nodes[i].nameIn(model[i], i) != s.nodes[i].name:
			return &NodeError{nameOf(model[i], i), fmt.Errorf("is not where it was: the model has %d nodes, had %d before",
				len(model), len(s.nodes))}
		}
	}
	return nil
}
