package asm

import (
	"fmt"
	"math/bits"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Lanes is how many partial sums the gradient norm keeps: element i is added to sum i mod Lanes.
const Lanes = 32

// EmitSumSquares emits, for one element type and ISA,
//
//	func sumSquares(sums *float64, grad *T, count, ahead int)
//
// which adds the square of each element, in float64, to the sum of its lane. count is a multiple of Lanes. If ahead is not
// 0, it prefetches that many bytes in front of its loads.
func EmitSumSquares(t Type, isa ISA) {
	name := "sumSquares" + t.Name + isa.Name
	TEXT(name, attr.NOSPLIT, t.sumSignature())
	Pragma("noescape")
	Doc(name + " " + sumDoc + ".")

	sums, grad := Load(Param("sums"), GP64()), Load(Param("grad"), GP64())
	n, front := Load(Param("count"), GP64()), Load(Param("ahead"), GP64())
	SHLQ(U8(bits.TrailingZeros(uint(t.size))), n)
	end := GP64()
	LEAQ(Mem{Base: grad, Index: n, Scale: 1}, end)

	lanes := isa.width / 8 // of a vector of float64
	acc := make([]reg.VecVirtual, Lanes/lanes)
	for i := range acc {
		acc[i] = isa.vec()
		VMOVUPD(Mem{Base: sums, Disp: i * isa.width}, acc[i])
	}
	Comment("sums = sums + grad·grad, in float64")
	JMP(LabelRef("enter"))
	Label("line")
	for i := range acc {
		x := isa.vec()
		t.loadFloat64(isa, Mem{Base: grad, Disp: i * lanes * t.size}, x)
		VMULPD(x, x, x)
		VADDPD(x, acc[i], acc[i])
	}
	ADDQ(U32(Lanes*t.size), grad)
	TESTQ(front, front)
	JZ(LabelRef("enter"))
	Comment("prefetch")
	for line := 0; line < Lanes*t.size; line += cacheLine {
		PREFETCHT0(Mem{Base: grad, Index: front, Scale: 1, Disp: line})
	}
	Label("enter")
	CMPQ(grad, end)
	JNE(LabelRef("line"))

	for i := range acc {
		VMOVUPD(acc[i], Mem{Base: sums, Disp: i * isa.width})
	}
	VZEROUPPER()
	RET()
}

const cacheLine = 64 // bytes

const sumDoc = "works like sumSquaresGeneric"

func (t Type) sumSignature() string {
	return fmt.Sprintf("func(sums *float64, grad *%s, count, ahead int)", t.goName)
}

// loadFloat64 widens as many elements as x has lanes of float64.
func (t Type) loadFloat64(isa ISA, from Mem, x reg.VecVirtual) {
	switch t.Name {
	case Float64.Name:
		VMOVUPD(from, x)
	case Float32.Name:
		VCVTPS2PD(from, x)
	case BF16.Name:
		widenBF16(from, isa.half(x))
		VCVTPS2PD(isa.half(x), x)
	case F16.Name:
		VCVTPH2PS(from, isa.half(x))
		VCVTPS2PD(isa.half(x), x)
	}
}
