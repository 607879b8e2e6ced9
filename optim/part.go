package optim

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/posneg/pnm"
)

// A Part is a part of a step of one tensor: the elements Lo … Lo+Grads.Len()−1.
type Part struct {
	Tensor int        // the number of the tensor in its optimizer
	Step   int        // the number of the step: [Optimizer.Steps] + 1
	Lo     int        // the first element
	Grads  pnm.Vector // the gradients of the elements Lo, Lo+1, …
}

// StepPart performs a part of a step, for trainers that get gradients in pieces. The parts of a step may come in any order and from
// several goroutines; each element is in exactly one part. The last part completes the step, which then counts. Together the parts give
// bit-identical results to a whole step. The report has the overflows of this part's copy.
//
// A *PartError reports elements that are not in the tensor, that have been updated in this step, or that have not been updated in
// the step before. While a step is incomplete, calls that need a complete one, such as [Optimizer.Step] and [Optimizer.State], also
// return a *PartError. [Optimizer.SetState] drops an incomplete step. If momenta are mxfp8, a part begins and ends between rows (see
// [Group].Rows), or at multiples of 32 elements if the tensor is flat; otherwise a *pnm.ValueError names the nearest two borders.
//
// ClipNorm and SkipNonFinite concern all gradients of the step, so they need Squares. LossScale, ClipNorm, ClipValue, SkipNonFinite and
// Squares must be the same for all parts of a tensor's step. Otherwise StepPart returns a *pnm.ValueError. If SkipNonFinite skips a
// part, that part is not done, and its elements remain due. Other errors are those of Step. StepPart allocates nothing once a step has had
// as many parts.
//
// A process that owns only a part of a tensor needs no StepPart: build its optimizer for params.Slice(lo, hi), with only the state of that
// part.
func (o *Optimizer) StepPart(opts pnm.Options, part Part) (pnm.Report, error) {
	o.onePart.Lock()
	defer o.onePart.Unlock()
	if err := o.calls.begin(); err != nil {
		return pnm.Report{}, err
	}
	defer o.calls.end()
	if o.closed {
		return pnm.Report{}, ErrClosed
	}
	if err := o.checkTensor(part.Tensor); err != nil {
		return pnm.Report{}, err
	}
	if err := checkPartOptions(&opts); err != nil {
		return pnm.Report{}, err
	}
	u, begun := &o.list.Updates[part.Tensor], &o.parts.of[part.Tensor]
	n := u.Params.Len()
	if err := begun.check(part, u.Step, n); err != nil {
		return pnm.Report{}, o.inTensor(part.Tensor, err)
	}
	if err := begun.checkOptions(&opts); err != nil {
		return pnm.Report{}, err
	}
	report, err := o.list.StepPart(o.withPool(&opts), part.Tensor, part.Lo, part.Grads)
	if err != nil {
		return pnm.Report{}, named(err, o.names)
	}
	if part.Grads.Len() == 0 && n > 0 || report.Skipped {
		return report, nil // no part
	}
	begun.setOptions(&opts)
	if o.parts.mark(part.Tensor, part.Lo, part.Lo+part.Grads.Len(), n) {
		u.Step++
	}
	return report, nil
}

// checkPartOptions reports an option that needs all gradients if Squares is not set.
func checkPartOptions(o *pnm.Options) error {
	switch {
	case o.Squares != nil:
	case o.ClipNorm != 0:
		return &pnm.ValueError{Of: "Options", Field: "ClipNorm", Value: o.ClipNorm, Legal: "0 for a part of a step, unless Squares is set"}
	case o.SkipNonFinite:
		return &pnm.ValueError{Of: "Options", Field: "SkipNonFinite", Value: 1, Legal: "off for a part of a step, unless Squares is set"}
	}
	return nil
}

const (
	incomplete = "must be updated first, by StepPart"
	already    = "have been updated already"
)

// wholeSteps reports the first of the tensors first … end−1 whose step is incomplete.
func (o *Optimizer) wholeSteps(first, end int) error {
	if o.parts.open == 0 {
		return nil
	}
	for i := first; i < end; i++ {
		if done := o.parts.of[i].done; len(done) > 0 {
			u := &o.list.Updates[i]
			gap := done.gap(u.Params.Len())
			return o.inTensor(i, &PartError{u.Step, gap.lo, gap.hi, incomplete})
		}
	}
	return nil
}

// parts keeps track of the steps that are done in parts.
type parts struct {
	of   []progress // by tensor
	open int        // the number of tensors whose step is incomplete
}

// A progress is the part of a tensor's current step that has been done.
type progress struct {
	done    ranges       // the elements that have been updated
	options pnm.Options  // the options of the parts, without those that may differ
	squares *pnm.Squares // a copy of the parts' Squares; kept between steps
}

// check reports a part that cannot be done now, in a tensor of n elements whose step due is the current one.
func (p *progress) check(part Part, due, n int) error {
	if part.Step < 1 {
		return &pnm.ValueError{Of: "Part", Field: "Step", Value: float64(part.Step), Legal: "≥ 1"}
	}
	lo, hi := part.Lo, part.Lo+part.Grads.Len()
	if hi < lo {
		hi = math.MaxInt
	}
	if lo < 0 || lo > n || hi > n {
		return &PartError{part.Step, lo, hi, fmt.Sprintf("are not all in the tensor, which has %d", n)}
	}
	again := p.done.overlap(lo, hi)
	switch {
	case part.Step > due:
		gap := p.done.gap(n)
		return &PartError{due, gap.lo, gap.hi, fmt.Sprintf("must be updated before step %d", part.Step)}
	case part.Step < due:
		return &PartError{part.Step, lo, hi, already}
	case again != (elements{}):
		return &PartError{part.Step, again.lo, again.hi, already}
	}
	return nil
}

// checkOptions reports an option that differs from that of other parts of the step.
func (p *progress) checkOptions(o *pnm.Options) error {
	if len(p.done) == 0 {
		return nil
	}
	same := func(field string, value, before float64) error {
		if value == before {
			return nil
		}
		return &pnm.ValueError{Of: "Options", Field: field, Value: value, Legal: fmt.Sprintf("%v, as for other parts of the step", before)}
	}
	return cmp.Or(same("LossScale", lossScale(o), lossScale(&p.options)), same("ClipNorm", o.ClipNorm, p.options.ClipNorm),
		same("ClipValue", o.ClipValue, p.options.ClipValue), same("SkipNonFinite", number(o.SkipNonFinite), number(p.options.SkipNonFinite)),
		p.checkSquares(o))
}

// checkSquares reports Squares that differ from those of other parts.
func (p *progress) checkSquares(o *pnm.Options) error {
	if o.Squares == nil || p.squares == nil || *o.Squares == *p.squares {
		return nil
	}
	return &pnm.ValueError{Of: "Options", Field: "Squares", Value: o.Squares.Norm(),
		Legal: fmt.Sprintf("those of the other parts of the step, whose norm is %v", p.squares.Norm())}
}

func (p *progress) setOptions(o *pnm.Options) {
	p.options = *o
	p.options.Pool, p.options.Squares, p.options.Noise = nil, nil, nil
	if o.Squares == nil {
		return
	}
	if p.squares == nil {
		p.squares = new(pnm.Squares)
	}
	*p.squares = *o.Squares
}

// lossScale is the divisor of the gradients.
func lossScale(o *pnm.Options) float64 { return cmp.Or(o.LossScale, 1) }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// mark adds the elements lo … hi−1 of tensor i to those that have been updated. It reports whether all n elements have been updated, which
// completes the step.
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

// ranges are disjoint and in order, with gaps between them.
type ranges []elements

// behind returns the index of the first range that ends after element i.
func (r ranges) behind(i int) int {
	return sort.Search(len(r), func(k int) bool { return r[k].hi > i })
}

// overlap returns the first of the elements lo … hi−1 that are in one range, or no elements if none are.
func (r ranges) overlap(lo, hi int) elements {
	if k := r.behind(lo); k < len(r) && r[k].lo < hi {
		return elements{max(lo, r[k].lo), min(hi, r[k].hi)}
	}
	return elements{}
}

// with returns the ranges with the elements lo … hi−1 added, none of which are in them.
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
