package pnm

import "fmt"

// A tensor is one tensor's vectors, rule and count of steps.
type tensor struct {
	p, g Vector           // parameters and gradients
	s    [maxSlots]Vector // state, in the order of the form's slots; unused ones are nil
	out  Vector           // the copy of the parameters, if there is one
	form form
	step int              // the number of the step that is due, from 1
	c64  scalars[float64] // its coefficients, as the rule computes them
	c32  scalars[float32] // the same, rounded, unless arithmetic is in float64

	rounding Rounding
	follow   bool // as Update.Follow
}

// maxSlots is the largest number of state buffers of any rule.
const maxSlots = 4

// vector returns vector i, in the order of the arguments of a drop-in call such as UpdatePNM; the copy comes last.
func (t *tensor) vector(i int) *Vector {
	switch {
	case i == 0:
		return &t.p
	case i == 1:
		return &t.g
	case i < 2+len(forms[t.form].Slots):
		return &t.s[i-2]
	}
	return &t.out
}

// argument names vector i in an error.
func (t *tensor) argument(i int) string {
	switch slots := forms[t.form].Slots; {
	case i < 2:
		return [...]string{"params", "grads"}[i]
	case i < 2+len(slots):
		return slots[i-2]
	}
	return "copy"
}

// vectors is the number of vectors of t.
func (t *tensor) vectors() int {
	n := 2 + len(forms[t.form].Slots)
	if t.out.at != nil {
		n++
	}
	return n
}

// wide reports whether arithmetic is in float64; it is in float32 for all other formats.
func (t *tensor) wide() bool { return t.p.format == f64 }

// round rounds the coefficients that a rule with form f has set.
func (t *tensor) round(f form) error {
	if t.wide() {
		return round(f, &t.c64, &t.c64)
	}
	return round(f, &t.c64, &t.c32)
}

// apply puts the options into the coefficients; scale is the whole factor on the gradients.
func (t *tensor) apply(o *Options, scale float64) {
	if t.wide() {
		apply(o, scale, &t.c64)
	} else {
		apply(o, scale, &t.c32)
	}
}

// len is the length of a tensor that has parameters, or at least gradients.
func (t *tensor) len() int { return max(t.p.n, t.g.n) }

// traffic is the number of bytes of memory that a step of t touches.
func (t *tensor) traffic() int64 {
	each := t.p.size() + t.g.size() + len(forms[t.form].Slots)*t.s[0].size()
	if t.out.at != nil {
		each += t.out.size()
	}
	bytes := int64(t.p.n) * int64(each)
	if t.s[0].format == mxfp8 {
		bytes += t.trafficMX()
	}
	return bytes
}

// trafficMX is the size of the state in bytes beyond one per element: averages of squares are larger, and there are scales.
func (t *tensor) trafficMX() (bytes int64) {
	for k := range forms[t.form].Slots {
		bytes += int64(t.s[k].bytes() - t.p.n)
	}
	return bytes
}

// checkBorder reports an element, called field, at which t may not be cut. It may be cut at its end.
func (t *tensor) checkBorder(of, field string, i int) error {
	if below, above := t.s[0].borders(i); below != i {
		return &ValueError{of, field, float64(i), t.atBorder(uint64(below), uint64(above))}
	}
	return nil
}

// checkFirst reports a part of a tensor that does not begin where the whole may be cut.
func (t *tensor) checkFirst() error {
	first, step := t.rounding.First, uint64(t.s[0].step())
	if first%step == 0 || t.p.n == 0 {
		return nil
	}
	below := first - first%step
	return &ValueError{"Rounding", "First", float64(first), t.atBorder(below, below+step)}
}

// atBorder names the borders on both sides of an element.
func (t *tensor) atBorder(below, above uint64) string {
	of := "blocks"
	if t.s[0].row > 0 {
		of = fmt.Sprintf("rows of %d", t.s[0].row)
	}
	return fmt.Sprintf("between %s of %s, which is mxfp8: %d or %d", of, forms[t.form].Slots[0], below, above)
}

// cut returns a tensor of the elements lo … hi−1, with their gradients.
func (t *tensor) cut(lo, hi int, grads Vector) tensor {
	c := *t
	c.p, c.g, c.out = t.p.cut(lo, hi), grads, t.out.cut(lo, hi)
	for k := range forms[t.form].Slots {
		c.s[k] = t.s[k].cut(lo, hi)
	}
	c.rounding.First += uint64(lo)
	return c
}
