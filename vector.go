package pnm

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/posneg/pnm/internal/floatmode"
)

// A Vector is a slice whose elements have one of these formats: float32, float64, bf16 (bfloat16, the upper half of a float32),
// f16 (IEEE 754's binary16), low16 (the lower half of a float32 whose upper half is a bf16, see [Split]) or mxfp8 (see [MXFP8]). It
// refers to the slice and copies nothing. The zero Vector is a nil slice.
//
// Its methods copy and clear in pieces, so that a garbage collection never waits for a large copy. A Vector can be saved by
// encoding/gob, encoding/json and other packages that use encoding.BinaryMarshaler or encoding.TextMarshaler.
type Vector struct {
	at     unsafe.Pointer // nil for a nil slice
	scales unsafe.Pointer // of the blocks of mxfp8, as many as blocks(n)
	n      int
	layout
}

// A layout is how the elements of a Vector lie in its memory. It is a struct of its own since compilers keep structs of at most four
// fields in registers.
type layout struct {
	row    uint32 // the length of a row of mxfp8; 0 for none, and where that is a multiple of mxBlock, which makes no difference
	format format
}

// Float32 returns a slice of float32 as a Vector.
func Float32(x []float32) Vector { return vectorOf(x) }

// Float64 returns a slice of float64 as a Vector. In a step, either all vectors of a tensor are float64, or none is.
func Float64(x []float64) Vector { return vectorOf(x) }

// BF16 returns a slice of bf16 as a Vector. E is uint16 or a type based on it.
func BF16[E ~uint16](x []E) Vector { return vectorAs(bf16, x) }

// F16 returns a slice of f16 as a Vector. E is uint16 or a type based on it.
func F16[E ~uint16](x []E) Vector { return vectorAs(f16, x) }

// Low16 returns a slice of low16, the lower halves of float32 parameters, as a Vector: see [Update]. E is a 16-bit integer type.
func Low16[E ~uint16 | ~int16](x []E) Vector { return vectorAs(low16, x) }

// Vectors returns each slice as a Vector.
func Vectors[T Float](slices ...[]T) []Vector {
	v := make([]Vector, len(slices))
	for i, x := range slices {
		v[i] = vectorOf(x)
	}
	return v
}

// Len returns the number of elements.
func (v Vector) Len() int { return v.n }

// Format returns "float32", "float64", "bf16", "f16", "low16" or "mxfp8".
func (v Vector) Format() string { return v.format.String() }

// described returns the format, or "nil" for a nil slice.
func (v Vector) described() string {
	if v.at == nil {
		return "nil"
	}
	return v.format.String()
}

// IsNil reports whether v is a nil slice. An empty slice need not be nil.
func (v Vector) IsNil() bool { return v.at == nil }

// Float32 returns the slice, or nil if the format is not float32.
func (v Vector) Float32() []float32 {
	if v.format != f32 {
		return nil
	}
	return sliceOf[float32](v)
}

// Float64 returns the slice, or nil if the format is not float64.
func (v Vector) Float64() []float64 {
	if v.format != f64 {
		return nil
	}
	return sliceOf[float64](v)
}

// Bits returns the bits of the elements, in the same memory, or nil if the format does not have 16 bits.
func (v Vector) Bits() []uint16 {
	if v.format.size() != 2 {
		return nil
	}
	return sliceOf[uint16](v)
}

// Bytes returns the memory of the slice; for mxfp8, the memory of the elements without the scales.
func (v Vector) Bytes() []byte { return unsafe.Slice((*byte)(v.at), v.n*v.size()) }

// Slice returns the elements lo … hi−1, as v[lo:hi] would. For mxfp8, lo and hi must lie between rows, or between blocks if v is flat;
// hi may also be the end. Otherwise Slice panics.
func (v Vector) Slice(lo, hi int) Vector {
	if lo < 0 || hi < lo || hi > v.n {
		panic(fmt.Sprintf("pnm: elements [%d, %d) of a Vector that has %d", lo, hi, v.n))
	}
	for _, i := range [...]int{lo, hi} {
		if below, above := v.borders(i); below != i {
			panic(fmt.Sprintf("pnm: elements [%d, %d) of an mxfp8 Vector: it can be cut at %d and %d, but not at %d", lo, hi, below, above, i))
		}
	}
	return v.cut(lo, hi)
}

// Clone returns a copy in new memory. The clone of a nil slice is nil.
func (v Vector) Clone() Vector {
	if v.at == nil {
		return v
	}
	to := make([]uint64, (v.bytes()+7)/8) // aligned for every format
	c := v.placed(unsafe.Pointer(unsafe.SliceData(to)))
	copyBytes(c.Bytes(), v.Bytes())
	copyBytes(c.Scales(), v.Scales())
	return c
}

// Clear sets all elements to zero; for mxfp8, also the scales.
func (v Vector) Clear() {
	clearBytes(v.Bytes())
	clearBytes(v.Scales())
}

// Set copies the elements of from to v. If the formats differ, or the rows of mxfp8, it widens exactly or rounds to nearest even. It
// returns the number of finite elements that became an infinity in f16. In mxfp8 an infinity becomes a NaN.
//
// Set returns a *LengthError for different lengths, a *FormatError if only one side is float64 or only one is low16, and an *OverlapError
// for shared memory. It has then written nothing.
func (v Vector) Set(from Vector) (overflows int, err error) {
	if v.n != from.n {
		return 0, &LengthError{"to", v.n, from.n}
	}
	if v.format != from.format && (v.format.alone() || from.format.alone()) {
		return 0, &FormatError{"to", v.format.String(), from.format.String() + " as from"}
	}
	for _, a := range [...]span{spanOf(v).of("to"), scalesSpanOf(v).of("to scales")} {
		for _, b := range [...]span{spanOf(from).of("from"), scalesSpanOf(from).of("from scales")} {
			if n := shared(a, b); n > 0 {
				return 0, &OverlapError{Arg: a.arg, OtherArg: b.arg, Elements: n}
			}
		}
	}
	return convert(v, from), nil
}

// Split cuts each number of from, as a float32, into two halves: upper, the nearest bf16, and low, its lower 16 bits. In an [Update] with
// low16 Params, upper is the Copy and low the Params. from is float32, bf16 or f16. Split returns a *FormatError for other formats, a
// *LengthError for different lengths, and an *OverlapError for shared memory. It has then written nothing.
func Split(upper, low, from Vector) error {
	if from.format.alone() || from.format == mxfp8 {
		return &FormatError{"from", from.format.String(), "float32, bf16 or f16"}
	}
	if err := checkHalves(upper, low, from, "from"); err != nil {
		return err
	}
	var h floatmode.Hold
	defer h.Take().Release()
	var wide [1 << 10]float32
	u, l := upper.Bits(), low.Bits()
	for lo := 0; lo < from.n; lo += len(wide) {
		part := wide[:min(len(wide), from.n-lo)]
		widen(part, from.at, from.format, lo)
		for i, x := range part {
			u[lo+i], l[lo+i] = splitBF16(x)
		}
	}
	return nil
}

// Join makes float32 numbers from the halves upper and low, and stores them in the argument to. After [Split] or a step, these are the
// original numbers, bit for bit, except for the payload of a NaN. If a finite number has since been written to upper, the result is a
// number that rounds to it. The errors are those of Split.
func Join(to, upper, low Vector) error {
	if to.format != f32 {
		return &FormatError{"to", to.format.String(), f32.String()}
	}
	if err := checkHalves(upper, low, to, "to"); err != nil {
		return err
	}
	x, u, l := to.Float32(), upper.Bits(), low.Bits()
	for i := range x {
		x[i] = joinBF16(u[i], l[i])
	}
	return nil
}

// checkHalves reports halves whose format, length or memory does not fit the whole.
func checkHalves(upper, low, whole Vector, name string) error {
	switch {
	case upper.format != bf16:
		return &FormatError{"upper", upper.format.String(), bf16.String()}
	case low.format != low16:
		return &FormatError{"low", low.format.String(), low16.String()}
	case upper.n != whole.n:
		return &LengthError{"upper", upper.n, whole.n}
	case low.n != whole.n:
		return &LengthError{"low", low.n, whole.n}
	}
	for _, pair := range []struct {
		a, b       Vector
		arg, other string
	}{{upper, low, "upper", "low"}, {upper, whole, "upper", name}, {low, whole, "low", name}} {
		if n := shared(spanOf(pair.a), spanOf(pair.b)); n > 0 {
			return &OverlapError{Arg: pair.arg, OtherArg: pair.other, Elements: n}
		}
	}
	return nil
}

// convert is Set for vectors that have been checked.
func convert(to, from Vector) (overflows int) {
	if to.format == from.format && to.row == from.row {
		copyBytes(to.Bytes(), from.Bytes())
		copyBytes(to.Scales(), from.Scales())
		return 0
	}
	var h floatmode.Hold
	defer h.Take().Release()
	var wide [1 << 10]float32
	for lo, end := 0, 0; lo < to.n; lo = end {
		if end = min(lo+len(wide), to.n); to.format == mxfp8 && end < to.n {
			end, _ = to.block(end)
		}
		part := wide[:end-lo]
		from.widen(part, lo)
		if to.format == mxfp8 {
			to.pack(part, lo)
			continue
		}
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

// widen reads elements from lo on.
func (v Vector) widen(to []float32, lo int) {
	if v.format != mxfp8 {
		widen(to, v.at, v.format, lo)
		return
	}
	scales := v.Scales()
	for hi := lo + len(to); lo < hi; {
		first, end := v.block(lo)
		part := elements8(v.at, lo, min(end, hi)-lo)
		scale := scales[v.blocks(first)]
		for i, x := range part {
			to[i] = widenMX(x, scale)
		}
		to, lo = to[len(part):], lo+len(part)
	}
}

// vectorOf is the Vector of a slice of the engine's own types.
func vectorOf[T Float](x []T) Vector {
	f := f32
	if unsafe.Sizeof(*new(T)) == 8 {
		f = f64
	}
	return vectorAs(f, x)
}

// vectorAs is the Vector of a slice of elements of a format, without scales.
func vectorAs[E any](f format, x []E) Vector {
	return Vector{at: unsafe.Pointer(unsafe.SliceData(x)), n: len(x), layout: layout{format: f}}
}

// sliceOf is the slice of a Vector whose format T is.
func sliceOf[T element](v Vector) []T { return unsafe.Slice((*T)(v.at), v.n) }

func (v Vector) size() int { return v.format.size() }

// bytes is the size of v in memory: its elements, and the scales of mxfp8.
func (v Vector) bytes() int {
	if v.format == mxfp8 {
		return v.n + v.blocks(v.n)
	}
	return v.n * v.size()
}

// placed returns a vector like v in other memory, v.bytes() long: its scales follow its elements.
func (v Vector) placed(at unsafe.Pointer) Vector {
	v.at = at
	if v.format == mxfp8 {
		v.scales = at
		if v.n > 0 {
			v.scales = unsafe.Add(at, v.n)
		}
	}
	return v
}

// cut returns the elements lo … hi−1, where mxfp8 may be cut.
func (v Vector) cut(lo, hi int) Vector {
	v.n = hi - lo
	if v.n > 0 { // else at might be past the slice, in another object's memory
		v.at, v.scales = v.pointer(lo), v.scale(lo)
	}
	return v
}

// pointer is the address of element i, or nil if v is nil.
func (v Vector) pointer(i int) unsafe.Pointer {
	if v.at == nil {
		return nil
	}
	return unsafe.Add(v.at, i*v.size())
}

// MarshalBinary returns the format, as a byte, followed by the elements in little-endian order. For mxfp8, the row comes between them,
// as 4 bytes, and the scales follow.
func (v Vector) MarshalBinary() ([]byte, error) {
	head := []byte{byte(v.format)}
	if v.format == mxfp8 {
		head = binary.LittleEndian.AppendUint32(head, v.row)
	}
	b := make([]byte, len(head)+v.bytes())
	elements := b[copy(b, head):]
	copyBytes(elements, v.Bytes())
	copyBytes(elements[len(v.Bytes()):], v.Scales())
	v.format.swap(elements)
	return b, nil
}

// UnmarshalBinary sets v to a new slice with the elements that [Vector.MarshalBinary] returned. Without elements it is a nil slice.
func (v *Vector) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0] >= byte(len(formats)) {
		return fmt.Errorf("pnm: not a Vector: it begins with % x", b[:min(len(b), 1)])
	}
	f := format(b[0])
	read, err := unmarshalled(f, b[1:])
	if err != nil {
		return err
	}
	*v = read.Clone()
	f.swap(v.Bytes())
	return nil
}

// unmarshalled returns the Vector in b, which MarshalBinary wrote after the format, before its bytes are swapped.
func unmarshalled(f format, b []byte) (v Vector, err error) {
	v.format = f
	bad := fmt.Errorf("pnm: not a Vector: %d bytes do not fit %s", len(b), f)
	if f == mxfp8 {
		if len(b) < 4 {
			return v, bad
		}
		v.row, b = binary.LittleEndian.Uint32(b), b[4:]
		v.n = elementsOfMX(len(b), int64(v.row))
	} else {
		v.n = len(b) / f.size()
	}
	if v.bytes() != len(b) || v.row > 0 && v.row%mxBlock == 0 {
		return v, bad
	}
	if len(b) > 0 { // else a missing copy or gradient would become one of the wrong length
		v = v.placed(unsafe.Pointer(unsafe.SliceData(b)))
	}
	return v, nil
}

// elementsOfMX returns the number of elements of mxfp8 that take that many bytes with their scales.
func elementsOfMX(bytes int, row int64) int {
	if row == 0 {
		return bytes - (bytes+mxBlock)/(mxBlock+1)
	}
	return int(int64(bytes) / (row + (row+mxBlock-1)/mxBlock) * row)
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
		return fmt.Errorf("pnm: not a Vector: %w", err)
	}
	return v.UnmarshalBinary(b[:n])
}

// maxPiece is the number of bytes copied or cleared at a time. Go cannot preempt memmove and memclr, as it cannot preempt kernels (see
// maxCall), and a garbage collection stops all other goroutines until they return. Go itself cuts the memory that make clears.
const maxPiece = 64 << 10

// copyBytes copies all bytes of from, in pieces.
func copyBytes(to, from []byte) {
	for len(from) > 0 {
		n := copyPiece(to, from[:min(len(from), maxPiece)])
		to, from = to[n:], from[n:]
	}
}

// clearBytes zeroes memory of any length, in pieces.
func clearBytes(b []byte) {
	for len(b) > 0 {
		n := min(len(b), maxPiece)
		clearPiece(b[:n])
		b = b[n:]
	}
}

// Calls that are not inlined let Go preempt the loops above; a signal would nearly always find the goroutine in memmove or memclr.

//go:noinline
func copyPiece(to, from []byte) int { return copy(to, from) }

//go:noinline
func clearPiece(b []byte) { clear(b) }
