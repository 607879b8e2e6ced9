package pnm

import (
	"math"
	"unsafe"

	"github.com/posneg/pnm/internal/floatmode"
)

// maxCall is the largest number of elements that one call into assembly updates. Go cannot preempt assembly, and a garbage
// collection waits for it: on slow memory this many elements of six streams take some 100 µs.
const maxCall = 16 << 10

// streams are the slices of a tensor, by their role at one step: m is the momentum that is updated, n the other one, v the
// average of squared gradients, x the largest v so far.
type streams[T Float] struct{ p, g, m, n, v, x []T }

// isFar reports whether a step must load from memory, if the caller touches working bytes between one step and the next: memory that fits
// the caches is still there.
func isFar(working int64) bool { return working > int64(lastLevelCache) }

// ahead is how far ahead of its loads a kernel prefetches, in bytes.
func ahead(far bool) int {
	if far {
		return prefetchAhead
	}
	return 0
}

// streamsOf returns the tensor's slices by their role at the step that is due.
func streamsOf[T Float](t *tensor) streams[T] {
	m, n, v, x := t.roles()
	return streams[T]{sliceOf[T](t.p), sliceOf[T](t.g), sliceOf[T](*m), sliceOf[T](*n), sliceOf[T](*v), sliceOf[T](*x)}
}

// roles returns the tensor's state by its role at the step that is due; a role that the form does not have is nil.
func (t *tensor) roles() (m, n, v, x *Vector) {
	at := &slotOf[t.form][t.step&1]
	return &t.s[at[0]], &t.s[at[1]], &t.s[at[2]], &t.s[at[3]]
}

// updateOne performs a drop-in call: it rounds the coefficients that the rule has set, checks the slices and performs the step. h is the
// caller's hold.
func updateOne(t *tensor, h *floatmode.Hold) error {
	if errISA != nil {
		return errISA
	}
	if err := t.round(t.form); err != nil {
		return err
	}
	if err := checkSlices(t); err != nil {
		return err
	}
	if working := t.traffic(); working < int64(2*leastShard) { // too small to be shared
		t.update(0, t.p.n, isFar(working), false, nil)
	} else {
		updateShared(t, working, h)
	}
	return nil
}

// updateShared performs the step on the default pool.
func updateShared(t *tensor, working int64, h *floatmode.Hold) {
	l := takeList()
	defer l.putBack()
	b := &l.batch
	b.tensors = append(b.tensors, *t)
	b.held = *h
	b.step(&Options{}, working)
	*h = b.held
}

// update performs the step that is due on the elements lo … hi−1 of a tensor that has been checked, and then zeroes their
// gradients if zero is set. If there is a reader, it reads their momenta. far says that they come from memory. It returns the number of
// parameters that overflowed in their copy.
func (t *tensor) update(lo, hi int, far, zero bool, noise *noiseReader) (overflows int) {
	most, ahead := maxCall, ahead(far)
	if zero {
		most = zeroLen
	}
	if noise != nil {
		most = noise.piece
		if noise.fetch {
			ahead = min(ahead, pieceAhead)
		}
	}
	if t.isMixed() {
		return t.updateFormats(lo, hi, most, ahead, far, zero, noise)
	}
	for ; lo < hi; lo += most {
		end := min(lo+most, hi)
		t.start(lo, end)
		if t.form.assembled(kernels) {
			t.raceAnnotate(lo, end)
			t.updateAssembly(lo, end, ahead)
		} else {
			t.updateReference(lo, end)
		}
		if zero {
			t.zeroGrads(lo, end)
		}
		if noise != nil {
			noise.read(lo, end, end < hi)
		}
	}
	return 0
}

// updateReference runs the reference on the elements lo … hi−1 of a tensor that has one format.
func (t *tensor) updateReference(lo, hi int) {
	if t.wide() {
		s := streamsOf[float64](t)
		updateGeneric(t.form, &t.c64, &s, lo, hi)
	} else {
		s := streamsOf[float32](t)
		updateGeneric(t.form, &t.c32, &s, lo, hi)
	}
}

// start prepares the first momentum of the elements lo … hi−1 if the form has it become the gradient itself, as torch does: with m = −0,
// β·m + g is g, even for g = −0.
func (t *tensor) start(lo, hi int) {
	if t.step == 1 && forms[t.form].Starts {
		t.startMomentum(lo, hi)
	}
}

func (t *tensor) startMomentum(lo, hi int) {
	switch m := t.s[0].cut(lo, hi); m.format {
	case f32:
		fill(sliceOf[float32](m), float32(math.Copysign(0, -1)))
	case f64:
		fill(sliceOf[float64](m), math.Copysign(0, -1))
	case bf16:
		fill(sliceOf[uint16](m), 1<<15)
	case mxfp8:
		fill(sliceOf[uint8](m), 1<<7)
		clear(t.s[0].scalesOf(lo, hi))
	}
}

func fill[T element](s []T, x T) {
	for i := range s {
		s[i] = x
	}
}

// zeroGrads zeroes the gradients of the elements lo … hi−1.
func (t *tensor) zeroGrads(lo, hi int) {
	g := t.g.cut(lo, hi)
	raceWrite(g.Bytes())
	g.Clear()
}

// isMixed reports whether t has several formats, or one in which rules do not compute.
func (t *tensor) isMixed() bool {
	return t.p.format == bf16 || t.p.format == low16 || t.g.format != t.p.format || t.s[0].format >= bf16 || t.out.at != nil
}

// formats is the set of formats of a mixed tensor.
func (t *tensor) formats() uint32 {
	set := [len(formats)]uint32{bf16: gradBF16, f16: gradF16}[t.g.format] | [len(formats)]uint32{bf16: paramBF16, low16: paramLow}[t.p.format]
	set |= [len(formats)]uint32{bf16: stateBF16, mxfp8: momentMX}[t.s[0].format]
	if set&momentMX != 0 && forms[t.form].Has("v") {
		set |= stateBF16
	}
	if t.out.at != nil && t.p.format == f32 {
		set |= [len(formats)]uint32{bf16: outBF16, f16: outF16}[t.out.format]
	}
	if t.follow && t.p.format == f32 { // low16 always follows
		set |= follow
	}
	return withStochastic(t.form, set)
}

// updateFormats is update for a mixed tensor, in calls of at most most elements. lo and hi are borders of mxfp8 blocks or the tensor's end.
func (t *tensor) updateFormats(lo, hi, most, ahead int, far, zero bool, noise *noiseReader) int {
	var b mixed
	t.call(&b, lo)
	r := run{t, &b, ahead, far, t.form.assembled(mixedKernels)}
	for end := lo; lo < hi; lo = end {
		if end = hi; hi-lo > most {
			end = t.blockBorder(lo + most)
		}
		t.start(lo, end)
		if r.assembled {
			t.raceAnnotate(lo, end)
		}
		r.rows(lo, end)
		if zero {
			t.zeroGrads(lo, end)
		}
		if noise != nil {
			noise.read(lo, end, end < hi)
		}
	}
	return b.overflows
}

// drawIndex is the index of the random number that element i of t draws. Rounding.First says where t is in the whole tensor. Each row of
// mxfp8 is padded to a multiple of drawBlock, so that its blocks draw the same numbers in any part of the tensor.
func (t *tensor) drawIndex(i int) uint64 {
	first, row := t.rounding.First, uint64(t.s[0].row)
	if row == 0 {
		return first + uint64(i)
	}
	return (first/row+uint64(i)/row)*padded(row) + uint64(i)%row
}

// padded is the length that a row of mxfp8 has in blocks of random numbers.
func padded[N int | uint64](row N) N { return (row + drawBlock - 1) &^ (drawBlock - 1) }

// blockBorder returns the last element up to i at which a block of random numbers begins; i is not in t's first block.
func (t *tensor) blockBorder(i int) int { return i - int(t.drawIndex(i)%drawBlock) }

// A run is an update of a mixed tensor.
type run struct {
	t         *tensor
	b         *mixed // the next call
	ahead     int    // how far ahead it prefetches
	far       bool   // its elements come from memory
	assembled bool   // the kernels of the active tier run it, else the reference
}

// rows updates the elements lo … hi−1, row by row, or many short rows at a time, since a call takes longer than a short row.
func (r *run) rows(lo, hi int) {
	row := int(r.t.s[0].row)
	if row == 0 {
		r.consecutive(lo, hi)
		return
	}
	for end := lo; lo < hi; lo = end {
		if whole := (hi - lo) / row; row <= longRow && whole > 1 && lo%row == 0 {
			end = lo + whole*row
			r.gathered(lo, end, row)
		} else {
			end = min(lo-lo%row+row, hi)
			r.consecutive(lo, end)
		}
	}
}

// consecutive updates elements whose random numbers are consecutive: whole blocks in place, parts of blocks in scratch memory.
func (r *run) consecutive(lo, hi int) {
	for lo < hi {
		index := r.t.drawIndex(lo)
		at := int(index % drawBlock)
		r.b.at(r.t, lo, index-uint64(at))
		n := min(hi-lo, sameKey(index))
		switch {
		case at > 0:
			n = min(n, drawBlock-at)
			r.part(at, n)
		case n < drawBlock:
			r.part(0, n)
		default:
			n &^= drawBlock - 1
			r.whole(n)
		}
		lo += n
	}
}

// Rows of up to longRow elements are updated in scratch memory of mostBlocks blocks. Both are measured.
const (
	longRow    = 128
	mostBlocks = 16
)

// gathered updates whole rows in scratch memory, where each row begins a block.
func (r *run) gathered(lo, hi, row int) {
	var scratch [paths * mostBlocks * scratchBlock]byte
	step := padded(row)
	for lo < hi {
		index := r.t.drawIndex(lo)
		rows := min((hi-lo)/row, mostBlocks*drawBlock/step, sameKey(index)/step)
		if rows > 0 {
			r.b.at(r.t, lo, index)
			r.padded(scratch[:], 0, row, step, rows)
		} else { // the key changes within the row
			rows = 1
			r.consecutive(lo, lo+row)
		}
		lo += rows * row
	}
}

// part updates n elements of one block, from its element at on.
func (r *run) part(at, n int) {
	var scratch [paths * scratchBlock]byte
	r.padded(scratch[:], at, n, drawBlock, 1)
}

// whole updates n elements in place; they are whole blocks.
func (r *run) whole(n int) {
	if r.far && r.b.copiesAround() {
		r.b.formats |= outAround
	}
	r.call(r.b, n, r.ahead)
	r.b.formats &^= outAround
}

func (r *run) call(b *mixed, n, ahead int) {
	if r.assembled {
		updateMixed(r.t.form, b, n, ahead)
	} else {
		updateMixedGeneric(r.t.form, b, n)
	}
}

// padded updates rows in scratch memory of zeros, where a row begins every step elements, at element at of a block. The zeros around them
// become zeros, or NaNs if ε is 0: they neither overflow nor change a scale of mxfp8.
func (r *run) padded(scratch []byte, at, row, step, rows int) {
	here, there := r.b.paths(), [paths]unsafe.Pointer{}
	for k, p := range here {
		if p.at != nil {
			there[k] = unsafe.Pointer(&scratch[k*len(scratch)/paths])
			copyRows(unsafe.Add(there[k], at*p.size), p.at, p.size, step, row, row, rows)
		}
	}
	c := *r.b
	c.p, c.g, c.m, c.n, c.v, c.x, c.out = there[0], there[1], there[2], there[3], there[4], there[5], there[6]
	r.call(&c, rows*step, 0)
	r.b.overflows = c.overflows
	for k, p := range here {
		if p.at != nil && p.written {
			copyRows(p.at, unsafe.Add(there[k], at*p.size), p.size, row, step, row, rows)
		}
	}
}

const (
	paths        = 7
	scratchBlock = 4 * drawBlock // bytes of a block at most
)

// A path is the address of a stream's elements, their size, and whether the kernel writes them.
type path struct {
	at      unsafe.Pointer
	size    int
	written bool
}

func (b *mixed) paths() [paths]path {
	size := func(narrow uint32) int {
		if b.formats&narrow != 0 {
			return 2
		}
		return 4
	}
	state := size(stateBF16)
	moment := state
	if b.formats&momentMX != 0 {
		moment = 1
	}
	return [...]path{{b.p, size(paramBF16 | paramLow), true}, {b.g, size(gradBF16 | gradF16), false}, {b.m, moment, true}, {b.n, moment, false},
		{b.v, state, true}, {b.x, state, true}, {b.out, 2, true}}
}

// copyRows copies rows of elements, which begin every toStep elements in to and every fromStep elements in from.
func copyRows(to, from unsafe.Pointer, size, toStep, fromStep, row, rows int) {
	switch size {
	case 1:
		copyRowsOf[uint8](to, from, toStep, fromStep, row, rows)
	case 2:
		copyRowsOf[uint16](to, from, toStep, fromStep, row, rows)
	case 4:
		copyRowsOf[uint32](to, from, toStep, fromStep, row, rows)
	}
}

func copyRowsOf[E uint8 | uint16 | uint32](to, from unsafe.Pointer, toStep, fromStep, row, rows int) {
	t, f := unsafe.Slice((*E)(to), (rows-1)*toStep+row), unsafe.Slice((*E)(from), (rows-1)*fromStep+row)
	for r := range rows {
		t, f := t[r*toStep:][:row], f[r*fromStep:][:row]
		if row >= 8 {
			copy(t, f)
			continue
		}
		//lint:ignore S1001 calling copy would take longer than so few elements do
		for i, x := range f {
			t[i] = x
		}
	}
}

// copiesAround reports whether to write a copy around the caches: AVX2 gains nothing, and a copy that is read is in the cache anyway.
func (b *mixed) copiesAround() bool {
	return active == avx512 && b.formats&(outBF16|outF16) != 0 && b.formats&follow == 0 && uintptr(b.out)%aroundAlign == 0
}

// call sets the arguments of a kernel for the elements of a mixed tensor from lo on, where a block begins.
func (t *tensor) call(b *mixed, lo int) {
	b.c, b.formats = t.c32, t.formats()
	b.at(t, lo, t.drawIndex(lo))
}

// at sets those arguments that depend on lo; index is that of the first random number of the block.
func (b *mixed) at(t *tensor, lo int, index uint64) {
	if b.formats&stochastic != 0 {
		b.counter, b.key = t.rounding.draws(t.step, index)
	}
	m, n, v, x := t.roles()
	b.p, b.g, b.out = t.p.pointer(lo), t.g.pointer(lo), t.out.pointer(lo)
	b.m, b.n, b.v, b.x = m.pointer(lo), n.pointer(lo), v.pointer(lo), x.pointer(lo)
	b.ms, b.ns = m.scale(lo), n.scale(lo)
}

// sameKey returns how many random numbers from an index on have the same key.
func sameKey(index uint64) int { return int(min(2<<32-index%(2<<32), math.MaxInt)) }
