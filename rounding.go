package pnm

// A Rounding selects the random numbers of stochastic rounding, by which bf16 parameters, averages of squares and mxfp8 momenta are stored.
// The number of element i at step t is a function of Seed, Tensor, t and First+i: the same wherever, whenever and by whomever the element
// is updated. Other seeds, tensors, steps and elements draw other numbers.
type Rounding struct {
	Seed   uint64 // of the run
	Tensor uint64 // tells the tensors of a run apart
	First  uint64 // which element of the whole tensor the first one here is; for who owns a part of it. Of mxfp8, a row or a block begins there
}

// draws returns the counter of the first word of a block, and the key; index is that of the block's first element, a multiple of 32.
// Words behind it have counters that are wordStep more each, as long as their numbers have the same upper 32 bits.
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

// A dice has the random numbers of a block, 16 bits for each element: mxfp8 momenta take them as they are; averages of squares, and the
// largest so far, take their products with a factor modulo 2¹⁶, both the same, so that one which is not above the other is not after
// rounding, either; and bf16 parameters take those with the factor's square.
type dice [drawBlock]uint16

// slotFactor is odd. Of all 2¹⁶ numbers and their products with it, or with its square, the pairs fill a square evenly, as independent
// numbers do: each is a lattice whose shortest vector is 265 or longer, of at most 275.
const slotFactor = 0x4f13

// roll draws the numbers of a block.
func roll(counter, key uint32) (d dice) {
	for i := range uint32(drawBlock / 2) {
		x := draw(counter+i*wordStep, key)
		d[i], d[i+drawBlock/2] = uint16(x), uint16(x>>16)
	}
	return d
}

// next are the numbers of the next slot.
func (d dice) next() dice {
	for i := range d {
		d[i] *= slotFactor
	}
	return d
}

// narrowMX packs a block of at most 32 momenta by stochastic rounding, and returns its scale. An element has 13 bits of its own number, and
// seven of another: those of lane i, where the halves of words are lanes of 16 bits in a row. So kernels have them without moving any.
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

// wordStep is 2³² over the golden ratio: counters that are small numbers would leave one product of draw without effect.
const wordStep = 0x9e3779b9

// draw returns the word of a counter.
//
// It is a finalizer like that of MurmurHash3, with factors of Wellons, Prospecting for Hash Functions, and shifts that passed more tests
// than others did: docs/precision.md. The key comes first, or steps that run through the same counters would draw related bits.
func draw(counter, key uint32) uint32 {
	x := counter ^ key
	x = (x ^ x>>13) * 0x7feb352d
	x = (x ^ x>>16) * 0x846ca68b
	return x ^ x>>15
}
