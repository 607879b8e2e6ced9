package asm

import (
	"fmt"
	"slices"
	"sync"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fields are where the engine's mixed has what a kernel reads, in bytes; its coefficients come first.
var fields = map[string]int{"formats": 52, "counter": 56, "key": 60,
	"p": 64, "grad": 72, "m": 80, "n": 88, "v": 96, "x": 104, "out": 112, "overflows": 120}

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
)

// narrow tells by which formats a stream has elements of 16 bits.
var narrow = map[string]int{"p": paramBF16, "grad": gradBF16 | gradF16, "m": stateBF16, "n": stateBF16, "v": stateBF16, "x": stateBF16}

// A mixed gives a Vector streams of several formats: what is float32 to the body is widened by loads and rounded by stores.
// One kernel serves all sets of formats. It branches on the set wherever a stream is touched, always the same way in a call.
type mixed struct {
	*Vector
	formats  reg.Register
	at       reg.Register // which element is the vector's first
	front    reg.Register // which one is prefetched
	branches int          // so far: labels are numbered

	overflows     reg.Register
	counter, draw reg.VecVirtual // of each lane, as the engine's draw has them
	constants     map[string]Op  // those in registers
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
	k.Doc = "works like updateMixedGeneric, for " + rule.Form
	k.Body = func(v *Vector) {
		v.mixed.nextDraw()
		rule.Body(v)
	}
	return k
}

// EmitMixed emits
//
//	func name(c *float32, count, ahead int)
//
// c is the first field of a mixed, count a positive multiple of what the engine calls mixedBlock. If ahead is not 0, it
// prefetches each stream that it reads, in front of its loads: those of float32 by that many bytes, others by as many elements.
func (k Kernel) EmitMixed(isa ISA) {
	name := k.Name + isa.Name
	TEXT(name, attr.NOSPLIT, "func(c *float32, count, ahead int)")
	Pragma("noescape")
	Doc(name + " " + k.Doc + ".")

	c := Load(Param("c"), GP64())
	v := &Vector{Type: Float32, ISA: isa, streams: map[string]reg.Register{}, scalars: map[string]Op{}, coefficients: c}
	m := &mixed{Vector: v, constants: map[string]Op{}}
	v.mixed = m
	if len(k.Scalars) > 0 {
		for _, name := range k.Scalars[:min(isa.mixedKeeps, len(k.Scalars))] {
			v.scalars[name] = v.broadcast(name)
		}
		m.startRounding()
	}
	m.formats = m.field(MOVL, "formats", GP32())
	for _, name := range append(slices.Clone(k.Streams), "out") {
		v.streams[name] = m.field(MOVQ, name, GP64())
	}
	m.overflows = GP64()
	XORQ(m.overflows, m.overflows)
	m.at, m.front = GP64(), Load(Param("ahead"), GP64())
	XORQ(m.at, m.at)
	SHRQ(U8(2), m.front)
	count, err := Param("count").Resolve()
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
		Load(Param("c"), c)
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
	m.branches++
	other, end := fmt.Sprintf("else%d", m.branches), fmt.Sprintf("end%d", m.branches)
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

func (m *mixed) mem(stream string, size uint8) Mem {
	return Mem{Base: m.streams[stream], Index: m.at, Scale: size}
}

func (m *mixed) prefetch(stream string, size uint8) {
	PREFETCHT1(Mem{Base: m.streams[stream], Index: m.front, Scale: size})
}

func (m *mixed) load(stream string) Op {
	x := m.vec()
	m.either(narrow[stream], func() {
		if stream == "grad" {
			m.either(gradF16, func() { VCVTPH2PS(m.mem(stream, 2), x) }, func() { widenBF16(m.mem(stream, 2), x) })
		} else {
			widenBF16(m.mem(stream, 2), x)
		}
		m.prefetch(stream, 2)
	}, func() {
		VMOVUPS(m.mem(stream, 4), x)
		m.prefetch(stream, 4)
	})
	return x
}

func widenBF16(from, x Op) {
	VPMOVZXWD(from, x)
	VPSLLD(U8(16), x, x)
}

func (m *mixed) store(x Op, stream string) {
	wide := func() { VMOVUPS(x, m.mem(stream, 4)) }
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
	m.either(outAround, func() { VMOVNTDQ(m.half(y), m.mem("out", 2)) }, func() { m.storeHalf(y, "out") })
}

func (m *mixed) countOverflows(x Op) {
	Comment("overflows += 65520 ≤ |x| < ∞")
	const atLeast, below = 0x1d, 0x11
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

// cut puts the upper halves of x's sum with something below them into the lower half of y. A NaN in x stays one: arithmetic
// made it quiet, or it was bf16 before, so that it does not live by the lower half alone.
func (m *mixed) cut(x, sum Op, y reg.VecVirtual) reg.VecVirtual {
	upper := m.op(VPSRLD, U8(16), m.orNaN(x, sum))
	if m.ISA.Name == AVX512.Name {
		VPMOVDW(upper, m.half(y))
	} else {
		const evenQuarters = 0 | 2<<2 // each 16 bytes are packed on their own
		VPERMQ(U8(evenQuarters), m.op(VPACKUSDW, upper, upper), y)
	}
	return y
}

func (m *mixed) storeHalf(y reg.VecVirtual, stream string) {
	VMOVUPS(m.half(y), m.mem(stream, 2))
}

// startRounding prepares what nextDraw and the stores need.
func (m *mixed) startRounding() {
	if m.ISA.Name == AVX512.Name { // it has the registers
		for _, c := range constants {
			x := m.vec()
			Comment(c.name)
			VPBROADCASTD(m.constant(c.name), x)
			m.constants[c.name] = x
		}
		m.constants["key"] = m.key()
	}
	m.counter, m.draw = m.vec(), m.vec()
	m.field(func(from, to Op) { VPBROADCASTD(from, to) }, "counter", m.counter)
	VPADDD(constantTable(), m.counter, m.counter)
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
		VPADDD(m.constant("lanes" + m.ISA.Name), m.counter, m.counter)
	}, nil)
}

func (m *mixed) xorShift(x Op, by uint8, y reg.VecVirtual) Op {
	VPSRLD(U8(by), x, y)
	VXORPS(x, y, y)
	return y
}

func (m *mixed) key() Op {
	if key, ok := m.constants["key"]; ok {
		return key
	}
	x := m.vec()
	m.field(func(from, to Op) { VPBROADCASTD(from, to) }, "key", x)
	return x
}

// constants are what rounding needs in all lanes.
var constants = []struct {
	name string
	bits uint32
}{
	{"first", 0x7feb352d}, {"second", 0x846ca68b}, // the factors of draw
	{"lanesAVX2", 8}, {"lanesAVX512", 16},
	{"low", 0xffff}, {"half", 0x7fff},
	{"magnitude", 0x7fffffff}, {"overflow", 0x477ff000}, {"infinity", 0x7f800000},
}

// constant returns one of them, for use in one instruction.
func (m *mixed) constant(name string) Op {
	if x, ok := m.constants[name]; ok {
		return x
	}
	row := slices.IndexFunc(constants, func(c struct {
		name string
		bits uint32
	}) bool {
		return c.name == name
	})
	return constantTable().Offset(AVX512.width + row*AVX2.width)
}

// constantTable is in the program's read-only data: the numbers from 0 on, one for each lane, and the constants, each in as many
// lanes as a vector of AVX2 has.
var constantTable = sync.OnceValue(func() Mem {
	table := GLOBL("rounding", attr.RODATA|attr.NOPTR)
	at := 0
	put := func(bits uint32) {
		DATA(at, U32(bits))
		at += 4
	}
	for i := range uint32(AVX512.width / 4) {
		put(i)
	}
	for _, c := range constants {
		for range AVX2.width / 4 {
			put(c.bits)
		}
	}
	return table
})
