package pnm

// A Rounding selects the random numbers of stochastic rounding, which stores parameters and averages of squares in bf16 and momenta in
// mxfp8. The random number of element i at step t is a function of Seed, Tensor, t and First+i alone: it does not depend on where, when or
// by which worker the element is updated. Different seeds, tensors, steps and elements draw different numbers.
type Rounding struct {
	Seed   uint64 // of the run
	Tensor uint64 // a number that differs for each tensor of a run
	First  uint64 // for a part of a tensor, the index of its first element in the whole; with mxfp8, the beginning of a row or a block
}

// draws returns the counter of the first word of a block, and the key; index is that of the block's first element, a multiple of 32.
// Each following word has a counter that is greater by wordStep, as long as the words' numbers have the same upper 32 bits.
func (r *Rounding) draws(step int, index uint64) (counter, key uint32) {
	word := index / 2
	h := scramble(scramble(scramble(scramble(r.Seed)+r.Tensor)+uint64(step)) + word>>32)
	return uint32(h) + uint32(word)*wordStep, uint32(h >> 32)
}

// scramble is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), of the next state.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// drawBlock is the number of elements that share words: element i of a block has the lower half of word i, or the upper half of word i−16.
const drawBlock = 32

// A dice has the random numbers of a block, 16 bits for each element. Momenta in mxfp8 use them as they are. Averages of squares and
// their maximum both use the products with slotFactor modulo 2¹⁶: with the same number, rounding keeps the order of the two.
// Parameters in bf16 use the products with the square of slotFactor.
type dice [drawBlock]uint16

// slotFactor is odd. The pairs of each 16-bit number and its product with slotFactor, or with its square, fill the square of all pairs
// about as evenly as independent numbers: they form a lattice whose shortest vector is at least 265 long, of at most 275.
const slotFactor = 0x4f13

// roll draws the numbers of a block.
func roll(counter, key uint32) (d dice) {
	for i := range uint32(drawBlock / 2) {
		x := draw(counter+i*wordStep, key)
		d[i], d[i+drawBlock/2] = uint16(x), uint16(x>>16)
	}
	return d
}

// next returns the numbers for the next kind of vector.
func (d dice) next() dice {
	for i := range d {
		d[i] *= slotFactor
	}
	return d
}

// narrowMX packs a block of at most 32 momenta by stochastic rounding, and returns its scale. An element uses 13 bits of its own number
// and seven bits of another, that in 16-bit lane i of the words in memory order: kernels then need no shuffle.
func (d dice) narrowMX(to []uint8, from []float32) (scale uint8) {
	scale = scaleMX(from)
	for i, x := range from {
		low := d[i] & 0x1fff
		if i >= drawBlock/2 {
			low = d[i] >> 3
		}
		high := d[i/2+i%2*drawBlock/2] & 0x7f
		to[i] = narrowMX(x, scale, low, high)
	}
	return scale
}

// wordStep is 2³² divided by the golden ratio: with small counters, one multiplication of draw would have no effect.
const wordStep = 0x9e3779b9

// draw returns the word of a counter.
//
// It is a finalizer like that of MurmurHash3, with the factors of Wellons, Prospecting for Hash Functions, and the shifts that passed the
// most tests: docs/precision.md. The key comes first: otherwise steps that use the same counters would draw related bits.
func draw(counter, key uint32) uint32 {
	x := counter ^ key
	x = (x ^ x>>13) * 0x7feb352d
	x = (x ^ x>>16) * 0x846ca68b
	return x ^ x>>15
}
