package asm

import (
	"fmt"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Emit emits the function of a kernel for one element type and ISA:
//
//	func name(c, p, grad, … *T, count, ahead int)
//
// c is where the coefficients are, then come the streams. It runs the body over count elements of each stream: a cache line at a
// time, then a vector at a time, then the rest under a mask. All use the same instructions for the arithmetic, so that an element's bits do not depend on its position. If
// ahead is not 0, it prefetches each stream that many bytes in front of its loads.
func (k Kernel) Emit(t Type, isa ISA) {
	name := k.Name + t.Name + isa.Name
	TEXT(name, attr.NOSPLIT, k.signature(t))
	Pragma("noescape")
	Doc(name + " " + k.Doc + ".")

	v := &Vector{Type: t, ISA: isa, streams: map[string]reg.Register{}, scalars: map[string]Op{}}
	if len(k.Scalars) > 0 {
		v.coefficients = Load(Param("c"), GP64())
		v.keep(k.Scalars, isa.keeps)
		v.findCoupled()
	}
	for _, name := range k.Streams {
		v.streams[name] = Load(Param(name), GP64())
	}
	n, front := Load(Param("count"), GP64()), Load(Param("ahead"), GP64())
	v.offset = GP64()
	XORQ(v.offset, v.offset)
	lanes := isa.width / t.size

	vectors := Pass / isa.width

	Comment("a cache line at a time")
	JMP(LabelRef("enter"))
	Label("line")
	for v.disp = 0; v.disp < Pass; v.disp += isa.width {
		k.Body(v)
	}
	v.disp = 0
	ADDQ(U32(Pass), v.offset)
	TESTQ(front, front)
	JZ(LabelRef("enter"))
	Comment("prefetch")
	for _, name := range k.Streams {
		PREFETCHT1(Mem{Base: v.streams[name], Index: front, Scale: 1})
	}
	ADDQ(U32(Pass), front)
	Label("enter")
	SUBQ(U32(vectors*lanes), n)
	JGE(LabelRef("line"))
	if !k.Whole {
		ADDQ(U32(vectors*lanes), n)
		k.emitRest(v, n)
	}
	VZEROUPPER()
	RET()
}

func (k Kernel) signature(t Type) string {
	return fmt.Sprintf("func(c, %s *%s, count, ahead int)", strings.Join(k.args(), ", "), t.goName)
}

// emitRest runs the body over n elements, less than a cache line.
func (k Kernel) emitRest(v *Vector, n reg.Register) {
	lanes := v.width / v.size
	if v.width < Pass {
		Comment("a vector at a time")
		JMP(LabelRef("enterVector"))
		Label("vector")
		k.Body(v)
		ADDQ(U32(v.width), v.offset)
		Label("enterVector")
		SUBQ(U32(lanes), n)
		JGE(LabelRef("vector"))
		ADDQ(U32(lanes), n)
	}
	TESTQ(n, n)
	JZ(LabelRef("done"))

	Comment("the rest, under a mask")
	v.maskFirst(n)
	k.Body(v)

	Label("done")
}

func index(scalar string) int {
	for i, name := range Scalars {
		if name == scalar {
			return i
		}
	}
	panic("asm: no scalar " + scalar)
}
