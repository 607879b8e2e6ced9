package pnm

import (
	"math"
	"math/bits"
	"testing"
)

// Over all random numbers, a float32 is rounded up as often as the bits that are cut off say: the mean is exact.
func TestStochasticRoundingIsUnbiased(t *testing.T) {
	for _, x := range []float32{1.001, -3.14159, 1e-40, -2e-39, 255.49998, math.MaxFloat32 / 1.1, 0, float32(math.Copysign(0, -1)), 1} {
		sum := 0.0
		for r := range uint32(1 << 16) {
			sum += float64(widenBF16(narrowStochastic(x, r))) // of two neighbours: exact
		}
		if mean := sum / (1 << 16); mean != float64(x) {
			t.Errorf("the mean of %g is %g", x, mean)
		}
	}
	inf, nan := float32(math.Inf(-1)), float32(math.NaN())
	for _, r := range []uint32{0, 1, 0x8000, 0xffff} {
		if got := widenBF16(narrowStochastic(inf, r)); got != inf {
			t.Errorf("−∞ is rounded to %g", got)
		}
		for _, x := range []float32{nan, math.Float32frombits(0x7fffffff), math.Float32frombits(0xff800001)} {
			if got := widenBF16(narrowStochastic(x, r)); got == got {
				t.Errorf("NaN is rounded to %g", got)
			}
		}
	}
}

// A statistic is a sum of n independent numbers of mean 0 and variance 1; it must be within five standard deviations.
func wantSmall(t *testing.T, what string, sum float64, n int) {
	t.Helper()
	if z := sum / math.Sqrt(float64(n)); math.Abs(z) > 5 {
		t.Errorf("%s: %.1f standard deviations", what, z)
	}
}

// The halves of the numbers drawn are uniform, bit by bit and in 256 classes, and are correlated neither with each other nor
// with those of the neighbouring elements, the neighbouring steps, tensors and seeds.
func TestDraw(t *testing.T) {
	const n = 1 << 18
	unit := func(x uint32) float64 { return (float64(x&0xffff) - 32767.5) * math.Sqrt(12) / 65536 }
	base := Rounding{Seed: 1, Tensor: 3}
	all := []Rounding{base, {Seed: 2, Tensor: 3}, {Seed: 1, Tensor: 4}, {Seed: 1 << 40, Tensor: 1 << 50}}
	for step := 1; step <= 3; step++ {
		for _, r := range all {
			start, key := r.draws(step, 0)
			var others [][2]uint32
			for _, o := range all {
				for s := step; s <= step+1; s++ {
					if o != r || s != step {
						a, b := o.draws(s, 0)
						others = append(others, [2]uint32{a, b})
					}
				}
			}
			a, b := r.draws(step, 1<<32)
			others = append(others, [2]uint32{a, b})
			var low, high, halves float64
			var ones [32]float64
			var classes [2][256]float64
			next, other := make([]float64, 20), make([]float64, len(others))
			for i := range uint32(n) {
				x := draw(start+i, key)
				l := unit(x)
				low += l
				high += unit(x >> 16)
				halves += l * unit(x>>16)
				for k := range ones {
					ones[k] += 2*float64(x>>k&1) - 1
				}
				classes[0][x>>8&0xff]++
				classes[1][x>>24]++
				for k := range next {
					next[k] += l * unit(draw(start+i+uint32(k)+1, key))
				}
				for k, o := range others {
					other[k] += l * unit(draw(o[0]+i, o[1]))
				}
			}
			wantSmall(t, "mean of the lower half", low, n)
			wantSmall(t, "mean of the upper half", high, n)
			wantSmall(t, "the halves", halves, n)
			for k := range ones {
				wantSmall(t, "a bit", ones[k], n)
			}
			for _, c := range classes {
				chi := 0.0
				for _, count := range c {
					chi += (count - n/256) * (count - n/256) / (n / 256)
				}
				if z := (chi - 255) / math.Sqrt(2*255); math.Abs(z) > 5 {
					t.Errorf("χ² of 256 classes: %.1f standard deviations", z)
				}
			}
			for k := range next {
				wantSmall(t, "neighbours", next[k], n)
			}
			for k := range other {
				wantSmall(t, "another stream", other[k], n)
			}
		}
	}
}

// Each bit of counter and key changes about half the bits drawn.
func TestDrawAvalanches(t *testing.T) {
	const n = 1 << 14
	for bit := range 64 {
		changed := 0
		for i := range uint32(n) {
			counter, key := i*0x9e3779b9, i*0x85ebca6b
			changed += bits.OnesCount32(draw(counter, key) ^ draw(counter^uint32(uint64(1)<<bit), key^uint32(uint64(1)<<bit>>32)))
		}
		if share := float64(changed) / (32 * n); share < 0.4 || share > 0.6 {
			t.Errorf("bit %d changes %.0f %% of the bits", bit, 100*share)
		}
	}
}
