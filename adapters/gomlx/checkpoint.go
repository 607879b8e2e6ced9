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
	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
)

// SaveOptions are the options of [Optimizer.Save]. The zero value saves a whole run.
type SaveOptions struct {
	StateOnly bool              // leave out the trainable variables
	Metadata  map[string]string // the caller's own. Keys must not begin with "posneg." or "gomlx."
}

// LoadOptions are the options of [Optimizer.Load]. The zero value loads a whole run.
type LoadOptions struct {
	StateOnly   bool             // leave the variables as they are: they must have the values of the file's global step
	KeepRules   bool             // keep the optimizer's rules instead of the file's
	Unverified  bool             // do not compare checksums, to load a damaged file
	Fingerprint *pnm.Fingerprint // load only a file whose content has this fingerprint; nil means any
}

// The metadata key of GoMLX's global step.
const globalStepKey = "gomlx.global_step"

// Save writes the trainable variables, the state, the rules and GoMLX's global step to a file. The file and the errors are those of
// [optim.Optimizer.Save]; tensors have their variables' paths as names. Save also returns an error before the first step or Load.
//
// Variables that are not trainable (averages of batch normalization, the state of random numbers, metrics) are not in the file. For a
// model with such variables, save the variables with GoMLX's checkpoint handler and, at the same step, the optimizer's state with Save
// and StateOnly.
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
		all = append(all, append([]int{}, b.variable.Shape().Dimensions...)) // never nil, which means no shape
	}
	return all
}

// Load replaces the trainable variables, the state, the rules and GoMLX's global step by those of a file that [Optimizer.Save] wrote. A
// run that continues from there gives bit-identical results to an uninterrupted one. Before the first step, Load creates the file's
// variables that the store does not have, and the model then uses them. Call Load before [train.NewLoop], which reads the global step.
//
// With StateOnly, GoMLX's checkpoint handler must have loaded the variables, at the file's global step. Without StateOnly, the file must
// have the variables. Other errors are those of [optim.Optimizer.Load]. After an error, nothing has been written.
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

// LoadFrom is [Optimizer.Load] from r, which has size bytes.
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

// load loads by read the checkpoint that info describes. Errors name the place where.
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
		_, err = read(optim.LoadOptions{Shapes: o.shapes(), StateOnly: l.StateOnly, KeepRules: l.KeepRules, Unverified: l.Unverified, Fingerprint: l.Fingerprint})
	}
	if err != nil {
		return info, errors.Join(err, undo())
	}
	if counted && !l.StateOnly {
		err = optimizer.GetGlobalStepVar(o.store).SetValue(tensors.FromScalar(step))
	}
	return info, err
}

// Fingerprint returns 128 bits that identify the trainable variables and the state, under the variables' paths: see
// [optim.Optimizer.Fingerprint]. Before the first step or Load, it is zero.
func (o *Optimizer) Fingerprint() (pnm.Fingerprint, error) {
	if err := o.bind(nil); err != nil {
		return pnm.Fingerprint{}, err
	}
	return o.engine.Fingerprint()
}

// bindFile binds the variables of a file and, with create, creates those that the store does not have. undo reverses this.
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
