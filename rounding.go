package pnm

// A Rounding selects the random numbers of stochastic rounding, by which bf16 parameters and averages of squares are stored. The
// number of element i at step t is a function of Seed, Tensor, t and First+i: the same wherever, whenever and by whomever the element
// is updated. Other seeds, tensors, steps and elements draw other numbers.
type Rounding struct {
	Seed   uint64 // of the run
	Tensor uint64 // tells the tensors of a run apart
	First  uint64 // which element of the whole tensor the first one here is; for who owns a part of it
}

// draws returns the counter of the element first of the whole tensor, and the key. Elements behind it have the counters that
// follow, as long as their numbers have the same upper 32 bits.
func (r *Rounding) draws(step int, first uint64) (counter, key uint32) {
	h := scramble(scramble(scramble(scramble(r.Seed)+r.Tensor)+uint64(step)) + first>>32)
	return uint32(h) + uint32(first), uint32(h >> 32)
}

// scramble is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), of the next state.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// draw returns the 32 random bits of a counter. State takes the lower half of them, a parameter the upper half. An average of
// squares and the largest so far take the same, so that one which is not above the other is not after rounding, either.
//
// It is the hash “lowbias32” (Wellons, Prospecting for Hash Functions) with a key between its halves: the counters of two steps
// that happen to run through the same numbers draw different bits.
func draw(counter, key uint32) uint32 {
	x := counter
	x = (x ^ x>>16) * 0x7feb352d
	x ^= key
	x = (x ^ x>>15) * 0x846ca68b
	return x ^ x>>16
}
