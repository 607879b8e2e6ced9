package optim

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/posneg/pnm"
)

// A format is a format of parameters, state or scales in files.
type format struct {
	name   string                    // in the engine; "" for scales
	dtype  string                    // in safetensors
	size   int                       // of an element, in bytes
	vector func(b []byte) pnm.Vector // nil for mxfp8 and its scales, which need each other
}

// formats are the formats of elements: first those of parameters, then those that only state has.
var formats = [...]format{
	{float32Format, "F32", 4, func(b []byte) pnm.Vector { return pnm.Float32(elementsOf[float32](b)) }},
	{float64Format, "F64", 8, func(b []byte) pnm.Vector { return pnm.Float64(elementsOf[float64](b)) }},
	{"bf16", "BF16", 2, func(b []byte) pnm.Vector { return pnm.BF16(elementsOf[uint16](b)) }},
	{mxfp8Format, "F8_E4M3", 1, nil},
}

const paramsFormats = 3 // of these

// scalesFormat is the format of mxfp8's scales.
var scalesFormat = format{"", "F8_E8M0", 1, nil}

// formatOf returns the file's format of a vector that is saved unchanged.
func formatOf(v pnm.Vector) *format {
	return &formats[slices.IndexFunc(formats[:], func(f format) bool { return f.name == v.Format() })]
}

// elementsOf returns bytes, which are aligned, as elements.
func elementsOf[T any](b []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}

// bigEndian tells whether the machine is big-endian.
var bigEndian = binary.NativeEndian.Uint16([]byte{1, 0}) != 1

// swap turns elements from the machine's order of bytes to little-endian order, or back.
func (f *format) swap(b []byte) {
	if bigEndian {
		for element := range slices.Chunk(b, f.size) {
			slices.Reverse(element)
		}
	}
}
