package asm

import (
	"slices"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fields are where the engine's mixed has what a kernel needs, in bytes; its coefficients come first.
var fields = map[string]int{"formats": 52, "counter": 56, "key": 60,
	"p": 64, "grad": 72, "m": 80, "n": 88, "v": 96, "x": 104, "out": 112, "overflows": 120}

// The engine's sets of formats consist of these.
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
	coupled // a kernel finds this one in its coefficients
)

// narrow are the formats by which a stream's elements have 16 bits.
var narrow = map[string]int{"p": paramBF16 | paramLow, "grad": gradBF16 | gradF16, "m": stateBF16, "n": stateBF16, "v": stateBF16, "x": stateBF16}

// A mixed gives Vectors streams of several formats: loads widen them to the float32 that a body works on, stores round it.
// One kernel serves all sets of formats: it branches on the set wherever a stream is touched, always the same way in a call.
type mixed struct {
	*Vectors
	formats   reg.Register
	at        reg.Register // which element is the pass's first
	fetched   reg.Register // which one is prefetched, if there is anything
	overflows reg.Register // so far

	drawn     Operand       // what the engine's draw makes of the lanes' counters, once a pass has drawn
	constants map[string]Op // those in registers
}

// MixedKernels are the rules for mixed formats, and their yardstick.
func MixedKernels() (all []Kernel) {
	for _, rule := range Rules {
		all = append(all, mixedRule(rule))
	}
	return append(all, mixedLimit)
}

// mixedRule is the kernel with a rule's body.
func mixedRule(rule Kernel) Kernel {
	k := rule
	k.Name += "Mixed"
	k.Doc = "works like updateMixedGeneric, for " + rule.Form.Constant()
	return k
}

const mixedSignature = "func(c *float32, count, ahead int)"

// EmitMixed emits
//
//	func name(c *float32, count, ahead int)
//
// c is the first field of a mixed, count a positive multiple of what the engine calls mixedBlock. It prefetches each stream that
// it reads, in front of its loads: float32 by ahead bytes, others by as many elements. If ahead is 0, it has a loop without, or it
// prefetches what it loads anyway.
func (k Kernel) EmitMixed(isa ISA) {
	name := k.Name + isa.Name
	TEXT(name, attr.NOSPLIT, mixedSignature)
	Pragma("noescape")
	Doc(name + " " + k.Doc + ".")

	c := Load(Param("c"), GP64())
	v := &Vectors{Type: Float32, ISA: isa, streams: map[string]reg.Register{}, scalars: map[string]Op{}, coefficients: c}
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
	}
	for _, name := range append(slices.Clone(k.Streams), "out") {
		v.streams[name] = m.field(MOVQ, name, GP64())
	}
	m.overflows = GP64()
	XORQ(m.overflows, m.overflows)
	m.at = GP64()
	XORQ(m.at, m.at)
	front := Load(Param("ahead"), GP64())
	SHRQ(U8(2), front)
	if near := isa.vectors; near != isa.mixedFar {
		TESTQ(front, front)
		JNZ(LabelRef("far"))
		Commentf("%d vectors at a time", near)
		k.emitMixedLoop(m, near, "pass")
		JMP(LabelRef("done"))
	}
	Label("far")
	Commentf("%d vectors at a time, with prefetch", isa.mixedFar)
	m.fetched = front
	k.emitMixedLoop(m, isa.mixedFar, "passAhead")

	Label("done")
	m.either(outF16, func() {
		Load(Param("c"), c) // again: the register had other uses
		Comment("overflows")
		ADDQ(m.overflows, Mem{Base: c, Disp: fields["overflows"]})
	}, nil)
	m.either(outAround, func() { SFENCE() }, nil)
	VZEROUPPER()
	RET()
}

// emitMixedLoop runs the body over all elements.
func (k Kernel) emitMixedLoop(m *mixed, vectors int, pass string) {
	count, err := Param("count").Resolve() // stays in memory: registers are short
	if err != nil {
		panic(err)
	}
	m.n = vectors
	elements := U32(m.elements())
	Label(pass)
	k.Body(m.Vectors)
	ADDQ(elements, m.at)
	if m.fetched != nil {
		ADDQ(elements, m.fetched)
	}
	CMPQ(m.at, count.Addr)
	JNE(LabelRef(pass))
}

func (m *mixed) field(mov func(from, to Op), name string, to reg.Register) reg.Register {
	Comment(name)
	mov(Mem{Base: m.coefficients, Disp: fields[name]}, to)
	return to
}

// either emits code for sets that have one of these formats, and other code, if there is any, for those that have none.
func (m *mixed) either(formats int, has, hasNot func()) {
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

// vector is vector i of a stream in memory, of elements of so many bytes.
func (m *mixed) vector(stream string, size uint8, i int) Mem {
	return Mem{Base: m.streams[stream], Index: m.at, Scale: size, Disp: i * m.width / 4 * int(size)}
}

// prefetch prefetches as many lines of a stream as a pass loads.
func (m *mixed) prefetch(stream string, size uint8) {
	if m.fetched == nil {
		return
	}
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
	default:
		m.either(narrow[stream], bf16, float32s)
	}
	return x
}

// join makes parameters of their lower halves in p and their upper ones in out.
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

// follow has parameters that do not round to their copy take its value.
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
			m.nearest(p, rounded)
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

func widenBF16(from, x Op) {
	VPMOVZXWD(from, x)
	VPSLLD(U8(16), x, x)
}

// store rounds, vector by vector, which takes the fewest registers.
func (m *mixed) store(x Operand, stream string) {
	each := func(store func(x Op, i int)) func() {
		return func() {
			for i := range x {
				store(x[i], i)
			}
		}
	}
	half := func(round func(x Op, i int) reg.VecVirtual) func() {
		return each(func(x Op, i int) { m.storeHalf(round(x, i), stream, i) })
	}
	wide := each(func(x Op, i int) { VMOVUPS(x, m.vector(stream, 4, i)) })
	switch stream {
	case "p":
		m.draw()
		m.either(paramBF16|paramLow, func() {
			m.either(paramLow, each(m.split), func() {
				Comment("bf16: (p + draw>>16)>>16")
				half(func(x Op, i int) reg.VecVirtual { return m.stochastic(x, m.op1(VPSRLD, U8(16), m.drawn[i])) })()
			})
		}, func() {
			wide()
			m.either(outBF16|outF16, each(m.copyOut), nil)
		})
		m.drawn = nil // the pass ends
	case "m":
		m.either(stateBF16, half(func(x Op, _ int) reg.VecVirtual { return m.nearest(x, m.vec()) }), wide)
	default:
		m.draw()
		m.either(stateBF16, func() {
			Commentf("bf16: (%s + draw&0xffff)>>16", stream)
			half(func(x Op, i int) reg.VecVirtual {
				return m.stochastic(x, m.op1(VANDPS, m.constant("low"), m.drawn[i]))
			})()
		}, wide)
	}
}

// copyOut writes the copy of the parameters x.
func (m *mixed) copyOut(x Op, i int) {
	y := m.vec()
	m.either(outF16, func() {
		m.roundF16(x, y)
		m.countOverflows(x)
	}, func() { m.nearest(x, y) })
	m.storeOut(y, i)
}

func (m *mixed) roundF16(x Op, y reg.VecVirtual) {
	const toNearestEven = 0
	VCVTPS2PH(U8(toNearestEven), x, m.half(y))
}

// split writes what join makes x of.
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

// nearest rounds x to bf16 in the lower half of y: to nearest, to even in between.
func (m *mixed) nearest(x Op, y reg.VecVirtual) reg.VecVirtual {
	Comment("bf16: (x + x>>16&1 + 0x7fff)>>16")
	odd := m.op1(VPSRLD, U8(31), m.op1(VPSLLD, U8(15), x))
	return m.cut(x, m.op1(VPADDD, m.constant("half"), m.op1(VPADDD, odd, x)), y)
}

// stochastic rounds x to bf16, by random numbers of 16 bits.
func (m *mixed) stochastic(x, random Op) reg.VecVirtual {
	return m.cut(x, m.op1(VPADDD, random, x), m.vec())
}

// cut puts the upper halves of a sum, of x and what rounds it, into the lower half of y. A NaN in x stays one: its upper half is
// that of a NaN, for arithmetic made it quiet, or it was bf16 before.
func (m *mixed) cut(x, sum Op, y reg.VecVirtual) reg.VecVirtual {
	sum = m.orNaN1(x, sum)
	if m.ISA.Name == AVX512.Name {
		VPERMW(sum, m.constant("upper"), y)
	} else {
		m.gather(sum, "upper", y)
	}
	return y
}

// gather is for AVX2: it puts those halves of x into the lower half of y of which the constant says where they are.
func (m *mixed) gather(x Op, halves string, y reg.VecVirtual) {
	const evenQuarters = 0 | 2<<2 // VPSHUFB gathers within 16 bytes
	VPERMQ(U8(evenQuarters), m.op1(VPSHUFB, m.constant(halves), x), y)
}

func (m *mixed) storeHalf(y reg.VecVirtual, stream string, i int) {
	VMOVUPS(m.half(y), m.vector(stream, 2, i))
}

// keepConstants puts those into registers that there are registers for.
func (m *mixed) keepConstants() {
	for _, name := range m.mixedConstants {
		x := m.vec()
		Comment(name)
		VMOVUPS(m.constant(name), x)
		m.constants[name] = x
	}
}

// draw draws the random numbers of a pass, if it has not done so before and there is anything to be rounded by them.
func (m *mixed) draw() {
	if m.drawn != nil {
		return
	}
	m.drawn = m.each(func(int) Op { return m.vec() })
	m.either(stochastic, func() {
		first := GP32()
		m.field(MOVL, "counter", first)
		ADDL(m.at.(reg.GP).As32(), first)
		counter := m.broadcast32(first)
		VPADDD(m.constant("number"), counter, counter)
		key := m.vec()
		m.field(func(from, to Op) { VPBROADCASTD(from, to) }, "key", key)
		for i, x := range m.drawn {
			if i > 0 {
				VPADDD(m.constant("lanes"), counter, counter)
			}
			Comment("draw = counter ^ counter>>16")
			m.xorShift(counter, 16, x)
			Comment("draw = draw·0x7feb352d ^ key")
			VPMULLD(m.constant("first"), x, x)
			VXORPS(key, x, x)
			Comment("draw = (draw ^ draw>>15)·0x846ca68b")
			VPMULLD(m.constant("second"), m.xorShift(x, 15, m.vec()), x)
			Comment("draw = draw ^ draw>>16")
			m.xorShift(x, 16, x)
		}
	}, func() {
		for _, x := range m.drawn { // else what the pass before drew would live on
			VXORPS(x, x, x)
		}
	})
}

// xorShift sets y to x ^ x>>by.
func (m *mixed) xorShift(x Op, by uint8, y Op) Op {
	shifted := m.op1(VPSRLD, U8(by), x)
	VXORPS(shifted, x, y)
	return y
}

func (m *mixed) broadcast32(from reg.GPVirtual) reg.VecVirtual {
	x := m.vec()
	if m.ISA.Name == AVX512.Name {
		VPBROADCASTD(from, x)
	} else {
		VMOVD(from, x.AsX())
		VPBROADCASTD(x.AsX(), x)
	}
	return x
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

// A constant is a vector of these numbers, over and over.
type constant struct {
	name string
	bits []uint32
}

// constants are what drawing and rounding need.
func (isa ISA) constants() []constant {
	lanes := uint32(isa.width / 4)
	var number, upper []uint32
	lower := []uint32{0}
	for i := range lanes {
		number = append(number, i)
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
		{"number", number}, // of a lane
		{"lanes", []uint32{lanes}},
		{"first", []uint32{0x7feb352d}}, // the factors of draw
		{"second", []uint32{0x846ca68b}},
		{"low", []uint32{0xffff}},
		{"half", []uint32{0x7fff}}, // of the last place, or just below
		{"tie", []uint32{0x8000}},
		{"upper", upper}, // where the upper halves of lanes are
		{"lower", lower},
		{"magnitude", []uint32{0x7fffffff}},
		{"overflow", []uint32{0x477ff000}},
		{"infinity", []uint32{0x7f800000}},
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
