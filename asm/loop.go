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
// c points to the coefficients; the streams follow. The function runs the body over count elements of each stream: first a pass of several
// vectors at a time, then one vector at a time, then the rest under a mask. If ahead is not 0, it takes all vectors one at a time, and
// prefetches each stream that many bytes ahead of its loads. The arithmetic has the same instructions everywhere, so that an element's bits
// do not depend on its position.
func (k Kernel) Emit(t Type, isa ISA) {
	name := k.Name + t.Name + isa.Name
	TEXT(name, attr.NOSPLIT, k.signature(t))
	Pragma("noescape")
	Doc(name + " " + k.Doc + ".")

	v := &Vectors{Type: t, ISA: isa, n: isa.vectors, streams: map[string]reg.Register{}, scalars: map[string]Op{}}
	if len(k.Scalars) > 0 {
		v.coefficients = Load(Param("c"), GP64())
		v.keep(k.Scalars, isa.keeps(k.Alive, v.n))
		v.findCoupled()
	}
	for _, name := range k.Streams {
		v.streams[name] = Load(Param(name), GP64())
	}
	left, front := Load(Param("count"), GP64()), Load(Param("ahead"), GP64())
	v.offset = GP64()
	XORQ(v.offset, v.offset)
	TESTQ(front, front)
	JNZ(LabelRef("far"))

	Commentf("%d vectors at a time", v.n)
	k.emitLoop(v, left, "pass", "enter")
	ADDQ(U32(v.elements()), left)

	Label("far")
	Comment("a vector at a time")
	v.n, v.front = 1, front
	v.keep(k.Scalars, isa.keeps(k.Alive, v.n))
	ADDQ(v.offset, v.front)
	k.emitLoop(v, left, "vector", "enterVector")
	v.front = nil

	if !k.Whole {
		ADDQ(U32(v.elements()), left)
		JZ(LabelRef("done"))
		Comment("the rest, under a mask")
		v.maskFirst(left)
		k.Body(v)
		Label("done")
	}
	VZEROUPPER()
	RET()
}

func (k Kernel) signature(t Type) string {
	return fmt.Sprintf("func(c, %s *%s, count, ahead int)", strings.Join(k.args(), ", "), t.goName)
}

// emitLoop runs the body while enough elements for all vectors are left. At its end, left is the number of remaining elements minus a pass.
func (k Kernel) emitLoop(v *Vectors, left reg.Register, pass, enter string) {
	bytes := v.n * v.width
	JMP(LabelRef(enter))
	Label(pass)
	k.Body(v)
	ADDQ(U32(bytes), v.offset)
	if v.front != nil {
		ADDQ(U32(bytes), v.front)
	}
	Label(enter)
	SUBQ(U32(v.elements()), left)
	JGE(LabelRef(pass))
}

func index(scalar string) int {
	for i, name := range Scalars {
		if name == scalar {
			return i
		}
	}
	panic("asm: no scalar " + scalar)
}
