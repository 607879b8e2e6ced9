package optim

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/posneg/pnm"
)

// An Optimizer owns the state of a list of tensors and updates their parameters. Tensors are numbered from 0, in the order of the
// groups and of each group's Params. Each has a name, and a count of its own steps.
//
// A call that returns an error has changed nothing, unless its documentation says otherwise. An error that concerns one tensor is a
// *[pnm.TensorError] with the tensor's number and name; the errors that this package names are within it, to be found by [errors.As].
//
// An optimizer is for one goroutine at a time, and says so: a call that comes while another one runs does nothing and returns
// [pnm.ErrBusy]. There are three exceptions. Calls that only read (State, Save, SaveTo, Steps, …) run beside each other. Calls of
// StepPart wait for each other, so that parts may come from several goroutines. Close waits, and so do the calls that return no error;
// the writer of SaveTo and the reader of LoadFrom must make none of these, or they wait for themselves. Distinct optimizers are
// independent. While a call runs, no goroutine may write the parameters, copies and gradients that it is given, or read those that it
// writes.
type Optimizer struct {
	calls   turnstile  // each exported method goes through it; its deferred end keeps the state mapped, too
	onePart sync.Mutex // held by StepPart, whose calls wait for each other

	config Config
	groups []group
	names  []string       // of the tensors
	number map[string]int // by name
	list   *pnm.List      // the tensors; between calls it has no gradients, and skips them
	arenas []*pnm.Arena   // where the state is
	parts  parts
	grads  []pnm.Vector // scratch
	trial  pnm.List     // of a tensor without elements, for rules to be checked by
	closed bool
}

// A Config tells how to build an [Optimizer]. The zero value is what [New] uses.
type Config struct {
	Pool *pnm.Pool // shares the work of large steps; nil (default) stands for the engine's own
	Seed uint64    // of stochastic rounding, for groups that do not say more: see [pnm.Rounding]
}

// New returns an optimizer over the groups' tensors, with state zero. It keeps the vectors of parameters and copies, but copies
// nothing of them. It fails as [Optimizer.AddGroup] does.
func New(groups ...Group) (*Optimizer, error) { return Config{}.New(groups...) }

// New is [New] with a configuration.
func (c Config) New(groups ...Group) (*Optimizer, error) {
	o := &Optimizer{config: c, number: make(map[string]int), list: new(pnm.List)}
	if err := o.extend(groups...); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// AddGroup adds a group's tensors behind those that the optimizer has. The errors are
//
//	*pnm.ValueError    a hyperparameter is out of its range, the learning rate below 0, a length of a tensor no multiple of its row, or
//	                   Rounding.First within a block of mxfp8 state
//	*pnm.LengthError   Names, Copies, Rounding or Rows are not as many as Params, or a copy is not as long as its parameters
//	*pnm.FormatError   a vector, or the state, has a format that is not for its place
//	*pnm.OverlapError  parameters or copies share memory, with each other or with those added before
//	*pnm.TensorError   a name is empty, not UTF-8 or taken
//
// and others for a missing rule, for Follow without Copies, and where the system refuses memory for the state. Those that concern no
// single tensor name the group.
func (o *Optimizer) AddGroup(g Group) error { return o.extend(g) }

// leastTouched is how many bytes of new state are worth touching by the workers that will update it.
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
	if bytes < leastTouched {
		return nil
	}
	return o.list.Touch(o.config.Pool, first)
}

// Close gives the memory of the state back to the system, once the calls that are running have returned. The parameters stay
// as they are. Every later call that needs the state fails with [ErrClosed]. Closing again, or closing a nil optimizer, does
// nothing. The garbage collector frees an optimizer that was not closed, but it does not see this memory: see [pnm.Arena].
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

// SetParams has the optimizer update other memory from the next step on, and keeps the state and the counts of steps: for trainers
// whose parameters move. params has one vector for each tensor, in the optimizer's order, with as many elements and in the same
// format as before. copies has one for each, as in a [Group]; without it no copies are written, or followed, any more. Nothing is copied,
// and the old parameters are let go.
//
// A list or a vector of another length gives a *pnm.LengthError, another format a *pnm.FormatError, vectors that share memory a
// *pnm.OverlapError, and a tensor of which [Optimizer.StepPart] has done a part a *PartError.
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

// Step performs one step. grads has one vector for each tensor, in the optimizer's order, with as many elements. A tensor whose vector
// is nil got no gradient: it is skipped, and keeps its parameters, its state and its count of steps. A step that the report calls
// skipped is not counted. If opts.Pool is nil, the optimizer's own pool shares the work.
//
// Gradients share no memory with parameters and copies, but may with each other. They are only read; with opts.ZeroGrads they are set to
// zero, and must not share memory at all.
//
// A list or a gradient of a wrong length gives a *pnm.LengthError, a format that no gradient can have a *pnm.FormatError, shared memory a
// *pnm.OverlapError, an option out of its range a *pnm.ValueError, and a tensor of which [Optimizer.StepPart] has done a part a
// *PartError. From the second call on Step allocates nothing.
func (o *Optimizer) Step(opts pnm.Options, grads []pnm.Vector) (pnm.Report, error) {
	if err := o.calls.begin(); err != nil {
		return pnm.Report{}, err
	}
	defer o.calls.end()
	return o.step(&opts, grads)
}

// StepNamed is [Optimizer.Step] with gradients by the names of their tensors. A tensor that grads does not name, or gives a nil
// vector, got no gradient. A name that no tensor has is an error.
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
	defer clear(o.grads) // what the caller owns
	if found < len(grads) {
		return pnm.Report{}, o.unknownName(grads)
	}
	return o.step(&opts, o.grads)
}

// unknownName reports the first gradient whose name no tensor has.
func (o *Optimizer) unknownName(grads map[string]pnm.Vector) error {
	for _, name := range slices.Sorted(maps.Keys(grads)) {
		if _, ok := o.number[name]; !ok {
			return fmt.Errorf("optim: there is a gradient for %q, but no such tensor", name)
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
	report, err := o.list.Step(o.withPool(opts))
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

// Steps returns the number of steps that a tensor has done, or 0 if there is no such tensor. A step of which
// [Optimizer.StepPart] has done a part is not one of them: it is number Steps + 1.
func (o *Optimizer) Steps(tensor int) int {
	o.calls.RLock()
	defer o.calls.RUnlock()
	if tensor < 0 || tensor >= len(o.names) {
		return 0
	}
	return o.list.Updates[tensor].Step - 1
}

// SetSteps has a tensor continue as after so many steps. The count decides the bias correction, which random numbers are drawn, and
// which of the two momenta of PNM and AdaPNM is due: set it with the state that belongs to it, or use [Optimizer.SetState].
//
// A count below 0, or one that no step can follow, gives a *StateError; a tensor of which [Optimizer.StepPart] has done a part a
// *PartError; a tensor that does not exist a *pnm.TensorError.
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
	return nil
}
