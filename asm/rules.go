package asm

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// Rules are the kernels of the update rules: one for each form, with the operations of update_generic.go in their order.
var Rules = []Kernel{
	{
		Name:    "pnm",
		Form:    "formPNM",
		Streams: []string{"p", "grad", "m", "n"},
		Writes:  []string{"p", "m"},
		Scalars: []string{"gs", "keep", "beta1", "alpha1", "k1", "k2", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			m := momentum(v, g)
			u := difference(v, m)
			step(v, p, u)
		},
		Doc: "works like pnmGeneric",
	},
	{
		Name:    "adapnm",
		Form:    "formAdaPNM",
		Streams: []string{"p", "grad", "m", "n", "v"},
		Writes:  []string{"p", "m", "v"},
		Scalars: []string{"gs", "keep", "beta1", "alpha1", "beta2", "alpha2", "k1", "k2", "r", "eps", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			m := momentum(v, g)
			w := secondMoment(v, g)
			u := v.Div(difference(v, m), denominator(v, w))
			step(v, p, u)
		},
		Doc: "works like adapnmGeneric",
	},
	{
		Name:    "adapnmAMSGrad",
		Form:    "formAdaPNMAMSGrad",
		Streams: []string{"p", "grad", "m", "n", "v", "x"},
		Writes:  []string{"p", "m", "v", "x"},
		Scalars: []string{"gs", "keep", "beta1", "alpha1", "beta2", "alpha2", "k1", "k2", "r", "eps", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			m := momentum(v, g)
			w := largest(v, secondMoment(v, g))
			u := v.Div(difference(v, m), denominator(v, w))
			step(v, p, u)
		},
		Doc: "works like adapnmAMSGradGeneric",
	},
	{
		Name:    "sgd",
		Form:    "formSGD",
		Streams: []string{"p", "grad"},
		Writes:  []string{"p"},
		Scalars: []string{"gs", "keep", "k1", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			step(v, p, scaled(v, g, "g"))
		},
		Doc: "works like sgdGeneric",
	},
	{
		Name:    "sgdMomentum",
		Form:    "formSGDMomentum",
		Streams: []string{"p", "grad", "m"},
		Writes:  []string{"p", "m"},
		Scalars: []string{"gs", "keep", "beta1", "alpha1", "k1", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			m := momentum(v, g)
			step(v, p, scaled(v, m, "m"))
		},
		Doc: "works like sgdMomentumGeneric",
	},
	{
		Name:    "sgdNesterov",
		Form:    "formSGDNesterov",
		Streams: []string{"p", "grad", "m"},
		Writes:  []string{"p", "m"},
		Scalars: []string{"gs", "keep", "beta1", "alpha1", "k1", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			m := momentum(v, g)
			Comment("d = g + beta1·m")
			d := v.Add(g, v.Mul(v.C("beta1"), m))
			step(v, p, scaled(v, d, "d"))
		},
		Doc: "works like sgdNesterovGeneric",
	},
	{
		Name:    "adam",
		Form:    "formAdam",
		Streams: []string{"p", "grad", "m", "v"},
		Writes:  []string{"p", "m", "v"},
		Scalars: []string{"gs", "keep", "beta1", "alpha1", "beta2", "alpha2", "k1", "r", "eps", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			m := momentum(v, g)
			w := secondMoment(v, g)
			u := v.Div(scaled(v, m, "m"), denominator(v, w))
			step(v, p, u)
		},
		Doc: "works like adamGeneric",
	},
	{
		Name:    "adamAMSGrad",
		Form:    "formAdamAMSGrad",
		Streams: []string{"p", "grad", "m", "v", "x"},
		Writes:  []string{"p", "m", "v", "x"},
		Scalars: []string{"gs", "keep", "beta1", "alpha1", "beta2", "alpha2", "k1", "r", "eps", "lo", "hi", "l2"},
		Body: func(v *Vector) {
			p, g := gradient(v)
			m := momentum(v, g)
			w := largest(v, secondMoment(v, g))
			u := v.Div(scaled(v, m, "m"), denominator(v, w))
			step(v, p, u)
		},
		Doc: "works like adamAMSGradGeneric",
	},
}

func gradient(v *Vector) (p, g Op) {
	Comment("g = gs·g")
	g = v.Mul(v.C("gs"), v.In("grad"))
	Comment("g = max(min(g, hi), lo)")
	g = v.Clamp(g, v.C("lo"), v.C("hi"))
	p = v.Load("p")
	v.IfCoupled(func() {
		Comment("g = g + l2·p")
		v.vadd(v.Mul(v.C("l2"), p), g, g)
	})
	return p, g
}

func momentum(v *Vector, g Op) Op {
	Comment("m = beta1·m + alpha1·g")
	m := v.Add(v.Mul(v.C("beta1"), v.In("m")), v.Mul(v.C("alpha1"), g))
	v.Store(m, "m")
	return m
}

func secondMoment(v *Vector, g Op) Op {
	Comment("v = beta2·v + (alpha2·g)·g")
	w := v.Add(v.Mul(v.C("beta2"), v.In("v")), v.Mul(v.Mul(v.C("alpha2"), g), g))
	v.Store(w, "v")
	return w
}

// largest may use Max: w is a sum with a term (alpha2·g)·g ≥ +0, and a sum is −0 only if both terms are.
func largest(v *Vector, w Op) Op {
	Comment("w = x = max(x, v)")
	x := v.Max(v.Load("x"), w)
	v.Store(x, "x")
	return x
}

func scaled(v *Vector, d Op, name string) Op {
	Comment("u = k1·" + name)
	return v.Mul(v.C("k1"), d)
}

func difference(v *Vector, m Op) Op {
	Comment("u = k1·m − k2·n")
	return v.Sub(v.Mul(v.C("k1"), m), v.Mul(v.C("k2"), v.In("n")))
}

func denominator(v *Vector, w Op) Op {
	Comment("√w·r + ε, by which u is divided")
	return v.Add(v.Mul(v.Sqrt(w), v.C("r")), v.C("eps"))
}

func step(v *Vector, p, u Op) {
	Comment("p = keep·p − u")
	v.Store(v.Sub(v.Mul(v.C("keep"), p), u), "p")
}
