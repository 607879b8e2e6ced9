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

// An Arena is memory for the large vectors of a training run: parameters, gradients, state of the caller's own. Vectors of 64
// KiB and more begin at different offsets within a 4 KiB page, as far as its 64 cache lines go. On Linux an arena of 1 MiB
// and more lies outside the Go heap, on pages of 2 MiB where the kernel has them; others are ordinary memory.
// docs/performance.md tells what all this is worth.
//
// An arena outside the heap takes no more than its vectors and, for each of them, 64 bytes, or 4,160 if it is the first or has
// 64 KiB or more, and at most 4 MiB of addresses for the whole, of which 2 MiB may be backed by memory. On the heap, Go rounds
// up what each vector takes with its offset.
//
// The memory goes back to the system at [Arena.Close], or once the garbage collector finds that nothing refers to the
// Arena. The collector does not see this memory; so an allocation begins a collection where twice as much is mapped as was after
// the last one, or at any time since, and where the system refuses more. The collector does not know of the vectors, either:
// whoever holds one of them must keep the Arena, too. A deferred Close does so.
type Arena struct {
	vectors []Vector
	mapping *mapping // nil for ordinary memory
}

const (
	leastMapped = 1 << 20  // bytes of an arena below which it is ordinary memory
	leastSpread = 64 << 10 // bytes of a vector below which its offset within a page does not matter
	cacheLine   = 64
	pageSize    = 4 << 10
	spreadStep  = 19 * cacheLine // coprime to the page in cache lines: 64 vectors in a row begin at 64 offsets
)

// A mapping is memory outside the Go heap. It goes back to the system when its pages are released, or once nothing refers to the
// mapping.
type mapping struct {
	bytes []byte // what was asked for, from a border of a huge page
	pages *pages
}

// pages are what the system gave for a mapping.
type pages struct {
	whole []byte
	owner weak.Pointer[mapping]
}

// mapped are all the pages that have not gone back.
var mapped struct {
	sync.Mutex // also held while pages go back: who has collected garbage can rely on its being gone
	pages      map[*pages]struct{}
	bytes      int
	least      int // of bytes, since the last collection that was begun here
}

// leastCollected is how many bytes are mapped before a collection is begun for their sake. Tests lower it.
var leastCollected = 256 << 20

// newMapping returns zeros that nobody has touched.
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

// release gives pages back to the system, if they have not gone before.
func (p *pages) release() {
	mapped.Lock()
	defer mapped.Unlock()
	p.unmap()
}

// unmap is release for who has the lock.
func (p *pages) unmap() {
	if _, ok := mapped.pages[p]; ok {
		delete(mapped.pages, p)
		mapped.bytes -= len(p.whole)
		mapped.least = min(mapped.least, mapped.bytes)
		system.Unmap(p.whole)
	}
}

// collect gives back to the system what nothing refers to any more. It does not wait for the cleanups of the collection, which run
// some time after it.
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

// Alloc returns an arena with a vector of zeros for each length, in elements; format is one of those that [Vector.Format] names, and
// "mxfp8" is flat (see [MXFP8]). It fails for another format, for a negative length, and if the system refuses the memory, also after a
// garbage collection; from the heap, where that is used, Go ends the program instead.
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

// AllocState returns an arena with the state that a rule has of tensors, zero as before their first step. [Arena.Vectors] has that of the
// first tensor, in the order of the rule's State, then that of the second one, and so on. With "mxfp8", momenta are mxfp8, with rows of
// the given lengths (see [MXFP8]; nil for flat tensors), and averages of squares bf16. It fails as [Alloc] does, for a format that no state
// can have, and for rows that do not fit the lengths, whatever the format.
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

// streamCount counts the arrays that are run through side by side.
var streamCount atomic.Int32

// nextStreams returns the first of n positions, in units of spreadStep, for streams that run side by side.
func nextStreams(n int) int { return 23 * int(streamCount.Add(int32(n))-int32(n)) }

// inList is the position of the i-th slice of a list, beside its first. Slices 64 apart differ, too: they may be a parameter and
// its gradient.
func inList(i int) int { return i + i/64 }

// allocate returns an arena of vectors like these, which have no memory yet and are run through in lists of so many, each list beside
// the others. The i-th vector, if it is large or the first of a list, begins position(i) units of spreadStep into its page; others follow
// the one before them, so that what the processor prefetches behind a small one's end is the next one.
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

// unplaced is vector i of an arena before it has memory.
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

// noElements is where a slice without elements is that is not nil.
var noElements = unsafe.Pointer(new(uint64))

// onHeap is allocate in ordinary memory. Only a length that no memory could hold is an error: where memory runs out, Go ends
// the program.
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

// spread returns v in zeros of ordinary memory. Go starts every large slice on a page; where the vectors of a tensor lie at
// equal offsets, their elements compete for the same sets of the caches and banks of the memory.
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

// Close gives the memory back. The vectors must not be touched any more: that would be a fault, not a panic. Closing again, or closing
// a nil Arena, does nothing.
func (a *Arena) Close() {
	if a == nil {
		return
	}
	a.vectors = nil
	if a.mapping != nil {
		a.mapping.pages.release()
	}
}

// AdviseHugePages asks the system to keep existing memory on pages of 2 MiB, those that lie wholly within the slice, and
// returns how many bytes these are. What the slice holds stays. On systems other than Linux it fails with
// [errors.ErrUnsupported].
//
// It is worth doing once, for slices of many megabytes: see docs/performance.md.
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
