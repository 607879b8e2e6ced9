package pnm

import (
	"unsafe"
)

// A mixed has the arguments of a kernel for streams of several formats. The kernel widens them to float32, updates as the float32 kernels
// do, and rounds back. Assembly knows this layout.
type mixed struct {
	c       scalars[float32]
	formats uint32 // a set of the constants below
	counter uint32 // of the first word, for draw: calls begin with a block of numbers drawn
	key     uint32 // for draw

	p, g, m, n, v, x unsafe.Pointer // the first elements, by role; nil where the form has none
	out              unsafe.Pointer // the copy of the parameters, or their upper halves, if there are any
	overflows        int            // the kernel adds the number of finite parameters that are infinite in an f16 copy

	ms, ns unsafe.Pointer // the scales of the first blocks of m and n, where these are mxfp8
}

// Streams that the set of formats does not mention are float32.
const (
	gradBF16   = 1 << iota
	gradF16    // not together with gradBF16
	paramBF16  // stored by stochastic rounding
	stateBF16  // m and n are rounded to nearest even, v and x stochastically
	outBF16    // a copy of float32 parameters
	outF16     // not together with outBF16
	outAround  // the copy is written around the caches, and begins at a multiple of 32 bytes
	stochastic // something is rounded stochastically: paramBF16, momentMX, or stateBF16 with an average of squares
	paramLow   // not together with paramBF16: parameters are split, and out has their upper halves, in bf16
	follow     // a float32 parameter that does not round to its copy takes the copy's value first
	momentMX   // m and n are mxfp8; stateBF16 is set, too, if there is an average of squares
)

// withStochastic adds stochastic to a set of formats if a form rounds stochastically with it.
func withStochastic(f form, formats uint32) uint32 {
	if formats&(paramBF16|momentMX) != 0 || formats&stateBF16 != 0 && forms[f].Has("v") {
		formats |= stochastic
	}
	return formats
}

// aroundAlign divides the address of a copy that is written around the caches.
const aroundAlign = 32

// mixedBlock divides the number of elements that a mixed kernel updates.
const mixedBlock = 32

// updateMixedGeneric is the reference, for any number of elements from the beginning of a block on. It widens, runs the float32 loop and
// rounds. Within a step nothing is rounded: x and the step use v as computed, not as stored.
func updateMixedGeneric(f form, b *mixed, n int) {
	const most = 256
	var wide [2 + maxSlots][most]float32
	s := streams[float32]{wide[0][:], wide[1][:], wide[2][:], wide[3][:], wide[4][:], wide[5][:]}
	grad, param, state := f32, f32, f32
	switch {
	case b.formats&gradBF16 != 0:
		grad = bf16
	case b.formats&gradF16 != 0:
		grad = f16
	}
	switch {
	case b.formats&paramBF16 != 0:
		param = bf16
	case b.formats&paramLow != 0:
		param = low16
	}
	if b.formats&stateBF16 != 0 {
		state = bf16
	}
	moment := state
	if b.formats&momentMX != 0 {
		moment = mxfp8
	}
	for lo := 0; lo < n; lo += most {
		k := min(most, n-lo)
		widen(s.g[:k], b.g, grad, lo)
		widenParams(s.p[:k], b, param, lo)
		widenMomentum(s.m[:k], b.m, b.ms, moment, lo)
		widenMomentum(s.n[:k], b.n, b.ns, moment, lo)
		widen(s.v[:k], b.v, state, lo)
		widen(s.x[:k], b.x, state, lo)
		updateGeneric(f, &b.c, &s, 0, k)
		for at := 0; at < k; at += drawBlock {
			var d dice
			if b.formats&stochastic != 0 {
				d = roll(b.counter+uint32(lo+at)/2*wordStep, b.key)
			}
			end := min(at+drawBlock, k)
			narrowBlock(b, d, param, moment, state, lo+at, &streams[float32]{p: s.p[at:end], m: s.m[at:end], v: s.v[at:end], x: s.x[at:end]})
		}
	}
}

// narrowBlock writes the results of a block, the elements from lo on.
func narrowBlock(b *mixed, d dice, param, moment, state format, lo int, s *streams[float32]) {
	nearest := func(_ int, x float32) uint16 { return narrowBF16(x) }
	ofAverages := d.next()
	ofParams := ofAverages.next()
	average := func(i int, x float32) uint16 { return narrowStochastic(x, uint32(ofAverages[i])) }
	if moment == mxfp8 {
		if b.m != nil {
			elements8(b.ms, lo/mxBlock, 1)[0] = d.narrowMX(elements8(b.m, lo, len(s.p)), s.m)
		}
	} else {
		narrow(b.m, moment, lo, s.m, nearest)
	}
	narrow(b.v, state, lo, s.v, average)
	narrow(b.x, state, lo, s.x, average)
	switch {
	case b.formats&paramLow != 0:
		copied := elements16(b.out, lo, len(s.p))
		narrow(b.p, param, lo, s.p, func(i int, x float32) (low uint16) {
			copied[i], low = splitBF16(x)
			return low
		})
	default:
		narrow(b.p, param, lo, s.p, func(i int, x float32) uint16 { return narrowStochastic(x, uint32(ofParams[i])) })
	}
	switch {
	case b.formats&outBF16 != 0:
		narrow(b.out, bf16, lo, s.p, nearest)
	case b.formats&outF16 != 0:
		narrow(b.out, f16, lo, s.p, func(_ int, x float32) uint16 {
			if overflowsF16(x) {
				b.overflows++
			}
			return narrowF16(x)
		})
	}
}

// widenMomentum reads a momentum from lo on, if there is one.
func widenMomentum(to []float32, at, scales unsafe.Pointer, f format, lo int) {
	if at != nil {
		Vector{at, scales, lo + len(to), layout{format: f}}.widen(to, lo)
	}
}

// widenParams reads parameters from lo on, and takes over what others wrote to their copy.
func widenParams(p []float32, b *mixed, param format, lo int) {
	if param == low16 {
		low := elements16(b.p, lo, len(p))
		for i, upper := range elements16(b.out, lo, len(p)) {
			p[i] = joinBF16(upper, low[i])
		}
		return
	}
	widen(p, b.p, param, lo)
	if b.formats&follow == 0 {
		return
	}
	round, widen := narrowBF16, widenBF16
	if b.formats&outF16 != 0 {
		round, widen = narrowF16, widenF16
	}
	for i, x := range elements16(b.out, lo, len(p)) {
		if x != round(p[i]) {
			p[i] = widen(x)
		}
	}
}

// widen reads elements from lo on, if there are any.
func widen(to []float32, at unsafe.Pointer, f format, lo int) {
	switch {
	case at == nil:
	case f == f32:
		copy(to, elements32(at, lo, len(to)))
	case f == bf16:
		for i, x := range elements16(at, lo, len(to)) {
			to[i] = widenBF16(x)
		}
	case f == f16:
		for i, x := range elements16(at, lo, len(to)) {
			to[i] = widenF16(x)
		}
	default:
		panic("pnm: " + f.String() + " is not widened")
	}
}

// narrow writes elements from lo on, if there are any: those of 16 bits by round.
func narrow(at unsafe.Pointer, f format, lo int, from []float32, round func(i int, x float32) uint16) {
	switch {
	case at == nil:
	case f == f32:
		copy(elements32(at, lo, len(from)), from)
	default:
		to := elements16(at, lo, len(from))
		for i, x := range from {
			to[i] = round(i, x)
		}
	}
}

func elements32(at unsafe.Pointer, lo, n int) []float32 {
	return unsafe.Slice((*float32)(at), lo+n)[lo:]
}
func elements16(at unsafe.Pointer, lo, n int) []uint16 { return unsafe.Slice((*uint16)(at), lo+n)[lo:] }
func elements8(at unsafe.Pointer, lo, n int) []uint8   { return unsafe.Slice((*uint8)(at), lo+n)[lo:] }
