//go:build !purego

package pnm

// pnmF32NEON works like pnmGeneric.
//
//go:noescape
func pnmF32NEON(c, p, grad, m, n *float32, count, ahead int)

// adapnmF32NEON works like adapnmGeneric.
//
//go:noescape
func adapnmF32NEON(c, p, grad, m, n, v *float32, count, ahead int)

// adapnmAMSGradF32NEON works like adapnmAMSGradGeneric.
//
//go:noescape
func adapnmAMSGradF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// dividerF32NEON takes the square roots of p, divides by them, and writes nothing.
//
//go:noescape
func dividerF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// pnmLimitF32NEON reads and writes the memory that pnm does, and changes nothing.
//
//go:noescape
func pnmLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// adapnmLimitF32NEON reads and writes the memory that adapnm does, and changes nothing.
//
//go:noescape
func adapnmLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// adapnmAMSGradLimitF32NEON reads and writes the memory that adapnmAMSGrad does, and changes nothing.
//
//go:noescape
func adapnmAMSGradLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// sumSquaresF32NEON works like sumSquaresGeneric.
//
//go:noescape
func sumSquaresF32NEON(sums *float64, grad *float32, count, ahead int)

// pnmF64NEON works like pnmGeneric.
//
//go:noescape
func pnmF64NEON(c, p, grad, m, n *float64, count, ahead int)

// adapnmF64NEON works like adapnmGeneric.
//
//go:noescape
func adapnmF64NEON(c, p, grad, m, n, v *float64, count, ahead int)

// adapnmAMSGradF64NEON works like adapnmAMSGradGeneric.
//
//go:noescape
func adapnmAMSGradF64NEON(c, p, grad, m, n, v, x *float64, count, ahead int)

// dividerF64NEON takes the square roots of p, divides by them, and writes nothing.
//
//go:noescape
func dividerF64NEON(c, p, grad, m, n, v, x *float64, count, ahead int)

// sumSquaresF64NEON works like sumSquaresGeneric.
//
//go:noescape
func sumSquaresF64NEON(sums *float64, grad *float64, count, ahead int)

// pause takes some dozen cycles, and leaves the core to its other thread where it has one.
func pause()

// updateF32 runs the kernel of a form on the elements i … i+n−1.
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

// updateF64 runs the kernel of a form on the elements i … i+n−1.
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

// sumSquaresF32 works like sumSquaresGeneric, by the kernel.
func sumSquaresF32(sums *float64, g *float32, n, ahead int) { sumSquaresF32NEON(sums, g, n, ahead) }

// sumSquaresF64 works like sumSquaresGeneric, by the kernel.
func sumSquaresF64(sums *float64, g *float64, n, ahead int) { sumSquaresF64NEON(sums, g, n, ahead) }
