package pnm

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/posneg/pnm/internal/floatmode"
)

// The sum of squares is exact on a grid, so that it depends on nothing but the numbers that are summed up. Let x = g·g in float64 (with
// unbounded exponent) and e = ⌊log2⌋ of the largest |g|. Then
//
//	J = ⌈(e − 24)/26⌉               so that all x < 2^(52J+50)
//	T = Σ round(x/2^(52(J−1)))      to integers, to nearest even
//	norm = √T · 2^(26(J−1))         T is rounded to float64
//
// T consists of two bins: T = t0·2⁵² + t1, where t0 counts multiples of 2^52J. Adding a number to an anchor, U = 2^(52J+52) or
// L = 1.5·2^52J, rounds it to a multiple of the last place of the sum, 2^52J or 2^(52(J−1)), and the bits of the sum count these:
//
//	s = U + x       t0 += bits(s) − bits(U)
//	r = x − (s − U)            is exact, and |r| ≤ 2^(52J−1)
//	s = L + r       t1 += bits(s) − bits(L)
//
// The last s is in [2^52J, 2^(52J+1)], where bits are linear. U is an even multiple of the grid, so that rounding twice gives the same as
// rounding once.
//
// J is known only after all elements have been seen. So a sum begins in a low window J and raises it for larger elements. Raised from
// window J−1, it keeps t0, which becomes t1 in the window J, with t0 = 0. In yet lower windows all x were less than a quarter of the new
// grid, and round to 0.

const (
	lowestBin, bins = -43, 83 // of T for any float64
	// leastPlain and mostPlain are the windows whose anchors, and squares that count in them, are normal numbers.
	leastPlain, mostPlain = -18 - lowestBin, 18 - lowestBin
)

// sumLen is the number of elements that can be summed up in 64 bits: |t1| ≤ 2⁵¹·sumLen < 2⁶³.
const sumLen = blockLen - 64

// lanes divides the number of elements that assembly sums up.
const lanes = 32

// blockLen is the number of elements of which the borders of a step's parts are multiples.
const blockLen = 4 << 10

// sumAhead is how far ahead of its loads, in bytes, a sum of squares prefetches from memory: with a single stream, processors prefetch too
// little. docs/performance.md has the measurements.
const sumAhead = 8 << 10

// A window has the anchors of a sum, and the factor on the gradients with which the anchors are normal numbers.
type window struct{ upper, lower, scale float64 }

// windowOf returns the window whose upper bin has the number top, counted from the lowest bin.
func windowOf(top int) window {
	scale := 0
	switch {
	case top > mostPlain:
		scale = -21
	case top < leastPlain:
		scale = 24
	}
	j := top + lowestBin + scale
	return window{pow2(52*j + 52), 1.5 * pow2(52*j), pow2(26 * scale)}
}

// pow2 returns 2^k, a normal number.
func pow2(k int) float64 { return math.Float64frombits(uint64(1023+k) << 52) }

// windowFor returns the number of the window's upper bin, if largest are the bits of the largest |g|, finite and not 0.
func windowFor(largest uint64) int {
	e := int(largest>>52) - 1023
	if e == -1023 {
		e = bits.Len64(largest) - 1075
	}
	return (e+1093)/26 + 1 // ⌈(e − 24)/26⌉ − lowestBin
}

// A blockSum is the sum of the squares of at most sumLen elements in some window.
type blockSum struct {
	t0, t1  int64
	largest uint64 // bits of |g| as a float64; those of an infinity are more than any number's, those of a NaN more than an infinity's
}

// sumSquaresGeneric is the reference: it adds elements to a sum.
func sumSquaresGeneric[T Float](sum *blockSum, g []T, w *window) {
	upper, lower := math.Float64bits(w.upper), math.Float64bits(w.lower)
	for _, g := range g {
		f := float64(g)
		sum.largest = max(sum.largest, math.Float64bits(f)&^(1<<63))
		f *= w.scale
		x := float64(f * f)
		s := w.upper + x
		sum.t0 += int64(math.Float64bits(s) - upper)
		r := x - (s - w.upper)
		sum.t1 += int64(math.Float64bits(w.lower+r) - lower)
	}
}

// sumSquares sums up at most sumLen elements in a window. If ahead is not 0, it prefetches that many bytes ahead of its loads.
func sumSquares(g Vector, top, ahead int) (sum blockSum) {
	w := windowOf(top)
	if whole := g.n &^ (lanes - 1); whole > 0 && w.scale == 1 && active != generic {
		sum = sumSquaresAssembly(&w, g.cut(0, whole), ahead)
		g = g.cut(whole, g.n)
	}
	sumSquaresReference(&sum, g, &w)
	return sum
}

// sumSquaresReference adds elements to a sum.
func sumSquaresReference(sum *blockSum, g Vector, w *window) {
	switch g.format {
	case f32:
		sumSquaresGeneric(sum, sliceOf[float32](g), w)
	case f64:
		sumSquaresGeneric(sum, sliceOf[float64](g), w)
	default:
		var wide [lanes]float32
		for lo := 0; lo < g.n; lo += lanes {
			part := wide[:min(lanes, g.n-lo)]
			widen(part, g.at, g.format, lo)
			sumSquaresGeneric(sum, part, w)
		}
	}
}

// An int128 is an integer in two's complement.
type int128 struct{ high, low uint64 }

func (a *int128) add(b int128) {
	var carry uint64
	a.low, carry = bits.Add64(a.low, b.low, 0)
	a.high += b.high + carry
}

// wide returns x·2^shift; shift is 0 or 32 … 64.
func wide(x int64, shift int) int128 {
	return int128{uint64(x >> (64 - shift)), uint64(x) << shift}
}

// A sum is the sum of any number of squares.
type sum struct {
	top      int // the number of the upper bin; 0 for none, where there are only zeros
	t0, t1   int128
	nan, inf bool // then the rest does not matter
}

// raise raises the window, unless it is as high.
func (s *sum) raise(top int) {
	switch {
	case top == s.top+1:
		s.t0, s.t1 = int128{}, s.t0
	case top > s.top:
		s.t0, s.t1 = int128{}, int128{}
	}
	s.top = max(s.top, top)
}

// merge adds another sum.
func (s *sum) merge(o *sum) {
	s.nan, s.inf = s.nan || o.nan, s.inf || o.inf
	other := *o
	other.raise(s.top)
	s.raise(other.top)
	s.t0.add(other.t0)
	s.t1.add(other.t1)
}

// add adds the squares of at most sumLen elements, and prefetches as sumSquares does.
func (s *sum) add(g Vector, ahead int) {
	tried := max(s.top, leastPlain) // assembly knows no lower one
	b := sumSquares(g, tried, ahead)
	switch {
	case b.largest > infinite:
		s.nan = true
		return
	case b.largest == infinite:
		s.inf = true
		return
	case b.largest == 0:
		return
	}
	s.raise(windowFor(b.largest))
	if s.top != tried {
		b = sumSquares(g, s.top, 0)
	}
	s.t0.add(wide(b.t0, 0))
	s.t1.add(wide(b.t1, 0))
}

const infinite = 0x7ff << 52 // the bits of +Inf

// norm returns the root.
func (s *sum) norm() norm {
	switch {
	case s.nan:
		return norm{math.NaN(), 1, false}
	case s.inf:
		return norm{math.Inf(1), 1, false}
	case s.top == 0:
		return norm{0, 1, true}
	}
	half := pow2(13 * (s.top - 1 + lowestBin)) // twice: all of it may not be a normal number
	total := s.total()
	return norm{math.Sqrt(total) * half, half, !math.IsNaN(total)}
}

// total returns T, rounded to float64.
func (s *sum) total() float64 {
	low, carry := bits.Add64(s.t1.low, s.t0.low<<52, 0)
	middle, carry := bits.Add64(s.t1.high, s.t0.high<<52|s.t0.low>>12, carry)
	high := uint64(int64(s.t1.high)>>63) + uint64(int64(s.t0.high)>>12) + carry
	exponent := 128
	for range 2 {
		if high == 0 {
			high, middle, low, exponent = middle, low, 0, exponent-64
		}
	}
	if int64(high) < 0 && exponent == 128 {
		return math.NaN() // no squares have that sum
	}
	n := bits.LeadingZeros64(high)
	high = high<<n | middle>>(64-n)
	if middle<<n|low != 0 { // it tells only what is no tie
		high |= 1
	}
	return float64(high) * pow2(exponent-n)
}

// A norm is the Euclidean norm of the gradients of a step, as root·scale: the product may overflow where no gradient does.
type norm struct {
	root, scale float64
	finite      bool // so is every gradient
}

func (n norm) value() float64 { return n.root * n.scale }

// factor returns what the gradients are to be multiplied by, so that their norm is at most limit.
func (n norm) factor(limit float64) float64 {
	if n.value() <= limit || math.IsInf(limit, 1) { // a norm may be NaN
		return 1
	}
	return limit / n.scale / n.root
}

// sumSquares returns the sum of the squares of all gradients.
func (b *batch) sumSquares(p *Pool) *sum {
	b.far = isFar(b.bytes())
	b.top.Store(0)
	b.total = sum{}
	b.do(p, summing, b.grads)
	return &b.total
}

// sumBlocks adds the squares of a vector to a part's sum.
func (b *batch) sumBlocks(s *sum, g Vector) {
	raceRead(g.Bytes())
	s.raise(int(b.top.Load()))
	ahead := 0
	if b.far {
		ahead = sumAhead
	}
	n := min(sumLen, g.n)
	if s.top == 0 { // what comes first is summed up twice
		n = min(lanes, g.n)
	}
	for ; n > 0; n = min(sumLen, g.n) {
		s.add(g.cut(0, n), ahead)
		g = g.cut(n, g.n)
		for top := b.top.Load(); top < int32(s.top) && !b.top.CompareAndSwap(top, int32(s.top)); top = b.top.Load() {
		}
		s.raise(int(b.top.Load()))
	}
}

// addSum adds a part's sum to the total.
func (b *batch) addSum(s *sum) {
	b.adding.Lock()
	defer b.adding.Unlock()
	b.total.merge(s)
}

// Squares is a sum of squares of gradients, in integers. Adding two of them element by element, in any order, gives the sum over both
// sets of gradients: use [Squares.Add], or anything that adds int64, such as an all-reduce. Up to 2²⁰ sums can be added up.
// [Squares.Norm] is the same, bit for bit, however the elements were ordered, and cut into gradients, calls and processes.
//
// The sum is kept in bins: bin b = −43 … 39 counts multiples of 2^52b. A sum uses two bins, b and b−1. Bin b has four words, from 4·(b+43)
// on. The first is the number of sums whose upper bin is b. The other three are the count of the bin: bits 0 to 31, bits 32 to 63, and the
// rest with its sign. The last two words count the sums that have a NaN, and those that have an infinity but no NaN.
type Squares [4*bins + 2]int64

// SumSquares returns the sum of the squares of all elements of the gradients. A nil pool means the default pool. It panics if a
// gradient is low16 or mxfp8.
//
// A step sums up the squares itself if [Options] ask for the norm. Use SumSquares if a step takes several calls or processes: see
// Options.Squares.
func SumSquares(pool *Pool, grads ...Vector) (s Squares) {
	l := takeList()
	defer l.putBack()
	b := &l.batch
	defer b.held.Take().Release()
	for i, g := range grads {
		if g.format == low16 || g.format == mxfp8 {
			panic(fmt.Sprintf("pnm: gradient %d is %s, which has no squares", i, g.format))
		}
		b.tensors = append(b.tensors, tensor{g: g})
	}
	b.plan(gradOnly)
	s.set(b.sumSquares(pool))
	return s
}

// set sets s to a sum.
func (s *Squares) set(from *sum) {
	switch {
	case from.nan:
		s[4*bins] = 1
	case from.inf:
		s[4*bins+1] = 1
	case from.top > 0:
		s[4*from.top] = 1
		for i, t := range [...]int128{from.t1, from.t0} {
			word := s[4*(from.top-1+i):]
			word[1], word[2], word[3] = int64(t.low&(1<<32-1)), int64(t.low>>32), int64(t.high)
		}
	}
}

// sum returns s as a sum. It does not check the words, which the caller may have set.
func (s *Squares) sum() (to sum) {
	to.nan, to.inf = s[4*bins] != 0, s[4*bins+1] != 0
	for b := bins - 1; b > 0; b-- {
		if s[4*b] != 0 {
			to.top, to.t0, to.t1 = b, s.bin(b), s.bin(b-1)
			break
		}
	}
	return to
}

// bin returns what a bin counts.
func (s *Squares) bin(b int) (n int128) {
	for i, word := range s[4*b+1 : 4*b+4] {
		n.add(wide(word, 32*i))
	}
	return n
}

// Add adds the squares of other gradients to s.
func (s *Squares) Add(others *Squares) {
	for i, x := range others {
		s[i] += x
	}
}

// Norm returns the Euclidean norm of the gradients. Each square was rounded by at most 2⁻⁵¹ of the largest one; the sum and its root
// are each rounded once. The norm is NaN if a gradient has a NaN. Otherwise it is +Inf if a gradient has an infinity, or if the norm is
// too large for a float64.
func (s *Squares) Norm() float64 {
	var h floatmode.Hold
	defer h.Take().Release()
	sum := s.sum()
	n := sum.norm()
	return n.value()
}
