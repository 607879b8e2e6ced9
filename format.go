package pnm

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A format is how elements are stored.
type format uint8

const (
	f32 format = iota
	f64
	bf16  // the upper half of a float32
	f16   // IEEE 754's binary16
	low16 // the lower half of a float32 that splitBF16 has cut
	mxfp8 // blocks of E4M3 elements, each with a scale
)

var formats = [...]string{f32: "float32", f64: "float64", bf16: "bf16", f16: "f16", low16: "low16", mxfp8: "mxfp8"}

func (f format) String() string { return formats[f] }

// size is the size of an element in bytes, without scales.
func (f format) size() int { return int("\x04\x08\x02\x02\x02\x01"[f]) }

// alone reports whether the format is never converted to another one.
func (f format) alone() bool { return f == f64 || f == low16 }

// formatOf returns the format with that name.
func formatOf(name string) (format, error) {
	if f := slices.Index(formats[:], name); f >= 0 {
		return format(f), nil
	}
	return 0, fmt.Errorf("pnm: unknown format %q, must be one of %s", name, strings.Join(formats[:], ", "))
}

// bigEndian tells whether the machine is big-endian.
var bigEndian = binary.NativeEndian.Uint16([]byte{1, 0}) != 1

// swap turns elements from the machine's order of bytes to little-endian order, or back.
func (f format) swap(b []byte) {
	if bigEndian {
		for ; len(b) > 0; b = b[f.size():] { // not slices.Chunk, with which b would escape
			slices.Reverse(b[:f.size()])
		}
	}
}

// The conversions below are the reference. They use integers, except where float32 arithmetic is exact or rounds just as the conversion
// must. A NaN stays a NaN, and its payload is cut.

func widenBF16(x uint16) float32 { return math.Float32frombits(uint32(x) << 16) }

func widenF16(x uint16) float32 {
	sign, exponent, fraction := uint32(x&0x8000)<<16, uint32(x>>10&0x1f), uint32(x&0x3ff)
	switch exponent {
	case 0: // a multiple of 2⁻²⁴
		return math.Float32frombits(sign | math.Float32bits(float32(fraction)*0x1p-24))
	case 0x1f: // an infinity or a NaN
		return math.Float32frombits(sign | 0xff<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13) // the biases are 15 and 127
}

// narrowBF16 rounds to nearest, ties to even.
func narrowBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return quietBF16(b)
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// narrowStochastic adds a random 16-bit number below the last place, and cuts. So it rounds away from zero with a probability equal to
// the part that is cut off, in units of the last place, and the mean over all random numbers is x.
func narrowStochastic(x float32, random uint32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return quietBF16(b)
	}
	return uint16((b + random) >> 16)
}

// splitBF16 cuts a float32 into the nearest bf16, away from zero in a tie, and its lower half, which is 0 for a NaN.
func splitBF16(x float32) (upper, low uint16) {
	b := math.Float32bits(x)
	if x != x {
		return quietBF16(b), 0
	}
	return uint16((b + 0x8000) >> 16), uint16(b)
}

// joinBF16 returns the number that was split. If upper has changed since, it returns a number that rounds to the new one.
func joinBF16(upper, low uint16) float32 {
	u := uint32(upper) << 16
	b := u + uint32(int16(low)) // a number that was rounded up has a negative lower half
	if int32(u^b) < 0 {         // the sign flips only if upper was changed: a number that rounds to zero was not rounded up
		b = u
	}
	return math.Float32frombits(b)
}

func quietBF16(nan uint32) uint16 { return uint16(nan>>16) | 0x40 }

// narrowF16 rounds to nearest, ties to even.
func narrowF16(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b>>16) & 0x8000
	b &^= 1 << 31
	switch {
	case b > 0xff<<23:
		return sign | 0x7e00 | uint16(b>>13)&0x3ff
	case b >= overflowF16:
		return sign | 0x7c00
	case b < 113<<23: // below 2⁻¹⁴: the last place of a sum in [½, 1) is 2⁻²⁴, that of the result
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-126<<23)
	}
	return sign | uint16((b-112<<23+0xfff+b>>13&1)>>13)
}

// overflowF16 has the bits of the float32 65520: numbers from there on round to infinity in f16.
const overflowF16 = 0x477ff000

// overflowsF16 reports whether x is finite and rounds to infinity in f16.
func overflowsF16(x float32) bool {
	b := math.Float32bits(x) &^ (1 << 31)
	return overflowF16 <= b && b < 0xff<<23
}
