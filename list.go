package pnm

import (
	"fmt"
	"slices"
	"sync/atomic"
)

// An Update is a step of one tensor in the caller's memory. The vectors have the same length (0 is legal) and share no memory. Either
// all of them are float64, and there is no Copy, or they have any combination of these formats:
//
//	Params    float32; bf16, rounded stochastically; or low16, see below
//	Grads     float32, bf16 or f16
//	State     float32; bf16, with momenta rounded to nearest even, and averages of squares (and their maximum) stochastically;
//	          or mxfp8 for momenta, rounded stochastically, with bf16 for averages of squares
//	Copy      bf16 or f16, rounded to nearest even, of float32 Params; bf16 of low16 Params
//
// A step widens all of them to float32, computes in float32, and rounds once, when it stores. State must be zero before the
// first step: see [AllocState].
//
// With Params in low16, each parameter is a float32 number in two halves: Copy has the upper half, in bf16, and Params the lower half.
// The model computes with Copy, and both together take the 4 bytes of the float32. A step gives bit-identical results to a step with
// float32 Params. The upper half is the nearest bf16, away from zero in a tie. [Split] makes the halves, and [Join] puts them together.
// To start from bf16 parameters, use them as Copy, and zeros as Params.
//
// The next step overwrites numbers that others write to Copy, unless Params are low16 or Follow is set. In these two cases the step
// starts from a number that rounds to the one written. Params in low16 keep their lower halves: if others write an infinity to Copy, the
// parameter may be a NaN or the largest finite number.
//
// All mxfp8 momenta of a tensor have the same rows. Such a tensor can be cut only where [Vector.Slice] can cut its momenta: parts of a
// step, and parts of a tensor given by Rounding.First, begin and end there.
//
// Stochastic rounding takes one of the two neighbours of a number, the nearer one with the higher probability, so that the mean is the
// number. Changes too small for rounding to nearest are then not lost: parameters keep moving at the right rate, and averages of squares
// keep decaying. (Rounded to nearest, with β2 = 0.999, they would not.) But rounding adds noise: AMSGrad keeps the maximum of an average,
// including the noise of bf16, which makes steps some 3 % shorter in the long run. docs/precision.md has the measurements.
type Update struct {
	Rule   Rule     // a value, not a pointer
	Step   int      // the tensor's own count, from 1: a step in which it gets no gradient does not count
	Params Vector   // updated
	Grads  Vector   // read, and zeroed with Options.ZeroGrads
	State  []Vector // updated; in the order of the rule's State

	Copy     Vector   // written with the updated parameters; read only with Follow or low16 Params; nil for none
	Follow   bool     // read Copy first: a float32 parameter that does not round to its copy takes the copy's value
	Rounding Rounding // the random numbers of stochastic rounding: give each tensor its own Rounding.Tensor, or all draw the same

	Skip bool // leave the tensor as it is, since it has no gradient in this step; Step and Grads are ignored
}

// Draws reports whether the update draws random numbers: whether it stores parameters or averages of squares in bf16, or momenta in mxfp8.
// If so, save Rounding with the run. Without a valid Rule, Draws returns false.
func (u *Update) Draws() bool {
	if checkRule(u.Rule) != nil {
		return false
	}
	t := tensor{form: u.Rule.form(), p: u.Params}
	if len(u.State) > 0 {
		t.s[0] = u.State[0]
	}
	return t.p.format != f64 && t.formats()&stochastic != 0
}

// UpdateAll performs a step of many tensors at once. ClipNorm and SkipNonFinite apply to all gradients together. The workers share the
// whole list, so that thousands of small tensors take as long as one large tensor of the same total size. The results are bit-identical
// to those of separate calls, such as [UpdatePNM], on gradients scaled by the same factor.
//
// An error of one tensor is a *[TensorError] that wraps a *[ValueError], *[LengthError], *[FormatError] or *[OverlapError]. A bad option
// returns a *ValueError. An *OverlapError says that memory written for one tensor belongs to another one. After an error nothing has
// been written. Gradients may share memory with each other, unless they are zeroed. UpdateAll keeps nothing of the caller's memory, and
// allocates nothing once it has updated a list of that length.
func UpdateAll(o Options, updates []Update) (Report, error) {
	l := takeList()
	defer l.putBack()
	l.Updates = updates
	return l.Step(o)
}

// A List performs steps of the same tensors again and again. A step is [UpdateAll] of its Updates, but checks only what has changed since
// the last step, and allocates nothing. Between steps the caller may change anything in Updates, such as Step, Grads, Skip, the learning
// rate in Rule, or vectors that move, and may append to them. The zero List is ready for use.
//
// A List is for one goroutine at a time: a call while another one runs does nothing and returns [ErrBusy].
type List struct {
	Updates []Update

	busy    atomic.Bool
	batch   batch   // its tensors are those of Updates, as they were checked
	memory  layers  // the memory that steps write, without gradients
	base    regions // the memory of the first of its layers
	laid    regions // the same, in the order of the tensors
	scratch regions
	working int64 // bytes that a step of all tensors touches

	apart    []span  // for each tensor, the last gradient that was found to share no memory with memory that is written
	compared bool    // apart has any gradient
	disjoint []span  // the last gradients that were found to share no memory with each other
	sorted   regions // scratch
}

// mostSpare is the number of tensors, of some 400 bytes each, up to which a list is kept for the next call.
const mostSpare = 64 << 10

// spare are empty lists for the next UpdateAll or StepPart.
var spare = make(chan *List, 16)

// takeList returns a list without tensors.
func takeList() *List {
	select {
	case l := <-spare:
		return l
	default:
		return new(List)
	}
}

// putBack ends the use of a list, which forgets the caller's memory.
func (l *List) putBack() {
	l.Updates = nil
	l.forget()
	if cap(l.batch.tensors) > mostSpare {
		return
	}
	select {
	case spare <- l:
	default:
	}
}

// begin lets one call in.
func (l *List) begin() error {
	if errISA != nil {
		return errISA
	}
	if !l.busy.CompareAndSwap(false, true) {
		return ErrBusy
	}
	l.batch.held.Take()
	return nil
}

func (l *List) end() {
	l.batch.held.Release()
	l.busy.Store(false)
}

// Step performs a step of all tensors without Skip, as [UpdateAll] does. If the step was not skipped (see [Report]), add 1 to the Step of
// each of these tensors.
func (l *List) Step(o Options) (Report, error) {
	if err := l.begin(); err != nil {
		return Report{}, err
	}
	defer l.end()
	defer l.letGo()
	if err := l.prepare(&o, 0); err != nil {
		return Report{}, err
	}
	return l.batch.step(&o, l.working), nil
}

// letGo forgets the gradients, which are the caller's.
func (l *List) letGo() {
	for i := range l.batch.tensors {
		t := &l.batch.tensors[i]
		t.g.at, t.g.n = nil, 0
	}
}

// StepPart performs a part of the step of one tensor, the elements lo … lo+grads.Len()−1, for callers who get gradients in pieces. Each
// element must be in exactly one part, and parts of a tensor with mxfp8 momenta begin and end where [Vector.Slice] can cut the momenta.
// StepPart ignores Grads and Skip of the Update.
//
// Together the parts give bit-identical results to a whole step. But ClipNorm and SkipNonFinite see only the gradients of the part, unless
// Options.Squares is set. The gradients must not share memory with any tensor. In this check, StepPart uses the memory that the other
// tensors had in the last call that checked all tensors.
func (l *List) StepPart(o Options, tensor, lo int, grads Vector) (Report, error) {
	if err := l.begin(); err != nil {
		return Report{}, err
	}
	defer l.end()
	if tensor < 0 || tensor >= len(l.Updates) {
		return Report{}, &ValueError{"StepPart", "tensor", float64(tensor), fmt.Sprintf("in [0, %d)", len(l.Updates))}
	}
	if err := l.preparePart(&o, tensor, lo, grads); err != nil {
		return Report{}, err
	}
	one := takeList()
	defer one.putBack()
	b := &one.batch
	b.tensors = append(b.tensors, l.batch.tensors[tensor].cut(lo, lo+grads.n, grads))
	b.held = l.batch.held
	r := b.step(&o, l.working)
	l.batch.held = b.held
	return r, nil
}

// preparePart checks what StepPart is asked for, and sets the tensor's coefficients.
func (l *List) preparePart(o *Options, tensor, lo int, grads Vector) error {
	u := &l.Updates[tensor]
	if err := checkRule(u.Rule); err != nil {
		return atTensor(tensor, err)
	}
	if len(l.batch.tensors) != len(l.Updates) || !l.knows(tensor) || u.Rule.form() != l.batch.tensors[tensor].form {
		l.forget()
		if err := l.learn(0); err != nil {
			return err
		}
	}
	if err := o.checkNoise(1); err != nil {
		return err
	}
	if err := checkOptions(o, l.batch.tensors[tensor].wide()); err != nil {
		return err
	}
	if err := l.checkPart(tensor, lo, grads); err != nil {
		return atTensor(tensor, err)
	}
	if err := l.checkGradient(tensor, grads); err != nil { // the memory that it shares may have been left
		if err := l.learn(0); err != nil {
			return err
		}
		if err := l.checkGradient(tensor, grads); err != nil {
			return err
		}
	}
	t := &l.batch.tensors[tensor]
	t.rounding = u.Rounding
	if err := t.setStep(u); err != nil {
		return atTensor(tensor, err)
	}
	return nil
}

func (l *List) checkPart(tensor, lo int, grads Vector) error {
	t := &l.batch.tensors[tensor]
	if lo < 0 || lo > t.p.n {
		return &ValueError{"StepPart", "lo", float64(lo), fmt.Sprintf("in [0, %d]", t.p.n)}
	}
	if grads.n > t.p.n-lo {
		return &LengthError{"grads", grads.n, t.p.n - lo}
	}
	if err := t.checkBorder("StepPart", "lo", lo); err != nil {
		return err
	}
	if err := t.checkBorder("StepPart", "lo + length of grads", lo+grads.n); err != nil {
		return err
	}
	return t.checkGradFormat(grads.format)
}

// Check returns the error that [List.Step] would return for the tensors from first on, without a step. If first is not 0, it assumes that
// earlier tensors that have been checked have not changed. It also checks tensors with Skip, except for their Step and Grads, and the
// coefficients of each rule at steps 1 and 2, where they are largest.
func (l *List) Check(first int) error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	if err := l.learn(first); err != nil {
		return err
	}
	for i := first; i < len(l.Updates); i++ {
		u, t := l.Updates[i], &l.batch.tensors[i]
		if i > first && u.Rule == l.Updates[i-1].Rule && t.wide() == l.batch.tensors[i-1].wide() {
			continue
		}
		err := checkRule(u.Rule)
		for u.Step = 1; u.Step <= 2 && err == nil; u.Step++ {
			err = t.setStep(&u)
		}
		if err != nil {
			return atTensor(i, err)
		}
	}
	defer l.letGo()
	return l.prepare(&Options{}, first)
}

// Touch makes each worker of a pool touch the state that the worker will update, for the tensors from first on, so that the system places
// that memory near the worker. It is useful for memory that has not been touched yet, such as that of a new [Arena]. It does not change
// the state. See [List.Check] for first and for errors.
func (l *List) Touch(p *Pool, first int) error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	if err := l.learn(first); err != nil {
		return err
	}
	l.batch.first = first
	l.batch.plan(allTensors)
	l.batch.do(p, allotting, l.batch.bytes())
	return nil
}

// prepare brings the tensors from first on up to date with the Updates, and checks them, their rules and the options.
func (l *List) prepare(o *Options, first int) error {
	if err := o.checkNoise(len(l.Updates)); err != nil {
		return err
	}
	if err := l.learn(first); err != nil {
		return err
	}
	begin := first                 // the first tensor with the current rule
	last := -1                     // the last tensor that is due
	var form form                  // of the current rule
	var allowed [len(formats)]bool // by format of parameters: the options are legal for it
	for i := first; i < len(l.Updates); i++ {
		u, t := &l.Updates[i], &l.batch.tensors[i]
		if i == first || u.Rule != l.Updates[i-1].Rule {
			if err := checkRule(u.Rule); err != nil {
				return atTensor(i, err)
			}
			begin, form = i, u.Rule.form()
		}
		if t.form != form { // the same vectors may now have other roles
			l.forget()
			return l.prepare(o, first)
		}
		if !u.Skip && !allowed[t.p.format] {
			if err := checkOptions(o, t.wide()); err != nil {
				return err
			}
			allowed[t.p.format] = true
		}
		if err := l.prepareTensor(i, begin, last); err != nil {
			return atTensor(i, err)
		}
		if t.g.at != nil {
			last = i
		}
	}
	if last < 0 {
		return checkOptions(o, true)
	}
	for i := first; i < len(l.Updates); i++ {
		if err := l.checkGradient(i, l.batch.tensors[i].g); err != nil {
			return err
		}
	}
	if o.ZeroGrads {
		return l.checkDisjoint()
	}
	return nil
}

// prepareTensor prepares tensor i, whose rule is that of tensors begin … i. last is the last tensor before it that has a gradient.
func (l *List) prepareTensor(i, begin, last int) error {
	u, t := &l.Updates[i], &l.batch.tensors[i]
	if u.Skip {
		t.g.at, t.g.n = nil, 0
		return nil
	}
	if u.Grads.n != t.p.n {
		return &LengthError{"grads", u.Grads.n, t.p.n}
	}
	if err := t.checkGradFormat(u.Grads.format); err != nil {
		return err
	}
	t.g, t.rounding = u.Grads, u.Rounding
	if last >= 0 {
		if same := &l.batch.tensors[last]; last >= begin && same.step == u.Step && same.wide() == t.wide() {
			t.step, t.c32, t.c64 = same.step, same.c32, same.c64
			return nil
		}
	}
	return t.setStep(u)
}

// atTensor is an error of a tensor.
func atTensor(i int, err error) error {
	switch err.(type) {
	case *TensorError, *OverlapError:
		return err // it names the tensors
	}
	return &TensorError{Tensor: i, Err: err}
}

// knows reports whether the memory of a tensor, and Rounding.First, are as they were checked.
func (l *List) knows(i int) bool {
	if i >= len(l.batch.tensors) {
		return false
	}
	t, u := &l.batch.tensors[i], &l.Updates[i]
	slots := len(forms[t.form].Slots)
	if t.p != u.Params || t.out != u.Copy || t.follow != u.Follow || t.rounding.First != u.Rounding.First || len(u.State) != slots {
		return false
	}
	for k := range slots {
		if t.s[k] != u.State[k] {
			return false
		}
	}
	return true
}

// forget drops what is known of all tensors.
func (l *List) forget() {
	clear(l.batch.tensors) // the caller's memory
	l.batch.tensors = l.batch.tensors[:0]
	l.memory = l.memory[:0]
}

// forgetGradients makes the next step compare all gradients with the memory that it writes.
func (l *List) forgetGradients() {
	if l.compared {
		clear(l.apart)
		l.compared = false
	}
}

// learn checks the memory of tensors that is not known. Known tensors before first have not changed.
func (l *List) learn(first int) error {
	if first < 0 {
		return &ValueError{"List", "first", float64(first), "≥ 0"}
	}
	known := len(l.batch.tensors)
	for i := min(first, len(l.Updates)); i < known; i++ {
		if i == len(l.Updates) || !l.knows(i) {
			l.forget()
			known = 0
			break
		}
	}
	if known == len(l.Updates) {
		return nil
	}
	err := l.learnFrom(known)
	if err != nil {
		clear(l.batch.tensors[known:])
		l.batch.tensors = l.batch.tensors[:known]
	}
	return err
}

// learnFrom checks the memory of the tensors from first on.
func (l *List) learnFrom(first int) error {
	added, working := l.scratch[:0], int64(0)
	if first > 0 {
		added, working = nil, l.working
	}
	for i := first; i < len(l.Updates); i++ {
		u := &l.Updates[i]
		l.batch.tensors = append(l.batch.tensors, tensor{})
		t := &l.batch.tensors[i]
		if i == first || u.Rule != l.Updates[i-1].Rule {
			if err := checkRule(u.Rule); err != nil {
				return atTensor(i, err)
			}
		}
		if err := t.set(u); err != nil {
			return atTensor(i, err)
		}
		added = t.spans(i, added)
		working += t.traffic()
	}
	if first > 0 {
		if err := added.sort(); err != nil {
			return err
		}
		memory, err := l.memory.with(added)
		if err != nil {
			return err
		}
		l.memory = memory
		l.forgetGradients() // some may lie in the new memory
	} else {
		l.scratch = added
		if err := l.layBase(added); err != nil {
			return err
		}
		l.memory = append(l.memory[:0], l.base)
	}
	l.working = working
	l.apart = slices.Grow(l.apart, max(0, len(l.Updates)-len(l.apart)))[:len(l.Updates)]
	return nil
}

// layBase sorts the memory of all tensors, unless it is that of the last call: most callers of [UpdateAll] pass the same list at every step.
func (l *List) layBase(memory regions) error {
	if slices.Equal(memory, l.laid) && len(l.apart) == len(l.Updates) {
		return nil
	}
	l.laid = l.laid[:0]
	clear(l.apart)
	l.apart, l.compared = l.apart[:0], false
	l.base = append(l.base[:0], memory...)
	if err := l.base.sort(); err != nil {
		l.base = l.base[:0]
		return err
	}
	l.laid = append(l.laid, memory...)
	return nil
}

// checkGradient reports a gradient that shares memory with memory that is written. Most gradients are at the same address at every step.
func (l *List) checkGradient(i int, g Vector) error {
	at := spanOf(g)
	if g.n == 0 || at == l.apart[i] {
		return nil
	}
	l.apart[i], l.compared = at, true
	if s, n := l.memory.overlapping(at); n > 0 {
		l.apart[i] = span{}
		at.tensor, at.arg = i, "grads"
		return overlapOf(s, at, n)
	}
	return nil
}

// checkDisjoint reports gradients that share memory with each other.
func (l *List) checkDisjoint() error {
	same := len(l.disjoint) == len(l.batch.tensors)
	for i := range l.batch.tensors {
		same = same && l.disjoint[i] == spanOf(l.batch.tensors[i].g)
	}
	if same {
		return nil
	}
	l.disjoint, l.sorted = l.disjoint[:0], l.sorted[:0]
	for i := range l.batch.tensors {
		if t := &l.batch.tensors[i]; t.g.n > 0 {
			l.sorted = append(l.sorted, t.span(i, 1))
		}
	}
	if err := l.sorted.sort(); err != nil {
		return err
	}
	for i := range l.batch.tensors {
		l.disjoint = append(l.disjoint, spanOf(l.batch.tensors[i].g))
	}
	return nil
}

// set sets t to the memory of an update, and checks it.
func (t *tensor) set(u *Update) error {
	t.form = u.Rule.form()
	t.p, t.out, t.follow, t.rounding = u.Params, u.Copy, u.Follow, u.Rounding
	t.g = Vector{layout: layout{format: f32}}
	if t.wide() {
		t.g.format = f64
	}
	if err := t.checkSlots(u); err != nil {
		return err
	}
	copy(t.s[:], u.State)
	for k := range t.vectors() {
		if v := t.vector(k); k != 1 && v.n != t.p.n {
			return t.wrongLength(k)
		}
	}
	if err := checkFormats(t); err != nil {
		return err
	}
	return t.checkFirst()
}

func (t *tensor) checkSlots(u *Update) error {
	if n := len(forms[t.form].Slots); len(u.State) != n {
		return &LengthError{fmt.Sprintf("State (%s)", t.form.state()), len(u.State), n}
	}
	return nil
}

// checkGradFormat reports gradients in a format that is not legal for the tensor.
func (t *tensor) checkGradFormat(f format) error {
	switch {
	case t.wide() && f != f64:
		return &FormatError{"grads", f.String(), "float64 like params"}
	case !t.wide() && (f.alone() || f == mxfp8):
		return &FormatError{"grads", f.String(), "float32, bf16 or f16"}
	}
	return nil
}

// setStep sets the number of the step, and its coefficients.
func (t *tensor) setStep(u *Update) error {
	if err := checkStep(u.Step); err != nil {
		return err
	}
	t.step = u.Step
	t.c64 = scalars[float64]{}
	u.Rule.scalars(u.Step, &t.c64)
	return t.round(u.Rule.form())
}
