package pnm

import "math"

// lanes is how many partial sums a sum of squares has: element i of a block is added to sum i mod lanes.
const lanes = 32

// blockLen is how many elements of a tensor are summed up on their own. Blocks are also what shards consist of, so that
// the sums do not depend on the shards.
const blockLen = 4 << 10

// sumSquaresGeneric is the reference: it adds the square of each element of g, in float64, to the sum of its lane.
func sumSquaresGeneric[T Float](sums *[lanes]float64, g []T) {
	for ; len(g) >= lanes; g = g[lanes:] {
		for i, x := range g[:lanes] {
			f := float64(x)
			sums[i] += float64(f * f)
		}
	}
	for i, x := range g {
		f := float64(x)
		sums[i] += float64(f * f)
	}
}

// sumSquares returns the sum of the squares of a block's elements, by a tree that is the same for every tier.
func sumSquares[T Float](g []T, ahead int) float64 {
	var sums [lanes]float64
	if whole := len(g) &^ (lanes - 1); whole > 0 && active != generic {
		sumSquaresAssembly(&sums, g[:whole], ahead)
		g = g[whole:]
	}
	sumSquaresGeneric(&sums, g)
	for half := lanes / 2; half > 0; half /= 2 {
		for i := range half {
			sums[i] += sums[i+half]
		}
	}
	return sums[0]
}

// sumTree adds up sums by halves.
func sumTree(sums []float64) float64 {
	if len(sums) <= 8 {
		total := 0.0
		for _, s := range sums {
			total += s
		}
		return total
	}
	half := len(sums) / 2
	return sumTree(sums[:half]) + sumTree(sums[half:])
}

// A norm is the Euclidean norm of the gradients of a step, as root·scale: the product may overflow where the gradients do
// not.
type norm struct {
	root, scale float64
	finite      bool // so is every gradient
}

func (n norm) value() float64 { return n.root * n.scale }

// factor returns what the gradients are to be multiplied by, so that their norm is at most limit.
func (n norm) factor(limit float64) float64 {
	if n.value() <= limit {
		return 1
	}
	return limit / n.scale / n.root
}

// tiny brings any float64 to where its square is finite.
const tiny = 0x1p-540

// normOf returns the norm of gradients, given the sum of their squares.
func (b *batch[T]) normOf(sum float64) norm {
	n := norm{math.Sqrt(sum), 1, sum-sum == 0}
	if _, wide := any(*new(T)).(float64); n.finite || !wide {
		return n // the square of a finite float32 is far from float64's limit
	}
	// Rarely: the squares of finite gradients may have overflowed.
	scaled := 0.0
	for i := range b.tensors {
		for _, x := range b.tensors[i].g {
			if x-x != 0 {
				return n
			}
			y := float64(x) * tiny
			scaled += float64(y * y)
		}
	}
	return norm{math.Sqrt(scaled), 1 / tiny, true}
}

// GradNorm returns the Euclidean norm of all elements of the gradients together, summed up in float64. It is the same, bit
// for bit, for any number of workers and on every machine; +Inf or NaN if a gradient has an infinity or a NaN. A nil pool
// stands for the default one.
//
// Steps compute it by themselves where [Options] ask for it. This is for callers that need it apart, such as those that
// own a part of the gradients and add up the squares of the norms of all parts.
func GradNorm[T Float](pool *Pool, grads ...[]T) float64 {
	b := takeBatch[T]()
	defer b.putBack()
	for _, g := range grads {
		b.tensors = append(b.tensors, tensor[T]{buffers: buffers[T]{g: g}})
	}
	b.plan(gradOnly)
	return b.gradNorm(pool).value()
}
