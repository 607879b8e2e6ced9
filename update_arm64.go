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

// sgdF32NEON works like sgdGeneric.
//
//go:noescape
func sgdF32NEON(c, p, grad *float32, count, ahead int)

// sgdMomentumF32NEON works like sgdMomentumGeneric.
//
//go:noescape
func sgdMomentumF32NEON(c, p, grad, m *float32, count, ahead int)

// sgdNesterovF32NEON works like sgdNesterovGeneric.
//
//go:noescape
func sgdNesterovF32NEON(c, p, grad, m *float32, count, ahead int)

// adamF32NEON works like adamGeneric.
//
//go:noescape
func adamF32NEON(c, p, grad, m, v *float32, count, ahead int)

// adamAMSGradF32NEON works like adamAMSGradGeneric.
//
//go:noescape
func adamAMSGradF32NEON(c, p, grad, m, v, x *float32, count, ahead int)

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

// sgdLimitF32NEON reads and writes the memory that sgd does, and changes nothing.
//
//go:noescape
func sgdLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// sgdMomentumLimitF32NEON reads and writes the memory that sgdMomentum does, and changes nothing.
//
//go:noescape
func sgdMomentumLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// sgdNesterovLimitF32NEON reads and writes the memory that sgdNesterov does, and changes nothing.
//
//go:noescape
func sgdNesterovLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// adamLimitF32NEON reads and writes the memory that adam does, and changes nothing.
//
//go:noescape
func adamLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// adamAMSGradLimitF32NEON reads and writes the memory that adamAMSGrad does, and changes nothing.
//
//go:noescape
func adamAMSGradLimitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)

// sumSquaresF32NEON works like sumSquaresGeneric.
//
//go:noescape
func sumSquaresF32NEON(sums *float64, grad *float32, count, ahead int)

// pnmMixedNEON works like pnmGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func pnmMixedNEON(c *float32, count, ahead int)

// adapnmMixedNEON works like adapnmGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func adapnmMixedNEON(c *float32, count, ahead int)

// adapnmAMSGradMixedNEON works like adapnmAMSGradGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func adapnmAMSGradMixedNEON(c *float32, count, ahead int)

// sgdMixedNEON works like sgdGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func sgdMixedNEON(c *float32, count, ahead int)

// sgdMomentumMixedNEON works like sgdMomentumGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func sgdMomentumMixedNEON(c *float32, count, ahead int)

// sgdNesterovMixedNEON works like sgdNesterovGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func sgdNesterovMixedNEON(c *float32, count, ahead int)

// adamMixedNEON works like adamGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func adamMixedNEON(c *float32, count, ahead int)

// adamAMSGradMixedNEON works like adamAMSGradGeneric, between widening and rounding as updateMixedGeneric does. c is the first field of a mixed.
//
//go:noescape
func adamAMSGradMixedNEON(c *float32, count, ahead int)

// mixedLimitNEON reads and writes the memory that any rule does with these streams and formats, and changes nothing but the copy.
//
//go:noescape
func mixedLimitNEON(c *float32, count, ahead int)

// sumSquaresBF16NEON works like sumSquaresGeneric.
//
//go:noescape
func sumSquaresBF16NEON(sums *float64, grad *uint16, count, ahead int)

// sumSquaresF16NEON works like sumSquaresGeneric.
//
//go:noescape
func sumSquaresF16NEON(sums *float64, grad *uint16, count, ahead int)

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

// sgdF64NEON works like sgdGeneric.
//
//go:noescape
func sgdF64NEON(c, p, grad *float64, count, ahead int)

// sgdMomentumF64NEON works like sgdMomentumGeneric.
//
//go:noescape
func sgdMomentumF64NEON(c, p, grad, m *float64, count, ahead int)

// sgdNesterovF64NEON works like sgdNesterovGeneric.
//
//go:noescape
func sgdNesterovF64NEON(c, p, grad, m *float64, count, ahead int)

// adamF64NEON works like adamGeneric.
//
//go:noescape
func adamF64NEON(c, p, grad, m, v *float64, count, ahead int)

// adamAMSGradF64NEON works like adamAMSGradGeneric.
//
//go:noescape
func adamAMSGradF64NEON(c, p, grad, m, v, x *float64, count, ahead int)

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
	case formSGD:
		sgdF32NEON(c, &s.p[i], &s.g[i], n, ahead)
	case formSGDMomentum:
		sgdMomentumF32NEON(c, &s.p[i], &s.g[i], &s.m[i], n, ahead)
	case formSGDNesterov:
		sgdNesterovF32NEON(c, &s.p[i], &s.g[i], &s.m[i], n, ahead)
	case formAdam:
		adamF32NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.v[i], n, ahead)
	case formAdamAMSGrad:
		adamAMSGradF32NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.v[i], &s.x[i], n, ahead)
	default:
		f.missing()
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
	case formSGD:
		sgdF64NEON(c, &s.p[i], &s.g[i], n, ahead)
	case formSGDMomentum:
		sgdMomentumF64NEON(c, &s.p[i], &s.g[i], &s.m[i], n, ahead)
	case formSGDNesterov:
		sgdNesterovF64NEON(c, &s.p[i], &s.g[i], &s.m[i], n, ahead)
	case formAdam:
		adamF64NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.v[i], n, ahead)
	case formAdamAMSGrad:
		adamAMSGradF64NEON(c, &s.p[i], &s.g[i], &s.m[i], &s.v[i], &s.x[i], n, ahead)
	default:
		f.missing()
	}
}

// updateMixed works like updateMixedGeneric, by the kernel of a form, for a positive multiple of mixedBlock elements.
func updateMixed(f form, b *mixed, n, ahead int) {
	switch f {
	case formPNM:
		pnmMixedNEON(&b.c.gs, n, ahead)
	case formAdaPNM:
		adapnmMixedNEON(&b.c.gs, n, ahead)
	case formAdaPNMAMSGrad:
		adapnmAMSGradMixedNEON(&b.c.gs, n, ahead)
	case formSGD:
		sgdMixedNEON(&b.c.gs, n, ahead)
	case formSGDMomentum:
		sgdMomentumMixedNEON(&b.c.gs, n, ahead)
	case formSGDNesterov:
		sgdNesterovMixedNEON(&b.c.gs, n, ahead)
	case formAdam:
		adamMixedNEON(&b.c.gs, n, ahead)
	case formAdamAMSGrad:
		adamAMSGradMixedNEON(&b.c.gs, n, ahead)
	default:
		f.missing()
	}
}

// sumSquaresF32 works like sumSquaresGeneric, by the kernel.
func sumSquaresF32(sums *float64, g *float32, n, ahead int) { sumSquaresF32NEON(sums, g, n, ahead) }

// sumSquaresF64 works like sumSquaresGeneric, by the kernel.
func sumSquaresF64(sums *float64, g *float64, n, ahead int) { sumSquaresF64NEON(sums, g, n, ahead) }

// sumSquaresBF16 works like sumSquaresGeneric, by the kernel.
func sumSquaresBF16(sums *float64, g *uint16, n, ahead int) { sumSquaresBF16NEON(sums, g, n, ahead) }

// sumSquaresF16 works like sumSquaresGeneric, by the kernel.
func sumSquaresF16(sums *float64, g *uint16, n, ahead int) { sumSquaresF16NEON(sums, g, n, ahead) }
