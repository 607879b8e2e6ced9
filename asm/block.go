package asm

import (
	"math"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Momenta in mxfp8: a pass is a block. Read as f16, the bits of an E4M3 number stand for 2⁻⁸ times that number; all conversions use this.

// scaleOf is the address of the scale of the pass's block.
func (m *mixed) scaleOf(stream string) Mem {
	block := GP64()
	MOVQ(m.at, block)
	SHRQ(U8(5), block)
	m.field(ADDQ, stream+"s", block)
	return Mem{Base: block}
}

// unpack loads a block.
func (m *mixed) unpack(x Operand, stream string) {
	scale := GP32()
	MOVBLZX(m.scaleOf(stream), scale)
	Comment("f16: sign, 0, and the seven bits below")
	for i := 0; i < len(x); i += 2 {
		w := m.vec()
		VPMOVSXBW(m.vector(stream, 1, i), w)
		VPSLLW(U8(7), w, w)
		VANDPS(m.constant("asF16"), w, w)
		VCVTPH2PS(m.half(w), x[i])
		upper := m.vec()
		m.extractUpper(w, upper)
		VCVTPH2PS(m.half(upper), x[i+1])
	}
	m.prefetch(stream, 1)
	rare, usual := m.label("rare"), m.label("usual")
	m.testNaN8(stream)
	JNZ(LabelRef(rare))
	CMPL(scale, U32(246))
	JBE(LabelRef(usual))
	Label(rare)
	Comment("a byte is a NaN, or the scale is huge")
	m.unpackRare(x, scale)
	Label(usual)
	Comment("× 2^(scale−119)")
	factor := m.factor(scale, 0)
	for _, x := range x {
		VMULPS(factor, x, x)
	}
}

// unpackRare turns 1.875 into NaN, and multiplies by 2⁶⁴ if the scale is above 246: the table has smaller factors for such scales.
func (m *mixed) unpackRare(x Operand, scale reg.GPVirtual) {
	for _, x := range x {
		const equal = 0
		size := m.op1(VANDPS, m.constant("magnitude"), x)
		if m.ISA.Name == AVX512.Name {
			nan := K()
			VCMPPS(U8(equal), m.constant("nan"), size, nan)
			VMOVAPS(m.inRegister("quiet"), nan, x)
		} else {
			VCMPPS(U8(equal), m.constant("nan"), size, size)
			VANDPS(m.constant("quiet"), size, size)
			VORPS(size, x, x)
		}
	}
	Comment("1, or 2⁶⁴")
	huge := GP32()
	LEAL(Mem{Base: scale, Disp: 256 - 247}, huge)
	SHRL(U8(8), huge)
	SHLL(U8(29), huge)
	ADDL(U32(127<<23), huge)
	more := m.broadcast32(huge)
	for _, x := range x {
		VMULPS(more, x, x)
	}
}

// testNaN8 clears the zero flag if a byte of a block is a NaN.
func (m *mixed) testNaN8(stream string) {
	x := YMM()
	if m.ISA.Name == AVX512.Name {
		nan := K()
		VMOVDQU32(m.vector(stream, 1, 0), x)
		VPANDD(m.constant("nan8"), x, x)
		VPCMPEQB(m.constant("nan8"), x, nan)
		KORTESTD(nan, nan)
		return
	}
	any := GP32()
	VMOVDQU(m.vector(stream, 1, 0), x)
	VPAND(m.constant("nan8"), x, x)
	VPCMPEQB(m.constant("nan8"), x, x)
	VPMOVMSKB(x, any)
	TESTL(any, any)
}

// pack stores a block, by stochastic rounding.
func (m *mixed) pack(x Operand, stream string) {
	infinity, rare, end := U32(0x7f800000), m.label("rare"), m.label("packed")
	magnitudes := func() Operand { return m.op(VANDPS, m.each(func(int) Op { return m.constant("magnitude") }), x) }
	most := m.largestBits(magnitudes())
	CMPL(most, infinity)
	JAE(LabelRef(rare))
	m.packScaled(x, stream, most, nil)
	JMP(LabelRef(end))

	Label(rare)
	Comment("the same, where there are NaNs or infinities")
	const below = 0x11 // false for a NaN
	finite := magnitudes()
	for _, x := range finite {
		if m.ISA.Name == AVX512.Name {
			k := K()
			VCMPPS(U8(below), m.constant("infinity"), x, k)
			VMOVAPS_Z(x, k, x)
		} else {
			VANDPS(m.op1(VCMPPS, U8(below), m.constant("infinity"), x), x, x)
		}
	}
	m.packScaled(x, stream, m.largestBits(finite), func(x, y Op) {
		const notBelow = 0x15
		size := m.op1(VANDPS, m.constant("magnitude"), x)
		if m.ISA.Name == AVX512.Name {
			k := K()
			VCMPPS(U8(notBelow), m.constant("infinity"), size, k)
			VMOVAPS(m.inRegister("nan"), k, y)
		} else {
			VCMPPS(U8(notBelow), m.constant("infinity"), size, size)
			VBLENDVPS(size, m.constant("nan"), y, y)
		}
	})
	Label(end)
}

// packScaled packs a block whose largest finite magnitude has the bits most. replace, if not nil, replaces elements in y, which was made
// from x.
func (m *mixed) packScaled(x Operand, stream string, most reg.GPVirtual, replace func(x, y Op)) {
	Comment("scale = max(exponent of most/1.75, rounded up, − 8, 0)")
	zero := GP32()
	XORL(zero, zero)
	ADDL(U32(0x1fffff), most)
	SHRL(U8(23), most)
	SUBL(U8(8), most)
	CMOVLCS(zero, most)
	MOVB(most.As8(), m.scaleOf(stream))
	factor := m.factor(most, 256)
	half := func(i int) Op {
		y := m.op1(VMULPS, factor, x[i])
		if replace != nil {
			replace(x[i], y)
		}
		Comment("f16: m·2^(119−scale), with 13 random bits, cut")
		bits := m.vec()
		if i < len(m.words) {
			VANDPS(m.constant("below16"), m.words[i], bits)
		} else {
			VPSRLD(U8(32-13), m.words[i-len(m.words)], bits)
		}
		VPADDD(bits, y, y)
		const towardsZero = 3
		VCVTPS2PH(U8(towardsZero), y, m.half(y.(reg.VecVirtual)))
		return y
	}
	var bytes Operand
	for i, word := range m.words {
		w := m.insertUpper(half(2*i), half(2*i+1))
		Comment("with seven more, cut to seven bits and the sign: those less 128 if it is set")
		VPADDW(m.op1(VANDPS, m.constant("seven"), word), w, w)
		VPSRLW(U8(7), w, w)
		VPMADDUBSW(m.constant("weights"), w, w)
		bytes = append(bytes, w)
	}
	if m.ISA.Name == AVX512.Name {
		y := YMM()
		VPMOVWB(bytes[0], y)
		VMOVDQU32(y, m.vector(stream, 1, 0))
	} else {
		m.storePacked(VPACKSSWB, bytes[0], bytes[1], m.vector(stream, 1, 0))
	}
}

// largestBits returns the bits of the largest magnitude. It may change its operands.
func (m *mixed) largestBits(x Operand) reg.GPVirtual {
	for n := len(x); n > 1; n /= 2 {
		for i := range n / 2 {
			VPMAXUD(x[i+n/2], x[i], x[i])
		}
	}
	all := x[0].(reg.VecVirtual)
	if m.ISA.Name == AVX512.Name {
		upper := YMM()
		VEXTRACTI64X4(U8(1), all, upper)
		VPMAXUD(upper, all.AsY(), all.AsY())
	}
	upper := XMM()
	if m.ISA.Name == AVX512.Name {
		VEXTRACTI32X4(U8(1), all.AsY(), upper)
	} else {
		VEXTRACTI128(U8(1), all, upper)
	}
	VPMAXUD(upper, all.AsX(), all.AsX())
	for _, order := range []uint8{2 | 3<<2, 1} {
		VPSHUFD(U8(order), all.AsX(), upper)
		VPMAXUD(upper, all.AsX(), all.AsX())
	}
	most := GP32()
	VMOVD(all.AsX(), most)
	return most
}

func (m *mixed) extractUpper(x, y reg.VecVirtual) {
	if m.ISA.Name == AVX512.Name {
		VEXTRACTI64X4(U8(1), x, y.AsY())
	} else {
		VEXTRACTI128(U8(1), x, y.AsX())
	}
}

// insertUpper returns the lower halves of two vectors in one.
func (m *mixed) insertUpper(x, y Op) Op {
	upper, both := m.half(y.(reg.VecVirtual)), m.vec()
	if m.ISA.Name == AVX512.Name {
		VINSERTI64X4(U8(1), upper, x, both)
	} else {
		VINSERTI128(U8(1), upper, x, both)
	}
	return both
}

// inRegister is a constant for instructions that cannot take one from memory.
func (m *mixed) inRegister(name string) Op {
	x := m.vec()
	VMOVUPS(m.constant(name), x)
	return x
}

// factor returns number first + scale of the factors, in all lanes.
func (m *mixed) factor(scale reg.GPVirtual, first int) Op {
	table, x := GP64(), m.vec()
	LEAQ(scaleFactors().Offset(4*first), table)
	VBROADCASTSS(Mem{Base: table, Index: scale.As64(), Scale: 4}, x)
	return x
}

var scaleTable *Mem

// scaleFactors are 2^(scale−119) for all scales, to unpack, and then 2^(119−scale), to pack. Factors of scales above 246 are smaller by
// 2⁶⁴: see unpackRare. The scale 255 is a NaN.
func scaleFactors() Mem {
	if scaleTable == nil {
		var factors [2 * 256]uint32
		power := func(n int) uint32 { return math.Float32bits(float32(math.Ldexp(1, n))) }
		for scale := range 256 {
			factors[scale], factors[256+scale] = power(scale-119), power(119-scale)
			if scale > 246 {
				factors[scale] = power(scale - 119 - 64)
			}
		}
		factors[255] = 0x7fc00000
		table := GLOBL("scaleFactors", attr.RODATA|attr.NOPTR)
		for i := 0; i < len(factors); i += 2 {
			DATA(4*i, U64(uint64(factors[i])|uint64(factors[i+1])<<32))
		}
		scaleTable = &table
	}
	return *scaleTable
}
