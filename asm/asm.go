// Package asm describes the amd64 kernels once, in avo: a loop skeleton parametrised by element type and ISA, and for each
// rule a body that reads like its equations. Package main in ../gen prints them as Go assembly.
package asm

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/posneg/pnm/internal/equations"
)

// Scalars are the fields of the engine's scalars, in order. They give the offsets of a kernel's coefficients.
var Scalars = []string{"gs", "l2", "keep", "beta1", "alpha1", "beta2", "alpha2", "k1", "k2", "r", "eps", "lo", "hi"}

// A Kernel is one assembly function for each element type and ISA. Its body updates the given number of vectors of each stream.
type Kernel struct {
	Name    string
	Form    equations.Form // of a rule
	Args    []string       // the streams that are its arguments; nil stands for Streams
	Streams []string       // those that it uses
	Writes  []string       // those of them that it writes
	Scalars []string       // the coefficients that it uses, those that it can best do without in a register last
	Alive   int            // operands of its body, at most, that are alive at once
	Body    func(*Vectors)
	Doc     string // what it does, to follow its name
	Whole   bool   // it only gets whole passes
}

func (k Kernel) args() []string {
	if k.Args != nil {
		return k.Args
	}
	return k.Streams
}

// A Type is an element type and its instructions.
type Type struct {
	Name, goName string
	size         int // bytes

	vmovu, vmova, vadd, vsub, vmul, vdiv, vmin, vmax, vsqrt, vcmp, vbroadcast func(...Op)
	vor                                                                       func(...Op)
	vmaskmov, vmovuZ                                                          func(Op, Op, Op)
}

var (
	Float32 = Type{"F32", "float32", 4, VMOVUPS, VMOVAPS, VADDPS, VSUBPS, VMULPS, VDIVPS, VMINPS, VMAXPS, VSQRTPS, VCMPPS, VBROADCASTSS,
		VORPS, VMASKMOVPS, VMOVUPS_Z}
	Float64 = Type{"F64", "float64", 8, VMOVUPD, VMOVAPD, VADDPD, VSUBPD, VMULPD, VDIVPD, VMINPD, VMAXPD, VSQRTPD, VCMPPD, VBROADCASTSD,
		VORPD, VMASKMOVPD, VMOVUPD_Z}

	// There is no arithmetic for these.
	BF16 = Type{Name: "BF16", goName: "uint16", size: 2}
	F16  = Type{Name: "F16", goName: "uint16", size: 2}
)

// Types are the types in which rules compute, sumTypes those whose squares can be summed.
var (
	Types    = []Type{Float32, Float64}
	sumTypes = []Type{Float32, Float64, BF16, F16}
)

// An ISA is an instruction set with its vector registers.
type ISA struct {
	Name      string
	width     int // bytes of a vector
	registers int
	vec       func() reg.VecVirtual
	vectors   int // of a stream in a pass, as measured in docs/performance.md

	// Where there are several formats:
	mixedKeeps     int      // coefficients that stay in registers
	mixedConstants []string // those of rounding that stay in registers
}

var (
	AVX2   = ISA{Name: "AVX2", width: 32, registers: 16, vec: YMM, vectors: 4}
	AVX512 = ISA{Name: "AVX512", width: 64, registers: 32, vec: ZMM, vectors: 2,
		mixedKeeps: 13, mixedConstants: []string{"first", "second", "half", "upper"}}
)

// keeps is the number of coefficients that stay in registers if that many operands, each of that many vectors, are alive at once. The
// others are read each time, into one more register.
func (isa ISA) keeps(alive, vectors int) int { return isa.registers - vectors*alive - 1 }

// half is the lower half of a register.
func (isa ISA) half(y reg.VecVirtual) reg.Register {
	if isa.Name == AVX512.Name {
		return y.AsY()
	}
	return y.AsX()
}
