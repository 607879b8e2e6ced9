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
//	func name(c, p, grad, … *T, count int)
//
// It runs the body over count elements of each stream: Unroll vectors at a time, then one at a time, then the rest under a
// mask. All three use the same instructions for the arithmetic, so that an element's bits do not depend on its position.
func (k Kernel) Emit(t Type, isa ISA) {
	TEXT(k.Name+t.Name+isa.Name, attr.NOSPLIT, fmt.Sprintf("func(%s *%s, count int)", strings.Join(k.Args, ", "), t.goName))
	Pragma("noescape")
	Doc(k.Name + t.Name + isa.Name + " " + k.Doc + ".")
	v := &Vector{Type: t, ISA: isa, streams: map[string]reg.Register{}, scalars: map[string]reg.VecVirtual{}}
	if len(k.Scalars) > 0 {
		c := Load(Param("c"), GP64())
		for _, name := range k.Scalars {
			Comment(name)
			v.scalars[name] = isa.vec()
			t.vbroadcast(Mem{Base: c, Disp: t.size * index(name)}, v.scalars[name])
		}
	}
	for _, name := range k.Streams {
		v.streams[name] = Load(Param(name), GP64())
	}
	n := Load(Param("count"), GP64())
	v.offset = GP64()
	XORQ(v.offset, v.offset)
	lanes := isa.width / t.size

	Commentf("%d vectors at a time", Unroll)
	JMP(LabelRef("enter"))
	Label("unrolled")
	for i := range Unroll {
		v.disp = i * isa.width
		k.Body(v)
	}
	if k.Prefetch > 0 {
		Commentf("prefetch %d bytes ahead", k.Prefetch)
		for at := 0; at < Unroll*isa.width; at += cacheLine {
			for _, name := range k.Streams {
				PREFETCHT1(Mem{Base: v.streams[name], Index: v.offset, Scale: 1, Disp: k.Prefetch + at})
			}
		}
	}
	ADDQ(U32(Unroll*isa.width), v.offset)
	Label("enter")
	SUBQ(U32(Unroll*lanes), n)
	JGE(LabelRef("unrolled"))
	ADDQ(U32(Unroll*lanes), n)

	Comment("one vector at a time")
	v.disp = 0
	JMP(LabelRef("one"))
	Label("single")
	k.Body(v)
	ADDQ(U32(isa.width), v.offset)
	Label("one")
	SUBQ(U32(lanes), n)
	JGE(LabelRef("single"))
	ADDQ(U32(lanes), n)
	JZ(LabelRef("done"))

	Comment("the rest, under a mask")
	v.maskFirst(n)
	k.Body(v)

	Label("done")
	VZEROUPPER()
	RET()
}

func index(scalar string) int {
	for i, name := range Scalars {
		if name == scalar {
			return i
		}
	}
	panic("asm: no scalar " + scalar)
}
