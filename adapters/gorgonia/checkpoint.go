package pnmgorgonia

import (
	"io"

	"github.com/posneg/pnm/optim"
	"gorgonia.org/gorgonia"
)

// Save writes a checkpoint: the nodes' values, unless StateOnly is set, the state and the rules, in a safetensors file that
// replaces what the path had as a whole. Tensors have the nodes' names, and their shapes, unless Shapes gives others in the
// model's order. It fails as [optim.Optimizer.Save] does, and if a node's value can no longer be updated in place.
func (s *Solver) Save(path string, o optim.SaveOptions) error {
	return s.save(o, func(o optim.SaveOptions) error { return s.opt.Save(path, o) })
}

// SaveTo is [Solver.Save] to any writer.
func (s *Solver) SaveTo(w io.Writer, o optim.SaveOptions) error {
	return s.save(o, func(o optim.SaveOptions) error { return s.opt.SaveTo(w, o) })
}

func (s *Solver) save(o optim.SaveOptions, write func(optim.SaveOptions) error) error {
	if err := s.refresh(); err != nil {
		return err
	}
	o.Shapes = s.shapes(o.Shapes)
	return write(o)
}

// Load replaces the nodes' values, which stay where they are, the state and the rules by those of a checkpoint, unless the
// options leave some of these out. The training then continues with the bits of one that was not interrupted. Shapes are as in
// [Solver.Save]. It fails as [optim.Optimizer.Load] does, and if a node's value can no longer be updated in place.
func (s *Solver) Load(path string, o optim.LoadOptions) (optim.CheckpointInfo, error) {
	return s.load(o, func(o optim.LoadOptions) (optim.CheckpointInfo, error) { return s.opt.Load(path, o) })
}

// LoadFrom is [Solver.Load] from anything that has so many bytes.
func (s *Solver) LoadFrom(r io.ReaderAt, size int64, o optim.LoadOptions) (optim.CheckpointInfo, error) {
	return s.load(o, func(o optim.LoadOptions) (optim.CheckpointInfo, error) { return s.opt.LoadFrom(r, size, o) })
}

func (s *Solver) load(o optim.LoadOptions, read func(optim.LoadOptions) (optim.CheckpointInfo, error)) (optim.CheckpointInfo, error) {
	if err := s.refresh(); err != nil {
		return optim.CheckpointInfo{}, err
	}
	o.Shapes = s.shapes(o.Shapes)
	return read(o)
}

// refresh follows the nodes that were last seen, whose values may have moved since.
func (s *Solver) refresh() error {
	model := make([]gorgonia.ValueGrad, len(s.nodes))
	for i, n := range s.nodes {
		model[i] = n.ValueGrad
	}
	return s.follow(model)
}

// shapes returns shapes in the optimizer's order: those given in the model's order or, if there are none, the nodes' own.
func (s *Solver) shapes(given [][]int) [][]int {
	if given == nil {
		for _, n := range s.nodes {
			given = append(given, n.shape)
		}
	}
	return inTensorOrder(s, given)
}
