package pnmgorgonia

import (
	"io"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
	"gorgonia.org/gorgonia"
)

// Save writes a checkpoint to a file: the state, the rules and, unless StateOnly is set, the nodes' values. Tensors have the nodes' names.
// They have the nodes' shapes, unless Shapes gives others, in the model's order. The file and the errors are those of
// [optim.Optimizer.Save]; it is also an error if a node's value can no longer be updated in place.
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

// Load replaces the nodes' values (in place), the state and the rules with those of a checkpoint, except for those that the options leave
// out. The continued run gives bit-identical results to an uninterrupted one. Shapes are as in [Solver.Save]. The errors are those of
// [optim.Optimizer.Load]; it is also an error if a node's value can no longer be updated in place.
func (s *Solver) Load(path string, o optim.LoadOptions) (optim.CheckpointInfo, error) {
	return s.load(o, func(o optim.LoadOptions) (optim.CheckpointInfo, error) { return s.opt.Load(path, o) })
}

// LoadFrom is [Solver.Load] from r, which has size bytes.
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

// Fingerprint returns 128 bits that identify the run, under the nodes' names: see [optim.Optimizer.Fingerprint]. It is also an error if a
// node's value can no longer be updated in place.
func (s *Solver) Fingerprint() (pnm.Fingerprint, error) {
	if err := s.refresh(); err != nil {
		return pnm.Fingerprint{}, err
	}
	return s.opt.Fingerprint()
}

// refresh follows the nodes of the last step, whose values may have moved since.
func (s *Solver) refresh() error {
	model := make([]gorgonia.ValueGrad, len(s.nodes))
	for i, n := range s.nodes {
		model[i] = n.ValueGrad
	}
	return s.follow(model)
}

// shapes returns shapes in the optimizer's order: the given ones, which are in the model's order, or else the nodes' own.
func (s *Solver) shapes(given [][]int) [][]int {
	if given == nil {
		for _, n := range s.nodes {
			given = append(given, n.shape)
		}
	}
	return inTensorOrder(s, given)
}
