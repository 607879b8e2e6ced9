package asm

import (
	"cmp"
	"slices"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fields are the offsets, in bytes, of the fields of the engine's mixed; its coefficients come first.
var fields = map[string]int{"formats": 52, "counter": 56, "key": 60,
	"p": 64, "grad": 72, "m": 80, "n": 88, "v": 96, "x": 104, "out": 112, "overflows": 120, "ms": 128, "ns": 136}

// The bits of the engine's sets of formats.
const (
	gradBF16 = 1 << iota
	gradF16
	paramBF16
	stateBF16
	outBF16
	outF16
	outAround
	stochastic
	paramLow
	follow
	momentMX

	// A kernel derives these from its coefficients.
	coupled
	gradScaled // gs is not 1, or gradients are clipped
)

// wordStep is the engine's: the difference between the counters of two consecutive words.
const wordStep uint32 = 0x9e3779b9

// narrow are the formats in which a stream's elements have 16 bits.
var narrow = map[string]int{"p": paramBF16 | paramLow, "grad": gradBF16 | gradF16, "m": stateBF16, "n": stateBF16, "v": stateBF16, "x": stateBF16}

// A mixed gives Vectors streams of several formats: loads widen to float32, in which the body computes, and stores round.
// One kernel serves all sets of formats: it branches on the set at each load and store, always the same way in a call.
type mixed struct {
	*Vectors
	formats   reg.Register
	at        reg.Register // which element is the pass's first
	fetched   reg.Register // which one is prefetched
	overflows reg.Register // so far

	pairs bool // all is bf16: vectors have the elements with even and with odd numbers in turn, which are the halves of lanes in memory

	words     Operand       // of random bits, once a pass has drawn
	constants map[string]Op // those in registers
}

// MixedKernels are the rules for mixed formats, and their yardstick.
func MixedKernels() (all []Kernel) {
	for _, rule := range Rules {
		all = append(all, mixedRule(rule))
	}
	return append(all, mixedLimit, mixedNoise)
}

// mixedRule is the kernel with a rule's body.
func mixedRule(rule Kernel) Kernel {
	k := rule
	k.Name += "Mixed"
	k.Doc = "works like updateMixedGeneric, for " + rule.Form.Constant()
	return k
}

// mixedPass is the number of elements in a pass of a mixed kernel. It is a block of the engine: the elements that share random words, or
// an mxfp8 scale.
const mixedPass = 32

const mixedSignature = "func(c *float32, count, ahead int)"

// EmitMixed emits
//
//	func name(c *float32, count, ahead int)
//
// c points to the first field of a mixed, and count is a positive multiple of the engine's mixedBlock. The function prefetches each stream
// that it reads: float32 ahead bytes before its loads, others by as many elements. If ahead is 0, it prefetches what it then loads.
func (k Kernel) EmitMixed(isa ISA) {
	name := k.Name + isa.Name
	TEXT(name, attr.NOSPLIT, mixedSignature)
	Pragma("noescape")
	Doc(name + " " + k.Doc + ".")

	c := Load(Param("c"), GP64())
	v := &Vectors{Type: Float32, ISA: isa, n: mixedPass / (isa.width / 4), streams: map[string]reg.Register{}, scalars: map[string]Op{}, coefficients: c}
	m := &mixed{Vectors: v, constants: map[string]Op{}}
	v.mixed = m
	if len(k.Scalars) > 0 {
		v.keep(k.Scalars, isa.mixedKeeps)
		m.keepConstants()
	}
	m.formats = m.field(MOVL, "formats", GP32())
	if len(k.Scalars) > 0 {
		v.findCoupled()
		uncoupled := v.label("uncoupled")
		TESTQ(v.coupled, v.coupled)
		JZ(LabelRef(uncoupled))
		ORL(U32(coupled), m.formats)
		Label(uncoupled)
		m.findScaled()
	}
	for _, name := range append(slices.Clone(k.Streams), "out") {
		v.streams[name] = m.field(MOVQ, cmp.Or(noiseFields[name], name), GP64())
	}
	m.overflows = GP64()
	XORQ(m.overflows, m.overflows)
	m.at = GP64()
	XORQ(m.at, m.at)
	m.fetched = Load(Param("ahead"), GP64())
	SHRQ(U8(2), m.fetched)
	if all, some := k.pairs(isa); some {
		Comment("if all is bf16")
		set := GP32()
		MOVL(m.formats, set)
		ANDL(I32(^(stochastic | coupled | gradScaled)), set)
		CMPL(set, U32(all))
		JEQ(LabelRef("pairs"))
		k.emitMixedLoop(m, "pass")
		JMP(LabelRef("done"))
		Label("pairs")
		m.pairs = true
		k.emitMixedLoop(m, "passOfPairs")
		m.pairs = false
		Label("done")
	} else {
		k.emitMixedLoop(m, "pass")
	}

	if slices.Contains(k.Streams, "p") { // it has a copy
		m.either(outF16, func() {
			Load(Param("c"), c) // again: the register had other uses
			Comment("overflows")
			ADDQ(m.overflows, Mem{Base: c, Disp: fields["overflows"]})
		}, nil)
		m.either(outAround, func() { SFENCE() }, nil)
	}
	VZEROUPPER()
	RET()
}

// pairs returns the set of formats in which everything is bf16, and whether it has its own loop: AVX2 spends most of such a step on
// conversions.
func (k Kernel) pairs(isa ISA) (all int, some bool) {
	all = gradBF16 | paramBF16
	if slices.Contains(k.Streams, "m") {
		all |= stateBF16
	}
	return all, isa.Name == AVX2.Name && len(k.Scalars) > 0
}

// findScaled determines whether gradients are scaled or clipped: that takes a good part of a kernel's time.
func (m *mixed) findScaled() {
	Comment("scaled = gs ≠ 1 or hi ≠ ∞; lo is −hi")
	set, end := m.label("scaled"), m.label("unscaled")
	CMPL(m.coefficient("gs"), U32(0x3f800000))
	JNE(LabelRef(set))
	CMPL(m.coefficient("hi"), U32(0x7f800000))
	JEQ(LabelRef(end))
	Label(set)
	ORL(U32(gradScaled), m.formats)
	Label(end)
}

// emitMixedLoop runs the body over all elements.
func (k Kernel) emitMixedLoop(m *mixed, pass string) {
	count, err := Param("count").Resolve() // stays in memory: registers are short
	if err != nil {
		panic(err)
	}
	elements := U32(m.elements())
	Label(pass)
	k.Body(m.Vectors)
	ADDQ(elements, m.at)
	ADDQ(elements, m.fetched)
	CMPQ(m.at, count.Addr)
	JNE(LabelRef(pass))
}

func (m *mixed) field(mov func(from, to Op), name string, to reg.Register) reg.Register {
	Comment(name)
	mov(Mem{Base: m.coefficients, Disp: fields[name]}, to)
	return to
}

// either emits code for sets with one of these formats and, if given, other code for sets without.
func (m *mixed) either(formats int, has, hasNot func()) {
	if m.pairs && formats&(coupled|gradScaled) == 0 {
		if formats&(gradBF16|paramBF16|stateBF16|stochastic) != 0 {
			has()
		} else if hasNot != nil {
			hasNot()
		}
		return
	}
	other, end := m.label("else"), m.label("end")
	TESTL(U32(formats), m.formats)
	if hasNot == nil {
		JZ(LabelRef(end))
		has()
	} else {
		JZ(LabelRef(other))
		has()
		JMP(LabelRef(end))
		Label(other)
		hasNot()
	}
	Label(end)
}

// vector is vector i of a stream in memory, whose elements have the given size in bytes.
func (m *mixed) vector(stream string, size uint8, i int) Mem {
	return Mem{Base: m.streams[stream], Index: m.at, Scale: size, Disp: i * m.width / 4 * int(size)}
}

// prefetch prefetches the number of cache lines that a pass loads of a stream.
func (m *mixed) prefetch(stream string, size uint8) {
	for line := 0; line < m.elements()*int(size); line += cacheLine {
		PREFETCHT0(Mem{Base: m.streams[stream], Index: m.fetched, Scale: size, Disp: line})
	}
}

func (m *mixed) load(stream string) Operand {
	x := m.each(func(int) Op { return m.vec() })
	fill := func(size uint8, load func(from, to Op)) func() {
		return func() {
			for i := range x {
				load(m.vector(stream, size, i), x[i])
			}
			m.prefetch(stream, size)
		}
	}
	if m.pairs {
		m.loadPairs(x, stream)
		return x
	}
	bf16, f16 := fill(2, widenBF16), fill(2, func(from, to Op) { VCVTPH2PS(from, to) })
	float32s := fill(4, func(from, to Op) { VMOVUPS(from, to) })
	switch stream {
	case "grad":
		m.either(narrow[stream], func() { m.either(gradF16, f16, bf16) }, float32s)
	case "p":
		m.either(narrow[stream], func() { m.either(paramLow, func() { m.join(x) }, bf16) }, func() {
			float32s()
			m.either(follow, func() { m.follow(x) }, nil)
		})
	case "m", "n":
		m.either(momentMX, func() { m.unpack(x, stream) }, func() { m.either(narrow[stream], bf16, float32s) })
	default:
		m.either(narrow[stream], bf16, float32s)
	}
	return x
}

// join makes parameters from their lower halves in p and their upper halves in out.
func (m *mixed) join(p Operand) {
	m.prefetch("p", 2)
	m.prefetch("out", 2)
	for i, p := range p {
		Comment("p = upper<<16 + low, unless the sign changes: then it is upper<<16")
		widenBF16(m.vector("out", 2, i), p)
		sum := m.vec()
		VPMOVSXWD(m.vector("p", 2, i), sum)
		VPADDD(sum, p, sum)
		changed := m.op1(VXORPS, sum, p)
		if m.ISA.Name == AVX512.Name {
			same := K()
			VPMOVD2M(changed, same)
			KNOTW(same, same)
			VMOVAPS(sum, same, p)
		} else {
			VBLENDVPS(changed, p, sum, p)
		}
	}
}

// follow gives parameters that do not round to their copy the copy's value.
func (m *mixed) follow(p Operand) {
	m.prefetch("out", 2)
	for i, p := range p {
		Comment("p = copy, where p does not round to it")
		rounded, copied := m.vec(), m.vec()
		out := m.vector("out", 2, i)
		m.either(outF16, func() {
			m.roundF16(p, rounded)
			VCVTPH2PS(out, copied)
		}, func() {
			m.cut(p, m.nearest(p), rounded)
			widenBF16(out, copied)
		})
		if m.ISA.Name == AVX512.Name {
			const not, unordered = 4, 3
			other := K()
			VPCMPUW(U8(not), out, m.half(rounded), other)
			nan := K() // which may have the upper half of an infinity
			VCMPPS(U8(unordered), p, p, nan)
			KORW(nan, other, other)
			VMOVAPS(copied, other, p)
		} else {
			VPCMPEQW(out, m.half(rounded), m.half(rounded))
			VPMOVSXWD(m.half(rounded), rounded)
			VBLENDVPS(rounded, p, copied, p)
		}
	}
}

func (m *mixed) loadPairs(x Operand, stream string) {
	for i := 0; i < len(x); i += 2 {
		VMOVUPS(m.vector(stream, 2, i), x[i])
		VANDPS(m.constant("upperHalf"), x[i], x[i+1])
		VPSLLD(U8(16), x[i], x[i])
	}
	m.prefetch(stream, 2)
}

func widenBF16(from, x Op) {
	VPMOVZXWD(from, x)
	VPSLLD(U8(16), x, x)
}

func (m *mixed) store(x Operand, stream string) {
	wide := func() {
		for i := range x {
			VMOVUPS(x[i], m.vector(stream, 4, i))
		}
	}
	each := func(store func(x Op, i int)) func() {
		return func() {
			for i := range x {
				store(x[i], i)
			}
		}
	}
	if stream == "plus" || stream == "minus" {
		wide()
		return
	}
	m.draw()
	switch stream {
	case "p":
		m.either(paramBF16|paramLow, func() {
			m.either(paramLow, each(m.split), func() {
				Comment("bf16: (p + random)>>16")
				if m.streams["v"] == nil {
					m.multiplyWords("slot2")
				} else { // it has multiplied them once
					m.multiplyWords("slot")
				}
				sums := m.each(func(i int) Op { return m.op1(VPADDD, m.random(i), x[i]) })
				m.either(stateBF16|momentMX, func() {}, func() { m.orNaN(x, sums) }) // else NaNs may be those of float32 state
				m.storeUpper(stream, sums)
			})
		}, func() {
			wide()
			m.either(outBF16|outF16, each(m.copyOut), nil)
		})
		m.words = nil // the pass ends
	case "m":
		m.either(momentMX, func() { m.pack(x, stream) }, func() {
			m.either(stateBF16, func() { m.storeUpper(stream, m.each(func(i int) Op { return m.nearest(x[i]) })) }, wide)
		})
	default:
		if stream == "v" {
			m.multiplyWords("slot")
		}
		m.either(stateBF16, func() {
			Commentf("bf16: (%s + random)>>16", stream)
			m.storeUpper(stream, m.each(func(i int) Op { return m.op1(VPADDD, m.random(i), x[i]) }))
		}, wide)
	}
}

// copyOut writes the copy of the parameters x.
func (m *mixed) copyOut(x Op, i int) {
	y := m.vec()
	m.either(outF16, func() {
		m.roundF16(x, y)
		m.countOverflows(x)
	}, func() { m.cut(x, m.nearest(x), y) })
	m.storeOut(y, i)
}

func (m *mixed) roundF16(x Op, y reg.VecVirtual) {
	const toNearestEven = 0
	VCVTPS2PH(U8(toNearestEven), x, m.half(y))
}

// split writes x as the halves that join reads.
func (m *mixed) split(x Op, i int) {
	Comment("upper: (x + 0x8000)>>16")
	m.storeHalf(m.cut(x, m.op1(VPADDD, m.constant("tie"), x), m.vec()), "out", i)
	Comment("low: x&0xffff, 0 for a NaN")
	const unordered, ordered = 3, 7
	y := m.vec()
	if m.ISA.Name == AVX512.Name {
		number := K()
		VCMPPS(U8(ordered), x, x, number)
		VMOVAPS_Z(x, number, y)
		VPMOVDW(y, m.half(y))
	} else {
		number := m.op1(VANDNPS, x, m.op1(VCMPPS, U8(unordered), x, x))
		m.gather(number, "lower", y)
	}
	m.storeHalf(y, "p", i)
}

func (m *mixed) storeOut(y reg.VecVirtual, i int) {
	m.either(outAround, func() { VMOVNTDQ(m.half(y), m.vector("out", 2, i)) }, func() { m.storeHalf(y, "out", i) })
}

func (m *mixed) countOverflows(x Op) {
	Comment("overflows += 65520 ≤ |x| < ∞")
	const atLeast, below = 0x1d, 0x11 // false for a NaN
	size := m.op1(VANDPS, m.constant("magnitude"), x)
	bits := GP32()
	if m.ISA.Name == AVX512.Name {
		k := K()
		VCMPPS(U8(atLeast), m.constant("overflow"), size, k)
		VCMPPS(U8(below), m.constant("infinity"), size, k, k)
		KMOVW(k, bits)
	} else {
		large := m.op1(VCMPPS, U8(atLeast), m.constant("overflow"), size)
		finite := m.op1(VCMPPS, U8(below), m.constant("infinity"), size)
		VMOVMSKPS(m.op1(VANDPS, finite, large), bits)
	}
	POPCNTL(bits, bits)
	ADDQ(bits.As64(), m.overflows)
}

// nearest returns vectors whose upper halves are x rounded to bf16, to nearest, ties to even.
func (m *mixed) nearest(x Op) Op {
	Comment("bf16: (x + x>>16&1 + 0x7fff)>>16")
	odd := m.op1(VPSRLD, U8(31), m.op1(VPSLLD, U8(15), x))
	return m.op1(VPADDD, m.constant("half"), m.op1(VPADDD, odd, x))
}

// storeUpper stores the upper halves of all vectors, which it may change.
func (m *mixed) storeUpper(stream string, x Operand) {
	if m.ISA.Name == AVX512.Name {
		for i, x := range x {
			y := m.vec()
			VPERMW(x, m.constant("upper"), y)
			m.storeHalf(y, stream, i)
		}
		return
	}
	for i := 0; i < len(x); i += 2 {
		VPSRLD(U8(16), x[i], x[i])
		if m.pairs {
			const odd = 0xaa
			VPBLENDW(U8(odd), x[i+1], x[i], x[i])
			VMOVDQU(x[i], m.vector(stream, 2, i))
			continue
		}
		VPSRLD(U8(16), x[i+1], x[i+1])
		m.storePacked(VPACKUSDW, x[i], x[i+1], m.vector(stream, 2, i))
	}
}

// storePacked is for AVX2: it stores two vectors, whose elements an instruction packs into half the bytes.
func (m *mixed) storePacked(pack func(...Op), first, second Op, to Mem) {
	const evenQuarters = 0 | 2<<2 | 1<<4 | 3<<6 // it packs within 16 bytes
	y := m.op1(pack, second, first)
	VPERMQ(U8(evenQuarters), y, y)
	VMOVDQU(y, to)
}

// cut puts the upper halves of the sum of x and the rounding number into the lower half of y. A NaN in x stays a NaN: arithmetic has made
// it quiet, so that its upper half is a NaN, too.
func (m *mixed) cut(x, sum Op, y reg.VecVirtual) reg.VecVirtual {
	sum = m.orNaN1(x, sum)
	if m.ISA.Name == AVX512.Name {
		VPERMW(sum, m.constant("upper"), y)
	} else {
		m.gather(sum, "upper", y)
	}
	return y
}

// gather is for AVX2: it puts the halves of x that the constant selects into the lower half of y.
func (m *mixed) gather(x Op, halves string, y reg.VecVirtual) {
	const evenQuarters = 0 | 2<<2 // VPSHUFB gathers within 16 bytes
	VPERMQ(U8(evenQuarters), m.op1(VPSHUFB, m.constant(halves), x), y)
}

func (m *mixed) storeHalf(y reg.VecVirtual, stream string, i int) {
	VMOVUPS(m.half(y), m.vector(stream, 2, i))
}

// keepConstants puts as many constants into registers as there are registers left.
func (m *mixed) keepConstants() {
	for _, name := range m.mixedConstants {
		x := m.vec()
		Comment(name)
		VMOVUPS(m.constant(name), x)
		m.constants[name] = x
	}
}

// draw draws the random words of a pass, once, and only if the set rounds stochastically: half as many vectors as the pass has of a stream.
func (m *mixed) draw() {
	if m.words != nil {
		return
	}
	m.words = m.each(func(int) Op { return m.vec() })[:m.n/2]
	m.either(stochastic, func() {
		first := GP64()
		Comment("the counter of the pass's first word")
		MOVQ(m.at, first)
		SHRQ(U8(1), first)
		IMUL3L(U32(wordStep), first.As32(), first.As32())
		m.field(func(from, to Op) { ADDL(from, to) }, "counter", first.As32())
		counter := m.broadcast32(first)
		number, next := "number", "lanes"
		if m.pairs {
			number, next = "even", "step"
		}
		VPADDD(m.constant(number), counter, counter)
		key := m.vec()
		m.field(func(from, to Op) { VPBROADCASTD(from, to) }, "key", key)
		for i, x := range m.words {
			if i > 0 {
				VPADDD(m.constant(next), counter, counter)
			}
			VXORPS(key, counter, x)
			Comment("word = (word ^ word>>13)·0x7feb352d")
			VPMULLD(m.constant("first"), m.xorShift(x, 13, x), x)
			Comment("word = (word ^ word>>16)·0x846ca68b")
			VPMULLD(m.constant("second"), m.xorShift(x, 16, x), x)
			Comment("word = word ^ word>>15")
			m.xorShift(x, 15, x)
		}
	}, func() {
		for _, x := range m.words { // else what the pass before drew would live on
			VXORPS(x, x, x)
		}
	})
}

// multiplyWords multiplies all halves of words by a factor, modulo 2¹⁶.
func (m *mixed) multiplyWords(factor string) {
	for _, x := range m.words {
		VPMULLW(m.constant(factor), x, x)
	}
}

// random returns the random numbers of vector i: lower halves of words for the first half of the vectors, upper halves for the others.
func (m *mixed) random(i int) Op {
	if i < len(m.words) {
		return m.op1(VANDPS, m.constant("low"), m.words[i])
	}
	return m.op1(VPSRLD, U8(16), m.words[i-len(m.words)])
}

// xorShift sets y to x ^ x>>by.
func (m *mixed) xorShift(x Op, by uint8, y Op) Op {
	shifted := m.op1(VPSRLD, U8(by), x)
	VXORPS(shifted, x, y)
	return y
}

func (m *mixed) broadcast32(from reg.GP) reg.VecVirtual {
	x := m.vec()
	if m.ISA.Name == AVX512.Name {
		VPBROADCASTD(from.As32(), x)
	} else {
		VMOVD(from.As32(), x.AsX())
		VPBROADCASTD(x.AsX(), x)
	}
	return x
}

// unlessNaN jumps to numbers if no vector has a NaN.
func (m *mixed) unlessNaN(x Operand, numbers string) {
	const unordered = 3
	if m.ISA.Name == AVX512.Name {
		nan := K()
		VCMPPS(U8(unordered), x[0], x[1], nan)
		KORTESTW(nan, nan)
	} else {
		nan, bits := m.op1(VORPS, m.op1(VCMPPS, U8(unordered), x[0], x[1]), m.op1(VCMPPS, U8(unordered), x[2], x[3])), GP32()
		VMOVMSKPS(nan, bits)
		TESTL(bits, bits)
	}
	JZ(LabelRef(numbers))
}

// quieten turns the NaNs of g into NaNs that rounding keeps without a test: their upper halves are not all ones, or their lower halves are
// 0. NaNs of parameters and state in bf16, which arithmetic may propagate, too, and of mxfp8 already are such NaNs.
func (v *Vectors) quieten(g Operand) {
	if v.mixed == nil {
		return
	}
	m := v.mixed
	m.either(paramBF16|stateBF16|momentMX, func() {
		const unordered = 3
		numbers := v.label("numbers")
		m.unlessNaN(g, numbers)
		for _, g := range g {
			if v.ISA.Name == AVX512.Name {
				nan := K()
				VCMPPS(U8(unordered), g, g, nan)
				VMOVAPS(m.inRegister("quiet"), nan, g)
			} else {
				VBLENDVPS(v.op1(VCMPPS, U8(unordered), g, g), m.constant("quiet"), g, g)
			}
		}
		Label(numbers)
	}, nil)
}

// constant returns one of the constants, for use in one instruction.
func (m *mixed) constant(name string) Op {
	if x, ok := m.constants[name]; ok {
		return x
	}
	for row, c := range m.ISA.constants() {
		if c.name == name {
			return m.ISA.constantTable().Offset(row * m.width)
		}
	}
	panic("asm: no constant " + name)
}

// A constant is a vector that repeats these numbers.
type constant struct {
	name string
	bits []uint32
}

// constants are the constants for drawing and rounding.
func (isa ISA) constants() []constant {
	lanes := uint32(isa.width / 4)
	var number, even, upper []uint32
	lower := []uint32{0}
	for i := range lanes {
		number, even = append(number, i*wordStep), append(even, 2*i*wordStep)
	}
	if isa.Name == AVX512.Name {
		for i := uint32(0); i < lanes; i += 2 {
			upper = append(upper, 2*i+1|(2*i+3)<<16)
		}
	} else {
		upper = []uint32{0x07060302, 0x0f0e0b0a, 0, 0} // by bytes
		lower = []uint32{0x05040100, 0x0d0c0908, 0, 0}
	}
	return []constant{
		{"number", number}, // of a lane, in steps of the counter
		{"lanes", []uint32{lanes * wordStep}},
		{"even", even}, // of the even lanes of two vectors
		{"step", []uint32{wordStep}},
		{"upperHalf", []uint32{0xffff0000}},
		{"first", []uint32{0x7feb352d}}, // the factors of draw
		{"second", []uint32{0x846ca68b}},
		{"low", []uint32{0xffff}},
		{"slot", []uint32{0x4f13 * 0x10001}}, // the engine's slotFactor, in both halves
		{"slot2", []uint32{0x4f13 * 0x4f13 & 0xffff * 0x10001}},
		{"half", []uint32{0x7fff}}, // of the last place, or just below
		{"tie", []uint32{0x8000}},
		{"upper", upper}, // where the upper halves of lanes are
		{"lower", lower},
		{"magnitude", []uint32{0x7fffffff}},
		{"overflow", []uint32{0x477ff000}},
		{"infinity", []uint32{0x7f800000}},
		{"quiet", []uint32{0x7fc00000}}, // a NaN whose upper half rounding leaves alone
		{"below16", []uint32{0x1fff}},   // what a float32 has below the last place of f16
		{"seven", []uint32{0x007f007f}}, // what f16 has below that of E4M3
		{"nan8", []uint32{0x7f7f7f7f}},  // of E4M3
		{"nan", []uint32{0x3ff00000}},   // what they are as f16: 1.875
		{"asF16", []uint32{0xbfffbfff}},
		{"weights", []uint32{0x80018001}}, // 1 of lower bytes, −128 of upper ones
	}
}

var constantTables = map[string]Mem{}

// constantTable holds an ISA's constants, in the program's read-only data.
func (isa ISA) constantTable() Mem {
	table, ok := constantTables[isa.Name]
	if !ok {
		table = GLOBL("rounding"+isa.Name, attr.RODATA|attr.NOPTR)
		constantTables[isa.Name] = table
		for row, c := range isa.constants() {
			for at := 0; at < isa.width; at += 8 {
				bits := func(at int) uint64 { return uint64(c.bits[at/4%len(c.bits)]) }
				DATA(row*isa.width+at, U64(bits(at)|bits(at+4)<<32))
			}
		}
	}
	return table
}
