package pnm

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// normOf is the norm of gradients, by themselves.
func normOf(p *Pool, grads ...Vector) float64 {
	s := SumSquares(p, grads...)
	return s.Norm()
}

// normOracle is the norm as norm.go defines it.
func normOracle[T Float](grads ...[]T) float64 {
	largest, infinite := 0.0, false
	for _, g := range slices.Concat(grads...) {
		if g != g {
			return math.NaN()
		}
		infinite = infinite || math.IsInf(float64(g), 0)
		largest = max(largest, math.Abs(float64(g)))
	}
	switch {
	case infinite:
		return math.Inf(1)
	case largest == 0:
		return 0
	}
	_, e := math.Frexp(largest) // largest is in [½, 1)·2^e
	j := int(math.Ceil(float64(e-1-24) / 26))
	sum := new(big.Int)
	for _, g := range slices.Concat(grads...) {
		x := new(big.Float).SetPrec(53).SetFloat64(float64(g)) // which bounds neither its exponent nor that of the square
		sum.Add(sum, toEven(x.Mul(x, x).SetMantExp(x, -52*(j-1))))
	}
	total, _ := new(big.Float).SetPrec(53).SetInt(sum).Float64()
	return math.Ldexp(math.Sqrt(total), 26*(j-1))
}

// toEven rounds a positive number to an integer.
func toEven(x *big.Float) *big.Int {
	n, _ := x.Int(nil)
	rest := new(big.Float).Sub(x, new(big.Float).SetInt(n))
	if c := rest.Cmp(big.NewFloat(0.5)); c > 0 || c == 0 && n.Bit(0) == 1 {
		n.Add(n, big.NewInt(1))
	}
	return n
}

// spread returns numbers of all magnitudes within so many octaves of the largest, with ties among their squares.
func spread[T Float](rng *rand.Rand, n int, largest float64, octaves int) []T {
	g := make([]T, n)
	for i := range g {
		x := math.Ldexp(rng.NormFloat64(), -rng.IntN(octaves+1))
		if rng.IntN(4) == 0 { // the square has few bits, and may be a tie of any grid
			x = math.Ldexp(float64(1+2*rng.IntN(4)), -rng.IntN(octaves+1))
		}
		if g[i] = T(x * largest); math.IsInf(float64(g[i]), 0) {
			g[i] = T(largest)
		}
	}
	return g
}

// magnitudes has a number of each binade of a type.
func magnitudes[T Float]() (all []float64) {
	for x := math.MaxFloat64; x > 0; x /= 2 {
		if y := float64(T(x)); y > 0 && y-y == 0 {
			all = append(all, y)
		}
	}
	return all
}

func testNormOracle[T Float](t *testing.T, rng *rand.Rand) {
	for _, largest := range magnitudes[T]() {
		for _, octaves := range []int{0, 30, 60} {
			g := spread[T](rng, rng.IntN(60), largest, octaves)
			if got, want := normOf(nil, vectorOf(g)), normOracle(g); got != want {
				t.Fatalf("the norm of %x is %x, want %x", g, got, want)
			}
		}
	}
}

// The norm is what its definition says, in every window, for all kinds of numbers.
func TestNormOracle(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(33, 34))
		testNormOracle[float32](t, rng)
		testNormOracle[float64](t, rng)
		for _, n := range []int{1, sumLen, sumLen + 1, 3*blockLen + 1} {
			g := spread[float32](rng, n, 1e3, 60)
			if got, want := normOf(nil, Float32(g)), normOracle(g); got != want {
				t.Fatalf("the norm of %d elements is %x, want %x", n, got, want)
			}
		}
	})
	if got := normOf(nil); got != 0 {
		t.Errorf("the norm of nothing is %g", got)
	}
}

// No block overflows a sum, though all that it has are the largest squares of the window, or ties in its lower bin.
func TestNormOfEqualNumbers(t *testing.T) {
	perTier(t, func(t *testing.T) {
		for _, n := range []int{sumLen, 2*sumLen + 5} {
			for _, x := range []float64{0x1p-1, 0x1.8p-1, math.Sqrt2 / 2, math.Sqrt(1.5), 0x1p-27, math.Nextafter(0x1p25, 0), 0x1.fffffep24, 0x1.fffffep-2} {
				g := append(slices.Repeat([]float64{x}, n), 0x1p24)
				if got, want := normOf(nil, Float64(g)), normOracle(g); got != want {
					t.Errorf("the norm of %d times %x is %x, want %x", n, x, got, want)
				}
				narrow := append(slices.Repeat([]float32{float32(x)}, n), 0x1p-2)
				if got, want := normOf(nil, Float32(narrow)), normOracle(narrow); got != want {
					t.Errorf("the norm of %d times %x is %x, want %x", n, narrow[0], got, want)
				}
			}
		}
	})
}

// cutUp cuts gradients into others, at random, changes their order, and widens some of those with 16 bits.
func cutUp(rng *rand.Rand, grads []Vector) (all []Vector) {
	for _, g := range grads {
		for g.n > 0 {
			n := min(1+rng.IntN(1<<rng.IntN(14)), g.n)
			part := g.Slice(0, n)
			if g.size() == 2 && rng.IntN(2) == 0 {
				part = Float32(part.wide())
			}
			if g.format != f64 && rng.IntN(4) == 0 {
				wide := make([]float64, n)
				for i, x := range part.wide() {
					wide[i] = float64(x)
				}
				part = Float64(wide)
			}
			all, g = append(all, part), g.Slice(n, g.n)
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// someGrads returns gradients of all formats; few are not finite.
func someGrads(rng *rand.Rand) (all []Vector) {
	for range rng.IntN(8) {
		n := rng.IntN(1 << rng.IntN(15))
		scale := math.Ldexp(1, rng.IntN(200)-100)
		switch rng.IntN(4) {
		case 0:
			all = append(all, Float32(spread[float32](rng, n, scale, 80)))
		case 1:
			all = append(all, Float64(spread[float64](rng, n, math.Pow(scale, float64(rng.IntN(10))), 80)))
		case 2:
			all = append(all, newVector(bf16, n))
			convert(all[len(all)-1], Float32(spread[float32](rng, n, scale, 80)))
		case 3:
			all = append(all, newVector(f16, n))
			convert(all[len(all)-1], Float32(spread[float32](rng, n, 100, 40)))
		}
	}
	if n := len(all); n > 0 && all[n-1].n > 0 && rng.IntN(8) == 0 {
		v := all[n-1].Slice(0, 1)
		if bad := []float64{math.NaN(), math.Inf(1), math.Inf(-1)}[rng.IntN(3)]; v.format == f64 {
			v.Float64()[0] = bad
		} else {
			convert(v, Float32([]float32{float32(bad)}))
		}
	}
	return all
}

// However numbers are cut, ordered, converted, added up in groups and shared among workers: their norm has the same bits.
func TestNormDependsOnNumbersAlone(t *testing.T) {
	sharing(t)
	var pools []*Pool
	for _, n := range workerCounts() {
		pools = append(pools, newTestPool(t, n))
	}
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(35, 36))
		for range 60 {
			grads := someGrads(rng)
			words := SumSquares(nil, grads...)
			want := words.Norm()
			for _, p := range pools {
				if got := SumSquares(p, cutUp(rng, grads)...); got != words {
					t.Fatalf("%d workers: other squares", p.Workers())
				}
			}
			all := cutUp(rng, grads)
			var groups []Squares // in a tree of any form
			for len(all) > 0 {
				n := 1 + rng.IntN(len(all))
				groups, all = append(groups, SumSquares(nil, all[:n]...)), all[n:]
			}
			for len(groups) > 1 {
				i := rng.IntN(len(groups) - 1)
				groups[i].Add(&groups[len(groups)-1])
				groups = groups[:len(groups)-1]
			}
			if len(groups) > 0 && !sameBits(groups[0].Norm(), want) {
				t.Fatalf("the norm is %x in groups, want %x", groups[0].Norm(), want)
			}
		}
	})
}

// Many squares may be added up: no word overflows.
func TestManySquares(t *testing.T) {
	const n = 1 << 20
	one := SumSquares(nil, Float32([]float32{math.Nextafter32(0x1p25, 0), 0x1p-1}))
	many := one
	for i := range many {
		many[i] *= n
	}
	if got, want := many.Norm(), one.Norm()*1024; got != want {
		t.Errorf("the norm is %x, want %x", got, want)
	}
}

// Any numbers, in two parts or in one, have the norm that its definition says.
func FuzzNorm(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x3f\x00\x00\x80\x4b\x01\x00\x00\x00\xff\xff\x7f\x7f"), uint16(1))
	f.Add(littleEndian(nil, spread[float64](rand.New(rand.NewPCG(1, 2)), 70, 1e-300, 60)), uint16(40))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		g, h := make([]float32, len(data)/4), make([]float64, len(data)/8)
		for i := range g {
			g[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		for i := range h {
			h[i] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
		}
		for _, tier := range tiers() {
			useTier(t, tier)
			i, j := int(cut)%(len(g)+1), int(cut)%(len(h)+1)
			if got, want := normOf(nil, Float32(g[:i]), Float32(g[i:])), normOracle(g); !sameBits(got, want) {
				t.Errorf("%s: the norm of %x is %x, want %x", tier, g, got, want)
			}
			if got, want := normOf(nil, Float64(h[j:]), Float64(h[:j])), normOracle(h); !sameBits(got, want) {
				t.Errorf("%s: the norm of %x is %x, want %x", tier, h, got, want)
			}
		}
	})
}

// Words that no sum has give some number.
func FuzzSquares(f *testing.F) {
	f.Add(uint16(0), int64(1), uint16(1), int64(-1), uint16(2), int64(math.MinInt64), uint16(3), int64(math.MaxInt64))
	f.Add(uint16(328), int64(-1), uint16(331), int64(math.MaxInt64), uint16(327), int64(math.MaxInt64), uint16(329), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, i uint16, a int64, j uint16, b int64, k uint16, c int64, l uint16, d int64) {
		var s, sum Squares
		for m, x := range map[uint16]int64{i: a, j: b, k: c, l: d} {
			s[int(m)%len(s)] = x
		}
		sum.Add(&s)
		if !sameBits(s.Norm(), sum.Norm()) {
			t.Errorf("%x and %x", s.Norm(), sum.Norm())
		}
		p, state := []float32{1}, newState[float32](NewPNM(1), 1)
		_, err := updateSlicesWith(Options{ClipNorm: 1, SkipNonFinite: true, Squares: &s}, NewPNM(1), 1, p, []float32{1}, state)
		wantNoError(t, err)
	})
}

// fillSquares sets a vector to numbers of which most can be summed up in one window, and returns it.
func fillSquares(rng *rand.Rand, g Vector) (top int) {
	most := map[format]int{f32: 127, f64: 480, bf16: 127, f16: 15}[g.format]
	largest := math.Ldexp(1, rng.IntN(2*most)-most)
	if g.format == f64 {
		copy(g.Float64(), spread[float64](rng, g.n, largest, 60))
	} else {
		convert(g, Float32(spread[float32](rng, g.n, largest, 60)))
	}
	bits := referenceSum(g, leastPlain).largest
	if g.n > 0 && rng.IntN(8) == 0 {
		v := newVector(g.format, g.n)
		v.fill(rng)
		copy(g.Bytes(), v.Bytes())
	}
	if bits == 0 || bits >= infinite || rng.IntN(8) == 0 {
		return leastPlain + rng.IntN(mostPlain-leastPlain+1)
	}
	return min(max(windowFor(bits), leastPlain)+rng.IntN(2), mostPlain)
}

func referenceSum(g Vector, top int) (sum blockSum) {
	w := windowOf(top)
	sumSquaresReference(&sum, g, &w)
	return sum
}

// windowOrClass is the window of numbers, or tells that they are 0 or not finite.
func windowOrClass(largest uint64) int {
	switch {
	case largest > infinite:
		return -3
	case largest == infinite:
		return -2
	case largest == 0:
		return -1
	}
	return windowFor(largest)
}

// testSquares compares sums in the active tier with the reference, for all lengths, from caches and from memory.
func testSquares(t *testing.T, rng *rand.Rand, place func(n int) Vector) {
	t.Helper()
	compared := 0
	for n := range 4*lanes + 2 {
		g := place(n)
		top := fillSquares(rng, g)
		got, want := sumSquares(g, top, rng.IntN(2)*sumAhead), referenceSum(g, top)
		needs := windowOrClass(want.largest)
		fits := -1 <= needs && needs <= top // else it is thrown away
		if windowOrClass(got.largest) != needs || fits && (got.t0 != want.t0 || got.t1 != want.t1) {
			t.Fatalf("%d elements of %s in window %d: %x, want %x", n, g.Format(), top, got, want)
		}
		if fits && (want.t0 != 0 || want.t1 != 0) {
			compared++
		}
	}
	if compared < lanes {
		t.Errorf("only %d sums were compared", compared)
	}
}

// Every tier sums up squares as the reference does, at all alignments.
func TestSumSquares(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(31, 32))
		for _, f := range []format{f32, f64, bf16, f16} {
			for at := range 64 / f.size() {
				testSquares(t, rng, func(n int) Vector { return newVector(f, at+n).cut(at, at+n) })
			}
			g := newVector(f, sumLen)
			for i := range sumLen { // nothing but the largest number of a window, or nearly
				if f == f64 {
					g.Float64()[i] = math.Nextafter(0x1p-1, 0)
				} else {
					convert(g.cut(i, i+1), Float32([]float32{0x1.fep-2}))
				}
			}
			top := windowFor(referenceSum(g, leastPlain).largest)
			if got, want := sumSquares(g, top, 0), referenceSum(g, top); got.t0 != want.t0 || got.t1 != want.t1 {
				t.Errorf("a block of %s: %x, want %x", f, got, want)
			}
		}
	})
}

// A norm is finite if the gradients are and it can be, and not if any of them is not.
func TestExtremeNorms(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, c := range []struct {
		g    []float64
		want float64
	}{
		{[]float64{0x3p900, -0x4p900}, 0x5p900},
		{[]float64{0x3p-500, 0x4p-500}, 0x5p-500},
		{[]float64{0x3p-600, 0x4p-600}, 0x5p-600},
		{[]float64{0x3p-1074, -0x4p-1074, 0}, 0x5p-1074},
		{[]float64{math.SmallestNonzeroFloat64}, math.SmallestNonzeroFloat64},
		{[]float64{math.MaxFloat64}, math.MaxFloat64},
		{[]float64{math.MaxFloat64, math.MaxFloat64}, inf},
		{[]float64{0, math.Copysign(0, -1)}, 0},
		{[]float64{inf, nan}, nan},
		{[]float64{1e200, 1, nan}, nan},
		{[]float64{1, -inf}, inf},
		{[]float64{1e200, -inf}, inf},
	} {
		got := normOf(nil, Float64(c.g))
		if !sameBits(got, c.want) {
			t.Errorf("the norm of %v is %g", c.g, got)
		}
	}
	x := float32(math.MaxFloat32)
	wantClose(t, "the norm of two float32", normOf(nil, Float32([]float32{x, x})), float64(x)*math.Sqrt2, 1e-15)

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

// Sums of squares allocate nothing.
func TestSumSquaresAllocates(t *testing.T) {
	g := []Vector{Float32(lcg[float32](1, 3*blockLen)), Float64(lcg[float64](2, 100))}
	var all Squares
	if n := testing.AllocsPerRun(20, func() {
		s := SumSquares(nil, g...)
		all.Add(&s)
		all.Norm()
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// Halves of numbers have no norm; to say nothing would be to say 0.
func TestNoNormOfHalves(t *testing.T) {
	for _, n := range []int{0, 1, lanes} {
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); r != "pnm: gradient 1 is low16, which has no squares" {
					t.Errorf("%d elements: %s", n, r)
				}
			}()
			SumSquares(nil, newVector(f32, 5), newVector(low16, n))
		}()
	}
}
