package pnm

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
)

// A Part is a part of a step of one tensor: the elements Lo … Lo+len(Grads)−1.
type Part[T Float] struct {
	Tensor int // index of the tensor in its optimizer
	Step   int // the number of the step: [Optimizer.Steps] + 1
	Lo     int // the first element
	Grads  []T // the gradients of the elements Lo, Lo+1, …
}

// StepPart performs a part of a step, for trainers that get gradients in pieces. The parts may come in any order and from several
// goroutines, each element in one part. The last one completes the step, which is then counted. The bits are those of a whole step.
// A process that owns only a part of a tensor builds its optimizer over that part alone, params[lo:hi], and keeps no other state.
//
// A *RangeError reports elements that are not in the tensor, that have had their part of this step, or that still lack their part of
// the step before. While a step is incomplete, calls that need a complete one give it, too: [Optimizer.Step], [Optimizer.State], ….
// [Optimizer.SetState] drops what was done.
//
// LossScale and ClipValue must be the same for all parts of a tensor's step. ClipNorm and SkipNonFinite need all gradients: see
// [Options] for what to do instead. Both faults give a *HyperparameterError. Other errors are those of StepWith. Nothing is
// allocated once steps have been cut into as many parts before.
func (o *Optimizer[T]) StepPart(opts Options, part Part[T]) error {
	_, err := o.stepPart(&opts, MixedPart{part.Tensor, part.Step, part.Lo, vectorOf(part.Grads)})
	return err
}

func (o *optimizer) stepPart(opts *Options, part MixedPart) (r Report, err error) {
	o.onePart.Lock()
	defer o.onePart.Unlock()
	if err := o.calls.begin(); err != nil {
		return r, err
	}
	defer o.calls.end()
	if o.closed {
		return r, ErrClosed
	}
	b := takeBatch()
	defer b.putBack()
	defer b.held.Take().Release()
	if part.Tensor < 0 || part.Tensor >= len(o.batch.tensors) {
		return r, &TensorError{part.Tensor, len(o.batch.tensors)}
	}
	if err := checkStep(part.Step); err != nil {
		return r, err
	}
	if err := checkOptions(opts, o.wide); err != nil {
		return r, err
	}
	if opts.ClipNorm != 0 {
		return r, &HyperparameterError{"Options", "ClipNorm", opts.ClipNorm, "0 for a part of a step"}
	}
	if opts.SkipNonFinite {
		return r, &HyperparameterError{"Options", "SkipNonFinite", 1, "off for a part of a step"}
	}
	whole := &o.batch.tensors[part.Tensor]
	lo, hi := part.Lo, part.Lo+part.Grads.n
	if hi < lo {
		hi = math.MaxInt
	}
	if lo < 0 || lo > whole.p.n || hi > whole.p.n {
		return r, &RangeError{part.Tensor, part.Step, lo, hi, fmt.Sprintf("are not all within the tensor, which has %d", whole.p.n)}
	}
	begun := &o.parts.of[part.Tensor]
	again := begun.done.overlap(lo, hi)
	switch {
	case part.Step > whole.step:
		gap := begun.done.gap(whole.p.n)
		return r, &RangeError{part.Tensor, whole.step, gap.lo, gap.hi, fmt.Sprintf("must have their part of it before step %d", part.Step)}
	case part.Step < whole.step:
		return r, &RangeError{part.Tensor, part.Step, lo, hi, "have been updated already"}
	case again != (elements{}):
		return r, &RangeError{part.Tensor, part.Step, again.lo, again.hi, "have been updated already"}
	}
	if err := begun.checkOptions(opts); err != nil {
		return r, err
	}
	if err := o.checkGradient(part.Tensor, part.Grads); err != nil {
		return r, err
	}
	if lo == hi && whole.p.n > 0 {
		return r, nil
	}
	if err := o.coefficients(whole); err != nil {
		return r, err
	}
	if opts.Pool == nil {
		opts.Pool = o.config.Pool
	}

	b.tensors = append(b.tensors, whole.cut(lo, hi, part.Grads))
	o.setGrads(whole, Vector{format: part.Grads.format})
	begun.setOptions(opts)
	r = b.step(opts, o.bytes)

	if o.parts.mark(part.Tensor, lo, hi, whole.p.n) {
		whole.step++
	}
	return r, nil
}

const incomplete = "must have their part of it first, by StepPart"

// wholeSteps reports a tensor of a group, or of any group if group is −1, that has had a part of a step.
func (o *optimizer) wholeSteps(group int) error {
	if o.parts.open == 0 {
		return nil
	}
	i, end := 0, len(o.batch.tensors)
	if group >= 0 {
		i, end = o.members(group)
	}
	for ; i < end; i++ {
		if done := o.parts.of[i].done; len(done) > 0 {
			gap := done.gap(o.batch.tensors[i].p.n)
			return &RangeError{i, o.batch.tensors[i].step, gap.lo, gap.hi, incomplete}
		}
	}
	return nil
}

// parts keeps track of the steps that are done in parts.
type parts struct {
	of   []progress // each tensor
	open int        // how many tensors have had a part
}

// A progress is what has been done of the step of a tensor that is due.
type progress struct {
	done                 ranges // the elements that have had it
	lossScale, clipValue float64
}

// checkOptions reports options that would do to a part something else than was done to others.
func (p *progress) checkOptions(o *Options) error {
	if len(p.done) == 0 {
		return nil
	}
	same := func(field string, value, before float64) error {
		if value == before {
			return nil
		}
		return &HyperparameterError{"Options", field, value, fmt.Sprintf("%v, as for other parts of the step", before)}
	}
	return cmp.Or(same("LossScale", o.lossScale(), p.lossScale), same("ClipValue", o.ClipValue, p.clipValue))
}

func (p *progress) setOptions(o *Options) { p.lossScale, p.clipValue = o.lossScale(), o.ClipValue }

// mark adds elements to those of tensor i that have had their part, and reports whether all of its n elements have: the
// step is then complete.
func (p *parts) mark(i, lo, hi, n int) (complete bool) {
	done := &p.of[i].done
	if len(*done) == 0 {
		p.open++
	}
	*done = done.with(lo, hi)
	if (*done)[0] != (elements{0, n}) {
		return false
	}
	p.drop(i)
	return true
}

// drop forgets the parts of tensor i.
func (p *parts) drop(i int) {
	if done := &p.of[i].done; len(*done) > 0 {
		*done = (*done)[:0]
		p.open--
	}
}

// elements are those from lo to hi−1.
type elements struct{ lo, hi int }

// ranges are disjoint, in order, and do not touch each other.
type ranges []elements

// behind returns the index of the first range that ends behind element i.
func (r ranges) behind(i int) int {
	return sort.Search(len(r), func(k int) bool { return r[k].hi > i })
}

// overlap returns what of the elements lo … hi−1 is in the ranges; if it is several pieces, the first. No elements, if none.
func (r ranges) overlap(lo, hi int) elements {
	if k := r.behind(lo); k < len(r) && r[k].lo < hi {
		return elements{max(lo, r[k].lo), min(hi, r[k].hi)}
	}
	return elements{}
}

// with returns the ranges and the elements lo … hi−1, of which they have none.
func (r ranges) with(lo, hi int) ranges {
	k := r.behind(lo)
	before, after := k > 0 && r[k-1].hi == lo, k < len(r) && r[k].lo == hi
	switch {
	case before && after:
		r[k-1].hi = r[k].hi
		return slices.Delete(r, k, k+1)
	case before:
		r[k-1].hi = hi
	case after:
		r[k].lo = lo
	default:
		return slices.Insert(r, k, elements{lo, hi})
	}
	return r
}

// gap returns the first elements of n that are in no range.
func (r ranges) gap(n int) elements {
	switch {
	case len(r) == 0:
		return elements{0, n}
	case r[0].lo > 0:
		return elements{0, r[0].lo}
	case len(r) > 1:
		return elements{r[0].hi, r[1].lo}
	}
	return elements{r[0].hi, n}
}
