package pnm

import (
	"cmp"
	"slices"
	"sort"
	"unsafe"
)

func checkStep(t int) error {
	if t < 1 {
		return &StepError{t}
	}
	return nil
}

// checkBuffers reports a slice of a drop-in call that differs from the parameters in length, or shares memory with another.
func checkBuffers[T Float](f form, b *buffers[T]) error {
	used := 2 + len(forms[f].slots)
	for i := 1; i < used; i++ {
		if n := len(*b.at(i)); n != len(b.p) {
			return &LengthError{-1, argument(f, i), n, len(b.p)}
		}
	}
	if len(b.p) == 0 {
		return nil
	}
	// All are of one size, so that two of them share memory iff they begin less than that size apart, either way.
	size := uintptr(len(b.p)) * unsafe.Sizeof(b.p[0])
	var starts [2 + maxSlots]uintptr
	for i := range used {
		starts[i] = uintptr(unsafe.Pointer(unsafe.SliceData(*b.at(i))))
		for j := range i {
			if starts[i]-starts[j]+size-1 < 2*size-1 {
				return &OverlapError{-1, -1, argument(f, j), argument(f, i), shared[T](spanOf(*b.at(i)), spanOf(*b.at(j)))}
			}
		}
	}
	return nil
}

// argument names the i-th slice of a drop-in call in an error.
func argument(f form, i int) string {
	if i < 2 {
		return [...]string{"params", "grads"}[i]
	}
	return forms[f].slots[i-2]
}

// A span is a range of addresses, and the tensor whose slice lies there.
type span struct {
	lo, hi uintptr
	tensor int
}

func spanOf[T Float](s []T) span {
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(s)))
	return span{lo: lo, hi: lo + uintptr(len(s))*unsafe.Sizeof(*new(T))}
}

// shared returns how many elements two spans have in common.
func shared[T Float](a, b span) int {
	lo, hi := max(a.lo, b.lo), min(a.hi, b.hi)
	if lo >= hi {
		return 0
	}
	return int((hi - lo) / unsafe.Sizeof(*new(T)))
}

// A regions is a set of disjoint spans in order of address.
type regions []span

// disjoint adds the spans of more slices, numbered from first, to all, which may be reordered. It returns an *OverlapError if
// any two share memory; arg says what they are.
func disjoint[T Float](all regions, first int, more [][]T, arg string) (regions, error) {
	for i, s := range more {
		if len(s) > 0 {
			sp := spanOf(s)
			sp.tensor = first + i
			all = append(all, sp)
		}
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		if n := shared[T](a, b); n > 0 {
			return nil, &OverlapError{min(a.tensor, b.tensor), max(a.tensor, b.tensor), arg, arg, n}
		}
	}
	return all, nil
}

// overlapping returns the first of the regions that shares memory with s, and how many elements: 0 if none does.
func overlapping[T Float](r regions, s []T) (first span, n int) {
	q := spanOf(s)
	i := sort.Search(len(r), func(i int) bool { return r[i].hi > q.lo })
	if i == len(r) {
		return span{}, 0
	}
	return r[i], shared[T](r[i], q)
}
