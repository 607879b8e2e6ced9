package pnm

import (
	"math"
	"unsafe"

	"github.com/posneg/pnm/internal/floatmode"
)

// maxCall is how many elements one call into assembly updates at most. Assembly cannot be preempted, and a garbage
// collection waits for it: on slow memory this many elements of six streams take some 100 µs.
const maxCall = 16 << 10

// streams are the slices of a tensor, by their role at one step: m is the momentum that is updated, n the other one, v the
// average of squared gradients, x the largest v so far.
type streams[T Float] struct{ p, g, m, n, v, x []T }

// isFar reports whether so many bytes, touched from one step of the caller's to the next, come from memory: what fits the caches is found
// there.
func isFar(working int64) bool { return working > int64(lastLevelCache) }

// ahead is how far in front of its loads a kernel prefetches, in bytes.
func ahead(far bool) int {
	if far {
		return prefetchAhead
	}
	return 0
}

// streamsOf gives the tensor's slices their roles at the step that is due.
func streamsOf[T Float](t *tensor) streams[T] {
	m, n, v, x := t.roles()
	return streams[T]{sliceOf[T](t.p), sliceOf[T](t.g), sliceOf[T](*m), sliceOf[T](*n), sliceOf[T](*v), sliceOf[T](*x)}
}

// roles returns the tensor's state by its role at the step that is due; a role that the form does not have is nil.
func (t *tensor) roles() (m, n, v, x *Vector) {
	at := &slotOf[t.form][t.step&1]
	return &t.s[at[0]], &t.s[at[1]], &t.s[at[2]], &t.s[at[3]]
}

// updateOne rounds the coefficients that a rule has set in a tensor, checks its slices, which a caller brings, and performs the step. h is
// the caller's hold.
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
		t.update(0, t.p.n, isFar(working), false)
	} else {
		updateShared(t, working, h)
	}
	return nil
}

// updateShared performs the step on the pool that follows GOMAXPROCS.
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
// gradients if zero is set. far tells that they come from memory. It returns how many parameters overflowed in their copy.
func (t *tensor) update(lo, hi int, far, zero bool) (overflows int) {
	most := maxCall
	if zero {
		most = zeroLen
	}
	if t.isMixed() {
		return t.updateFormats(lo, hi, most, far, zero)
	}
	for ; lo < hi; lo += most {
		end := min(lo+most, hi)
		t.start(lo, end)
		if t.form.assembled(kernels) {
			t.raceAnnotate(lo, end)
			t.updateAssembly(lo, end, ahead(far))
		} else {
			t.updateReference(lo, end)
		}
		if zero {
			t.zeroGrads(lo, end)
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

// start prepares the first momentum of the elements lo … hi−1 where it is to be the gradient itself, as torch has it: β·m + g is g
// for m = −0, also if g is −0.
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
	raceWrite(g)
	g.Clear()
}

// isMixed reports whether t has more than one format, or one that the rules do not compute in.
func (t *tensor) isMixed() bool {
	return t.p.format == bf16 || t.p.format == low16 || t.g.format != t.p.format || t.s[0].format == bf16 || t.out.at != nil
}

// formats is the set of formats of a mixed tensor.
func (t *tensor) formats() uint32 {
	set := [...]uint32{bf16: gradBF16, f16: gradF16}[t.g.format] | [...]uint32{bf16: paramBF16, low16: paramLow}[t.p.format]
	if t.s[0].format == bf16 {
		set |= stateBF16
	}
	if t.out.at != nil && t.p.format == f32 {
		set |= [...]uint32{bf16: outBF16, f16: outF16}[t.out.format]
	}
	if t.follow && t.p.format == f32 { // low16 always does
		set |= follow
	}
	return withStochastic(t.form, set)
}

// updateFormats is update for a mixed tensor, in calls of most elements.
func (t *tensor) updateFormats(lo, hi, most int, far, zero bool) int {
	var b mixed
	for end := lo; lo < hi; lo = end {
		end = min(lo+most, hi, t.sameKey(lo))
		t.start(lo, end)
		t.call(&b, lo)
		if far && b.copiesAround() {
			b.formats |= outAround
		}
		if t.form.assembled(mixedKernels) {
			t.raceAnnotate(lo, end)
			updateMixedAssembly(t.form, &b, end-lo, ahead(far))
		} else {
			updateMixedGeneric(t.form, &b, end-lo)
		}
		if zero {
			t.zeroGrads(lo, end)
		}
	}
	return b.overflows
}

// copiesAround reports whether a copy is worth writing around the caches: with AVX2 nothing is gained, and one that is read is there anyway.
func (b *mixed) copiesAround() bool {
	return active == avx512 && b.formats&(outBF16|outF16) != 0 && b.formats&follow == 0 && uintptr(b.out)%aroundAlign == 0
}

// call sets what a kernel gets for the elements of a mixed tensor from lo on.
func (t *tensor) call(b *mixed, lo int) {
	b.c, b.formats = t.c32, t.formats()
	b.counter, b.key = t.rounding.draws(t.step, t.rounding.First+uint64(lo))
	m, n, v, x := t.roles()
	b.p, b.g, b.out = t.p.pointer(lo), t.g.pointer(lo), t.out.pointer(lo)
	b.m, b.n, b.v, b.x = m.pointer(lo), n.pointer(lo), v.pointer(lo), x.pointer(lo)
}

// sameKey returns the first element behind lo that draws by another key.
func (t *tensor) sameKey(lo int) int {
	first := t.rounding.First + uint64(lo)
	return int(min(uint64(lo)+1<<32-first&(1<<32-1), math.MaxInt))
}

// updateMixedAssembly works like updateMixedGeneric, by the kernels of the active tier, which is not generic. It prefetches as
// updateAssembly does.
func updateMixedAssembly(f form, b *mixed, n, ahead int) {
	whole := n &^ (mixedBlock - 1)
	if whole > 0 {
		updateMixed(f, b, whole, ahead)
	}
	if whole < n {
		updateMixedRest(f, b, whole, n)
	}
}

// updateMixedRest updates the elements lo … n−1, less than a block, in a block of their own, which zeros fill.
func updateMixedRest(f form, b *mixed, lo, n int) {
	size := func(narrow uint32) int {
		if b.formats&narrow != 0 {
			return 2
		}
		return 4
	}
	param, grad, state, out := size(paramBF16|paramLow), size(gradBF16|gradF16), size(stateBF16), 2
	var block [7][4 * mixedBlock]byte
	c := *b
	c.counter += uint32(lo)
	c.formats &^= outAround
	c.p = lift(&block[0], b.p, param, lo, n)
	c.g = lift(&block[1], b.g, grad, lo, n)
	c.m = lift(&block[2], b.m, state, lo, n)
	c.n = lift(&block[3], b.n, state, lo, n)
	c.v = lift(&block[4], b.v, state, lo, n)
	c.x = lift(&block[5], b.x, state, lo, n)
	c.out = lift(&block[6], b.out, out, lo, n)
	updateMixed(f, &c, mixedBlock, 0)
	lower(&block[0], b.p, param, lo, n)
	lower(&block[2], b.m, state, lo, n)
	lower(&block[4], b.v, state, lo, n)
	lower(&block[5], b.x, state, lo, n)
	lower(&block[6], b.out, out, lo, n)
	b.overflows = c.overflows
}

// lift copies elements of a stream into a block and returns its address, or nil if there is no stream.
func lift(block *[4 * mixedBlock]byte, at unsafe.Pointer, size, lo, n int) unsafe.Pointer {
	if at == nil {
		return nil
	}
	copy(block[:], unsafe.Slice((*byte)(at), size*n)[size*lo:])
	return unsafe.Pointer(block)
}

// lower copies them back.
func lower(block *[4 * mixedBlock]byte, at unsafe.Pointer, size, lo, n int) {
	if at != nil {
		copy(unsafe.Slice((*byte)(at), size*n)[size*lo:], block[:])
	}
}
