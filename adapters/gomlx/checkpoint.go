package pnmgomlx

import (
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/posneg/pnm"
)

// SaveOptions tell what [Optimizer.Save] writes beside the state. The zero value is nothing.
type SaveOptions struct {
	Params   bool              // save the trainable variables, too
	Metadata map[string]string // the caller's own. No key begins with "posneg." or "gomlx."
}

// LoadOptions tell what [Optimizer.Load] takes. The zero value is state and rules, and the variables, if the file has them.
type LoadOptions struct {
	KeepRules bool // keep the rules that the optimizer has, instead of the file's
}

// The key of metadata under which files have GoMLX's global step.
const globalStepKey = "gomlx.global_step"

// Save writes the state, the rules, GoMLX's global step and, if asked to, the trainable variables to a file, as
// [pnm.Optimizer.Save] does and with its errors; tensors are called by their variables' paths. It fails if no step was done yet,
// or loaded.
//
// Variables that are not trainable (averages of batch normalization, the state of random numbers, metrics) are not in the file. A
// model that has them is saved by GoMLX's checkpoint handler, and its optimizer's state, without Params, at the same step by
// Save.
func (o *Optimizer) Save(path string, s SaveOptions) error {
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
	names, dimensions := o.describe()
	return o.engine.Save(path, pnm.SaveOptions{Names: names, Shapes: dimensions, Params: s.Params, Metadata: meta})
}

// describe returns the names and the shapes of the engine's tensors.
func (o *Optimizer) describe() (names []string, dimensions [][]int) {
	for _, b := range o.variables {
		names = append(names, b.variable.Path())
		dimensions = append(dimensions, append([]int{}, b.variable.Shape().Dimensions...)) // never nil, which is no shape
	}
	return names, dimensions
}

// Load replaces the state and the rules by those of a file that [Optimizer.Save] wrote, and if the file has the variables, these
// and GoMLX's global step, too. A run that continues from there gives the bits of one that was not interrupted. Before the first
// step the file tells which variables there are, and Load creates those that the store does not have: the model then finds them.
// It comes before [train.NewLoop], which reads the global step.
//
// If the file does not have the variables, the store must, from GoMLX's checkpoint handler, and of the same global step.
// Otherwise, and where [pnm.Optimizer.Load] does, Load fails, and has written nothing.
func (o *Optimizer) Load(path string, l LoadOptions) (pnm.CheckpointInfo, error) {
	if o.closed {
		return pnm.CheckpointInfo{}, pnm.ErrClosed
	}
	info, err := pnm.ReadCheckpoint(path)
	if err != nil {
		return info, err
	}
	params := true // as Save writes them: all or none
	for _, g := range info.Groups {
		for _, t := range g.Tensors {
			params = params && t.Params != ""
		}
	}
	var step int64
	text, counted := info.Metadata[globalStepKey]
	if counted {
		if step, err = strconv.ParseInt(text, 10, 64); err != nil {
			return info, fmt.Errorf("pnmgomlx: checkpoint %s: metadata %q: %w", path, globalStepKey, err)
		}
	}
	of, err := o.globalStep()
	if err != nil {
		return info, err
	}
	if counted && !params && step != of {
		return info, fmt.Errorf("pnmgomlx: checkpoint %s: it is of global step %d and has no parameters, but the model is of "+
			"global step %d: load the model's checkpoint of step %d first", path, step, of, step)
	}
	undo := func() error { return nil }
	if len(o.variables) > 0 {
		err = o.bind(nil)
	} else {
		undo, err = o.bindFile(info)
	}
	if err == nil {
		names, dimensions := o.describe()
		_, err = o.engine.Load(path, pnm.LoadOptions{Names: names, Shapes: dimensions, Params: params, KeepRules: l.KeepRules})
	}
	if err != nil {
		return info, errors.Join(err, undo())
	}
	if counted && params {
		err = optimizer.GetGlobalStepVar(o.store).SetValue(tensors.FromScalar(step))
	}
	return info, err
}

// bindFile binds the variables that a file has, and creates those that the store does not have. undo undoes it.
func (o *Optimizer) bindFile(info pnm.CheckpointInfo) (undo func() error, err error) {
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
				if !ok {
					return undo, &VariableError{t.Name, errors.New("is not in the store, and its value in float32 or float64 not in the " +
						"file: load the model's checkpoint first")}
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
