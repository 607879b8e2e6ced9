package pnm

import (
	"fmt"
	"math"
	"unsafe"
)

// mxBlock is how many elements of mxfp8 share a scale.
const mxBlock = 32

// MXFP8 returns a slice of mxfp8 as a Vector, momenta of a byte each: OCP Microscaling's MXFP8, with elements of E4M3 in blocks of 32,
// each of which has a scale of E8M0. Any type of 8 bits will do.
//
// row is the number of elements of a row, those of one index of the tensor's first dimension: blocks begin anew at each row, the last
// one of each may be shorter, and a tensor can be cut between any two rows. With row 0 the tensor is flat, and can be cut at multiples of
// 32. A multiple of 32 makes no difference to 0; [Vector.Row] is 0 then.
//
// A row that is negative, 2³² or more, or of which len(elements) is no multiple, gives a *ValueError; scales that are not one for each
// block a *LengthError, and memory that both share an *OverlapError.
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

// Scales returns the scales of mxfp8, one for each block, or nil for another format.
func (v Vector) Scales() []byte { return v.scalesOf(0, v.n) }

// Row returns the row of [MXFP8], or 0 if that was a multiple of 32, or the format is another.
func (v Vector) Row() int { return int(v.row) }

// inRows returns v, which is mxfp8, with rows of a length.
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

// blocks returns in how many blocks of mxfp8 the first i elements are. Where a block ends at i, or a block of a row, it is the number
// of the next one.
func (v Vector) blocks(i int) int {
	if v.row == 0 {
		return (i + mxBlock - 1) / mxBlock
	}
	row := int(v.row)
	return i/row*((row+mxBlock-1)/mxBlock) + (i%row+mxBlock-1)/mxBlock
}

// block returns the first element of the block of mxfp8 that has element i, and the one behind its last.
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

// borders returns the last element not behind i at which v may be cut, and the first one behind that. Only mxfp8 may not be cut anywhere.
func (v Vector) borders(i int) (below, above int) {
	step := v.step()
	if i == v.n {
		return i, i
	}
	below = i - i%step
	return below, min(below+step, v.n)
}

// step is what all elements at which v may be cut are multiples of.
func (v Vector) step() int {
	switch {
	case v.format != mxfp8:
		return 1
	case v.row == 0:
		return mxBlock
	}
	return int(v.row)
}

// scale is where the scale of the block is that begins at element i, or nil if v is not mxfp8.
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

// The conversions are the reference, as those of other formats are.

// widenMX returns the E4M3 number x·2^(scale−127), which is exact: E4M3's denormals are numbers of f16, at another scale.
func widenMX(x, scale uint8) float32 {
	if x&0x7f == 0x7f || scale == 0xff {
		return float32(math.NaN())
	}
	half := widenF16(uint16(int8(x)) << 7 &^ (1 << 14)) // E4M3(x)·2⁻⁸
	return float32(float64(half) * powerOf2(int(scale)-119))
}

// scaleMX returns the smallest scale with which no finite number of a block exceeds E4M3's largest, 448.
func scaleMX(block []float32) uint8 {
	most := uint32(0)
	for _, x := range block {
		if b := math.Float32bits(x) &^ (1 << 31); b < 0xff<<23 {
			most = max(most, b)
		}
	}
	return uint8(max(int((most+0x1fffff)>>23)-8, 0))
}

// narrowMX packs a number of a block of that scale: it adds a random number of 20 bits, high·2¹³ + low, below the last place, and cuts.
// (Of E4M3's denormals, it adds high only: the rest is below 2⁻⁷ of their last place.) E4M3 has no infinity: it becomes a NaN.
func narrowMX(x float32, scale uint8, low, high uint16) uint8 {
	if x-x != 0 {
		return uint8(math.Float32bits(x)>>24)&0x80 | 0x7f
	}
	scaled := x * float32(powerOf2(119-int(scale)))
	h := cutF16(math.Float32bits(scaled)+uint32(low)) + high
	return uint8(h>>8&0x80 | h>>7&0x7f)
}

// nearestMX packs a number of a block of that scale, rounded to nearest, to even in between.
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

// cutF16 rounds the float32 of some bits, below 2¹⁶ and not below −2¹⁶, to f16 towards zero.
func cutF16(b uint32) uint16 {
	sign, exponent := uint16(b>>16)&0x8000, b>>23&0xff
	if exponent < 113 { // below 2⁻¹⁴: a multiple of 2⁻²⁴
		return sign | uint16((b&0x7fffff|1<<23)>>(126-exponent))
	}
	return sign | uint16(b&^(1<<31)>>13-112<<10)
}

// powerOf2 is 2^n.
func powerOf2(n int) float64 { return math.Float64frombits(uint64(1023+n) << 52) }
