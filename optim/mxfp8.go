package optim

import (
	"math"

	"github.com/posneg/pnm"
)

// mxBlock is how many elements of mxfp8 share a scale.
const mxBlock = 32

// rows is how blocks of mxfp8 lie: they begin anew at each row of so many elements; if it is 0, one follows the other.
type rows int

// rowsOf are those of a vector. Only mxfp8 has any.
func rowsOf(v pnm.Vector) rows { return rows(v.Row()) }

// blocks is the number of blocks in n elements of a flat tensor, or of one row.
func blocks(n int) int { return (n + mxBlock - 1) / mxBlock }

// block returns the number of the block that begins at element i.
func (r rows) block(i int) int {
	if r == 0 {
		return blocks(i)
	}
	row := int(r)
	return i/row*blocks(row) + blocks(i%row)
}

// scale returns the number of the block that begins at element i of a whole tensor, which may be larger than any memory.
func (r rows) scale(i uint64) uint64 {
	if r == 0 {
		return i / mxBlock
	}
	return i / uint64(r) * uint64(blocks(int(r)))
}

// begin returns the first element of the block of element i.
func (r rows) begin(i int) int {
	if r == 0 {
		return i - i%mxBlock
	}
	return i - i%int(r)%mxBlock
}

// run returns the end of the longest run of the elements lo … hi−1, the first of which begins a block, that is a vector by itself: some
// whole rows, or else a part of one, which is flat.
func (r rows) run(lo, hi int) (end int, as rows) {
	row := int(r)
	switch {
	case row == 0:
		return hi, 0
	case lo%row > 0 || hi-lo < row:
		return min(hi, lo-lo%row+row), 0
	}
	return hi - hi%row, r
}

// vector returns a run as a vector.
func (r rows) vector(elements, scales []byte) pnm.Vector {
	v, err := pnm.MXFP8(elements, scales, int(r))
	if err != nil {
		panic(err)
	}
	return v
}

// portion returns the elements lo … hi−1 of v; of mxfp8, they are a run.
func portion(v pnm.Vector, lo, hi int) pnm.Vector {
	if v.Format() != mxfp8Format {
		return v.Slice(lo, hi)
	}
	r := rowsOf(v)
	_, as := r.run(lo, hi)
	return as.vector(v.Bytes()[lo:hi], v.Scales()[r.block(lo):][:as.block(hi-lo)])
}

// scalesShape is the shape of a vector's scales: one dimension if blocks lie one behind the other, or else rows and the blocks of each.
func scalesShape(v pnm.Vector) []int {
	if row := v.Row(); row > 0 {
		return []int{v.Len() / row, blocks(row)}
	}
	return []int{blocks(v.Len())}
}

// rowsIn returns the rows of n elements whose scales have a shape that scalesShape returns; or, of rows whose length is a multiple of a
// block, one that it might.
func rowsIn(n int64, shape []int) (r rows, ok bool) {
	switch {
	case len(shape) == 1:
		return 0, int64(shape[0]) == (n+mxBlock-1)/mxBlock
	case len(shape) != 2 || shape[0] == 0:
		return 0, len(shape) == 2 && n == 0
	}
	row := n / int64(shape[0])
	if n%int64(shape[0]) > 0 || row > min(math.MaxUint32, math.MaxInt) || int64(shape[1]) != (row+mxBlock-1)/mxBlock {
		return 0, false
	}
	if row%mxBlock == 0 {
		return 0, true
	}
	return rows(row), true
}
