//go:build (amd64 || arm64) && !purego

package pnm

// updateAssembly updates the elements lo … lo+n−1 by the kernels of the active tier, which is not generic; n > 0. It
// prefetches ahead bytes in front of its loads, or not if ahead is 0.
func updateAssembly[T Float](f form, c *scalars[T], s *streams[T], lo, n, ahead int) {
	switch s := any(s).(type) {
	case *streams[float32]:
		updateF32(f, &any(c).(*scalars[float32]).gs, s, lo, n, ahead)
	case *streams[float64]:
		updateF64(f, &any(c).(*scalars[float64]).gs, s, lo, n, ahead)
	}
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
