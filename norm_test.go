package pnm

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// squaresOracle sums up the squares of a block as norm.go says: 32 lanes, folded by halves.
func squaresOracle[T Float](g []T) float64 {
	var sums [32]float64
	for i, x := range g {
		sums[i%32] = add(sums[i%32], mul(float64(x), float64(x)))
	}
	for n := 16; n > 0; n /= 2 {
		for i := range n {
			sums[i] = add(sums[i], sums[i+n])
		}
	}
	return sums[0]
}

// normOracle is the norm of gradients that are cut into blocks of 4096, whose sums are halved down to eight. It knows
// nothing of overflow.
func normOracle[T Float](grads ...[]T) float64 {
	var blocks []float64
	for _, g := range grads {
		for len(g) > 0 {
			n := min(len(g), 4096)
			blocks = append(blocks, squaresOracle(g[:n]))
			g = g[n:]
		}
	}
	var tree func(x []float64) float64
	tree = func(x []float64) float64 {
		if len(x) > 8 {
			return add(tree(x[:len(x)/2]), tree(x[len(x)/2:]))
		}
		sum := 0.0
		for _, s := range x {
			sum = add(sum, s)
		}
		return sum
	}
	return math.Sqrt(tree(blocks))
}

func testSquares[T Float](t *testing.T, rng *rand.Rand, place memory[T]) {
	t.Helper()
	for n := range 4*lanes + 1 {
		for _, far := range []bool{false, true} {
			g := place(n)
			copy(g, random[T](rng, n))
			if rng.IntN(2) == 0 { // specials would hide everything else
				for i := range g {
					g[i] = T(rng.NormFloat64())
				}
			}
			if got, want := sumSquares(vectorOf(g), 1, far), squaresOracle(g); !sameBits(got, want) {
				t.Fatalf("%d elements of %T: %x, want %x", n, *new(T), got, want)
			}
		}
	}
}

// Every tier sums up squares in the same order, for all lengths, at all alignments.
func TestSumSquares(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(31, 32))
		testSquares(t, rng, func(n int) []float32 { at := rng.IntN(16); return make([]float32, at+n)[at:] })
		testSquares(t, rng, func(n int) []float64 { at := rng.IntN(8); return make([]float64, at+n)[at:] })
	})
}

func testNorm[T Float](t *testing.T, rng *rand.Rand, pools []*Pool) {
	for range 20 {
		var grads [][]T
		exact := new(big.Float).SetPrec(400)
		for range rng.IntN(20) {
			g := make([]T, rng.IntN(1<<rng.IntN(16)))
			for i := range g {
				g[i] = T(rng.NormFloat64() * math.Exp(10*rng.NormFloat64()))
				x := new(big.Float).SetPrec(400).SetFloat64(float64(g[i]))
				exact.Add(exact, x.Mul(x, x))
			}
			grads = append(grads, g)
		}
		want := normOracle(grads...)
		for _, p := range pools {
			if got := GradNorm(p, Vectors(grads...)...); got != want {
				t.Fatalf("%d tensors of %T, %d workers: %x, want %x", len(grads), *new(T), p.Workers(), got, want)
			}
		}
		root, _ := exact.Sqrt(exact).Float64()
		wantClose(t, "norm", want, root, 1e-14)
	}
}

// The norm is the same for any number of workers, in every tier, and it is right.
func TestGradNorm(t *testing.T) {
	sharing(t)
	var pools []*Pool
	for _, n := range workerCounts() {
		pools = append(pools, newTestPool(t, n))
	}
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(33, 34))
		testNorm[float32](t, rng, pools)
		testNorm[float64](t, rng, pools)
	})
	if got := GradNorm(nil); got != 0 {
		t.Errorf("the norm of nothing is %g", got)
	}
}

// A norm is finite if the gradients are and it can be, and not if any of them is not.
func TestExtremeNorms(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, c := range []struct {
		g    []float64
		want float64
	}{
		{[]float64{3e200, -4e200}, 5e200},
		{[]float64{3e-150, 4e-150}, 5e-150},
		{[]float64{3e-160, 4e-160}, 5e-160},
		{[]float64{3e-300, -4e-300, 0}, 5e-300},
		{[]float64{0, 0}, 0},
		{[]float64{1e200, 1, nan}, nan},
		{[]float64{1, -inf}, inf},
		{[]float64{1e200, -inf}, inf},
	} {
		got := GradNorm(nil, Float64(c.g))
		if !sameBits(got, c.want) && !(math.Abs(got-c.want) <= 1e-14*c.want) {
			t.Errorf("the norm of %v is %g", c.g, got)
		}
	}
	x := float32(math.MaxFloat32)
	wantClose(t, "the norm of two float32", GradNorm(nil, Float32([]float32{x, x})), float64(x)*math.Sqrt2, 1e-15)

	// Clipping and skipping see it that way, too.
	r := NewPNM(1)
	for _, g := range [][]float64{{3e200, -4e200}, {math.MaxFloat64, math.MaxFloat64}} {
		p, state := make([]float64, 2), newState[float64](r, 2)
		report, err := updateSlicesWith(Options{ClipNorm: 5, SkipNonFinite: true}, r, 1, p, g, state)
		if err != nil || report.Skipped {
			t.Errorf("%v: %+v, %v", g, report, err)
		}
		wantClose(t, fmt.Sprintf("%v, clipped: the momentum's norm", g), math.Hypot(state[0][0], state[0][1]), 5*0.19, 1e-14)
	}
}

// bits16 returns n random elements of a format of 16 bits: specials, and numbers of every size.
func bits16(rng *rand.Rand, n int) []uint16 {
	special := []uint16{0, 0x8000, 1, 0x8001, 0x7f, 0x80, 0x3f80, 0x3c00, 0x3ff, 0x400, 0x7bff, 0x7c00, 0xfc00, 0x7c01, 0x7dff, 0x7e00, 0x7f7f, 0x7f80,
		0xff80, 0x7f81, 0x7fbf, 0x7fc0, 0x7fff, 0xffff}
	out := make([]uint16, n)
	for i := range out {
		if out[i] = uint16(rng.Uint32()); rng.IntN(4) == 0 {
			out[i] = special[rng.IntN(len(special))]
		}
	}
	return out
}

// Every tier adds the square of each element of 16 bits to the sum of its lane.
func TestSumSquares16Agree(t *testing.T) {
	perTier(t, func(t *testing.T) {
		if active == generic {
			return
		}
		rng := rand.New(rand.NewPCG(23, 24))
		for at := range lanes {
			for n := lanes; n <= 4*lanes; n += lanes {
				g := bits16(rng, at+n)[at:]
				for i := range g { // most are finite
					if rng.IntN(100) > 0 && g[i]&0x7c00 == 0x7c00 {
						g[i] &^= 0x4000
					}
				}
				for _, v := range []Vector{BF16(g), F16(g)} {
					got := [lanes]float64(lcg[float64](rng.Uint64(), lanes))
					want := got
					sumSquaresAssembly(&got, v, rng.IntN(2)*sumAhead)
					wide := make([]float32, n)
					widen(wide, v.at, v.format, 0)
					sumSquaresGeneric(&want, wide, 1)
					wantSame(t, fmt.Sprintf("%d elements of %s: sums", n, v.Format()), got[:], want[:])
				}
			}
		}
	})
}

// Halves of numbers have no norm; to say nothing would be to say 0.
func TestNoNormOfHalves(t *testing.T) {
	for _, n := range []int{0, 1, lanes} {
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); r != "pnm: gradient 1 is low16, which has no norm" {
					t.Errorf("%d elements: %s", n, r)
				}
			}()
			GradNorm(nil, newVector(f32, 5), newVector(low16, n))
		}()
	}
}
