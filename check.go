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
		return &StepError{t}
	}
	return nil
}

// checkBuffers reports a vector of a drop-in call that differs from the parameters in length, shares memory with another, or has a
// format that is not for its place.
func checkBuffers(t *tensor) error {
	used := t.vectors()
	oneFormat := t.out.at == nil && (t.p.format == f32 || t.p.format == f64)
	for i := 1; i < used; i++ {
		v := t.vector(i)
		if v.n != t.p.n {
			return &LengthError{-1, t.argument(i), v.n, t.p.n}
		}
		oneFormat = oneFormat && v.format == t.p.format
	}
	if !oneFormat {
		if err := checkFormats(-1, t); err != nil {
			return err
		}
	}
	var starts, ends [3 + maxSlots]uintptr
	for i := range used {
		v := t.vector(i)
		starts[i] = uintptr(v.at)
		ends[i] = starts[i] + uintptr(v.n*v.size())
		for j := range i {
			if starts[i] < ends[j] && starts[j] < ends[i] {
				return &OverlapError{-1, -1, t.argument(j), t.argument(i), shared(spanOf(*t.vector(j)), spanOf(*v))}
			}
		}
	}
	return nil
}

// checkMemory reports a tensor whose parameters and copy do not fit each other or its state.
func checkMemory(i int, t *tensor) error {
	if t.out.at != nil && t.out.n != t.p.n {
		return &LengthError{i, "copy", t.out.n, t.p.n}
	}
	return checkFormats(i, t)
}

// checkFormats reports a vector of a tensor, number i of its optimizer, in a format that is not for its place.
func checkFormats(i int, t *tensor) error {
	for k := range t.vectors() {
		if f := t.vector(k).format; f != t.p.format && (f == f64 || t.p.format == f64) {
			return &FormatError{i, t.argument(k), f.String(), fmt.Sprintf("%s as params are, where one of them is float64", t.p.format)}
		}
	}
	if t.p.format == f16 {
		return &FormatError{i, "params", t.p.format.String(), "float32 or bf16"}
	}
	state := t.s[0].format
	for k, name := range forms[t.form].slots {
		switch f := t.s[k].format; {
		case f == f16:
			return &FormatError{i, name, f.String(), "float32 or bf16"}
		case f != state:
			return &FormatError{i, name, f.String(), fmt.Sprintf("%s as %s are", state, forms[t.form].slots[0])}
		}
	}
	if t.out.at != nil {
		if t.p.format != f32 {
			return &FormatError{i, "params", t.p.format.String(), "float32 where there is a copy of them"}
		}
		if t.out.format == f32 {
			return &FormatError{i, "copy", t.out.format.String(), "bf16 or f16"}
		}
	}
	return nil
}

// checkRuleType reports a rule that is missing or is not one of the package's, by value.
func checkRuleType(r Rule) error {
	if r == nil {
		return errors.New("Rule is nil")
	}
	if t := reflect.TypeOf(r); t.PkgPath() != reflect.TypeFor[PNM]().PkgPath() { // a pointer could change behind our back
		return fmt.Errorf("Rule is a %s, must be one of this package's rules, by value", t)
	}
	return nil
}

// checkOverlaps reports memory that is written for one tensor and belongs to another one, too. Within a tensor nothing overlaps.
func (b *batch) checkOverlaps(zero bool) error {
	written, read := b.written[:0], b.read[:0]
	defer func() { b.written, b.read = written, read }()
	for i := range b.tensors {
		t := &b.tensors[i]
		for k := range t.vectors() {
			v := t.vector(k)
			if v.n == 0 {
				continue
			}
			s := spanOf(*v)
			s.tensor, s.arg = i, t.argument(k)
			if k == 1 && !zero {
				read = append(read, s)
			} else {
				written = append(written, s)
			}
		}
	}
	if err := written.sort(); err != nil {
		return err
	}
	for _, g := range read {
		if w, n := written.overlapping(g); n > 0 {
			return &OverlapError{w.tensor, g.tensor, w.arg, g.arg, n}
		}
	}
	return nil
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

// shared returns how many elements, the larger ones, two spans have in common at least in part.
func shared(a, b span) int {
	lo, hi, size := max(a.lo, b.lo), min(a.hi, b.hi), max(a.size, b.size)
	if lo >= hi {
		return 0
	}
	return (int(hi-lo) + size - 1) / size
}

// A regions is a set of disjoint spans in order of address.
type regions []span

// disjoint adds the spans of more vectors, numbered from first, to all, which may be reordered. It returns an *OverlapError if
// any two share memory; arg says what they are.
func disjoint(all regions, first int, more []Vector, arg string) (regions, error) {
	for i, v := range more {
		if v.n > 0 {
			sp := spanOf(v)
			sp.tensor, sp.arg = first+i, arg
			all = append(all, sp)
		}
	}
	if err := all.sort(); err != nil {
		return nil, err
	}
	return all, nil
}

// memoryOf returns the regions of the parameters and copies of tensors, numbered from first. It returns an *OverlapError if any
// two share memory.
func memoryOf(first int, tensors []tensor) (regions, error) {
	params, copies := make([]Vector, len(tensors)), make([]Vector, len(tensors))
	for i, t := range tensors {
		params[i], copies[i] = t.p, t.out
	}
	all, err := disjoint(make(regions, 0, 2*len(tensors)), first, params, "params")
	if err != nil {
		return nil, err
	}
	return disjoint(all, first, copies, "copy")
}

// sort brings spans into order. It returns an *OverlapError if any two share memory.
func (r regions) sort() error {
	slices.SortFunc(r, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	for i := 1; i < len(r); i++ {
		a, b := r[i-1], r[i]
		if n := shared(a, b); n > 0 {
			if a.tensor > b.tensor {
				a, b = b, a
			}
			return &OverlapError{a.tensor, b.tensor, a.arg, b.arg, n}
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

// layers are a set of disjoint spans that may grow by one at a time. Each layer is larger than the next one, so that there are few,
// and a span has moved from one to another no more often than there are layers.
type layers []regions

// with returns the layers with more spans in them, and leaves l as it is. It returns an *OverlapError if one of these, whose tensors
// come later, shares memory with one of those.
func (l layers) with(more regions) (layers, error) {
	for _, s := range more {
		if t, n := l.overlapping(s); n > 0 {
			return nil, &OverlapError{t.tensor, s.tensor, t.arg, s.arg, n}
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

// overlapping returns the first of the regions that shares memory with q, and how many elements: 0 if none does.
func (r regions) overlapping(q span) (first span, n int) {
	i := sort.Search(len(r), func(i int) bool { return r[i].hi > q.lo })
	if i == len(r) {
		return span{}, 0
	}
	return r[i], shared(r[i], q)
}
