package asm

import (
	"fmt"
	"sync"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Vectors are the vectors of each stream that a body works on, from the current offset on. At the end of a slice there is a single vector,
// of which only the first lanes exist: the others read as zero and are not written.
type Vectors struct {
	Type
	ISA
	n            int // of each stream
	streams      map[string]reg.Register
	scalars      map[string]Op // those that stay in registers
	coefficients reg.Register  // where all of them are
	coupled      reg.Register  // not 0 if l2 is not
	labels       int           // so far
	offset       reg.Register  // in bytes
	front        reg.Register  // the same of what is prefetched, if there is anything

	mixed *mixed // if there are several formats

	kmask reg.Register // AVX-512: the lanes that exist
	ymask reg.Register // AVX2: the address of a vector with their sign bits set
}

// elements is the number of elements of each stream in the vectors.
func (v *Vectors) elements() int { return v.n * v.width / v.size }

// An Operand is an operand of an instruction for each of n vectors: n registers, or n addresses.
type Operand []Op

// maskFirst makes only the first n lanes exist; 0 < n < lanes.
func (v *Vectors) maskFirst(n reg.Register) {
	if v.ISA.Name == AVX512.Name {
		Comment("mask = 1<<n − 1")
		bits := GP64()
		MOVQ(n, reg.RCX)
		MOVQ(U32(1), bits)
		SHLQ(reg.CL, bits)
		DECQ(bits)
		v.kmask = K()
		KMOVW(bits.As32(), v.kmask)
		return
	}
	Comment("mask = n lanes of ones, then zeros: a window into the table")
	v.ymask = GP64()
	LEAQ(tailMask().Offset(v.width), v.ymask)
	if v.size == 8 {
		SHLQ(U8(3), n)
	} else {
		SHLQ(U8(2), n)
	}
	SUBQ(n, v.ymask)
}

// tailMask is a table in the program's read-only data: a vector of ones, followed by one of zeros.
var tailMask = sync.OnceValue(func() Mem {
	table := GLOBL("tailMask", attr.RODATA|attr.NOPTR)
	for i := range 2 * AVX2.width / 8 {
		value := U64(0)
		if 8*i < AVX2.width {
			value = ^value
		}
		DATA(8*i, value)
	}
	return table
})

// mem is the address of vector i of a stream.
func (v *Vectors) mem(stream string, i int) Mem {
	return Mem{Base: v.streams[stream], Index: v.offset, Scale: 1, Disp: i * v.width}
}

// each makes an operand, vector by vector.
func (v *Vectors) each(vector func(i int) Op) Operand {
	x := make(Operand, v.n)
	for i := range x {
		x[i] = vector(i)
	}
	return x
}

// Load returns a stream's vectors in registers.
func (v *Vectors) Load(stream string) Operand {
	Commentf("load %s", stream)
	if v.mixed != nil {
		return v.mixed.load(stream)
	}
	v.prefetch(stream)
	return v.each(func(i int) Op {
		x := v.vec()
		switch {
		case v.kmask != nil:
			v.vmovuZ(v.mem(stream, i), v.kmask, x)
		case v.ymask != nil:
			VMOVUPS(Mem{Base: v.ymask}, x)
			v.vmaskmov(v.mem(stream, i), x, x)
		default:
			v.vmovu(v.mem(stream, i), x)
		}
		return x
	})
}

// In returns a stream's vectors as operands of one instruction.
func (v *Vectors) In(stream string) Operand {
	if v.mixed != nil || v.kmask != nil || v.ymask != nil {
		return v.Load(stream)
	}
	v.prefetch(stream)
	return v.each(func(i int) Op { return v.mem(stream, i) })
}

// prefetch prefetches a stream when it is loaded. Prefetching all streams at once would make many lines wait for each other.
func (v *Vectors) prefetch(stream string) {
	if v.front != nil {
		PREFETCHT0(Mem{Base: v.streams[stream], Index: v.front, Scale: 1})
	}
}

// Store writes a stream's vectors back.
func (v *Vectors) Store(x Operand, stream string) {
	Commentf("store %s", stream)
	if v.mixed != nil {
		v.mixed.store(x, stream)
		return
	}
	for i, x := range x {
		switch {
		case v.kmask != nil:
			v.vmovu(x, v.kmask, v.mem(stream, i))
		case v.ymask != nil:
			mask := v.vec()
			VMOVUPS(Mem{Base: v.ymask}, mask)
			v.vmaskmov(x, mask, v.mem(stream, i))
		default:
			v.vmovu(x, v.mem(stream, i))
		}
	}
}

// keep puts the first coefficients into registers, at most the given number.
func (v *Vectors) keep(names []string, most int) {
	for _, name := range names[:min(most, len(names))] {
		if v.scalars[name] == nil {
			v.scalars[name] = v.broadcast(name)
		}
	}
}

// C returns a coefficient, in all lanes.
func (v *Vectors) C(name string) Operand {
	c, ok := v.scalars[name]
	if !ok {
		c = v.broadcast(name)
	}
	return v.each(func(int) Op { return c })
}

func (v *Vectors) broadcast(name string) Op {
	Comment(name)
	x := v.vec()
	v.vbroadcast(v.coefficient(name), x)
	return x
}

func (v *Vectors) coefficient(name string) Mem {
	return Mem{Base: v.coefficients, Disp: v.size * index(name)}
}

// IfCoupled emits code that runs only if decay is coupled: if l2 is not 0 (it is never −0). The branch goes the same way in a whole call.
func (v *Vectors) IfCoupled(do func()) {
	if v.mixed != nil {
		v.mixed.either(coupled, do, nil)
		return
	}
	end := v.label("decoupled")
	TESTQ(v.coupled, v.coupled)
	JZ(LabelRef(end))
	do()
	Label(end)
}

// Scaled returns a stream's vectors, scaled and clipped. Kernels for mixed formats skip that if it would change nothing.
func (v *Vectors) Scaled(stream string) (g Operand) {
	clip := func() {
		Comment("g = max(min(g, hi), lo)")
		v.Clamp(g, v.C("lo"), v.C("hi"))
	}
	Comment("g = gs·g")
	if v.mixed == nil {
		g = v.Mul(v.C("gs"), v.In(stream))
		clip()
		return g
	}
	g = v.Load(stream)
	v.mixed.either(gradScaled, func() {
		for i, gs := range v.C("gs") {
			v.vmul(gs, g[i], g[i])
		}
		clip()
	}, nil)
	return g
}

// findCoupled prepares IfCoupled.
func (v *Vectors) findCoupled() {
	Comment("coupled = the bits of l2")
	l2 := v.coefficient("l2")
	if v.size == 8 {
		v.coupled = GP64()
		MOVQ(l2, v.coupled)
		return
	}
	bits := GP32()
	MOVL(l2, bits)
	v.coupled = bits.As64()
}

func (v *Vectors) label(name string) string {
	v.labels++
	return fmt.Sprint(name, v.labels)
}

// Go's operand order: the last operand is the destination, the one before it the first source; a − b is VSUB b, a, dst.

func (v *Vectors) Mul(a, b Operand) Operand { return v.op(v.vmul, b, a) }
func (v *Vectors) Add(a, b Operand) Operand { return v.op(v.vadd, b, a) }
func (v *Vectors) Sub(a, b Operand) Operand { return v.op(v.vsub, b, a) }
func (v *Vectors) Div(a, b Operand) Operand { return v.op(v.vdiv, b, a) }
func (v *Vectors) Sqrt(a Operand) Operand   { return v.op(v.vsqrt, a) }

// AddTo is a = a + b.
func (v *Vectors) AddTo(a, b Operand) {
	for i := range a {
		v.vadd(b[i], a[i], a[i])
	}
}

// Max returns max(a, b) for a b that is not −0: NaN if either is NaN.
func (v *Vectors) Max(a, b Operand) Operand {
	y := v.op(v.vmax, b, a) // of which VMAX is b, if either is NaN or both are zero
	if v.mixed == nil {
		return v.orNaN(a, y)
	}
	numbers := v.label("numbers")
	v.mixed.unlessNaN(a, numbers)
	for i := range y {
		y[i] = v.keepNaN(a[i], y[i])
	}
	Label(numbers)
	return y
}

// orNaN makes the elements of y NaN for which x is NaN.
func (v *Vectors) orNaN(x, y Operand) Operand {
	return v.each(func(i int) Op { return v.orNaN1(x[i], y[i]) })
}

func (v *Vectors) orNaN1(x, y Op) Op {
	const unordered = 3
	if v.ISA.Name == AVX512.Name {
		nan := K()
		v.vcmp(U8(unordered), x, x, nan)
		v.vmova(x, nan, y)
		return y
	}
	nan := v.op1(v.vcmp, U8(unordered), x, x)
	v.vor(nan, y, y) // all ones is a NaN
	return y
}

// keepNaN returns y with the NaN of x where that is one, as quieten needs it.
func (v *Vectors) keepNaN(x, y Op) Op {
	if v.mixed == nil || v.ISA.Name == AVX512.Name {
		return v.orNaN1(x, y)
	}
	const unordered = 3
	VBLENDVPS(v.op1(v.vcmp, U8(unordered), x, x), x, y, y)
	return y
}

// Sign returns 1 or −1, +0 for either zero, and NaN for a NaN.
func (v *Vectors) Sign(x Operand) Operand {
	const less, greater = 0x11, 0x1e // false for a NaN
	zero, one := v.zero(), v.one()
	return v.each(func(i int) Op {
		up, down := v.where(greater, x[i], zero, one), v.where(less, x[i], zero, one)
		return v.keepNaN(x[i], v.op1(v.vsub, down, up))
	})
}

// where returns y if the comparison of a with b holds, and +0 elsewhere.
func (v *Vectors) where(predicate uint8, a, b, y Op) Op {
	if v.ISA.Name == AVX512.Name {
		k, x := K(), v.vec()
		v.vcmp(U8(predicate), b, a, k)
		v.vmovuZ(y, k, x)
		return x
	}
	return v.op1(VANDPS, y, v.op1(v.vcmp, U8(predicate), b, a))
}

func (v *Vectors) zero() reg.VecVirtual {
	x := v.vec()
	VXORPS(x, x, x)
	return x
}

// one makes the number 1 from all ones by shifts.
func (v *Vectors) one() Op {
	x := v.zero()
	if v.ISA.Name == AVX512.Name {
		VPTERNLOGD(U8(0xff), x, x, x)
	} else {
		VPCMPEQD(x, x, x)
	}
	if v.size == 8 {
		VPSRLQ(U8(54), x, x)
		VPSLLQ(U8(52), x, x)
	} else {
		VPSRLD(U8(25), x, x)
		VPSLLD(U8(23), x, x)
	}
	return x
}

// Clamp clips x to [lo, hi], unless it is NaN: for a NaN and a number, VMIN and VMAX return their second source.
func (v *Vectors) Clamp(x, lo, hi Operand) {
	for i, x := range x {
		v.vmin(x, hi[i], x)
		v.vmax(x, lo[i], x)
	}
}

// op emits an instruction for each vector.
func (v *Vectors) op(instruction func(...Op), sources ...Operand) Operand {
	return v.each(func(i int) Op {
		ops := make([]Op, len(sources))
		for k, source := range sources {
			ops[k] = source[i]
		}
		return v.op1(instruction, ops...)
	})
}

// op1 emits an instruction for one vector.
func (v *Vectors) op1(instruction func(...Op), sources ...Op) Op {
	x := v.vec()
	instruction(append(sources, x)...)
	return x
}
