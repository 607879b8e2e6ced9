//go:build (amd64 || arm64) && !purego

package pnm

import "unsafe"

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

// sumSquaresAssembly works like sumSquaresGeneric, for a positive multiple of lanes elements. It prefetches as updateAssembly
// does.
func sumSquaresAssembly(sums *[lanes]float64, g Vector, ahead int) {
	switch g.format {
	case f32:
		sumSquaresF32(&sums[0], (*float32)(g.at), g.n, ahead)
	case f64:
		sumSquaresF64(&sums[0], (*float64)(g.at), g.n, ahead)
	case bf16:
		sumSquaresBF16(&sums[0], (*uint16)(g.at), g.n, ahead)
	case f16:
		sumSquaresF16(&sums[0], (*uint16)(g.at), g.n, ahead)
	}
}
