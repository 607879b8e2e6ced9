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
	coupled // a kernel finds this one in its coefficients
)

// narrow are the formats by which a stream's elements have 16 bits.
var narrow = map[string]int{"p": paramBF16, "grad": gradBF16 | gradF16, "m": stateBF16, "n": stateBF16, "v": stateBF16, "x": stateBF16}

// A mixed gives a Vector streams of several formats: loads widen them to the float32 that a body works on, stores round it.
// One kernel serves all sets of formats: it branches on the set wherever a stream is touched, always the same way in a call.
type mixed struct {
	*Vector
	formats   reg.Register
	at        reg.Register // which element is the vector's first
	front     reg.Register // which one is prefetched
	overflows reg.Register // so far

	counter   reg.VecVirtual // of each lane
	draw      reg.VecVirtual // what the engine's draw makes of it
	constants map[string]Op  // those in registers
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
	k.Body = func(v *Vector) {
		v.mixed.nextDraw()
		rule.Body(v)
	}
	return k
}

const mixedSignature = "func(c *float32, count, ahead int)"

// EmitMixed emits
//
//	func name(c *float32, count, ahead int)
//
// c is the first field of a mixed, count a positive multiple of what the engine calls mixedBlock. It prefetches each stream that
// it reads, in front of its loads: float32 by ahead bytes, others by as many elements. Where ahead is 0, that is what is loaded
// anyway: a block apart, to be skipped then, would have to tell the formats again, and is no faster.
func (k Kernel) EmitMixed(isa ISA) {
	name := k.Name + isa.Name
	TEXT(name, attr.NOSPLIT, mixedSignature)
	Pragma("noescape")
	Doc(name + " " + k.Doc + ".")

	c := Load(Param("c"), GP64())
	v := &Vector{Type: Float32, ISA: isa, streams: map[string]reg.Register{}, scalars: map[string]Op{}, coefficients: c}
	m := &mixed{Vector: v, constants: map[string]Op{}}
	v.mixed = m
	if len(k.Scalars) > 0 {
		v.keep(k.Scalars, isa.mixedKeeps)
		m.startRounding()
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
	m.at, m.front = GP64(), Load(Param("ahead"), GP64())
	XORQ(m.at, m.at)
	SHRQ(U8(2), m.front)
	count, err := Param("count").Resolve() // stays in memory: registers are short
	if err != nil {
		panic(err)
	}

	lanes := U32(isa.width / v.size)
	Label("pass")
	k.Body(v)
	ADDQ(lanes, m.at)
	ADDQ(lanes, m.front)
	CMPQ(m.at, count.Addr)
	JNE(LabelRef("pass"))

	m.either(outF16, func() {
		Load(Param("c"), c) // again: the register had other uses
		Comment("overflows")
		ADDQ(m.overflows, Mem{Base: c, Disp: fields["overflows"]})
	}, nil)
	m.either(outAround, func() { SFENCE() }, nil)
	VZEROUPPER()
	RET()
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

// vector is a stream's vector in memory, of elements of so many bytes.
func (m *mixed) vector(stream string, size uint8) Mem {
	return Mem{Base: m.streams[stream], Index: m.at, Scale: size}
}

func (m *mixed) prefetch(stream string, size uint8) {
	PREFETCHT1(Mem{Base: m.streams[stream], Index: m.front, Scale: size})
}

func (m *mixed) load(stream string) Op {
	x := m.vec()
	m.either(narrow[stream], func() {
		if stream == "grad" {
			m.either(gradF16, func() { VCVTPH2PS(m.vector(stream, 2), x) }, func() { widenBF16(m.vector(stream, 2), x) })
		} else {
			widenBF16(m.vector(stream, 2), x)
		}
		m.prefetch(stream, 2)
	}, func() {
		VMOVUPS(m.vector(stream, 4), x)
		m.prefetch(stream, 4)
	})
	return x
}

func widenBF16(from, x Op) {
	VPMOVZXWD(from, x)
	VPSLLD(U8(16), x, x)
}

func (m *mixed) store(x Op, stream string) {
	wide := func() { VMOVUPS(x, m.vector(stream, 4)) }
	switch stream {
	case "p":
		m.either(paramBF16, func() {
			Comment("bf16: (p + draw>>16)>>16")
			m.storeHalf(m.stochastic(x, m.op(VPSRLD, U8(16), m.draw)), stream)
		}, func() {
			wide()
			m.either(outBF16|outF16, func() { m.copyOut(x) }, nil)
		})
	case "m":
		m.either(stateBF16, func() { m.storeHalf(m.nearest(x, m.vec()), stream) }, wide)
	default:
		m.either(stateBF16, func() {
			Commentf("bf16: (%s + draw&0xffff)>>16", stream)
			m.storeHalf(m.stochastic(x, m.op(VANDPS, m.constant("low"), m.draw)), stream)
		}, wide)
	}
}

// copyOut writes the copy of the parameters x.
func (m *mixed) copyOut(x Op) {
	y := m.vec()
	m.either(outF16, func() {
		const toNearestEven = 0
		VCVTPS2PH(U8(toNearestEven), x, m.half(y))
		m.countOverflows(x)
	}, func() { m.nearest(x, y) })
	m.storeOut(y)
}

func (m *mixed) storeOut(y reg.VecVirtual) {
	m.either(outAround, func() { VMOVNTDQ(m.half(y), m.vector("out", 2)) }, func() { m.storeHalf(y, "out") })
}

func (m *mixed) countOverflows(x Op) {
	Comment("overflows += 65520 ≤ |x| < ∞")
	const atLeast, below = 0x1d, 0x11 // false for a NaN
	size := m.op(VANDPS, m.constant("magnitude"), x)
	bits := GP32()
	if m.ISA.Name == AVX512.Name {
		k := K()
		VCMPPS(U8(atLeast), m.constant("overflow"), size, k)
		VCMPPS(U8(below), m.constant("infinity"), size, k, k)
		KMOVW(k, bits)
	} else {
		large := m.op(VCMPPS, U8(atLeast), m.constant("overflow"), size)
		finite := m.op(VCMPPS, U8(below), m.constant("infinity"), size)
		VMOVMSKPS(m.op(VANDPS, finite, large), bits)
	}
	POPCNTL(bits, bits)
	ADDQ(bits.As64(), m.overflows)
}

// nearest rounds x to bf16 in the lower half of y: to nearest, to even in between.
func (m *mixed) nearest(x Op, y reg.VecVirtual) reg.VecVirtual {
	Comment("bf16: (x + x>>16&1 + 0x7fff)>>16")
	odd := m.op(VPSRLD, U8(31), m.op(VPSLLD, U8(15), x))
	return m.cut(x, m.op(VPADDD, m.constant("half"), m.op(VPADDD, odd, x)), y)
}

// stochastic rounds x to bf16, by random numbers of 16 bits.
func (m *mixed) stochastic(x, random Op) reg.VecVirtual {
	return m.cut(x, m.op(VPADDD, random, x), m.vec())
}

// cut puts the upper halves of a sum, of x and what rounds it, into the lower half of y. A NaN in x stays one: its upper half is
// that of a NaN, for arithmetic made it quiet, or it was bf16 before.
func (m *mixed) cut(x, sum Op, y reg.VecVirtual) reg.VecVirtual {
	sum = m.orNaN(x, sum)
	if m.ISA.Name == AVX512.Name {
		VPERMW(sum, m.constant("upper"), y)
	} else {
		const evenQuarters = 0 | 2<<2 // VPSHUFB gathers within 16 bytes
		VPERMQ(U8(evenQuarters), m.op(VPSHUFB, m.constant("upper"), sum), y)
	}
	return y
}

func (m *mixed) storeHalf(y reg.VecVirtual, stream string) {
	VMOVUPS(m.half(y), m.vector(stream, 2))
}

// startRounding prepares what nextDraw and the stores need.
func (m *mixed) startRounding() {
	if m.ISA.Name == AVX512.Name { // which has registers for all
		for _, c := range m.ISA.constants() {
			x := m.vec()
			Comment(c.name)
			VMOVUPS(m.constant(c.name), x)
			m.constants[c.name] = x
		}
		m.constants["key"] = m.key()
	}
	m.draw = m.vec()
	m.counter = m.broadcastField("counter")
	VPADDD(m.constant("number"), m.counter, m.counter)
}

// nextDraw draws the random numbers of a vector, if there is anything to be rounded by them.
func (m *mixed) nextDraw() {
	m.either(stochastic, func() {
		Comment("draw = counter ^ counter>>16")
		x := m.xorShift(m.counter, 16, m.vec())
		Comment("draw = draw·0x7feb352d ^ key")
		x = m.op(VXORPS, m.key(), m.op(VPMULLD, m.constant("first"), x))
		Comment("draw = (draw ^ draw>>15)·0x846ca68b")
		x = m.op(VPMULLD, m.constant("second"), m.xorShift(x, 15, m.vec()))
		Comment("draw = draw ^ draw>>16")
		m.xorShift(x, 16, m.draw)
		VPADDD(m.constant("lanes"), m.counter, m.counter)
	}, nil)
}

func (m *mixed) xorShift(x Op, by uint8, y reg.VecVirtual) Op {
	VPSRLD(U8(by), x, y)
	VXORPS(x, y, y)
	return y
}

// key returns the key of draw, for use in one instruction.
func (m *mixed) key() Op {
	if key, ok := m.constants["key"]; ok {
		return key
	}
	return m.broadcastField("key")
}

func (m *mixed) broadcastField(name string) reg.VecVirtual {
	x := m.vec()
	m.field(func(from, to Op) { VPBROADCASTD(from, to) }, name, x)
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
	for i := range lanes {
		number = append(number, i)
	}
	if isa.Name == AVX512.Name {
		for i := uint32(0); i < lanes; i += 2 {
			upper = append(upper, 2*i+1|(2*i+3)<<16)
		}
	} else {
		upper = []uint32{0x07060302, 0x0f0e0b0a, 0, 0} // by bytes
	}
	return []constant{
		{"number", number}, // of a lane
		{"lanes", []uint32{lanes}},
		{"first", []uint32{0x7feb352d}}, // the factors of draw
		{"second", []uint32{0x846ca68b}},
		{"low", []uint32{0xffff}},
		{"half", []uint32{0x7fff}}, // of the last place, or just below
		{"upper", upper},           // where the upper halves of lanes are
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
