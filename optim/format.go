package optim

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/posneg/pnm"
)

// A format is one that parameters and state may have, in files.
type format struct {
	name   string // as the engine has it
	dtype  string // as safetensors has it
	size   int    // of an element, in bytes
	vector func(b []byte) pnm.Vector
}

var formats = [...]format{
	{float32Format, "F32", 4, func(b []byte) pnm.Vector { return pnm.Float32(elementsOf[float32](b)) }},
	{float64Format, "F64", 8, func(b []byte) pnm.Vector { return pnm.Float64(elementsOf[float64](b)) }},
	{"bf16", "BF16", 2, func(b []byte) pnm.Vector { return pnm.BF16(elementsOf[uint16](b)) }},
}

// formatOf returns the format that parameters or state have in files.
func formatOf(v pnm.Vector) *format {
	if v.Format() == low16Format {
		return &formats[0] // joined with their upper halves
	}
	return &formats[slices.IndexFunc(formats[:], func(f format) bool { return f.name == v.Format() })]
}

// elementsOf returns the elements that have these bytes, which are aligned for them.
func elementsOf[T any](b []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}

// bigEndian tells whether the machine is.
var bigEndian = binary.NativeEndian.Uint16([]byte{1, 0}) != 1

// swap turns elements from the machine's order of bytes to little-endian order, or back.
func (f *format) swap(b []byte) {
	if bigEndian {
		for element := range slices.Chunk(b, f.size) {
			slices.Reverse(element)
		}
	}
}
