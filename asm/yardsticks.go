package asm

import (
	"fmt"
	"slices"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/posneg/pnm/internal/equations"
)

// Yardsticks are what the rules are measured against; no step calls them. Each gets the coefficients and all
// streams, whichever it uses, and only whole passes.
func Yardsticks(t Type) []Kernel {
	all := []Kernel{divider}
	if t.Name != Float32.Name {
		return all
	}
	seen := map[string]bool{}
	for _, rule := range kernels {
		if k := limit(rule); !seen[k.Name] {
			seen[k.Name] = true
			all = append(all, k)
		}
	}
	return all
}

var anyStreams = equations.Form{Roles: equations.AllRoles}.Streams()

// limit is the kernel with the streams and the prefetch of a rule, in its order, but no arithmetic: every vector is loaded, and those of the
// streams that the rule writes are stored again, unchanged. It bounds the rule's speed from above. Rules whose state has the same
// roles share it and, since it moves bytes and not numbers, so do all types: it is that for float32.
func limit(rule Kernel) Kernel {
	return Kernel{
		Name:    rule.Form.Limit(),
		Args:    anyStreams,
		Streams: rule.Streams,
		Body: func(v *Vectors) {
			for _, name := range inOrder(rule.Streams) {
				if x := v.Load(name); slices.Contains(rule.Writes, name) {
					v.Store(x, name)
				}
			}
		},
		Doc:   fmt.Sprintf("reads and writes the memory that rules with the roles %q do, and changes nothing", rule.Form.Roles),
		Whole: true,
	}
}

// inOrder is the order in which rules touch their streams: parameters come last.
func inOrder(streams []string) []string { return append(slices.Clone(streams[1:]), streams[0]) }

// divider does what of an element of AdaPNM or Adam needs the divider, a square root and a division, and no more.
var divider = Kernel{
	Name:    "divider",
	Args:    anyStreams,
	Streams: []string{"p"},
	Body: func(v *Vectors) {
		p := v.Load("p")
		v.Div(p, v.Sqrt(p))
	},
	Doc:   "takes the square roots of p, divides by them, and writes nothing",
	Whole: true,
}

// mixedLimit is the same for all rules and sets of formats. A stream that is nil does not exist; what is copied out is part of p.
var mixedLimit = Kernel{
	Name:    "mixedLimit",
	Streams: anyStreams,
	Body: func(v *Vectors) {
		for _, stream := range inOrder(anyStreams) {
			x := v.mixed.move(stream, stream != "grad" && stream != "n")
			if stream == "p" {
				v.mixed.unlessNil("out", func() {
					v.mixed.either(paramLow|follow, func() { v.mixed.moveSized(x, "out", 2, true) }, func() {
						for i, x := range x {
							v.mixed.storeOut(x.(reg.VecVirtual), i)
						}
					})
				})
			}
		}
	},
	Doc: "reads and writes the memory that updateMixedGeneric does, and changes nothing but the copy",
}

// move loads a stream's vectors, if there are any, and may store them again, as they are.
func (m *mixed) move(stream string, store bool) Operand {
	x := m.each(func(int) Op { return m.vec() })
	m.unlessNil(stream, func() {
		bySize := func() {
			m.either(narrow[stream], func() { m.moveSized(x, stream, 2, store) }, func() { m.moveSized(x, stream, 4, store) })
		}
		if stream == "m" || stream == "n" {
			m.either(momentMX, func() { m.moveBlock(stream, store) }, bySize)
		} else {
			bySize()
		}
	})
	return x
}

// moveSized is move for elements of so many bytes.
func (m *mixed) moveSized(x Operand, stream string, size uint8, store bool) {
	sized := func(i int) Op {
		if size == 2 {
			return m.half(x[i].(reg.VecVirtual))
		}
		return x[i]
	}
	for i := range x {
		VMOVUPS(m.vector(stream, size, i), sized(i))
	}
	m.prefetch(stream, size)
	for i := range x {
		if store {
			VMOVUPS(sized(i), m.vector(stream, size, i))
		}
	}
}

// moveBlock is move for a block of mxfp8.
func (m *mixed) moveBlock(stream string, store bool) {
	x, scale := YMM(), GP32()
	at := m.scaleOf(stream)
	VMOVUPS(m.vector(stream, 1, 0), x)
	m.prefetch(stream, 1)
	MOVBLZX(at, scale)
	if store {
		VMOVUPS(x, m.vector(stream, 1, 0))
		MOVB(scale.As8(), at)
	}
}

func (m *mixed) unlessNil(stream string, do func()) {
	Commentf("move %s", stream)
	end := m.label("nil")
	TESTQ(m.streams[stream], m.streams[stream])
	JZ(LabelRef(end))
	do()
	Label(end)
}
