package pnm

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
	"weak"

	"github.com/posneg/pnm/internal/system"
)

// An Arena is memory for the large vectors of a training run: parameters, gradients and state. Vectors of 64 KiB or more begin at different
// cache lines of a 4 KiB page, of which there are 64. On Linux an arena of 1 MiB or more lies outside the Go heap, on 2 MiB pages if the
// kernel has them; other arenas are ordinary Go memory. docs/performance.md has measurements.
//
// Outside the heap, an arena takes the size of its vectors plus 64 bytes for each vector, or 4,160 for the first one and those of 64 KiB or
// more. In addition, it takes at most 4 MiB of addresses in all, of which 2 MiB may be backed by memory. On the heap, Go rounds up the size
// of each vector with its offset.
//
// Keep the Arena as long as you use one of its vectors, for example with a deferred Close. The memory goes back to the system at
// [Arena.Close], or after the garbage collector finds that nothing refers to the Arena; vectors do not count as references. The collector
// does not see this memory. So an allocation starts a collection if the mapped memory has doubled from its least amount since the last
// collection, or if the system refuses more memory.
type Arena struct {
	vectors []Vector
	mapping *mapping // nil for ordinary memory
}

const (
	leastMapped = 1 << 20  // smaller arenas, in bytes, are ordinary memory
	leastSpread = 64 << 10 // the offset of smaller vectors, in bytes, within a page does not matter
	cacheLine   = 64
	pageSize    = 4 << 10
	spreadStep  = 19 * cacheLine // coprime to the page in cache lines: 64 vectors in a row begin at 64 offsets
)

// A mapping is memory outside the Go heap. It goes back to the system when its pages are released, or once nothing refers to the
// mapping.
type mapping struct {
	bytes []byte // the memory asked for, aligned to a huge page
	pages *pages
}

// pages are the memory that the system gave for a mapping.
type pages struct {
	whole []byte
	owner weak.Pointer[mapping]
}

// mapped are all the pages that have not gone back to the system.
var mapped struct {
	sync.Mutex // also held while pages go back: after collect, garbage is gone
	pages      map[*pages]struct{}
	bytes      int
	least      int // the minimum of bytes since collect last ran
}

// leastCollected is the number of mapped bytes from which newMapping starts collections. Tests lower it.
var leastCollected = 256 << 20

// newMapping returns zeros that have not been touched.
func newMapping(bytes int) (*mapping, error) {
	mapped.Lock()
	full := mapped.bytes >= max(leastCollected, 2*mapped.least)
	mapped.Unlock()
	if full {
		collect()
	}
	memory, whole, err := system.Map(bytes)
	if err != nil {
		collect()
		memory, whole, err = system.Map(bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("pnm: the system refuses %d bytes of memory: %w", bytes, err)
	}
	p := &pages{whole: whole}
	m := &mapping{memory, p}
	p.owner = weak.Make(m)
	mapped.Lock()
	defer mapped.Unlock()
	if mapped.pages == nil {
		mapped.pages = make(map[*pages]struct{})
	}
	mapped.pages[p] = struct{}{}
	mapped.bytes += len(whole)
	runtime.AddCleanup(m, (*pages).release, p)
	return m, nil
}

// release gives pages back to the system, unless they have gone back before.
func (p *pages) release() {
	mapped.Lock()
	defer mapped.Unlock()
	p.unmap()
}

// unmap is release with the lock held.
func (p *pages) unmap() {
	if _, ok := mapped.pages[p]; ok {
		delete(mapped.pages, p)
		mapped.bytes -= len(p.whole)
		mapped.least = min(mapped.least, mapped.bytes)
		system.Unmap(p.whole)
	}
}

// collect gives all pages back to the system that nothing refers to any more. It does not wait for the collection's cleanups, which run
// some time later.
func collect() {
	runtime.GC()
	mapped.Lock()
	defer mapped.Unlock()
	for p := range mapped.pages {
		if p.owner.Value() == nil {
			p.unmap()
		}
	}
	mapped.least = mapped.bytes
}

// Alloc returns an arena with a vector of zeros for each length, in elements. format is one of the names that [Vector.Format] returns;
// "mxfp8" vectors are flat (see [MXFP8]). Alloc returns an error for an unknown format, for a negative length, and if the system refuses
// the memory even after a garbage collection. If the arena is on the Go heap, running out of memory ends the program.
func Alloc(format string, lengths ...int) (*Arena, error) {
	f, err := formatOf(format)
	if err != nil {
		return nil, err
	}
	vectors := make([]Vector, len(lengths))
	for i, n := range lengths {
		if vectors[i], err = unplaced(f, i, n, 0); err != nil {
			return nil, err
		}
	}
	base := nextStreams(1)
	return allocate(vectors, len(lengths), func(i int) int { return base + inList(i) })
}

// AllocState returns an arena with the state of a rule for tensors of the given lengths, all zero, as before the first step.
// [Arena.Vectors] has the state of the first tensor, in the order of the rule's State, then that of the second one, and so on. format is
// "float32", "float64", "bf16" or "mxfp8". With "mxfp8", momenta are mxfp8 and averages of squares bf16; rows has the length of each
// tensor's rows (see [MXFP8]), or is nil for flat tensors. AllocState returns the errors of [Alloc], and an error if rows do not fit the
// lengths, whatever the format.
func AllocState(r Rule, format string, lengths, rows []int) (*Arena, error) {
	f, err := formatOf(format)
	if err == nil {
		err = checkRule(r)
	}
	if err != nil {
		return nil, err
	}
	if f == f16 || f == low16 {
		return nil, &FormatError{"state", format, "float32, float64, bf16 or mxfp8"}
	}
	if rows != nil && len(rows) != len(lengths) {
		return nil, &LengthError{"rows", len(rows), len(lengths)}
	}
	roles, tensors := forms[r.form()].Roles, len(lengths)
	slots := len(roles)
	vectors := make([]Vector, slots*tensors)
	for i, n := range lengths {
		row := 0
		if rows != nil {
			row = rows[i]
		}
		momentum, err := unplaced(f, i, n, row)
		if err != nil {
			return nil, err
		}
		for k, role := range roles {
			v := &vectors[k*tensors+i]
			if *v = momentum; f == mxfp8 && !isMomentum(role) {
				*v = Vector{n: n, layout: layout{format: bf16}}
			}
		}
	}
	base := nextStreams(slots)
	position := func(i int) int { return base + 23*(i/tensors) + inList(i%tensors) } // the slots of a tensor all differ
	a, err := allocate(vectors, tensors, position)
	if err != nil {
		return nil, err
	}
	bySlot := a.vectors
	a.vectors = make([]Vector, 0, len(bySlot))
	for i := range tensors {
		for k := range slots {
			a.vectors = append(a.vectors, bySlot[k*tensors+i])
		}
	}
	return a, nil
}

// streamCount counts the arrays that steps read and write side by side.
var streamCount atomic.Int32

// nextStreams returns the first of n positions, in units of spreadStep, for streams that run side by side.
func nextStreams(n int) int { return 23 * int(streamCount.Add(int32(n))-int32(n)) }

// inList is the position of the i-th slice of a list, relative to its first. Slices 64 apart differ, too: they may be a parameter and
// its gradient.
func inList(i int) int { return i + i/64 }

// allocate returns an arena of vectors like the given ones, which have no memory yet. Steps go through them in lists of that many vectors,
// all lists side by side. The i-th vector, if it is large or the first of a list, begins position(i) units of spreadStep into its page.
// Each other vector follows the one before it, so that the processor prefetches it while it reads the end of that one.
func allocate(vectors []Vector, list int, position func(i int) int) (*Arena, error) {
	starts := make([]int, len(vectors)) // in bytes
	end := 0
	for i, v := range vectors {
		start := (end + cacheLine - 1) &^ (cacheLine - 1)
		if v.n*v.size() >= leastSpread || i%list == 0 {
			start += (position(i)*spreadStep - start) & (pageSize - 1)
		}
		if most := v.size() + 1; v.n > (1<<(unsafe.Sizeof(v.n)*8-2)-start)/most { // a scale for each element
			return nil, fmt.Errorf("pnm: an arena of %d vectors is too large: vector %d has %d elements", len(vectors), i, v.n)
		}
		starts[i], end = start, start+v.bytes()
	}
	if end < leastMapped || !system.CanMap {
		return onHeap(vectors, position)
	}
	m, err := newMapping(end)
	if err != nil {
		return nil, err
	}
	for i, v := range vectors {
		at := noElements // a gradient that is nil would not be one
		if v.n > 0 {
			at = unsafe.Pointer(&m.bytes[starts[i]])
		}
		vectors[i] = v.placed(at)
	}
	return &Arena{vectors, m}, nil
}

// unplaced returns vector i of an arena, without memory yet.
func unplaced(f format, i, n, row int) (v Vector, err error) {
	v = Vector{n: n, layout: layout{format: f}}
	switch inRows, bad := v.inRows(row); {
	case n < 0:
		err = &ValueError{"Alloc", "lengths", float64(n), "≥ 0"}
	case bad != nil:
		err = bad
	case f == mxfp8:
		return inRows, nil
	}
	if err != nil {
		return Vector{}, &TensorError{Tensor: i, Err: err}
	}
	return v, nil
}

// noElements is the address of empty slices that are not nil.
var noElements = unsafe.Pointer(new(uint64))

// onHeap is allocate in ordinary memory. It returns an error only for a length that no memory could hold: if memory runs out, Go ends the
// program.
func onHeap(vectors []Vector, position func(i int) int) (a *Arena, err error) {
	defer func() {
		if r := recover(); r != nil {
			a, err = nil, fmt.Errorf("pnm: an arena of %d vectors: %v", len(vectors), r)
		}
	}()
	for i, v := range vectors {
		vectors[i] = v.spread(position(i))
	}
	return &Arena{vectors: vectors}, nil
}

// spread returns v in new ordinary memory, all zeros, at an offset within a page. Go starts every large slice at the start of a page; at
// equal offsets, the vectors of a tensor would compete for the same cache sets and memory banks.
func (v Vector) spread(position int) Vector {
	skip := 0
	if v.n*v.size() >= leastSpread {
		skip = position * spreadStep & (pageSize - 1)
	}
	words := make([]uint64, (skip+v.bytes()+7)/8) // aligned for every format
	if len(words) == 0 {
		return v.placed(noElements)
	}
	return v.placed(unsafe.Add(unsafe.Pointer(unsafe.SliceData(words)), skip))
}

// Vectors returns the arena's vectors, in the order of their lengths. It returns nil after Close.
func (a *Arena) Vectors() []Vector { return a.vectors }

// Close gives the memory back. Do not touch the vectors after Close: that would be a fault, not a panic. Closing again, or closing a nil
// Arena, does nothing.
func (a *Arena) Close() {
	if a == nil {
		return
	}
	a.vectors = nil
	if a.mapping != nil {
		a.mapping.pages.release()
	}
}

// AdviseHugePages asks the system for 2 MiB pages wherever a whole one fits within the slice, and returns the number of bytes on such
// pages. The content stays. On systems other than Linux it returns an error that wraps [errors.ErrUnsupported].
//
// It is worth calling once for slices of many megabytes: see docs/performance.md.
func (v Vector) AdviseHugePages() (bytes int, err error) {
	at := uintptr(v.at)
	lo, hi := (at+system.HugePage-1)&^(system.HugePage-1), (at+uintptr(v.n*v.size()))&^(system.HugePage-1)
	if lo >= hi {
		return 0, system.AdviseHugePages(nil)
	}
	whole := unsafe.Slice((*byte)(unsafe.Add(v.at, lo-at)), hi-lo)
	if err := system.AdviseHugePages(whole); err != nil {
		return 0, fmt.Errorf("pnm: huge pages for %d elements: %w", v.n, err)
	}
	return len(whole), nil
}
