package asm

import (
	"slices"
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"

	"github.com/posneg/pnm/internal/equations"
)

// arithmetic is what the kernel of a form computes, with the operations of update_generic.go in their order. The step is a
// numerator, divided by the root of the average of squares if there is one, as body puts them together.
type arithmetic struct {
	scalars   string                   // the coefficients of the two
	direction func(v *Vector, g Op) Op // made of the gradient and the momentum, which it updates
	numerator func(v *Vector, d Op) Op // made of the direction
}

// forms is the arithmetic of each row of equations.Forms. Where it is nil, there are no kernels: the reference runs the form.
var forms = [len(equations.Forms)]*arithmetic{
	equations.PNM:           {"beta1 alpha1 k1 k2", momentum, difference},
	equations.AdaPNM:        {"beta1 alpha1 k1 k2", momentum, difference},
	equations.AdaPNMAMSGrad: {"beta1 alpha1 k1 k2", momentum, difference},
	equations.SGD:           {"k1", same, scaled("g")},
	equations.SGDMomentum:   {"beta1 alpha1 k1", momentum, scaled("m")},
	equations.SGDNesterov:   {"beta1 alpha1 k1", lookAhead, scaled("d")},
	equations.Adam:          {"beta1 alpha1 k1", momentum, scaled("m")},
	equations.AdamAMSGrad:   {"beta1 alpha1 k1", momentum, scaled("m")},
	equations.Lion:          {"beta1 alpha1 beta2 alpha2 k1", interpolation, signed},
}

// kernels has one for each form, and Rules those that have a body.
var kernels, Rules = rules()

func rules() (all, bodies []Kernel) {
	for i, a := range forms {
		f := equations.Forms[i]
		k := Kernel{
			Name:    f.Kernel(),
			Form:    f,
			Streams: f.Streams(),
			Writes:  f.Writes(),
			Doc:     "works like " + f.Kernel() + "Generic",
		}
		if a != nil {
			k.Scalars = a.allScalars(f)
			k.Body = func(v *Vector) { a.body(v, f) }
			bodies = append(bodies, k)
		}
		all = append(all, k)
	}
	return all, bodies
}

// allScalars are the coefficients of a form, those that it can best do without in a register last.
func (a *arithmetic) allScalars(f equations.Form) (names []string) {
	uses := strings.Fields("gs keep lo hi l2 " + a.scalars)
	if f.Has("v") {
		uses = append(uses, "beta2", "alpha2", "r", "eps")
	}
	for _, name := range strings.Fields("gs keep beta1 alpha1 beta2 alpha2 k1 k2 r eps lo hi l2") {
		if slices.Contains(uses, name) {
			names = append(names, name)
		}
	}
	return names
}

func (a *arithmetic) body(v *Vector, f equations.Form) {
	p, g := gradient(v)
	d := a.direction(v, g)
	if !f.Has("v") {
		step(v, p, a.numerator(v, d))
		return
	}
	w := secondMoment(v, g)
	if f.Has("x") {
		w = largest(v, w)
	}
	u := a.numerator(v, d)
	step(v, p, v.Div(u, denominator(v, w)))
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

func same(_ *Vector, g Op) Op { return g }

func lookAhead(v *Vector, g Op) Op {
	m := momentum(v, g)
	Comment("d = g + beta1·m")
	return v.Add(g, v.Mul(v.C("beta1"), m))
}

// interpolation returns the average that the step is made of, and leaves another one.
func interpolation(v *Vector, g Op) Op {
	m := v.Load("m")
	Comment("d = beta1·m + alpha1·g")
	d := v.Add(v.Mul(v.C("beta1"), m), v.Mul(v.C("alpha1"), g))
	Comment("m = beta2·m + alpha2·g")
	v.Store(v.Add(v.Mul(v.C("beta2"), m), v.Mul(v.C("alpha2"), g)), "m")
	return d
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

func scaled(name string) func(v *Vector, d Op) Op {
	return func(v *Vector, d Op) Op {
		Comment("u = k1·" + name)
		return v.Mul(v.C("k1"), d)
	}
}

func signed(v *Vector, d Op) Op {
	Comment("u = k1·sign(d)")
	return v.Mul(v.C("k1"), v.Sign(d))
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
