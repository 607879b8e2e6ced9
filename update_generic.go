package pnm

import (
	"math"

	"github.com/posneg/pnm/internal/equations"
)

// Float is the element type of the slices of [UpdatePNM] and the other functions for one tensor. All slices of a call have the same type.
type Float interface{ float32 | float64 }

// element is an element type of memory: those of Float, of 16 bits for bf16, f16 and low16, and of 8 for mxfp8.
type element interface{ Float | ~uint16 | ~uint8 }

// The loops below are the reference: the order and the rounding of their operations define the bits that every other
// implementation must give. T(…) around each product stops the compiler from fusing it with the sum that follows; the
// language promises that for an explicit conversion, and for nothing less.
//
// In each, m is the momentum that is updated at this step and n, if there are two, the other one.

// gradient returns the gradient as the rules see it: scaled, clipped by value and, if decay is coupled, with λ·p. Without it p has no
// part in it: 0·∞ is NaN, and −0 + 0 is +0.
func gradient[T Float](c *scalars[T], g, p T) T {
	d := clamp(T(c.gs*g), c.lo, c.hi)
	if c.l2 != 0 {
		d = d + T(c.l2*p)
	}
	return d
}

// updateGeneric runs the loop of a form on the elements lo … hi−1.
func updateGeneric[T Float](f form, c *scalars[T], s *streams[T], lo, hi int) {
	switch f {
	case equations.PNM:
		pnmGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi], s.n[lo:hi])
	case equations.AdaPNM:
		adapnmGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi], s.n[lo:hi], s.v[lo:hi])
	case equations.AdaPNMAMSGrad:
		adapnmAMSGradGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi], s.n[lo:hi], s.v[lo:hi], s.x[lo:hi])
	case equations.SGD:
		sgdGeneric(c, s.p[lo:hi], s.g[lo:hi])
	case equations.SGDMomentum:
		sgdMomentumGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi])
	case equations.SGDNesterov:
		sgdNesterovGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi])
	case equations.Adam:
		adamGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi], s.v[lo:hi])
	case equations.AdamAMSGrad:
		adamAMSGradGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi], s.v[lo:hi], s.x[lo:hi])
	case equations.Lion:
		lionGeneric(c, s.p[lo:hi], s.g[lo:hi], s.m[lo:hi])
	default:
		panic("pnm: a form of " + forms[f].Rule + " has no reference")
	}
}

func pnmGeneric[T Float](c *scalars[T], p, g, m, n []T) {
	g, m, n = g[:len(p)], m[:len(p)], n[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		m[i] = T(c.beta1*m[i]) + T(c.alpha1*d)
		u := T(c.k1*m[i]) - T(c.k2*n[i])
		p[i] = T(c.keep*p[i]) - u
	}
}

func adapnmGeneric[T Float](c *scalars[T], p, g, m, n, v []T) {
	g, m, n, v = g[:len(p)], m[:len(p)], n[:len(p)], v[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		m[i] = T(c.beta1*m[i]) + T(c.alpha1*d)
		v[i] = T(c.beta2*v[i]) + T(T(c.alpha2*d)*d)
		u := (T(c.k1*m[i]) - T(c.k2*n[i])) / (T(sqrt(v[i])*c.r) + c.eps)
		p[i] = T(c.keep*p[i]) - u
	}
}

func adapnmAMSGradGeneric[T Float](c *scalars[T], p, g, m, n, v, x []T) {
	g, m, n, v, x = g[:len(p)], m[:len(p)], n[:len(p)], v[:len(p)], x[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		m[i] = T(c.beta1*m[i]) + T(c.alpha1*d)
		v[i] = T(c.beta2*v[i]) + T(T(c.alpha2*d)*d)
		x[i] = max(x[i], v[i]) // the built-in: NaN if either is NaN, +0 of two zeros
		u := (T(c.k1*m[i]) - T(c.k2*n[i])) / (T(sqrt(x[i])*c.r) + c.eps)
		p[i] = T(c.keep*p[i]) - u
	}
}

func sgdGeneric[T Float](c *scalars[T], p, g []T) {
	g = g[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		u := T(c.k1 * d)
		p[i] = T(c.keep*p[i]) - u
	}
}

func sgdMomentumGeneric[T Float](c *scalars[T], p, g, m []T) {
	g, m = g[:len(p)], m[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		m[i] = T(c.beta1*m[i]) + T(c.alpha1*d)
		u := T(c.k1 * m[i])
		p[i] = T(c.keep*p[i]) - u
	}
}

func sgdNesterovGeneric[T Float](c *scalars[T], p, g, m []T) {
	g, m = g[:len(p)], m[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		m[i] = T(c.beta1*m[i]) + T(c.alpha1*d)
		u := T(c.k1 * (d + T(c.beta1*m[i])))
		p[i] = T(c.keep*p[i]) - u
	}
}

func adamGeneric[T Float](c *scalars[T], p, g, m, v []T) {
	g, m, v = g[:len(p)], m[:len(p)], v[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		m[i] = T(c.beta1*m[i]) + T(c.alpha1*d)
		v[i] = T(c.beta2*v[i]) + T(T(c.alpha2*d)*d)
		u := T(c.k1*m[i]) / (T(sqrt(v[i])*c.r) + c.eps)
		p[i] = T(c.keep*p[i]) - u
	}
}

func adamAMSGradGeneric[T Float](c *scalars[T], p, g, m, v, x []T) {
	g, m, v, x = g[:len(p)], m[:len(p)], v[:len(p)], x[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		m[i] = T(c.beta1*m[i]) + T(c.alpha1*d)
		v[i] = T(c.beta2*v[i]) + T(T(c.alpha2*d)*d)
		x[i] = max(x[i], v[i]) // the built-in: NaN if either is NaN, +0 of two zeros
		u := T(c.k1*m[i]) / (T(sqrt(x[i])*c.r) + c.eps)
		p[i] = T(c.keep*p[i]) - u
	}
}

func lionGeneric[T Float](c *scalars[T], p, g, m []T) {
	g, m = g[:len(p)], m[:len(p)]
	for i := range p {
		d := gradient(c, g[i], p[i])
		s := sign(T(c.beta1*m[i]) + T(c.alpha1*d))
		m[i] = T(c.beta2*m[i]) + T(c.alpha2*d)
		u := T(c.k1 * s)
		p[i] = T(c.keep*p[i]) - u
	}
}

// sign returns 1 or −1, +0 for either zero, and NaN for a NaN.
func sign[T Float](x T) T {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	case x == 0:
		return 0
	}
	return x
}

// sqrt is the square root in T, correctly rounded: float64 has more than twice float32's digits and two to spare, so that
// rounding the float64 root to float32 rounds the exact root.
func sqrt[T Float](x T) T { return T(math.Sqrt(float64(x))) }

// clamp returns x within [lo, hi], that is max(min(x, hi), lo); NaN if x is. It is faster than the built-ins where nothing is
// clipped.
func clamp[T Float](x, lo, hi T) T {
	if x > hi {
		return hi
	}
	if x < lo {
		return lo
	}
	return x
}
