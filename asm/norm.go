package asm

import (
	"fmt"
	"math/bits"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Lanes divides the number of elements that a sum of squares takes.
const Lanes = 32

// Together is the number of products of float32 that share an anchor.
const Together = 4

// EmitSumSquares emits, for one element type and ISA,
//
//	func sumSquares(sums *uint64, w *float64, grad *T, count, ahead int)
//
// which sums up, modulo 2⁶⁴, the bits of the sums s of norm.go: in sums[0] those with the anchor w[0], one for each product of float64, or
// for each Together products of others, and in sums[1] those with w[1]. sums[2] is the largest bits of |g|; for float64, the largest upper
// and the largest lower half. From the next cache line after them on, there is room for Lanes float32 numbers. count is a multiple of Lanes.
// If ahead is not 0, the function prefetches that many bytes ahead of its loads.
func EmitSumSquares(t Type, isa ISA) {
	name := "sumSquares" + t.Name + isa.Name
	TEXT(name, attr.NOSPLIT, t.sumSignature())
	Pragma("noescape")
	Doc(name + " " + sumDoc + ".")

	k := sumKernel{Type: t, ISA: isa, sums: Load(Param("sums"), GP64()), grad: Load(Param("grad"), GP64())}
	anchors, n, front := Load(Param("w"), GP64()), Load(Param("count"), GP64()), Load(Param("ahead"), GP64())
	SHLQ(U8(bits.TrailingZeros(uint(t.size))), n)
	end := GP64()
	LEAQ(Mem{Base: k.grad, Index: n, Scale: 1}, end)
	if t.size == 2 {
		Comment("room for what is widened, at the border of a cache line")
		k.room = GP64()
		LEAQ(Mem{Base: k.sums, Disp: 3*8 + cacheLine - 1}, k.room)
		ANDQ(I8(-cacheLine), k.room)
	}
	k.upper, k.lower = isa.vec(), isa.vec()
	VBROADCASTSD(Mem{Base: anchors}, k.upper)
	VBROADCASTSD(Mem{Base: anchors, Disp: 8}, k.lower)
	for _, x := range []*reg.VecVirtual{&k.t0, &k.t1, &k.largest} {
		*x = isa.vec()
		VXORPS(*x, *x, *x)
	}
	k.masks()

	JMP(LabelRef("enter"))
	Label("line")
	k.line()
	ADDQ(U32(Lanes*t.size), k.grad)
	TESTQ(front, front)
	JZ(LabelRef("enter"))
	Comment("prefetch")
	for line := 0; line < Lanes*t.size; line += cacheLine {
		PREFETCHT0(Mem{Base: k.grad, Index: front, Scale: 1, Disp: line})
	}
	Label("enter")
	CMPQ(k.grad, end)
	JNE(LabelRef("line"))

	k.store()
	VZEROUPPER()
	RET()
}

const cacheLine = 64 // bytes

const sumDoc = "works like sumSquaresGeneric"

func (t Type) sumSignature() string {
	return fmt.Sprintf("func(sums *uint64, w *float64, grad *%s, count, ahead int)", t.goName)
}

// A sumKernel is a sum of squares that is being emitted.
type sumKernel struct {
	Type
	ISA
	sums, grad   reg.Register
	room         reg.Register
	upper, lower reg.VecVirtual // the anchors
	t0, t1       reg.VecVirtual
	abs, odd     reg.VecVirtual // masks
	largest      reg.VecVirtual
}

// line sums up Lanes elements. Their order does not matter.
func (k *sumKernel) line() {
	for at := 0; at < Lanes*k.size; at += k.width {
		Comment("largest = max(largest, |grad|)")
		x := k.vec()
		k.and(k.at(k.grad, at), k.abs, x)
		if k.size == 2 {
			VPMAXUW(x, k.largest, k.largest)
		} else {
			VPMAXUD(x, k.largest, k.largest)
		}
	}
	from := k.grad
	if k.size == 2 {
		k.widen()
		from = k.room
	}
	if k.size == 8 {
		k.squares64()
	} else {
		k.squares(from)
	}
}

// squares64 takes a line of float64.
func (k *sumKernel) squares64() {
	for at := 0; at < Lanes*k.size; at += k.width {
		Comment("s = upper + grad·grad, t0 += s, r = grad·grad − (s − upper), t1 += lower + r")
		x, s := k.vec(), k.vec()
		VMOVUPD(k.at(k.grad, at), x)
		VMULPD(x, x, x)
		VADDPD(k.upper, x, s)
		VPADDQ(s, k.t0, k.t0)
		VSUBPD(k.upper, s, s)
		VSUBPD(s, x, x)
		VADDPD(k.lower, x, x)
		VPADDQ(x, k.t1, k.t1)
	}
}

// squares sums up a line of float32. Their products are exact in float64, so that they may be fused with additions. They are never halfway
// between multiples of any 2^52j, since no odd number times 2^(2k) is; so it does not matter whether the s to which they are added is even
// or odd. And four of them fit into s, which is upper plus less than 4·2^50 of its last places.
func (k *sumKernel) squares(from reg.Register) {
	var s reg.VecVirtual
	for i := range Lanes * 8 / k.width {
		before := s
		if i%Together == 0 {
			before = k.upper
		}
		Comment("s' = s + grad·grad, r = grad·grad − (s' − s), t1 += lower + r")
		x, d := k.vec(), k.vec()
		s = k.vec()
		VCVTPS2PD(k.at(from, i*k.width/2), x)
		VMOVAPD(before, s)
		VFMADD231PD(x, x, s)
		VSUBPD(before, s, d)
		VFMSUB213PD(d, x, x)
		VADDPD(k.lower, x, x)
		VPADDQ(x, k.t1, k.t1)
		if i%Together == Together-1 {
			Comment("t0 += s")
			VPADDQ(s, k.t0, k.t0)
		}
	}
}

// widen widens a line of 16-bit elements to float32 and stores it. Instructions that widen further then load it from memory: from a
// register they take two operations, one of them a shuffle.
func (k *sumKernel) widen() {
	Comment("widen")
	if k.Type.Name == F16.Name {
		for i := range Lanes * 4 / k.width {
			x := k.vec()
			VCVTPH2PS(k.at(k.grad, i*k.width/2), x)
			VMOVAPS(x, k.at(k.room, i*k.width))
		}
		return
	}
	for i := range Lanes * 2 / k.width {
		even, odd := k.vec(), k.vec() // elements
		if k.ISA.Name == AVX512.Name {
			VPSLLD(U8(16), k.at(k.grad, i*k.width), even)
		} else {
			VMOVDQU(k.at(k.grad, i*k.width), even)
			VPSLLD(U8(16), even, even)
		}
		k.and(k.at(k.grad, i*k.width), k.odd, odd)
		VMOVAPS(even, k.at(k.room, 2*i*k.width))
		VMOVAPS(odd, k.at(k.room, (2*i+1)*k.width))
	}
}

func (k *sumKernel) at(base reg.Register, disp int) Mem { return Mem{Base: base, Disp: disp} }

// masks sets abs to the bits of elements without their signs, and odd to the upper halves of pairs.
func (k *sumKernel) masks() {
	k.abs, k.odd = k.vec(), k.vec()
	if k.ISA.Name == AVX512.Name {
		VPTERNLOGD(U8(0xff), k.abs, k.abs, k.abs)
	} else {
		VPCMPEQD(k.abs, k.abs, k.abs)
	}
	switch k.size {
	case 2:
		VPSLLD(U8(16), k.abs, k.odd)
		VPSRLW(U8(1), k.abs, k.abs)
	case 4:
		VPSRLD(U8(1), k.abs, k.abs)
	case 8:
		VPSRLQ(U8(1), k.abs, k.abs)
	}
}

func (k *sumKernel) and(from, mask, to Op) {
	if k.ISA.Name == AVX512.Name {
		VPANDD(from, mask, to)
	} else {
		VPAND(from, mask, to)
	}
}

// store folds the lanes, and stores the sums.
func (k *sumKernel) store() {
	maximum := func(a, b, to Op) { VPMAXUD(a, b, to) }
	if k.size == 2 {
		maximum = func(a, b, to Op) { VPMAXUW(a, b, to) }
	}
	for i, x := range []reg.VecVirtual{k.t0, k.t1, k.largest} {
		fold := func(a, b, to Op) { VPADDQ(a, b, to) }
		if i == 2 {
			fold = maximum
		}
		half := k.fold(x, fold)
		if i == 2 && k.size < 8 {
			VPSRLQ(U8(32), x.AsX(), half)
			fold(half, x.AsX(), x.AsX())
		}
		if i == 2 && k.size < 4 {
			VPSRLD(U8(16), x.AsX(), half)
			fold(half, x.AsX(), x.AsX())
		}
		VMOVQ(x.AsX(), Mem{Base: k.sums, Disp: 8 * i})
	}
}

// fold folds a vector into its first 64 bits, and returns a register that may be overwritten.
func (isa ISA) fold(x reg.VecVirtual, with func(a, b, to Op)) (half reg.VecVirtual) {
	if isa.Name == AVX512.Name {
		upper := YMM()
		VEXTRACTI64X4(U8(1), x, upper)
		with(upper, x.AsY(), x.AsY())
	}
	half = XMM()
	VEXTRACTI128(U8(1), x.AsY(), half)
	with(half, x.AsX(), x.AsX())
	VPSHUFD(U8(0b01001110), x.AsX(), half) // the upper half
	with(half, x.AsX(), x.AsX())
	return half
}
