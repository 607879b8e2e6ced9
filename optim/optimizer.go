package optim

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/posneg/pnm"
)

// An Optimizer owns the state of a list of tensors and updates their parameters. Tensors are numbered from 0, in the order of the
// groups and of each group's Params. Each has a name and its own count of steps.
//
// A call that returns an error has changed nothing, unless its documentation says otherwise. An error of one tensor is a
// *[pnm.TensorError] with the tensor's number and name. It wraps the errors named in this documentation: use [errors.As].
//
// An optimizer is for one goroutine at a time: a call while another one runs does nothing and returns [pnm.ErrBusy]. There are three
// exceptions. Calls that only read (State, Save, SaveTo, Steps, …) may run at the same time. Calls of StepPart wait for each other, so
// that several goroutines can do parts of a step. Close and the methods that return no error also wait: do not call them from the
// writer of SaveTo or the reader of LoadFrom, where they would wait forever. Different optimizers are independent. While a call runs, no
// goroutine may write the parameters, copies and gradients that it reads, or read those that it writes.
type Optimizer struct {
	calls   turnstile  // each exported method passes it; the deferred end also keeps o, and so its memory, alive
	onePart sync.Mutex // held by StepPart, whose calls wait for each other

	config Config
	groups []group
	names  []string       // of the tensors
	number map[string]int // by name
	list   *pnm.List      // the tensors; between calls they have no gradients, and Skip is set
	arenas []*pnm.Arena   // the memory of the state
	parts  parts
	noise  noise
	grads  []pnm.Vector // scratch
	trial  pnm.List     // an empty tensor, to check rules with
	closed bool
}

// A Config has settings of an [Optimizer]. [New] uses the zero value.
type Config struct {
	Pool *pnm.Pool // shares the work of large steps; nil means the engine's default pool
	Seed uint64    // of stochastic rounding, for groups without Rounding: see [pnm.Rounding]
}

// New returns an optimizer for the groups' tensors, with zero state. It keeps the vectors of parameters and copies, without copying
// their elements. Its errors are those of [Optimizer.AddGroup].
func New(groups ...Group) (*Optimizer, error) { return Config{}.New(groups...) }

// New is the function [New] with the settings c.
func (c Config) New(groups ...Group) (*Optimizer, error) {
	o := &Optimizer{config: c, number: make(map[string]int), list: new(pnm.List)}
	if err := o.extend(groups...); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// AddGroup adds a group's tensors after those that the optimizer has. Its errors are
//
//	*pnm.ValueError    a hyperparameter is out of its range, the learning rate is below 0, the row of a tensor does not divide its
//	                   length, or Rounding.First is within a block of mxfp8 state
//	*pnm.LengthError   Names, Copies, Rounding or Rows are not as many as Params, or a copy is not as long as its parameters
//	*pnm.FormatError   a vector, or the state, has a format that is not allowed there
//	*pnm.OverlapError  parameters or copies share memory, with each other or with those added before
//	*pnm.TensorError   a name is empty, is not UTF-8, or belongs to another tensor
//
// and other errors if the rule is missing, if Follow is set without Copies, or if the system refuses memory for the state. Errors that do
// not concern a single tensor name the group.
func (o *Optimizer) AddGroup(g Group) error { return o.extend(g) }

// leastTouched is the size of new state, in bytes, from which the workers that will update it touch it first.
const leastTouched = 1 << 20

// extend adds groups, one after the other.
func (o *Optimizer) extend(groups ...Group) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if o.closed {
		return ErrClosed
	}
	first, bytes := len(o.names), 0
	for _, g := range groups {
		more, err := o.add(g)
		if err != nil {
			return err
		}
		bytes += more
	}
	o.restartNoise()
	if bytes < leastTouched {
		return nil
	}
	return o.list.Touch(o.config.Pool, first)
}

// Close waits for running calls, and gives the memory of the state back to the system. The parameters stay as they are. Later calls
// that need the state return [ErrClosed]. Closing again, or closing a nil optimizer, does nothing. The garbage collector eventually frees
// an optimizer that was not closed, but this memory does not trigger a collection: see [pnm.Arena].
func (o *Optimizer) Close() {
	if o != nil {
		o.calls.Lock()
		defer o.calls.Unlock()
		o.close()
	}
}

func (o *Optimizer) close() {
	o.closed = true
	for i := range o.list.Updates {
		clear(o.list.Updates[i].State)
	}
	for _, a := range o.arenas {
		a.Close()
	}
	o.arenas = nil
}

// SetParams makes the optimizer update other memory from the next step on, for trainers whose parameters move. The state and the counts
// of steps stay. params has one vector for each tensor, in the optimizer's order, with the same length and format as before. copies has
// one vector for each tensor, as in a [Group], or is nil: steps then no longer write or follow copies. SetParams copies no elements, and
// drops its references to the old parameters.
//
// SetParams returns a *pnm.LengthError for a list or a vector of another length, a *pnm.FormatError for another format, a
// *pnm.OverlapError for vectors that share memory, and a *PartError while a step of [Optimizer.StepPart] is incomplete.
func (o *Optimizer) SetParams(params, copies []pnm.Vector) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if o.closed {
		return ErrClosed
	}
	if err := o.checkLength("params", len(params)); err != nil {
		return err
	}
	if copies != nil {
		if err := o.checkLength("copies", len(copies)); err != nil {
			return err
		}
	}
	if err := o.wholeSteps(0, len(o.names)); err != nil {
		return err
	}
	moved := &pnm.List{Updates: slices.Clone(o.list.Updates)}
	for i, p := range params {
		u := &moved.Updates[i]
		if p.Len() != u.Params.Len() {
			return o.inTensor(i, &pnm.LengthError{Arg: "params", Len: p.Len(), Want: u.Params.Len()})
		}
		if p.Format() != u.Params.Format() {
			return o.inTensor(i, &pnm.FormatError{Arg: "params", Format: p.Format(), Want: u.Params.Format() + ", as before"})
		}
		u.Params, u.Copy = p, pnm.Vector{}
		if copies != nil {
			u.Copy = copies[i]
		}
	}
	for g := range o.groups {
		for i, end := o.members(g); i < end; i++ {
			u := &moved.Updates[i]
			u.Follow = follows(o.groups[g].follow, u)
		}
	}
	if err := moved.Check(0); err != nil {
		return named(err, o.names)
	}
	o.list = moved
	return nil
}

// checkLength reports a list whose length is not the number of tensors.
func (o *Optimizer) checkLength(list string, n int) error {
	if n != len(o.names) {
		return &pnm.LengthError{Arg: list, Len: n, Want: len(o.names)}
	}
	return nil
}

// Step performs one step. grads has one vector for each tensor, in the optimizer's order, as long as the tensor. A nil vector means that
// the tensor got no gradient: it is skipped, and keeps its parameters, its state and its count of steps. If the report says Skipped, the
// step does not count for any tensor. If opts.Pool is nil, the pool of the optimizer's [Config] shares the work.
//
// Gradients must not share memory with parameters and copies, but may share it with each other. They are only read. With opts.ZeroGrads
// they are set to zero, and must not share memory at all.
//
// Step returns a *pnm.LengthError for a list or a gradient of a wrong length, a *pnm.FormatError for a format that gradients cannot have,
// a *pnm.OverlapError for shared memory, a *pnm.ValueError for an option out of its range, and a *PartError while a step of
// [Optimizer.StepPart] is incomplete. From the second call on, Step allocates nothing.
func (o *Optimizer) Step(opts pnm.Options, grads []pnm.Vector) (pnm.Report, error) {
	if err := o.calls.begin(); err != nil {
		return pnm.Report{}, err
	}
	defer o.calls.end()
	return o.step(&opts, grads)
}

// StepNamed is [Optimizer.Step] with a map from the names of tensors to their gradients. A tensor that grads does not have, or whose
// vector is nil, got no gradient. A name that no tensor has is an error.
func (o *Optimizer) StepNamed(opts pnm.Options, grads map[string]pnm.Vector) (pnm.Report, error) {
	if err := o.calls.begin(); err != nil {
		return pnm.Report{}, err
	}
	defer o.calls.end()
	o.grads = o.grads[:0]
	found := 0
	for _, name := range o.names {
		g, ok := grads[name]
		if ok {
			found++
		}
		o.grads = append(o.grads, g)
	}
	defer clear(o.grads) // the caller's memory
	if found < len(grads) {
		return pnm.Report{}, o.unknownName(grads)
	}
	return o.step(&opts, o.grads)
}

// unknownName reports the first gradient whose name no tensor has.
func (o *Optimizer) unknownName(grads map[string]pnm.Vector) error {
	for _, name := range slices.Sorted(maps.Keys(grads)) {
		if _, ok := o.number[name]; !ok {
			return fmt.Errorf("optim: there is a gradient for %q, but no tensor of that name", name)
		}
	}
	return nil
}

func (o *Optimizer) step(opts *pnm.Options, grads []pnm.Vector) (pnm.Report, error) {
	if o.closed {
		return pnm.Report{}, ErrClosed
	}
	if err := o.checkLength("gradients", len(grads)); err != nil {
		return pnm.Report{}, err
	}
	if err := o.wholeSteps(0, len(o.names)); err != nil {
		return pnm.Report{}, err
	}
	updates := o.list.Updates
	for i, g := range grads {
		updates[i].Grads, updates[i].Skip = g, g.IsNil()
	}
	if opts.Noise == nil && o.noise.due() {
		opts.Noise = o.noise.sums
	}
	report, err := o.list.Step(o.withPool(opts))
	if err == nil && !report.Skipped {
		o.stepDone(opts.Noise)
	}
	for i := range updates {
		u := &updates[i]
		if !u.Skip && err == nil && !report.Skipped {
			u.Step++
		}
		u.Grads, u.Skip = pnm.Vector{}, true
	}
	if err != nil {
		return pnm.Report{}, named(err, o.names)
	}
	return report, nil
}

// withPool returns options that name a pool, if the optimizer has one.
func (o *Optimizer) withPool(opts *pnm.Options) pnm.Options {
	if opts.Pool == nil {
		opts.Pool = o.config.Pool
	}
	return *opts
}

// Tensors returns the number of tensors.
func (o *Optimizer) Tensors() int {
	o.calls.RLock()
	defer o.calls.RUnlock()
	return len(o.names)
}

// Names returns the names of the tensors.
func (o *Optimizer) Names() []string {
	o.calls.RLock()
	defer o.calls.RUnlock()
	return slices.Clone(o.names)
}

// Steps returns the number of steps that a tensor has done, or 0 if there is no such tensor. An incomplete step of [Optimizer.StepPart]
// does not count: it is step Steps + 1.
func (o *Optimizer) Steps(tensor int) int {
	o.calls.RLock()
	defer o.calls.RUnlock()
	if tensor < 0 || tensor >= len(o.names) {
		return 0
	}
	return o.list.Updates[tensor].Step - 1
}

// SetSteps sets the number of steps that a tensor has done. This count determines the bias correction, the random numbers, and which
// momentum of PNM and AdaPNM is due. So set it together with the state that belongs to it, or use [Optimizer.SetState].
//
// SetSteps returns a *StateError for a count below 0, or for one that no step can follow, a *PartError while a step of
// [Optimizer.StepPart] is incomplete for the tensor, and a *pnm.TensorError for a tensor that does not exist.
func (o *Optimizer) SetSteps(tensor, steps int) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if err := o.checkTensor(tensor); err != nil {
		return err
	}
	if err := o.wholeSteps(tensor, tensor+1); err != nil {
		return err
	}
	if err := checkSteps(steps); err != nil {
		return o.inTensor(tensor, err)
	}
	o.list.Updates[tensor].Step = steps + 1
	o.restartNoise()
	return nil
}
