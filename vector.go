package pnm

import (
	"encoding/base64"
	"fmt"
	"unsafe"

	"github.com/posneg/pnm/internal/floatmode"
)

// A Vector is a caller's slice whose elements have a format that calls in mixed precision can take: float32, bf16 (bfloat16,
// the upper half of a float32), f16 (IEEE 754's binary16), or float64 for all at once. It refers to the slice, and copies
// nothing. The zero Vector is a nil slice.
//
// It can be saved by encoding/gob, encoding/json and whatever else knows encoding.BinaryMarshaler or TextMarshaler.
type Vector struct {
	at     unsafe.Pointer // nil for a nil slice
	n      int
	format format
}

// Float32 returns a slice of float32 as a Vector.
func Float32(x []float32) Vector { return vectorOf(x) }

// Float64 returns a slice of float64 as a Vector. It meets no other format in a step: all vectors of a tensor are float64.
func Float64(x []float64) Vector { return vectorOf(x) }

// BF16 returns a slice of bf16, whatever its type of 16 bits, as a Vector.
func BF16[E ~uint16](x []E) Vector { return Vector{unsafe.Pointer(unsafe.SliceData(x)), len(x), bf16} }

// F16 returns a slice of f16, whatever its type of 16 bits, as a Vector.
func F16[E ~uint16](x []E) Vector { return Vector{unsafe.Pointer(unsafe.SliceData(x)), len(x), f16} }

// Len returns the number of elements.
func (v Vector) Len() int { return v.n }

// Format returns "float32", "float64", "bf16" or "f16".
func (v Vector) Format() string { return v.format.String() }

// Float32 returns the slice, or nil if its format is another.
func (v Vector) Float32() []float32 {
	if v.format != f32 {
		return nil
	}
	return sliceOf[float32](v)
}

// Float64 returns the slice, or nil if its format is another.
func (v Vector) Float64() []float64 {
	if v.format != f64 {
		return nil
	}
	return sliceOf[float64](v)
}

// Bits returns the slice as the bits of its elements, or nil if its format does not have 16 bits.
func (v Vector) Bits() []uint16 {
	if v.format.size() != 2 {
		return nil
	}
	return sliceOf[uint16](v)
}

// Convert sets each element of to to the same of from: widened exactly, or rounded to nearest even. It returns how many finite
// float32 became an infinity of f16. Different lengths give a *LengthError, shared memory an *OverlapError, and nothing is
// written. It is meant for once, such as the first copy of parameters; steps convert in their own pass.
func Convert(to, from Vector) (overflows int, err error) {
	if to.n != from.n {
		return 0, &LengthError{-1, "to", to.n, from.n}
	}
	if to.format != from.format && (to.format == f64 || from.format == f64) {
		return 0, &FormatError{-1, "to", to.format.String(), from.format.String() + " as from"}
	}
	if n := shared(spanOf(to), spanOf(from)); n > 0 {
		return 0, &OverlapError{-1, -1, "to", "from", n}
	}
	return convert(to, from), nil
}

// convert is Convert for vectors that fit.
func convert(to, from Vector) (overflows int) {
	if to.format == from.format {
		copyBytes(to.bytes(), from.bytes())
		return 0
	}
	var h floatmode.Hold
	defer h.Take().Release()
	var wide [1 << 10]float32
	for lo := 0; lo < to.n; lo += len(wide) {
		part := wide[:min(len(wide), to.n-lo)]
		widen(part, from.at, from.format, lo)
		narrow(to.at, to.format, lo, part, func(_ int, x float32) uint16 {
			if to.format == bf16 {
				return narrowBF16(x)
			}
			if overflowsF16(x) {
				overflows++
			}
			return narrowF16(x)
		})
	}
	return overflows
}

// vectorOf is the Vector of a slice of the engine's own types.
func vectorOf[T Float](x []T) Vector {
	f := f32
	if unsafe.Sizeof(*new(T)) == 8 {
		f = f64
	}
	return Vector{unsafe.Pointer(unsafe.SliceData(x)), len(x), f}
}

// sliceOf is the slice of a Vector whose format T is.
func sliceOf[T Element](v Vector) []T { return unsafe.Slice((*T)(v.at), v.n) }

func (v Vector) size() int { return v.format.size() }

// bytes is the memory of v.
func (v Vector) bytes() []byte { return unsafe.Slice((*byte)(v.at), v.n*v.size()) }

// cut returns the elements lo … hi−1.
func (v Vector) cut(lo, hi int) Vector {
	v.n = hi - lo
	if v.n > 0 { // else at might be behind the slice, in another object's memory
		v.at = v.pointer(lo)
	}
	return v
}

// pointer is where element i is, or nil if v is.
func (v Vector) pointer(i int) unsafe.Pointer {
	if v.at == nil {
		return nil
	}
	return unsafe.Add(v.at, i*v.size())
}

// MarshalBinary returns the format, as a byte, and the elements, in little-endian order.
func (v Vector) MarshalBinary() ([]byte, error) {
	b := make([]byte, 1+len(v.bytes()))
	b[0] = byte(v.format)
	copyBytes(b[1:], v.bytes())
	v.format.swap(b[1:])
	return b, nil
}

// UnmarshalBinary sets v to a slice of its own, with what [Vector.MarshalBinary] returned.
func (v *Vector) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0] > byte(f16) {
		return fmt.Errorf("pnm: no Vector begins with % x", b[:min(len(b), 1)])
	}
	f := format(b[0])
	if b = b[1:]; len(b)%f.size() != 0 {
		return fmt.Errorf("pnm: %d bytes are no Vector of %s", len(b), f)
	}
	read := Vector{unsafe.Pointer(unsafe.SliceData(b)), len(b) / f.size(), f}
	*v = read.clone()
	f.swap(v.bytes())
	return nil
}

// MarshalText is [Vector.MarshalBinary] in base64.
func (v Vector) MarshalText() ([]byte, error) {
	b, err := v.MarshalBinary()
	text := make([]byte, base64.StdEncoding.EncodedLen(len(b)))
	base64.StdEncoding.Encode(text, b)
	return text, err
}

// UnmarshalText reads what [Vector.MarshalText] returned.
func (v *Vector) UnmarshalText(text []byte) error {
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(b, text)
	if err != nil {
		return fmt.Errorf("pnm: no Vector: %w", err)
	}
	return v.UnmarshalBinary(b[:n])
}
