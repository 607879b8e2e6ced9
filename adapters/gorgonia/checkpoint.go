package pnmgorgonia

import (
	"io"

	"github.com/posneg/pnm"
	"gorgonia.org/gorgonia"
)

// Save writes a checkpoint: the nodes' values, unless StateOnly is set, the state and the rules, in a safetensors file that replaces
// what the path had as a whole. Names and Shapes, if they are nil, are those of the nodes; else they are in the model's order. It
// fails as pnm's Optimizer.Save does, for example if two nodes have the same name, and with a *NodeError where one node is at
// fault.
func (s *Solver[T]) Save(path string, o pnm.SaveOptions) error {
	return s.save(o, func(o pnm.SaveOptions) error { return s.opt.Save(path, o) })
}

// SaveTo is [Solver.Save] to any writer.
func (s *Solver[T]) SaveTo(w io.Writer, o pnm.SaveOptions) error {
	return s.save(o, func(o pnm.SaveOptions) error { return s.opt.SaveTo(w, o) })
}

func (s *Solver[T]) save(o pnm.SaveOptions, write func(pnm.SaveOptions) error) error {
	if err := s.follow(s.model()); err != nil {
		return err
	}
	o.Names, o.Shapes = s.described(o.Names, o.Shapes)
	return s.named(write(o))
}

// Load replaces the nodes' values, which stay where they are, the state and the rules by those of a checkpoint, unless the options
// leave some of these out. The training then continues with the bits of one that was not interrupted. Names and Shapes are as in
// [Solver.Save]. It fails as pnm's Optimizer.Load does, with a *NodeError where one node is at fault.
func (s *Solver[T]) Load(path string, o pnm.LoadOptions) (pnm.CheckpointInfo, error) {
	return s.load(o, func(o pnm.LoadOptions) (pnm.CheckpointInfo, error) { return s.opt.Load(path, o) })
}

// LoadFrom is [Solver.Load] from anything that has so many bytes.
func (s *Solver[T]) LoadFrom(r io.ReaderAt, size int64, o pnm.LoadOptions) (pnm.CheckpointInfo, error) {
	return s.load(o, func(o pnm.LoadOptions) (pnm.CheckpointInfo, error) { return s.opt.LoadFrom(r, size, o) })
}

func (s *Solver[T]) load(o pnm.LoadOptions, read func(pnm.LoadOptions) (pnm.CheckpointInfo, error)) (pnm.CheckpointInfo, error) {
	if err := s.follow(s.model()); err != nil {
		return pnm.CheckpointInfo{}, err
	}
	o.Names, o.Shapes = s.described(o.Names, o.Shapes)
	info, err := read(o)
	return info, s.named(err)
}

// model returns the nodes as they were last seen; their values may have moved since.
func (s *Solver[T]) model() []gorgonia.ValueGrad {
	model := make([]gorgonia.ValueGrad, len(s.nodes))
	for i, n := range s.nodes {
		model[i] = n.ValueGrad
	}
	return model
}

// described returns names and shapes in the optimizer's order: the nodes' own, or those given in the model's order. Lists of a
// wrong length are for the engine to refuse.
func (s *Solver[T]) described(names []string, shapes [][]int) ([]string, [][]int) {
	switch len(names) {
	case 0:
		names = s.names
	case len(s.nodes):
		names = inTensorOrder(s, names)
	}
	switch len(shapes) {
	case 0:
		shapes = make([][]int, len(s.nodes))
		for _, n := range s.nodes {
			shapes[n.tensor] = n.shape
		}
	case len(s.nodes):
		shapes = inTensorOrder(s, shapes)
	}
	return names, shapes
}
