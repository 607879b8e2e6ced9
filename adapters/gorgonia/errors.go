package pnmgorgonia

import (
	"fmt"

	"gorgonia.org/gorgonia"
)

// ofNode returns err as an error of a node of the model.
func ofNode(name string, err error) error { return fmt.Errorf("pnmgorgonia: node %q: %w", name, err) }

// wrongLength reports a model that has more or fewer nodes than before, and names the first node that is new or missing.
func (s *Solver) wrongLength(model []gorgonia.ValueGrad) error {
	for i := range max(len(model), len(s.nodes)) {
		switch {
		case i == len(model):
			return ofNode(s.nodes[i].name, fmt.Errorf("is missing: the model has %d nodes, had %d before", len(model), len(s.nodes)))
		case i == len(s.nodes), s.nodes[i].nameIn(model[i], i) != s.nodes[i].name:
			return ofNode(nameOf(model[i], i), fmt.Errorf("is not where it was: the model has %d nodes, had %d before",
				len(model), len(s.nodes)))
		}
	}
	return nil
}
