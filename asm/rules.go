package asm

import (
	"slices"
	"strings"

	. "github.com/mmcloughlin/avo/build"

	"github.com/posneg/pnm/internal/equations"
)

// arithmetic has the parts of a form's kernel, with the operations of update_generic.go in their order. body puts them together: the
// step is a numerator, divided by the root of the average of squares if there is one.
type arithmetic struct {
	scalars   string                              // the coefficients of the two
	direction func(v *Vectors, g Operand) Operand // made of the gradient and the momentum, which it updates
	numerator func(v *Vectors, d Operand) Operand // made of the direction
	alive     int                                 // how many operands the body needs registers for at once: the rest is for coefficients
}

// forms is the arithmetic of each row of equations.Forms. A form without arithmetic has no kernels: the reference runs it.
var forms = [len(equations.Forms)]*arithmetic{
	equations.PNM:           {"beta1 alpha1 k1 k2", momentum, difference, 2},
	equations.AdaPNM:        {"beta1 alpha1 k1 k2", momentum, difference, 3},
	equations.AdaPNMAMSGrad: {"beta1 alpha1 k1 k2", momentum, difference, 3},
	equations.SGD:           {"k1", same, scaled("g"), 2},
	equations.SGDMomentum:   {"beta1 alpha1 k1", momentum, scaled("m"), 2},
	equations.SGDNesterov:   {"beta1 alpha1 k1", lookAhead, scaled("d"), 3},
	equations.Adam:          {"beta1 alpha1 k1", momentum, scaled("m"), 3},
	equations.AdamAMSGrad:   {"beta1 alpha1 k1", momentum, scaled("m"), 3},
	equations.Lion:          {"beta1 alpha1 beta2 alpha2 k1", interpolation, signed, 3},
}

// kernels has a kernel for each form, and Rules those with a body.
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
			k.Scalars, k.Alive = a.allScalars(f), a.alive
			k.Body = func(v *Vectors) { a.body(v, f) }
			bodies = append(bodies, k)
		}
		all = append(all, k)
	}
	return all, bodies
}

// allScalars are the coefficients of a form; the last ones lose least if they are not in a register.
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

// body finishes a stream before it touches the next one, in the order g, m, n, v, x, p (except for coupled decay). So the caches do not
// suffer if streams have equal offsets.
func (a *arithmetic) body(v *Vectors, f equations.Form) {
	g := gradient(v)
	d := a.direction(v, g)
	u := a.numerator(v, d)
	if f.Has("v") {
		w := secondMoment(v, g)
		if f.Has("x") {
			w = largest(v, w)
		}
		u = v.Div(u, denominator(v, w))
	}
	step(v, u)
}

func gradient(v *Vectors) Operand {
	g := v.Scaled("grad")
	v.IfCoupled(func() {
		Comment("g = g + l2·p")
		v.AddTo(g, v.Mul(v.C("l2"), v.In("p")))
	})
	v.quieten(g)
	return g
}

func momentum(v *Vectors, g Operand) Operand {
	Comment("m = beta1·m + alpha1·g")
	m := v.Add(v.Mul(v.C("beta1"), v.In("m")), v.Mul(v.C("alpha1"), g))
	v.Store(m, "m")
	return m
}

func same(_ *Vectors, g Operand) Operand { return g }

func lookAhead(v *Vectors, g Operand) Operand {
	m := momentum(v, g)
	Comment("d = g + beta1·m")
	return v.Add(g, v.Mul(v.C("beta1"), m))
}

// interpolation returns the average from which the step is made, and stores another one.
func interpolation(v *Vectors, g Operand) Operand {
	Comment("d = beta1·m + alpha1·g")
	d := v.Add(v.Mul(v.C("beta1"), v.In("m")), v.Mul(v.C("alpha1"), g))
	Comment("m = beta2·m + alpha2·g")
	// m is read again: AVX2 has no registers to keep it in
	v.Store(v.Add(v.Mul(v.C("beta2"), v.In("m")), v.Mul(v.C("alpha2"), g)), "m")
	return d
}

func secondMoment(v *Vectors, g Operand) Operand {
	Comment("v = beta2·v + (alpha2·g)·g")
	square := v.Mul(v.Mul(v.C("alpha2"), g), g) // first: it takes the registers of g
	w := v.Add(v.Mul(v.C("beta2"), v.In("v")), square)
	v.Store(w, "v")
	return w
}

// largest may use Max: w is a sum with a term (alpha2·g)·g ≥ +0, and a sum is −0 only if both terms are.
func largest(v *Vectors, w Operand) Operand {
	Comment("w = x = max(x, v)")
	x := v.Max(v.Load("x"), w)
	v.Store(x, "x")
	return x
}

func scaled(name string) func(v *Vectors, d Operand) Operand {
	return func(v *Vectors, d Operand) Operand {
		Comment("u = k1·" + name)
		return v.Mul(v.C("k1"), d)
	}
}

func signed(v *Vectors, d Operand) Operand {
	Comment("u = k1·sign(d)")
	return v.Mul(v.C("k1"), v.Sign(d))
}

func difference(v *Vectors, m Operand) Operand {
	Comment("u = k1·m − k2·n")
	return v.Sub(v.Mul(v.C("k1"), m), v.Mul(v.C("k2"), v.In("n")))
}

func denominator(v *Vectors, w Operand) Operand {
	Comment("√w·r + ε, by which u is divided")
	return v.Add(v.Mul(v.Sqrt(w), v.C("r")), v.C("eps"))
}

func step(v *Vectors, u Operand) {
	Comment("p = keep·p − u")
	v.Store(v.Sub(v.Mul(v.C("keep"), v.In("p")), u), "p")
}
