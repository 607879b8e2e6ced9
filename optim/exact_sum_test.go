package optim

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// Sums are those of arbitrary precision, rounded once, in any order: of numbers of all exponents, of numbers that cancel, and of ties.
func TestExactSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	var room exactSum
	check := func(x []float64) {
		t.Helper()
		exact := new(big.Float).SetPrec(4000)
		for _, v := range x {
			exact.Add(exact, big.NewFloat(v))
		}
		want, _ := exact.Float64()
		for range 3 {
			if got := room.of(len(x), func(i int) float64 { return x[i] }); got != want {
				t.Fatalf("the sum of %x is %x, want %x", x, got, want)
			}
			rng.Shuffle(len(x), func(i, j int) { x[i], x[j] = x[j], x[i] })
		}
	}
	tie := []float64{1, 0x1p-53, 0x1p-106, -0x1p-106}
	for n := range tie {
		check(slices.Clone(tie[:n+1]))
		check([]float64{-1, -0x1p-53, tie[n] * 0x1p-60})
		check([]float64{1 + 0x1p-52, 0x1p-53, tie[n] * 0x1p-500, -0x1p-600})
	}
	check(nil)
	check([]float64{math.MaxFloat64, math.MaxFloat64, -math.MaxFloat64})
	check([]float64{math.MaxFloat64, math.MaxFloat64})
	check([]float64{-math.MaxFloat64, -0x1p970})
	check([]float64{math.SmallestNonzeroFloat64, 1, -1})
	for run := range 3000 {
		x := make([]float64, 1+rng.IntN(40))
		for i := range x {
			x[i] = math.Ldexp(rng.Float64()-0.5, rng.IntN(1+run%1000*2)-run%1000)
			if i > 0 && rng.IntN(3) == 0 {
				x[i] = -x[rng.IntN(i)]
			}
		}
		check(x)
	}
}

func TestExactSumOfSpecialNumbers(t *testing.T) {
	inf, nan, huge := math.Inf(1), math.NaN(), math.MaxFloat64
	for _, c := range []struct {
		x    []float64
		want float64
	}{
		{[]float64{1, inf, 2}, inf}, {[]float64{-inf, -inf}, -inf}, {[]float64{inf, 1, -inf}, nan}, {[]float64{1, nan}, nan},
		{[]float64{huge, huge, -inf}, -inf}, {[]float64{-inf, huge, huge}, -inf}, {[]float64{huge, nan, huge}, nan},
	} {
		var s exactSum
		got := s.of(len(c.x), func(i int) float64 { return c.x[i] })
		if got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("the sum of %v is %v, want %v", c.x, got, c.want)
		}
	}
}
