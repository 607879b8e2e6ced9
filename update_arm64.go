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
