package pnm

import (
	"fmt"
	"math"
)

// lanes is how many partial sums a sum of squares has: element i of a block is added to sum i mod lanes.
const lanes = 32

// blockLen is how many elements of a tensor are summed up on their own. Blocks are also what shards consist of, so that
// the sums do not depend on the shards.
const blockLen = 4 << 10

// sumAhead is how far in front of its loads a sum of squares prefetches what comes from memory, in bytes: processors follow a single
// stream too closely. See docs/performance.md for what was measured.
const sumAhead = 8 << 10

// sumSquaresGeneric is the reference: it adds the square of each element of g, in float64 and multiplied by scale first, to the
// sum of its lane. Assembly knows no scale but 1.
func sumSquaresGeneric[T Float](sums *[lanes]float64, g []T, scale float64) {
	for len(g) > 0 {
		n := min(lanes, len(g))
		for i, x := range g[:n] {
			f := float64(x) * scale
			sums[i] += float64(f * f)
		}
		g = g[n:]
	}
}

// sumSquares returns the sum of the squares of a block's elements, each multiplied by scale first, by a tree that is the same
// for every tier. far tells that they come from memory.
func sumSquares(g Vector, scale float64, far bool) float64 {
	var sums [lanes]float64
	ahead := 0
	if far {
		ahead = sumAhead
	}
	if whole := g.n &^ (lanes - 1); whole > 0 && scale == 1 && active != generic {
		sumSquaresAssembly(&sums, g.cut(0, whole), ahead)
		g = g.cut(whole, g.n)
	}
	switch g.format {
	case f32:
		sumSquaresGeneric(&sums, sliceOf[float32](g), scale)
	case f64:
		sumSquaresGeneric(&sums, sliceOf[float64](g), scale)
	default:
		var wide [lanes]float32
		for lo := 0; lo < g.n; lo += lanes {
			part := wide[:min(lanes, g.n-lo)]
			widen(part, g.at, g.format, lo)
			sumSquaresGeneric(&sums, part, scale)
		}
	}
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

// A norm is the Euclidean norm of the gradients of a step, as root·scale: the product may overflow where no gradient does.
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

// gradNorm returns the norm of the gradients.
func (b *batch) gradNorm(p *Pool) norm {
	b.far = isFar(b.bytes())
	blocks := b.blocks[len(b.tensors)]
	if cap(b.sums) < blocks {
		b.sums = make([]float64, blocks)
	}
	b.sums = b.sums[:blocks]
	scale := 1.0
	sum := b.sumSquares(p, scale)
	// The squares of float32, bf16 and f16 are normal numbers of float64. Those of float64 need not be, but rarely are not: then the
	// gradients are brought, by a power of two, to where their squares are.
	if b.wide {
		switch {
		case math.IsInf(sum, 1): // a NaN is one
			scale = 0x1p-540
		case sum < 0x1p-900:
			scale = 0x1p900
		}
		if scale != 1 {
			sum = b.sumSquares(p, scale)
		}
	}
	return norm{math.Sqrt(sum), 1 / scale, sum-sum == 0}
}

// sumSquares returns the sum of the squares of all gradients, each multiplied by scale first.
func (b *batch) sumSquares(p *Pool, scale float64) float64 {
	b.scale = scale
	b.do(p, summing, b.grads)
	return sumTree(b.sums)
}

// GradNorm returns the Euclidean norm of all elements of the gradients together, summed up in float64. It is the same, bit
// for bit, for any number of workers and on every machine, but its last bits depend on how the elements are cut into gradients
// and on the order of these. It is +Inf or NaN if a gradient has an infinity or a NaN, and +Inf also
// where the norm of finite float64 is too large for one. A nil pool stands for the default one.
//
// A gradient cannot be low16 or mxfp8: GradNorm panics.
//
// Steps compute it by themselves where [Options] ask for it. This is for callers that need it apart, such as those that
// own a part of the gradients and add up the squares of the norms of all parts.
func GradNorm(pool *Pool, grads ...Vector) float64 {
	l := takeList()
	defer l.putBack()
	b := &l.batch
	defer b.held.Take().Release()
	for i, g := range grads {
		if g.format == low16 || g.format == mxfp8 {
			panic(fmt.Sprintf("pnm: gradient %d is %s, which has no norm", i, g.format))
		}
		b.tensors = append(b.tensors, tensor{g: g})
	}
	b.plan(gradOnly)
	return b.gradNorm(pool).value()
}
