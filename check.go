package pnm

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
)

func checkStep(t int) error {
	if t < 1 {
		return &ValueError{"Update", "Step", float64(t), "≥ 1"}
	}
	return nil
}

// checkSlices reports a slice of a drop-in call that differs from the parameters in length or shares memory with another slice. All
// slices have the same format.
func checkSlices(t *tensor) error {
	n, bytes := t.p.n, uintptr(t.p.n*t.p.size())
	if t.g.n != n {
		return t.wrongLength(1)
	}
	all := hull{uintptr(t.p.at), uintptr(t.p.at) + bytes}
	apart := all.add(uintptr(t.g.at), bytes)
	state := t.s[:len(forms[t.form].Slots)]
	for k := range state {
		if state[k].n != n {
			return t.wrongLength(2 + k)
		}
		apart = all.add(uintptr(state[k].at), bytes) && apart
	}
	if apart {
		return nil
	}
	return t.overlap(bytes)
}

// A hull is the range of memory from the start of the first slice to the end of the last one.
type hull struct{ lo, hi uintptr }

// add adds a slice. It reports whether the slice lies before or after all others, as most do, and so shares memory with none of them.
func (h *hull) add(at, bytes uintptr) bool {
	if at >= h.hi {
		h.hi = at + bytes
		return true
	}
	if at+bytes <= h.lo {
		h.lo = at
		return true
	}
	return false
}

// overlap compares all slices, each of that many bytes, with each other, and reports two that share memory.
func (t *tensor) overlap(bytes uintptr) error {
	starts := [2 + maxSlots]uintptr{uintptr(t.p.at), uintptr(t.g.at)}
	state := t.s[:len(forms[t.form].Slots)]
	for k := range state {
		starts[2+k] = uintptr(state[k].at)
	}
	for i, a := range starts[:2+len(state)] {
		for j, b := range starts[:i] {
			if a-b < bytes || b-a < bytes {
				return &OverlapError{Arg: t.argument(j), OtherArg: t.argument(i), Elements: shared(spanOf(*t.vector(j)), spanOf(*t.vector(i)))}
			}
		}
	}
	return nil
}

// wrongLength is the error of vector i.
func (t *tensor) wrongLength(i int) error { return &LengthError{t.argument(i), t.vector(i).n, t.p.n} }

// checkFormats reports a vector of a tensor whose format is not legal in its place.
func checkFormats(t *tensor) error {
	for k := range t.vectors() {
		// Not for low16 parameters: the error would ask for other vectors in low16. The checks below find these.
		if f := t.vector(k).format; f != t.p.format && (f == f64 || t.p.format == f64) && t.p.format != low16 {
			return &FormatError{t.argument(k), f.String(), fmt.Sprintf("%s like params, since one of the two is float64", t.p.format)}
		}
	}
	if t.p.format == f16 || t.p.format == mxfp8 {
		return &FormatError{"params", t.p.format.String(), "float32, bf16 or low16"}
	}
	for k := range forms[t.form].Slots {
		if err := t.checkState(k); err != nil {
			return err
		}
	}
	return checkCopy(t)
}

// checkState reports a state buffer whose format is not legal for its role, or differs from that of the first momentum.
func (t *tensor) checkState(k int) error {
	first, name := forms[t.form].Slots[0], forms[t.form].Slots[k]
	momentum := isMomentum(rune(forms[t.form].Roles[k]))
	switch v, like := &t.s[k], &t.s[0]; {
	case momentum && (v.format == f16 || v.format == low16 || v.format == f64 && !t.wide()):
		return &FormatError{name, v.format.String(), "float32, bf16 or mxfp8"}
	case !momentum && like.format == mxfp8 && v.format != bf16:
		return &FormatError{name, v.format.String(), fmt.Sprintf("bf16 where %s is mxfp8", first)}
	case !momentum && (v.format == f16 || v.format == low16 || v.format == mxfp8 || v.format == f64 && !t.wide()):
		return &FormatError{name, v.format.String(), "float32 or bf16"}
	case v.format != like.format && (momentum || like.format != mxfp8):
		return &FormatError{name, v.format.String(), fmt.Sprintf("%s like %s", like.format, first)}
	case momentum && v.row != like.row:
		return &ValueError{name, "Row", float64(v.row), fmt.Sprintf("%d like that of %s", like.row, first)}
	}
	return nil
}

// checkCopy reports a copy that does not fit the parameters, or that is missing. Empty parameters need no copy.
func checkCopy(t *tensor) error {
	none := t.out.at == nil
	half := !none && (t.out.format == bf16 || t.out.format == f16)
	switch {
	case none && t.p.n == 0:
	case t.p.format == low16:
		if none || t.out.format != bf16 {
			return &FormatError{"copy", t.out.described(), "bf16, the upper halves of low16 params"}
		}
	case t.p.format != f32 && t.follow:
		return &FormatError{"params", t.p.format.String(), "float32 or low16 to follow their copy"}
	case t.p.format != f32 && !none:
		return &FormatError{"params", t.p.format.String(), "float32 or low16 to have a copy"}
	case t.follow && !half:
		return &FormatError{"copy", t.out.described(), "bf16 or f16 for params to follow it"}
	case !none && !half:
		return &FormatError{"copy", t.out.format.String(), "bf16 or f16"}
	}
	return nil
}

// checkRule reports a rule that is nil, is a pointer or not of this package, or has a bad hyperparameter.
func checkRule(r Rule) error {
	if errISA != nil {
		return errISA
	}
	if r == nil {
		return errors.New("pnm: Rule is nil")
	}
	if t := reflect.TypeOf(r); t.PkgPath() != reflect.TypeFor[PNM]().PkgPath() { // the caller could change a rule behind a pointer
		return fmt.Errorf("pnm: Rule is a %s, must be one of this package's rules, by value", t)
	}
	return r.Validate()
}

// spans appends the spans of all vectors of a tensor that a step writes, without gradients.
func (t *tensor) spans(tensor int, all regions) regions {
	for k := range t.vectors() {
		v := t.vector(k)
		if v.n == 0 || k == 1 {
			continue
		}
		all = append(all, t.span(tensor, k))
		if v.format == mxfp8 {
			s := scalesSpanOf(*v).of(scaleNames[t.form][k-2])
			s.tensor = tensor
			all = append(all, s)
		}
	}
	return all
}

// scaleNames name the scales of the state in errors, by form and slot.
var scaleNames = func() (names [len(forms)][maxSlots]string) {
	for f, form := range forms {
		for k, slot := range form.Slots {
			names[f][k] = slot + " scales"
		}
	}
	return names
}()

// span returns the span of vector k of a tensor.
func (t *tensor) span(tensor, k int) span {
	s := spanOf(*t.vector(k))
	s.tensor, s.arg = tensor, t.argument(k)
	return s
}

// overlapOf returns the error of two spans that share n elements.
func overlapOf(a, b span, n int) error {
	if a.tensor == b.tensor {
		return &TensorError{Tensor: a.tensor, Err: &OverlapError{Arg: a.arg, OtherArg: b.arg, Elements: n}}
	}
	return &OverlapError{Arg: a.arg, OtherArg: b.arg, Elements: n, Tensors: []int{a.tensor, b.tensor}}
}

// A span is a range of addresses, the size of an element there, and the tensor whose vector it is.
type span struct {
	lo, hi uintptr
	size   int
	tensor int
	arg    string
}

func spanOf(v Vector) span {
	lo := uintptr(v.at)
	return span{lo: lo, hi: lo + uintptr(v.n)*uintptr(v.size()), size: v.size()}
}

// scalesSpanOf returns the span of the scales of mxfp8; it is empty for other formats.
func scalesSpanOf(v Vector) span {
	lo := uintptr(v.scales)
	return span{lo: lo, hi: lo + uintptr(len(v.Scales())), size: 1}
}

// of returns the span with a name for errors.
func (s span) of(arg string) span {
	s.arg = arg
	return s
}

// shared returns the number of elements that two spans share, at least in part, in units of the larger element.
func shared(a, b span) int {
	lo, hi, size := max(a.lo, b.lo), min(a.hi, b.hi), max(a.size, b.size)
	if lo >= hi {
		return 0
	}
	return (int(hi-lo) + size - 1) / size
}

// A regions is a set of disjoint spans in order of address.
type regions []span

// sort sorts spans by address. It returns an *OverlapError if any two share memory.
func (r regions) sort() error {
	slices.SortFunc(r, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	for i := 1; i < len(r); i++ {
		a, b := r[i-1], r[i]
		if n := shared(a, b); n > 0 {
			if a.tensor > b.tensor {
				a, b = b, a
			}
			return overlapOf(a, b, n)
		}
	}
	return nil
}

// merge returns the spans of two sets that share no memory.
func merge(a, b regions) regions {
	all := make(regions, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].lo > b[0].lo {
			a, b = b, a
		}
		all, a = append(all, a[0]), a[1:]
	}
	return append(append(all, a...), b...)
}

// layers are a set of disjoint spans to which few can be added at a time. Each layer is larger than the next one, so that there are few
// layers, and each span is moved at most as many times.
type layers []regions

// with returns the layers with more spans added, and leaves l unchanged. The new spans belong to later tensors. It returns an
// *OverlapError if a new span shares memory with an old one.
func (l layers) with(more regions) (layers, error) {
	for _, s := range more {
		if t, n := l.overlapping(s); n > 0 {
			return nil, overlapOf(t, s, n)
		}
	}
	if len(more) == 0 {
		return l, nil
	}
	kept := len(l)
	for ; kept > 0 && len(l[kept-1]) <= len(more); kept-- {
		more = merge(l[kept-1], more)
	}
	return append(l[:kept:kept], more), nil
}

func (l layers) overlapping(q span) (first span, n int) {
	for _, r := range l {
		if first, n = r.overlapping(q); n > 0 {
			break
		}
	}
	return first, n
}

// overlapping returns the first of the regions that shares memory with q, and the number of shared elements, 0 for none.
func (r regions) overlapping(q span) (first span, n int) {
	i := sort.Search(len(r), func(i int) bool { return r[i].hi > q.lo })
	if i == len(r) {
		return span{}, 0
	}
	return r[i], shared(r[i], q)
}
