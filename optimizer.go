package pnm

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/posneg/pnm/internal/floatmode"
)

// A Group is a list of tensors that share a rule.
type Group[T Float] struct {
	Rule   Rule  // PNM, AdaPNM, SGD or Adam, as a value
	Params [][]T // the parameters, one slice a tensor, updated in place by Step; may be empty
}

// An Optimizer owns the state of a list of tensors and updates their parameters. Tensors are numbered from 0 in the order
// in which the groups, and the groups' Params, list them. Each has its own count of steps, as in official code.
//
// An optimizer is for one goroutine at a time, and says so: a call that comes while another one runs does nothing and returns
// [ErrBusy]. There are three exceptions. Calls that only read (State, Save, SaveTo, Steps, …) run beside each other. Calls of StepPart
// wait for each other, so that parts may come from several goroutines. Close waits, and so do the calls that return no error; the
// writer of SaveTo and the reader of LoadFrom must make none of these, or they wait for themselves. Distinct optimizers are
// independent. While a call runs, no goroutine may write the parameters and gradients that it is given, or read those that it writes.
type Optimizer[T Float] struct {
	optimizer
	grads []Vector // scratch
}

// An optimizer is what those for one format and those for several have in common.
type optimizer struct {
	calls   turnstile  // each exported method goes through it; its deferred end keeps the state mapped, too
	onePart sync.Mutex // held by StepPart, whose calls wait for each other

	config Config
	groups []Rule
	firsts []int // the first tensor of each group
	batch  batch
	arenas []mappedArena // where the state is that lies outside the heap
	params layers        // where all the parameters and their copies lie
	bytes  int64         // of memory that a step of all tensors touches
	wide   bool          // arithmetic is in float64
	closed bool

	checked  []span  // for each tensor, the last gradient that was found to share no memory with parameters
	compared bool    // there are such gradients
	disjoint []span  // the last gradients that were found to share no memory with each other
	sorted   regions // scratch
	parts    parts
}

// A group is a Group or a MixedGroup, as tensors that have parameters, and may have copies and roundings.
type group struct {
	rule    Rule
	state   format
	tensors []tensor
}

// A mappedArena is an Arena of any element type.
type mappedArena interface {
	Close()
	mapped() *mapping
}

// A Config tells how to build an [Optimizer]. The zero value is what [NewOptimizer] uses.
type Config struct {
	Pool      *Pool // shares the work of large steps; nil stands for one that follows GOMAXPROCS
	HeapState bool  // keep the state in ordinary memory instead of an [Arena]

	Seed uint64 // of stochastic rounding, in a [MixedOptimizer]; see [Rounding]
}

// NewOptimizer returns an optimizer over the groups' tensors, with state zero. It keeps the slices of parameters, copies
// nothing of them, and fails as [Optimizer.AddGroup] does.
func NewOptimizer[T Float](groups ...Group[T]) (*Optimizer[T], error) {
	return NewOptimizerWith(Config{}, groups...)
}

// NewOptimizerWith is [NewOptimizer] with a configuration.
func NewOptimizerWith[T Float](c Config, groups ...Group[T]) (*Optimizer[T], error) {
	o := &Optimizer[T]{optimizer: optimizer{config: c, wide: vectorOf[T](nil).format == f64}}
	if err := extend(&o.optimizer, groups, typedGroup); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// AddGroup adds the tensors of a group behind those that the optimizer has. A rule that is missing or has a bad
// hyperparameter gives a *GroupError, parameters that share memory with each other or with a tensor added before an
// *OverlapError; the optimizer is then as it was. So it is if the system refuses memory for the state.
func (o *Optimizer[T]) AddGroup(g Group[T]) error {
	return extend(&o.optimizer, []Group[T]{g}, typedGroup)
}

func typedGroup[T Float](_ *optimizer, g Group[T]) (group, error) {
	tensors := make([]tensor, len(g.Params))
	for i, p := range g.Params {
		tensors[i].p, tensors[i].g = vectorOf(p), vectorOf[T](nil)
	}
	return group{g.Rule, vectorOf[T](nil).format, tensors}, nil
}

// extend adds groups, one after the other.
func extend[G any](o *optimizer, groups []G, convert func(*optimizer, G) (group, error)) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if o.closed {
		return ErrClosed
	}
	first, bytes := len(o.batch.tensors), o.bytes
	for _, g := range groups {
		converted, err := convert(o, g)
		if err != nil {
			return err
		}
		if err := o.addGroup(converted); err != nil {
			return err
		}
	}
	if o.bytes-bytes >= int64(leastShard) {
		o.allot(first)
	}
	return nil
}

func (o *optimizer) addGroup(g group) error {
	if err := checkRule(len(o.groups), g.rule, o.wide); err != nil {
		return err
	}
	first := len(o.batch.tensors)
	for i := range g.tensors {
		t := &g.tensors[i]
		t.form, t.group, t.step = g.rule.form(), len(o.groups), 1
		for k := range forms[t.form].slots {
			t.s[k].format = g.state
		}
		if err := checkMemory(first+i, t); err != nil {
			return err
		}
	}
	added, err := memoryOf(first, g.tensors)
	if err != nil {
		return err
	}
	params, err := o.params.with(added)
	if err != nil {
		return err
	}
	if err := o.newState(g.rule.form(), g.state, g.tensors); err != nil {
		return err
	}
	o.params = params
	o.batch.tensors = append(o.batch.tensors, g.tensors...)
	o.bytes += traffic(g.tensors)
	o.groups = append(o.groups, g.rule)
	o.firsts = append(o.firsts, first)
	o.checked = append(o.checked, make([]span, len(g.tensors))...)
	o.forgetChecked() // some of the gradients may lie in the new parameters
	o.parts.of = append(o.parts.of, make([]progress, len(g.tensors))...)
	return nil
}

// members returns the first tensor of a group, and the one behind its last.
func (o *optimizer) members(group int) (first, end int) {
	if group+1 < len(o.firsts) {
		return o.firsts[group], o.firsts[group+1]
	}
	return o.firsts[group], len(o.batch.tensors)
}

// forgetChecked has the gradients compared anew with the parameters.
func (o *optimizer) forgetChecked() {
	if o.compared {
		clear(o.checked)
		o.compared = false
	}
}

// SetParams has the optimizer update other memory from the next step on, and keeps the state and the counts of steps: for trainers
// whose parameters move. params has one slice for each tensor, in the optimizer's order, with as many elements as the tensor. A list
// or a slice of another length gives a *LengthError, parameters that share memory an *OverlapError, a tensor of which
// [Optimizer.StepPart] has done a part a *RangeError, and nothing changes. Nothing is copied, and the old parameters are let go.
func (o *Optimizer[T]) SetParams(params [][]T) error {
	vectors := make([]Vector, len(params))
	for i, p := range params {
		vectors[i] = vectorOf(p)
	}
	return o.setParams(vectors, nil)
}

// setParams gives each tensor other parameters and, unless copies is nil, a copy of them.
func (o *optimizer) setParams(params, copies []Vector) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if o.closed {
		return ErrClosed
	}
	tensors := slices.Clone(o.batch.tensors)
	if len(params) != len(tensors) {
		return &LengthError{-1, "params", len(params), len(tensors)}
	}
	if copies != nil && len(copies) != len(tensors) {
		return &LengthError{-1, "copies", len(copies), len(tensors)}
	}
	if err := o.wholeSteps(-1); err != nil {
		return err
	}
	for i, p := range params {
		t := &tensors[i]
		if p.n != t.p.n {
			return &LengthError{i, "params", p.n, t.p.n}
		}
		if p.format != t.p.format {
			return &FormatError{i, "params", p.format.String(), t.p.format.String() + ", as before"}
		}
		t.p, t.out = p, Vector{}
		if copies != nil {
			t.out = copies[i]
		}
		if err := checkMemory(i, t); err != nil {
			return err
		}
	}
	memory, err := memoryOf(0, tensors)
	if err != nil {
		return err
	}
	o.params = layers{memory}
	o.batch.tensors = tensors
	o.bytes = traffic(tensors)
	o.forgetChecked()
	return nil
}

// newState gives tensors of one form their state: zeros.
func (o *optimizer) newState(f form, state format, tensors []tensor) error {
	var buffers []Vector // for each slot, one for each tensor
	var a mappedArena
	var err error
	switch state {
	case f32:
		a, buffers, err = newBuffers[float32](o.config.HeapState, state, f, tensors)
	case f64:
		a, buffers, err = newBuffers[float64](o.config.HeapState, state, f, tensors)
	case bf16:
		a, buffers, err = newBuffers[uint16](o.config.HeapState, state, f, tensors)
	}
	if err != nil {
		return err
	}
	for i, b := range buffers {
		tensors[i%len(tensors)].s[i/len(tensors)] = b
	}
	if a.mapped() != nil {
		o.arenas = append(o.arenas, a)
	}
	return nil
}

func newBuffers[T Element](heap bool, state format, f form, tensors []tensor) (mappedArena, []Vector, error) {
	slots := len(forms[f].slots)
	lengths := make([]int, 0, slots*len(tensors))
	for range slots {
		for i := range tensors {
			lengths = append(lengths, tensors[i].p.n)
		}
	}
	base := nextStreams(slots)
	position := func(i int) int { return base + 23*(i/len(tensors)) + inList(i%len(tensors)) } // the slots of a tensor all differ
	get := allocate[T]
	if heap {
		get = onHeap[T]
	}
	a, err := get(lengths, len(tensors), position)
	if err != nil {
		return nil, nil, err
	}
	buffers := make([]Vector, len(a.slices))
	for i, x := range a.slices {
		buffers[i] = Vector{unsafe.Pointer(unsafe.SliceData(x)), len(x), state}
	}
	return a, buffers, nil
}

// allot has each worker touch the state that it will update, of the tensors from first on, so that the system places it
// nearby.
func (o *optimizer) allot(first int) {
	o.batch.first = first
	o.batch.plan(allTensors)
	defer o.batch.held.Take().Release()
	o.batch.do(o.config.Pool, allotting, o.batch.bytes())
}

// Close gives the memory of the state back to the system, once the calls that are running have returned. The parameters stay
// as they are. Every later call that needs the state fails with [ErrClosed]. Closing again, or closing a nil optimizer, does
// nothing. The garbage collector frees the state of an optimizer that nothing refers to: sooner or later, see [Arena].
func (o *Optimizer[T]) Close() {
	if o != nil {
		o.calls.Lock()
		defer o.calls.Unlock()
		o.close()
	}
}

func (o *optimizer) close() {
	o.closed = true
	for i := range o.batch.tensors {
		o.batch.tensors[i].s = [maxSlots]Vector{}
	}
	for _, a := range o.arenas {
		a.Close()
	}
	o.arenas = nil
}

// Step performs one step: grads has one slice for each tensor, in the optimizer's order, with as many elements. A tensor
// whose slice is nil got no gradient: it is skipped, and keeps its parameters, its state and its count of steps.
//
// Gradients are only read. Several tensors may share a gradient, but none may share memory with parameters. A list or a
// slice of a wrong length gives a *LengthError, shared memory an *OverlapError, a tensor of which [Optimizer.StepPart]
// has done a part a *RangeError, and nothing is written. From the second call on Step allocates nothing.
func (o *Optimizer[T]) Step(grads [][]T) error {
	_, err := o.StepWith(Options{}, grads)
	return err
}

// StepWith is [Optimizer.Step] with options. An option out of its range gives a *HyperparameterError. With ZeroGrads
// gradients must not share memory with each other.
func (o *Optimizer[T]) StepWith(opts Options, grads [][]T) (Report, error) {
	if err := o.calls.begin(); err != nil {
		return Report{}, err
	}
	defer o.calls.end()
	o.grads = o.grads[:0]
	for _, g := range grads {
		o.grads = append(o.grads, vectorOf(g))
	}
	defer clear(o.grads) // what the caller owns
	return o.stepWith(&opts, o.grads)
}

func (o *optimizer) stepWith(opts *Options, grads []Vector) (Report, error) {
	if o.closed {
		return Report{}, ErrClosed
	}
	defer o.batch.held.Take().Release()
	tensors := o.batch.tensors
	if len(grads) != len(tensors) {
		return Report{}, &LengthError{-1, "gradients", len(grads), len(tensors)}
	}
	if err := checkOptions(opts, o.wide); err != nil {
		return Report{}, err
	}
	if err := o.wholeSteps(-1); err != nil {
		return Report{}, err
	}
	var last *tensor // the last tensor that coefficients were computed for
	for i, g := range grads {
		if g.at == nil {
			continue
		}
		t := &tensors[i]
		if g.n != t.p.n {
			return Report{}, &LengthError{i, "grads", g.n, t.p.n}
		}
		if err := o.checkGradient(i, g); err != nil {
			return Report{}, err
		}
		if last != nil && last.group == t.group && last.step == t.step {
			t.c32, t.c64 = last.c32, last.c64
			continue
		}
		if err := o.coefficients(t); err != nil {
			return Report{}, err
		}
		last = t
	}
	if opts.ZeroGrads {
		if err := o.checkDisjoint(grads); err != nil {
			return Report{}, err
		}
	}
	if opts.Pool == nil {
		opts.Pool = o.config.Pool
	}
	for i, g := range grads {
		if g.at != nil {
			o.setGrads(&tensors[i], g)
		}
	}
	report := o.batch.step(opts, o.bytes)
	for i, g := range grads {
		tensors[i].dropGrads()
		if g.at != nil && !report.Skipped {
			tensors[i].step++
		}
	}
	return report, nil
}

// setGrads gives a tensor gradients, whose format may be another than before.
func (o *optimizer) setGrads(t *tensor, g Vector) {
	o.bytes -= t.traffic()
	t.g = g
	o.bytes += t.traffic()
}

// traffic is how many bytes of memory a step of tensors touches.
func traffic(tensors []tensor) (bytes int64) {
	for i := range tensors {
		bytes += tensors[i].traffic()
	}
	return bytes
}

// coefficients computes those of the step that is due.
func (o *optimizer) coefficients(t *tensor) error {
	err := checkStep(t.step)
	if err == nil {
		exact := o.groups[t.group].scalars(t.step)
		err = t.round(&exact)
	}
	if err != nil {
		return &GroupError{t.group, err}
	}
	return nil
}

// checkGradient reports a gradient that shares memory with parameters. Most come again and again in the same place.
func (o *optimizer) checkGradient(tensor int, g Vector) error {
	if t := &o.batch.tensors[tensor]; t.wide() != (g.format == f64) {
		return &FormatError{tensor, "grads", g.format.String(), "float32, bf16 or f16"} // a MixedOptimizer's
	}
	at := spanOf(g)
	if at == o.checked[tensor] {
		return nil
	}
	if s, n := o.params.overlapping(at); n > 0 {
		return &OverlapError{s.tensor, tensor, s.arg, "grads", n}
	}
	o.checked[tensor], o.compared = at, true
	return nil
}

// checkDisjoint reports gradients that share memory with each other.
func (o *optimizer) checkDisjoint(grads []Vector) error {
	if slices.EqualFunc(grads, o.disjoint, func(g Vector, at span) bool { return spanOf(g) == at }) {
		return nil
	}
	o.disjoint = o.disjoint[:0]
	sorted, err := disjoint(o.sorted[:0], 0, grads, "grads")
	if err != nil {
		return err
	}
	o.sorted = sorted
	for _, g := range grads {
		o.disjoint = append(o.disjoint, spanOf(g))
	}
	return nil
}

// Tensors returns the number of tensors.
func (o *optimizer) Tensors() int {
	o.calls.RLock()
	defer o.calls.RUnlock()
	return len(o.batch.tensors)
}

// Groups returns the number of groups.
func (o *optimizer) Groups() int {
	o.calls.RLock()
	defer o.calls.RUnlock()
	return len(o.groups)
}

// Steps returns the number of steps that a tensor has done, or 0 if there is no such tensor. A step of which
// [Optimizer.StepPart] has done a part is not one of them: it is number Steps + 1.
func (o *optimizer) Steps(tensor int) int {
	o.calls.RLock()
	defer o.calls.RUnlock()
	if tensor < 0 || tensor >= len(o.batch.tensors) {
		return 0
	}
	return o.batch.tensors[tensor].step - 1
}

// Rule returns the rule of a group, or nil if there is no such group.
func (o *optimizer) Rule(group int) Rule {
	o.calls.RLock()
	defer o.calls.RUnlock()
	if group < 0 || group >= len(o.groups) {
		return nil
	}
	return o.groups[group]
}

// SetRule replaces the rule of a group from the next step on. Every hyperparameter may change, but the state must remain
// the same: the new rule is of the old one's type, with the same AMSGrad, and with or without momentum as before. Otherwise,
// or if there is no such group, it returns a *GroupError and changes nothing. While [Optimizer.StepPart] has done a part of
// a step of one of the group's tensors it gives a *RangeError.
func (o *optimizer) SetRule(group int, r Rule) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if err := o.checkGroup(group); err != nil {
		return err
	}
	if err := o.wholeSteps(group); err != nil {
		return err
	}
	if err := o.checkNewRule(group, r); err != nil {
		return err
	}
	o.setRule(group, r)
	return nil
}

// checkNewRule reports a rule that a group cannot change to.
func (o *optimizer) checkNewRule(group int, r Rule) error {
	if err := checkRule(group, r, o.wide); err != nil {
		return err
	}
	if was, is := o.groups[group].form(), r.form(); !was.sameState(is) {
		return &GroupError{group, fmt.Errorf("its state is %s; the new rule's would be %s", was.state(), is.state())}
	}
	return nil
}

// setRule sets a rule that fits.
func (o *optimizer) setRule(group int, r Rule) {
	o.groups[group] = r
	for i, end := o.members(group); i < end; i++ {
		o.batch.tensors[i].form = r.form()
	}
}

// SetLR sets the learning rate of the given groups from the next step on; of all groups, if none are given. A learning
// rate out of range, or a group that does not exist, gives a *GroupError; a group with a tensor that has had a part of a
// step, see [Optimizer.StepPart], gives a *RangeError. No group is changed then.
func (o *optimizer) SetLR(lr float64, groups ...int) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	changed, n := slices.Clone(o.groups), len(groups)
	if n == 0 {
		n = len(changed)
	}
	for i := range n {
		if len(groups) > 0 {
			i = groups[i]
		}
		if err := o.checkGroup(i); err != nil {
			return err
		}
		if err := o.wholeSteps(i); err != nil {
			return err
		}
		changed[i] = withLR(changed[i], lr)
		if err := checkRule(i, changed[i], o.wide); err != nil {
			return err
		}
	}
	o.groups = changed
	return nil
}

func (o *optimizer) checkGroup(i int) error {
	if i < 0 || i >= len(o.groups) {
		return &GroupError{i, fmt.Errorf("there is no such group, the optimizer has %d", len(o.groups))}
	}
	return nil
}

// checkRule reports a rule that group i cannot run.
func checkRule(i int, r Rule, wide bool) error {
	var h floatmode.Hold
	defer h.Take().Release()
	if errISA != nil {
		return errISA
	}
	if err := checkRuleType(r); err != nil {
		return &GroupError{i, err}
	}
	if err := r.Validate(); err != nil {
		return &GroupError{i, err}
	}
	if err := nonNegative.check(forms[r.form()].rule, "LR", lrOf(r)); err != nil { // where it is set, it can still be refused
		return &GroupError{i, err}
	}
	for t := 1; t <= 2; t++ { // bias correction makes step 1's coefficients the largest; SGD has dampening from step 2 on
		trial := tensor{form: r.form()}
		if wide {
			trial.p.format = f64
		}
		exact := r.scalars(t)
		if err := trial.round(&exact); err != nil {
			return &GroupError{i, err}
		}
	}
	return nil
}
