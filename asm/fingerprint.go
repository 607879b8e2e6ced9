package asm

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	hashLine  = 128              // bytes, of which a kernel takes a multiple
	hashKeys  = 4 * (1<<10 + 16) // bytes from the first number of K_0 to that of K_1
	hashAhead = 8 << 10          // bytes from what is loaded to what is prefetched: with a single stream, processors prefetch too little
)

const hashDoc = "adds up words times K_0 in sums[0] and times K_1 in sums[1], and or-s (x & check[0]) + check[1] in sums[2]"

const hashSignature = "func(sums *uint64, keys *uint32, check *uint64, x *byte, count int)"

// EmitHash emits, for one ISA,
//
//	func hash(sums *uint64, keys *uint32, check *uint64, x *byte, count int)
//
// which works on the words of a fingerprint's block. keys is the address of the first word's number of K_0. count is that of bytes, a
// multiple of hashLine. The function prefetches what follows, also behind the end, where the next tensor may be.
func EmitHash(isa ISA) {
	name := "hash" + isa.Name
	TEXT(name, attr.NOSPLIT, hashSignature)
	Pragma("noescape")
	Doc(name + " " + hashDoc + ".")

	sums, keys, check := Load(Param("sums"), GP64()), Load(Param("keys"), GP64()), Load(Param("check"), GP64())
	x, n := Load(Param("x"), GP64()), Load(Param("count"), GP64())
	mask, add := isa.vec(), isa.vec()
	VPBROADCASTQ(Mem{Base: check}, mask)
	VPBROADCASTQ(Mem{Base: check, Disp: 8}, add)
	end := GP64()
	LEAQ(Mem{Base: x, Index: n, Scale: 1}, end)
	t := [3]reg.VecVirtual{isa.vec(), isa.vec(), isa.vec()}
	for _, t := range t {
		VXORPS(t, t, t)
	}
	and, or := func(a, b, to Op) { VPAND(a, b, to) }, func(a, b, to Op) { VPOR(a, b, to) }
	if isa.Name == AVX512.Name {
		and, or = func(a, b, to Op) { VPANDQ(a, b, to) }, func(a, b, to Op) { VPORQ(a, b, to) }
	}

	JMP(LabelRef("enter"))
	Label("line")
	for at := 0; at < hashLine; at += isa.width {
		Comment("words at even and at odd places, each in 64 bits")
		even, odd := isa.vec(), isa.vec()
		VMOVUPS(Mem{Base: x, Disp: at}, even)
		VMOVSHDUP(Mem{Base: x, Disp: at}, odd)
		for j := range 2 {
			a, b := isa.vec(), isa.vec()
			VPMULUDQ(Mem{Base: keys, Disp: j*hashKeys + at}, even, a)
			VPMULUDQ(Mem{Base: keys, Disp: j*hashKeys + at + 4}, odd, b)
			VPADDQ(a, t[j], t[j])
			VPADDQ(b, t[j], t[j])
		}
		nan := isa.vec()
		and(even, mask, nan)
		VPADDQ(add, nan, nan)
		or(nan, t[2], t[2])
	}
	for line := 0; line < hashLine; line += cacheLine {
		PREFETCHT0(Mem{Base: x, Disp: hashAhead + line})
	}
	ADDQ(U32(hashLine), x)
	ADDQ(U32(hashLine), keys)
	Label("enter")
	CMPQ(x, end)
	JNE(LabelRef("line"))

	for i, t := range t {
		fold := func(a, b, to Op) { VPADDQ(a, b, to) }
		if i == 2 {
			fold = func(a, b, to Op) { VPOR(a, b, to) }
		}
		isa.fold(t, fold)
		VMOVQ(t.AsX(), Mem{Base: sums, Disp: 8 * i})
	}
	VZEROUPPER()
	RET()
}
