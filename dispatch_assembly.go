//go:build (amd64 || arm64) && !purego

package pnm

import (
	"math"
	"unsafe"
)

// updateAssembly works like updateReference, by the kernels of the active tier, which is not generic; lo < hi. It
// prefetches ahead bytes in front of its loads, or not if ahead is 0.
func (t *tensor) updateAssembly(lo, hi, ahead int) {
	p, g := &t.p, &t.g
	m, n, v, x := t.roles()
	if t.wide() {
		at := pointerTo[float64]
		updateF64(t.form, &t.c64.gs, at(p, lo), at(g, lo), at(m, lo), at(n, lo), at(v, lo), at(x, lo), hi-lo, ahead)
	} else {
		at := pointerTo[float32]
		updateF32(t.form, &t.c32.gs, at(p, lo), at(g, lo), at(m, lo), at(n, lo), at(v, lo), at(x, lo), hi-lo, ahead)
	}
}

// pointerTo is Vector.pointer for a size that the compiler knows.
func pointerTo[T Float](v *Vector, i int) *T {
	if v.at == nil {
		return nil
	}
	return (*T)(unsafe.Add(v.at, i*int(unsafe.Sizeof(*new(T)))))
}

// termsAssembly works like termsReference, for a positive multiple of lanes elements, of whole blocks of mxfp8.
func (r *noiseReader) termsAssembly(lo, hi int, p, d unsafe.Pointer) {
	m, n := &r.t.s[0], &r.t.s[1]
	if m.format == f64 {
		noiseF64(&r.c64.gs, (*float64)(p), (*float64)(d), pointerTo[float64](m, lo), pointerTo[float64](n, lo), hi-lo, 0)
		return
	}
	b := r.b // a pointer in r.b would move r to the heap
	b.p, b.g, b.m, b.n, b.ms, b.ns = p, d, m.pointer(lo), n.pointer(lo), m.scale(lo), n.scale(lo)
	noiseMixed(&b, hi-lo, 0)
}

// sumSquaresAssembly works like sumSquaresReference, for a positive multiple of lanes elements, in a window without a scale. It prefetches as
// updateAssembly does.
func sumSquaresAssembly(w *window, g Vector, ahead int) (sum blockSum) {
	var space [3 + 8 + lanes/2]uint64 // three sums, and room for lanes float32 from the border of a cache line on
	n, uppers := uint64(g.n), uint64(g.n/4)
	switch g.format {
	case f32:
		sumSquaresF32(&space[0], &w.upper, (*float32)(g.at), g.n, ahead)
		space[2] = math.Float64bits(float64(math.Float32frombits(uint32(space[2]))))
	case f64:
		uppers = n
		sumSquaresF64(&space[0], &w.upper, (*float64)(g.at), g.n, ahead)
		if space[2]>>32 == infinite>>32 { // the lower half may be another element's, or that of a NaN
			sumSquaresReference(&sum, g, w)
			return sum
		}
	case bf16:
		sumSquaresBF16(&space[0], &w.upper, (*uint16)(g.at), g.n, ahead)
		space[2] = math.Float64bits(float64(widenBF16(uint16(space[2]))))
	case f16:
		sumSquaresF16(&space[0], &w.upper, (*uint16)(g.at), g.n, ahead)
		space[2] = math.Float64bits(float64(widenF16(uint16(space[2]))))
	}
	return blockSum{int64(space[0] - uppers*math.Float64bits(w.upper)), int64(space[1] - n*math.Float64bits(w.lower)), space[2]}
}

// hashAssembly works like hashReference, for a positive multiple of hashLine bytes, unless there is a NaN: it then returns false.
func hashAssembly(v Vector, at int, check *nanCheck) (sums [2]uint64, ok bool) {
	var all [3]uint64
	hash(&all[0], &hashKeys[0][at/4], &check.mask, (*byte)(v.at), v.n*v.size())
	return [2]uint64(all[:2]), all[2]&^check.mask == 0
}
