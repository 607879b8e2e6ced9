package pnm

import (
	"fmt"
	"math"
	"unsafe"
)

// mxBlock is how many elements of mxfp8 share a scale.
const mxBlock = 32

// MXFP8 returns momenta in mxfp8, one byte per element, as a Vector. The format is MXFP8 of OCP Microscaling v1.0: E4M3 elements in blocks
// of 32, and an E8M0 scale for each block. E is uint8 or a type based on it.
//
// row is the number of elements in a row, that is, for one index of the tensor's first dimension. Each row begins a new block, and its
// last block may be shorter. The tensor can be cut between any two rows. With row 0 the tensor is flat and can be cut at multiples of 32.
// A row that is a multiple of 32 means the same as 0, and [Vector.Row] then returns 0.
//
// A row that is negative, is 2³² or more, or does not divide len(elements) returns a *ValueError. A wrong number of scales (there must be
// one for each block) returns a *LengthError, and elements and scales that share memory an *OverlapError.
func MXFP8[E ~uint8](elements, scales []E, row int) (Vector, error) {
	v := vectorAs(mxfp8, elements)
	v, err := v.inRows(row)
	if err != nil {
		return Vector{}, err
	}
	if want := v.blocks(v.n); len(scales) != want {
		return Vector{}, &LengthError{"scales", len(scales), want}
	}
	if n := shared(spanOf(v), spanOf(vectorAs(mxfp8, scales))); n > 0 {
		return Vector{}, &OverlapError{Arg: "elements", OtherArg: "scales", Elements: n}
	}
	v.scales = unsafe.Pointer(unsafe.SliceData(scales))
	return v, nil
}

// Scales returns the scales of mxfp8, one for each block, or nil for other formats.
func (v Vector) Scales() []byte { return v.scalesOf(0, v.n) }

// Row returns the row given to [MXFP8], or 0 if that was a multiple of 32. It returns 0 for other formats.
func (v Vector) Row() int { return int(v.row) }

// inRows returns v, which is mxfp8, with rows of the given length.
func (v Vector) inRows(row int) (Vector, error) {
	switch {
	case uint64(row) > math.MaxUint32:
		return v, &ValueError{"MXFP8", "row", float64(row), "in [0, 2³²)"}
	case row > 0 && v.n%row != 0:
		return v, &ValueError{"MXFP8", "row", float64(row), fmt.Sprintf("a divisor of the number of elements, %d", v.n)}
	}
	v.row = uint32(row)
	if row%mxBlock == 0 {
		v.row = 0
	}
	return v, nil
}

// blocks returns the number of mxfp8 blocks that the first i elements take. If a block ends at i, that is the index of the next block.
func (v Vector) blocks(i int) int { return blocksOf(i, int(v.row)) }

// blocksOf is blocks for rows of so many elements. i may count the elements of a whole tensor, which no memory of this process has.
func blocksOf[N int | uint64](i, row N) N {
	if row == 0 {
		return i/mxBlock + (i%mxBlock+mxBlock-1)/mxBlock
	}
	return i/row*((row+mxBlock-1)/mxBlock) + (i%row+mxBlock-1)/mxBlock
}

// block returns the first element of the mxfp8 block of element i, and the one after its last.
func (v Vector) block(i int) (first, end int) {
	if v.row == 0 {
		first = i - i%mxBlock
		return first, min(first+mxBlock, v.n)
	}
	row := i - i%int(v.row)
	first = i - (i-row)%mxBlock
	return first, min(first+mxBlock, row+int(v.row))
}

// scalesOf returns the scales of the elements lo … hi−1, which begin with a block; nil if v is not mxfp8.
func (v Vector) scalesOf(lo, hi int) []byte {
	if v.scales == nil {
		return nil
	}
	return unsafe.Slice((*byte)(v.scales), v.blocks(v.n))[v.blocks(lo):v.blocks(hi)]
}

// borders returns the last element up to i at which v may be cut, and the next such element. Formats other than mxfp8 may be cut anywhere.
func (v Vector) borders(i int) (below, above int) {
	step := v.step()
	if i == v.n {
		return i, i
	}
	below = i - i%step
	return below, min(below+step, v.n)
}

// step returns the number of which every element at which v may be cut is a multiple.
func (v Vector) step() int {
	switch {
	case v.format != mxfp8:
		return 1
	case v.row == 0:
		return mxBlock
	}
	return int(v.row)
}

// scale is the address of the scale of the block that begins at element i, or nil if v is not mxfp8.
func (v Vector) scale(i int) unsafe.Pointer {
	if v.scales == nil {
		return nil
	}
	return unsafe.Add(v.scales, v.blocks(i))
}

// pack writes whole blocks of mxfp8 from lo on, rounded to nearest even.
func (v Vector) pack(from []float32, lo int) {
	scales := v.Scales()
	for len(from) > 0 {
		_, end := v.block(lo)
		part := from[:end-lo]
		scale := scaleMX(part)
		scales[v.blocks(lo)] = scale
		to := elements8(v.at, lo, len(part))
		for i, x := range part {
			to[i] = nearestMX(x, scale)
		}
		from, lo = from[len(part):], end
	}
}

// The conversions below are the reference, like those in format.go.

// widenMX returns the E4M3 number x·2^(scale−127), which is exact: E4M3's denormals are numbers of f16, at another scale.
func widenMX(x, scale uint8) float32 {
	if x&0x7f == 0x7f || scale == 0xff {
		return float32(math.NaN())
	}
	half := widenF16(uint16(int8(x)) << 7 &^ (1 << 14)) // E4M3(x)·2⁻⁸
	return float32(float64(half) * powerOf2(int(scale)-119))
}

// scaleMX returns the smallest scale with which no finite number of a block exceeds 448, the largest E4M3 number.
func scaleMX(block []float32) uint8 {
	most := uint32(0)
	for _, x := range block {
		if b := math.Float32bits(x) &^ (1 << 31); b < 0xff<<23 {
			most = max(most, b)
		}
	}
	return uint8(max(int((most+0x1fffff)>>23)-8, 0))
}

// narrowMX packs a number of a block with that scale: it adds a random number of 20 bits, high·2¹³ + low, below the last place, and cuts.
// (For E4M3's denormals only high counts: low is below 2⁻⁷ of their last place.) An infinity becomes a NaN, since E4M3 has none.
func narrowMX(x float32, scale uint8, low, high uint16) uint8 {
	if x-x != 0 {
		return uint8(math.Float32bits(x)>>24)&0x80 | 0x7f
	}
	scaled := x * float32(powerOf2(119-int(scale)))
	h := cutF16(math.Float32bits(scaled)+uint32(low)) + high
	return uint8(h>>8&0x80 | h>>7&0x7f)
}

// nearestMX packs a number of a block with that scale, rounded to nearest, ties to even.
func nearestMX(x float32, scale uint8) uint8 {
	sign := uint8(math.Float32bits(x)>>24) & 0x80
	if x-x != 0 {
		return sign | 0x7f
	}
	b := math.Float32bits(x*float32(powerOf2(119-int(scale)))) &^ (1 << 31)
	if b < 113<<23 { // below 2⁻¹⁴: the last place of a sum in [64, 128) is 2⁻¹⁷, that of E4M3's denormals
		return sign | uint8(math.Float32bits(math.Float32frombits(b)+64)-133<<23)
	}
	return sign | uint8((b-112<<23+0x7ffff+b>>20&1)>>20)
}

// cutF16 rounds the float32 with the bits b, whose absolute value is below 2¹⁶, to f16 towards zero.
func cutF16(b uint32) uint16 {
	sign, exponent := uint16(b>>16)&0x8000, b>>23&0xff
	if exponent < 113 { // below 2⁻¹⁴: a multiple of 2⁻²⁴
		return sign | uint16((b&0x7fffff|1<<23)>>(126-exponent))
	}
	return sign | uint16(b&^(1<<31)>>13-112<<10)
}

// powerOf2 is 2^n.
func powerOf2(n int) float64 { return math.Float64frombits(uint64(1023+n) << 52) }
