//go:build !purego

package pnm

// tiers returns the tiers that this machine has, the best one last. NEON is part of every arm64 that Go runs on.
func tiers() []tier { return []tier{generic, neon} }

// lastLevelCache is taken for the size of the largest cache in bytes, which no instruction tells: that of Graviton 2 and 3
// and of Ampere Altra.
const lastLevelCache = 32 << 20

// updateAssembly updates the elements lo … lo+n−1 by the kernels for NEON; n > 0. It prefetches ahead bytes in front of its
// loads, or not if ahead is 0.
func updateAssembly[T Float](f form, c *scalars[T], s *streams[T], lo, n, ahead int) {
	switch c := any(c).(type) {
	case *scalars[float32]:
		updateF32(f, &c.gs, any(s).(*streams[float32]), lo, n, ahead)
	case *scalars[float64]:
		updateF64(f, &c.gs, any(s).(*streams[float64]), lo, n, ahead)
	}
}

// sumSquaresAssembly works like sumSquaresGeneric, for a positive multiple of lanes elements. It prefetches as updateAssembly
// does.
func sumSquaresAssembly[T Float](sums *[lanes]float64, g []T, ahead int) {
	switch x := any(&g[0]).(type) {
	case *float32:
		sumSquaresF32NEON(&sums[0], x, len(g), ahead)
	case *float64:
		sumSquaresF64NEON(&sums[0], x, len(g), ahead)
	}
}

func updateF32(f form, c *float32, s *streams[float32], i, n, ahead int) {
	switch f {
	case formPNM:
		pnmF32NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.n[i], n, ahead)
	case formAdaPNM:
		adapnmF32NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.n[i], &s.v[i], n, ahead)
	case formAdaPNMAMSGrad:
		adapnmAMSGradF32NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.n[i], &s.v[i], &s.x[i], n, ahead)
	}
}

func updateF64(f form, c *float64, s *streams[float64], i, n, ahead int) {
	switch f {
	case formPNM:
		pnmF64NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.n[i], n, ahead)
	case formAdaPNM:
		adapnmF64NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.n[i], &s.v[i], n, ahead)
	case formAdaPNMAMSGrad:
		adapnmAMSGradF64NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.n[i], &s.v[i], &s.x[i], n, ahead)
	}
}
