package pnm

import (
	"math"
	"unsafe"
)

// A tensor is one tensor's vectors, rule and count of steps.
type tensor struct {
	p, g  Vector           // parameters and gradients
	s     [maxSlots]Vector // state, in the order of the form's slots; unused ones are nil
	out   Vector           // the copy of the parameters, if there is one
	form  form
	group int              // of the optimizer
	step  int              // the number of the step that is due, from 1
	c64   scalars[float64] // its coefficients where arithmetic is in float64
	c32   scalars[float32] // and everywhere else

	rounding Rounding
}

// maxSlots is the largest number of state buffers of any rule.
const maxSlots = 4

// vector returns vector i, in the order of a drop-in call's arguments; the copy comes last.
func (t *tensor) vector(i int) *Vector {
	switch {
	case i == 0:
		return &t.p
	case i == 1:
		return &t.g
	case i < 2+len(forms[t.form].slots):
		return &t.s[i-2]
	}
	return &t.out
}

// argument names vector i in an error.
func (t *tensor) argument(i int) string {
	switch slots := forms[t.form].slots; {
	case i < 2:
		return [...]string{"params", "grads"}[i]
	case i < 2+len(slots):
		return slots[i-2]
	}
	return "copy"
}

// vectors is how many vectors t has.
func (t *tensor) vectors() int {
	n := 2 + len(forms[t.form].slots)
	if t.out.at != nil {
		n++
	}
	return n
}

// wide reports whether arithmetic is in float64; it is in float32 for all other formats.
func (t *tensor) wide() bool { return t.p.format == f64 }

// round sets the coefficients.
func (t *tensor) round(exact *scalars[float64]) error {
	if t.wide() {
		return round(forms[t.form].rule, exact, &t.c64)
	}
	return round(forms[t.form].rule, exact, &t.c32)
}

// apply puts what options ask for into the coefficients, and a factor on the gradients.
func (t *tensor) apply(o *Options, scale float64) {
	if t.wide() {
		apply(o, scale, &t.c64)
	} else {
		apply(o, scale, &t.c32)
	}
}

// len is the length of a tensor that takes part, which has parameters or at least gradients.
func (t *tensor) len() int { return max(t.p.n, t.g.n) }

// traffic is how many bytes of memory a step of t touches.
func (t *tensor) traffic() int64 {
	each := t.p.size() + t.g.size() + len(forms[t.form].slots)*t.s[0].size()
	if t.out.at != nil {
		each += t.out.size()
	}
	return int64(t.p.n) * int64(each)
}

// cut returns a tensor of the elements lo … hi−1, with their gradients.
func (t *tensor) cut(lo, hi int, grads Vector) tensor {
	c := *t
	c.p, c.g, c.out = t.p.cut(lo, hi), grads, t.out.cut(lo, hi)
	for k := range forms[t.form].slots {
		c.s[k] = t.s[k].cut(lo, hi)
	}
	c.rounding.First += uint64(lo)
	return c
}

// dropGrads forgets the gradients, but not their format.
func (t *tensor) dropGrads() { t.g = Vector{format: t.g.format} }

// isMixed reports whether t has more than one format, or one that the rules do not compute in.
func (t *tensor) isMixed() bool {
	return t.p.format == bf16 || t.g.format != t.p.format || t.s[0].format == bf16 || t.out.at != nil
}

// formats is the set of formats of a mixed tensor.
func (t *tensor) formats() uint32 {
	set := [...]uint32{bf16: gradBF16, f16: gradF16}[t.g.format] | [...]uint32{bf16: paramBF16, f16: 0}[t.p.format]
	if t.s[0].format == bf16 {
		set |= stateBF16
	}
	if t.out.at != nil {
		set |= [...]uint32{bf16: outBF16, f16: outF16}[t.out.format]
	}
	return withStochastic(t.form, set)
}

// updateFormats is update for a mixed tensor, in calls of most elements.
func (t *tensor) updateFormats(lo, hi, ahead, most int, zero bool) int {
	var b mixed
	for end := lo; lo < hi; lo = end {
		end = min(lo+most, hi, t.sameKey(lo))
		t.start(lo, end)
		t.call(&b, lo)
		if ahead > 0 && active == avx512 && b.out != nil && uintptr(b.out)%aroundAlign == 0 { // AVX2 gains nothing by it
			b.formats |= outAround
		}
		if t.form.assembled(mixedKernels) {
			t.raceAnnotate(lo, end)
			updateMixedAssembly(t.form, &b, end-lo, ahead)
		} else {
			updateMixedGeneric(t.form, &b, end-lo)
		}
		if zero {
			t.zeroGrads(lo, end)
		}
	}
	return b.overflows
}

// call sets what a kernel gets for the elements of a mixed tensor from lo on.
func (t *tensor) call(b *mixed, lo int) {
	b.c, b.formats = t.c32, t.formats()
	b.counter, b.key = t.rounding.draws(t.step, t.rounding.First+uint64(lo))
	at := &slotOf[t.form][t.step&1]
	b.p, b.g, b.out = t.p.pointer(lo), t.g.pointer(lo), t.out.pointer(lo)
	b.m, b.n, b.v, b.x = t.s[at[0]].pointer(lo), t.s[at[1]].pointer(lo), t.s[at[2]].pointer(lo), t.s[at[3]].pointer(lo)
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
	param, grad, state, out := size(paramBF16), size(gradBF16|gradF16), size(stateBF16), 2
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
