package pnm

import (
	"cmp"
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
	oneFormat := t.p.format == f32 || t.p.format == f64
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

// overlapping returns the first of the regions that shares memory with q, and how many elements: 0 if none does.
func (r regions) overlapping(q span) (first span, n int) {
	i := sort.Search(len(r), func(i int) bool { return r[i].hi > q.lo })
	if i == len(r) {
		return span{}, 0
	}
	return r[i], shared(r[i], q)
}
