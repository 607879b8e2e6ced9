package asm

import (
	"fmt"
	"sync"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A Vector is one vector of each stream at the current offset, as a body sees it. In the rest of a slice only the first
// lanes exist: the others read as zero and are not written.
type Vector struct {
	Type
	ISA
	streams      map[string]reg.Register
	scalars      map[string]Op // those that stay in registers
	coefficients reg.Register  // where all of them are
	coupled      reg.Register  // not 0 if l2 is not
	labels       int           // so far
	offset       reg.Register  // of the pass through the loop, in bytes
	disp         int           // of the vector within the pass

	mixed *mixed // if there are several formats

	kmask reg.Register // AVX-512: the lanes that exist
	ymask reg.Register // AVX2: the address of a vector with their sign bits set
}

// maskFirst makes only the first n lanes exist; 0 < n < lanes.
func (v *Vector) maskFirst(n reg.Register) {
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

func (v *Vector) mem(stream string) Mem {
	return Mem{Base: v.streams[stream], Index: v.offset, Scale: 1, Disp: v.disp}
}

// Load returns a stream's vector in a register.
func (v *Vector) Load(stream string) Op {
	Commentf("load %s", stream)
	if v.mixed != nil {
		return v.mixed.load(stream)
	}
	x := v.vec()
	switch {
	case v.kmask != nil:
		v.vmovuZ(v.mem(stream), v.kmask, x)
	case v.ymask != nil:
		VMOVUPS(Mem{Base: v.ymask}, x)
		v.vmaskmov(v.mem(stream), x, x)
	default:
		v.vmovu(v.mem(stream), x)
	}
	return x
}

// In returns a stream's vector for use in one instruction.
func (v *Vector) In(stream string) Op {
	if v.mixed != nil || v.kmask != nil || v.ymask != nil {
		return v.Load(stream)
	}
	return v.mem(stream)
}

// Store writes a vector back.
func (v *Vector) Store(x Op, stream string) {
	Commentf("store %s", stream)
	switch {
	case v.mixed != nil:
		v.mixed.store(x, stream)
	case v.kmask != nil:
		v.vmovu(x, v.kmask, v.mem(stream))
	case v.ymask != nil:
		mask := v.vec()
		VMOVUPS(Mem{Base: v.ymask}, mask)
		v.vmaskmov(x, mask, v.mem(stream))
	default:
		v.vmovu(x, v.mem(stream))
	}
}

// keep puts coefficients into registers, the first of them and at most so many.
func (v *Vector) keep(names []string, most int) {
	for _, name := range names[:min(most, len(names))] {
		v.scalars[name] = v.broadcast(name)
	}
}

// C returns a coefficient, in all lanes.
func (v *Vector) C(name string) Op {
	if c, ok := v.scalars[name]; ok {
		return c
	}
	return v.broadcast(name)
}

func (v *Vector) broadcast(name string) Op {
	Comment(name)
	x := v.vec()
	v.vbroadcast(Mem{Base: v.coefficients, Disp: v.size * index(name)}, x)
	return x
}

// IfCoupled emits what is done only if decay is coupled: l2 is not 0, and never −0. The branch goes the same way in a whole call.
func (v *Vector) IfCoupled(do func()) {
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

// findCoupled prepares IfCoupled.
func (v *Vector) findCoupled() {
	Comment("coupled = the bits of l2")
	l2 := Mem{Base: v.coefficients, Disp: v.size * index("l2")}
	if v.size == 8 {
		v.coupled = GP64()
		MOVQ(l2, v.coupled)
		return
	}
	bits := GP32()
	MOVL(l2, bits)
	v.coupled = bits.As64()
}

func (v *Vector) label(name string) string {
	v.labels++
	return fmt.Sprint(name, v.labels)
}

// Go's operand order: the last operand is the destination, the one before it the first source; a − b is VSUB b, a, dst.

func (v *Vector) Mul(a, b Op) Op { return v.op(v.vmul, b, a) }
func (v *Vector) Add(a, b Op) Op { return v.op(v.vadd, b, a) }
func (v *Vector) Sub(a, b Op) Op { return v.op(v.vsub, b, a) }
func (v *Vector) Div(a, b Op) Op { return v.op(v.vdiv, b, a) }
func (v *Vector) Sqrt(a Op) Op   { return v.op(v.vsqrt, a) }

// Max returns max(a, b) for a b that is not −0: NaN if either is NaN.
func (v *Vector) Max(a, b Op) Op {
	return v.orNaN(a, v.op(v.vmax, b, a)) // of which VMAX is b, if either is NaN or both are zero
}

// orNaN returns y with a NaN where x has one.
func (v *Vector) orNaN(x, y Op) Op {
	const unordered = 3
	if v.ISA.Name == AVX512.Name {
		nan := K()
		v.vcmp(U8(unordered), x, x, nan)
		v.vmova(x, nan, y)
		return y
	}
	nan := v.op(v.vcmp, U8(unordered), x, x)
	return v.op(v.vor, nan, y) // all ones is a NaN
}

// Sign returns 1 or −1, +0 for either zero, and NaN for a NaN.
func (v *Vector) Sign(x Op) Op {
	const less, greater = 0x11, 0x1e // false for a NaN
	zero, one := v.zero(), v.one()
	return v.orNaN(x, v.Sub(v.where(greater, x, zero, one), v.where(less, x, zero, one)))
}

// where returns y where a compares so with b, and +0 elsewhere.
func (v *Vector) where(predicate uint8, a, b, y Op) Op {
	if v.ISA.Name == AVX512.Name {
		k, x := K(), v.vec()
		v.vcmp(U8(predicate), b, a, k)
		v.vmovuZ(y, k, x)
		return x
	}
	return v.op(VANDPS, y, v.op(v.vcmp, U8(predicate), b, a))
}

func (v *Vector) zero() reg.VecVirtual {
	x := v.vec()
	VXORPS(x, x, x)
	return x
}

// one is made of ones, shifted to where the number 1 has them.
func (v *Vector) one() Op {
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

// Clamp returns x within [lo, hi], or NaN if x is: of a NaN and a number VMIN and VMAX return their second source.
func (v *Vector) Clamp(x, lo, hi Op) Op {
	return v.op(v.vmax, v.op(v.vmin, x, hi), lo)
}

func (v *Vector) op(instruction func(...Op), sources ...Op) Op {
	x := v.vec()
	instruction(append(sources, x)...)
	return x
}
