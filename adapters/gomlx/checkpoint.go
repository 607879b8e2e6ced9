package pnmgomlx

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/posneg/pnm/optim"
)

// SaveOptions tell how [Optimizer.Save] writes a run. The zero value writes all of it.
type SaveOptions struct {
	StateOnly bool              // leave the trainable variables out
	Metadata  map[string]string // the caller's own. No key begins with "posneg." or "gomlx."
}

// LoadOptions tell what [Optimizer.Load] takes. The zero value takes all of a run.
type LoadOptions struct {
	StateOnly  bool // leave the variables as they are: they must be of the file's global step
	KeepRules  bool // keep the rules that the optimizer has, instead of the file's
	Unverified bool // do not compare checksums: for what is left in a damaged file
}

// The key of metadata under which files have GoMLX's global step.
const globalStepKey = "gomlx.global_step"

// Save writes the trainable variables, the state, the rules and GoMLX's global step to a file, as [optim.Optimizer.Save] does and with
// its errors; tensors are called by their variables' paths. It fails if no step was done yet, or loaded.
//
// Variables that are not trainable (averages of batch normalization, the state of random numbers, metrics) are not in the file. A
// model that has them is saved by GoMLX's checkpoint handler, and its optimizer's state, with StateOnly, at the same step by
// Save.
func (o *Optimizer) Save(path string, s SaveOptions) error {
	return o.save(s, func(s optim.SaveOptions) error { return o.engine.Save(path, s) })
}

// SaveTo is [Optimizer.Save] to any writer.
func (o *Optimizer) SaveTo(w io.Writer, s SaveOptions) error {
	return o.save(s, func(s optim.SaveOptions) error { return o.engine.SaveTo(w, s) })
}

func (o *Optimizer) save(s SaveOptions, write func(optim.SaveOptions) error) error {
	if err := o.bind(nil); err != nil {
		return err
	}
	if len(o.variables) == 0 {
		return errors.New("pnmgomlx: there is nothing to save before the first step")
	}
	meta := maps.Clone(s.Metadata)
	if meta == nil {
		meta = make(map[string]string)
	}
	if _, ok := meta[globalStepKey]; ok {
		return fmt.Errorf("pnmgomlx: metadata %q: the key is reserved", globalStepKey)
	}
	step, err := o.globalStep()
	if err != nil {
		return err
	}
	meta[globalStepKey] = strconv.FormatInt(step, 10)
	return write(optim.SaveOptions{Shapes: o.shapes(), StateOnly: s.StateOnly, Metadata: meta})
}

// shapes returns the shapes of the engine's tensors.
func (o *Optimizer) shapes() (all [][]int) {
	for _, b := range o.variables {
		all = append(all, append([]int{}, b.variable.Shape().Dimensions...)) // never nil, which is no shape
	}
	return all
}

// Load replaces the trainable variables, the state, the rules and GoMLX's global step by those of a file that [Optimizer.Save] wrote. A
// run that continues from there gives the bits of one that was not interrupted. Before the first step the file tells which variables
// there are, and Load creates those that the store does not have: the model then finds them. It comes before [train.NewLoop], which
// reads the global step.
//
// With StateOnly the store must have the variables, from GoMLX's checkpoint handler, and be of the file's global step. Otherwise, for a
// file without variables unless StateOnly is set, and where [optim.Optimizer.Load] does, Load fails, and has written nothing.
func (o *Optimizer) Load(path string, l LoadOptions) (optim.CheckpointInfo, error) {
	if o.closed {
		return optim.CheckpointInfo{}, optim.ErrClosed
	}
	info, err := optim.ReadCheckpoint(path)
	if err != nil {
		return info, err
	}
	return o.load(" "+path, info, l, func(l optim.LoadOptions) (optim.CheckpointInfo, error) { return o.engine.Load(path, l) })
}

// LoadFrom is [Optimizer.Load] from anything that has so many bytes.
func (o *Optimizer) LoadFrom(r io.ReaderAt, size int64, l LoadOptions) (optim.CheckpointInfo, error) {
	if o.closed {
		return optim.CheckpointInfo{}, optim.ErrClosed
	}
	info, err := optim.ReadCheckpointFrom(r, size)
	if err != nil {
		return info, err
	}
	return o.load("", info, l, func(l optim.LoadOptions) (optim.CheckpointInfo, error) { return o.engine.LoadFrom(r, size, l) })
}

// load loads by read what info is of. Errors say where it is.
func (o *Optimizer) load(where string, info optim.CheckpointInfo, l LoadOptions, read func(optim.LoadOptions) (optim.CheckpointInfo, error)) (optim.CheckpointInfo, error) {
	var step int64
	var err error
	text, counted := info.Metadata[globalStepKey]
	if counted {
		if step, err = strconv.ParseInt(text, 10, 64); err != nil {
			return info, fmt.Errorf("pnmgomlx: checkpoint%s: metadata %q: %w", where, globalStepKey, err)
		}
	}
	of, err := o.globalStep()
	if err != nil {
		return info, err
	}
	if counted && l.StateOnly && step != of {
		return info, fmt.Errorf("pnmgomlx: checkpoint%s: it is of global step %d, but the model of global step %d, and StateOnly is set: "+
			"load the model's checkpoint of step %d first", where, step, of, step)
	}
	undo := func() error { return nil }
	if len(o.variables) > 0 {
		err = o.bind(nil)
	} else {
		undo, err = o.bindFile(info, !l.StateOnly)
	}
	if err == nil {
		_, err = read(optim.LoadOptions{Shapes: o.shapes(), StateOnly: l.StateOnly, KeepRules: l.KeepRules, Unverified: l.Unverified})
	}
	if err != nil {
		return info, errors.Join(err, undo())
	}
	if counted && !l.StateOnly {
		err = optimizer.GetGlobalStepVar(o.store).SetValue(tensors.FromScalar(step))
	}
	return info, err
}

// bindFile binds the variables that a file has, and, if it may, creates those that the store does not have. undo undoes it.
func (o *Optimizer) bindFile(info optim.CheckpointInfo, create bool) (undo func() error, err error) {
	var variables []*model.Variable
	var created []string
	undo = func() error {
		for _, path := range created {
			if err := o.store.DeleteVariable(path); err != nil {
				return err
			}
		}
		return o.rebuild(nil, nil)
	}
	for _, g := range info.Groups {
		for _, t := range g.Tensors {
			v := o.store.GetVariable(t.Name)
			if v == nil {
				dtype, ok := map[string]dtypes.DType{"float32": dtypes.Float32, "float64": dtypes.Float64}[t.Params]
				if !ok || !create {
					return undo, ofVariable(t.Name, errors.New("is not in the store, and its value in float32 or float64 not taken "+
						"from the file: load the model's checkpoint first"))
				}
				v = o.store.VariableWithValue(t.Name, tensors.FromShape(shapes.Make(dtype, t.Shape...)))
				created = append(created, v.Path())
			}
			variables = append(variables, v)
		}
	}
	if len(variables) == 0 {
		return undo, errNoVariable
	}
	return undo, o.bind(variables)
}
