package pnm

import (
	"fmt"
	"iter"
	"math"
	"math/bits"
	"slices"
	"testing"
	"unsafe"
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

// mxfp8 adds 20 random bits to E4M3 numbers, and 7 to denormals, where others still move the mean by less than 2⁻⁷ of the last place.
func TestStochasticRoundingOfMXFP8IsUnbiased(t *testing.T) {
	const scale = 127
	for _, x := range []float32{448, 447.99, 300.1, -17.003, 1.0625, -0.0157, 0x1p-6, 0x1.8p-8, -0x1p-9, 0x1p-14, 0} {
		sum := 0.0
		for r := range uint32(1 << 20) {
			sum += float64(widenMX(narrowMX(x, scale, uint16(r&0x1fff), uint16(r>>13)), scale))
		}
		bound := 0.0
		if math.Abs(float64(x)) < 0x1p-6 {
			bound = 0x1p-9 * 0x1p-7
		}
		if mean := sum / (1 << 20); math.Abs(mean-float64(x)) > bound {
			t.Errorf("the mean of %g is %g, off by %g of at most %g", x, mean, mean-float64(x), bound)
		}
	}
}

// Numbers drawn and their multiples, which the slots of an element take, fill the square: whether two roundings go up is as good
// as independent, whatever their probabilities.
func TestSlotsFillTheSquare(t *testing.T) {
	const n = 512 // thresholds, in each direction
	const cell = (1 << 16) / n
	for name, factors := range map[string][2]uint16{
		"m and v": {1, slotFactor}, "v and p": {slotFactor, slotFactor * slotFactor & 0xffff}, "m and p": {1, slotFactor * slotFactor & 0xffff},
	} {
		var count [n + 1][n + 1]int // of pairs below, in the end
		for u := range 1 << 16 {
			count[uint16(u)*factors[0]/cell+1][uint16(u)*factors[1]/cell+1]++
		}
		worst := 0.0
		for i := 1; i <= n; i++ {
			for j := 1; j <= n; j++ {
				count[i][j] += count[i-1][j] + count[i][j-1] - count[i-1][j-1]
				worst = max(worst, math.Abs(float64(count[i][j])/(1<<16)-float64(i*j)/(n*n)))
			}
		}
		if worst > 1e-4 {
			t.Errorf("%s: a probability is off by %.1e", name, worst)
		}
	}
}

// A statistic is a sum of n independent numbers of mean 0 and variance 1; it must be within some standard deviations.
func wantSmall(t *testing.T, what string, sum float64, n int, deviations float64) {
	t.Helper()
	if z := sum / math.Sqrt(float64(n)); math.Abs(z) > deviations {
		t.Errorf("%s: %.1f standard deviations", what, z)
	}
}

// The halves of the words drawn are uniform, bit by bit and in 256 classes, and are not correlated with each other.
func TestDraw(t *testing.T) {
	const n = 1 << 18
	unit := func(x uint32) float64 { return (float64(x&0xffff) - 32767.5) * math.Sqrt(12) / 65536 }
	for _, r := range []Rounding{{Seed: 1, Tensor: 3}, {Seed: 2, Tensor: 3}, {Seed: 1 << 40, Tensor: 1 << 50}} {
		counter, key := r.draws(1, 0)
		var low, high, halves float64
		var ones [32]float64
		var classes [2][256]float64
		for i := range uint32(n) {
			x := draw(counter+i*wordStep, key)
			low += unit(x)
			high += unit(x >> 16)
			halves += unit(x) * unit(x>>16)
			for k := range ones {
				ones[k] += 2*float64(x>>k&1) - 1
			}
			classes[0][x>>8&0xff]++
			classes[1][x>>24]++
		}
		wantSmall(t, "mean of the lower half", low, n, 5)
		wantSmall(t, "mean of the upper half", high, n, 5)
		wantSmall(t, "the halves", halves, n, 5)
		for k := range ones {
			wantSmall(t, "a bit", ones[k], n, 5)
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
	}
}

// A throw is how one slot of some elements is rounded: bit i%64 of word i/64 says whether element i goes up.
type throw []uint64

var slotNames = [...]string{"momentum", "average", "parameter"}

// throws rounds as many elements as given, each the same fraction, in 65536ths, above what can be stored: momenta in mxfp8, averages of
// squares and parameters in bf16.
func throws(r Rounding, step int, fraction uint32, elements int) (up [3]throw) {
	constant := func(bits uint32) []float32 {
		return slices.Repeat([]float32{math.Float32frombits(bits)}, drawBlock)
	}
	others := constant(0x3f800000 | fraction)
	block := streams[float32]{p: others, m: constant(0x3f800000 | fraction<<4), v: others}
	var m [drawBlock]uint8
	var v, p [drawBlock]uint16
	b := &mixed{formats: paramBF16 | stateBF16 | momentMX | stochastic, p: unsafe.Pointer(&p), m: unsafe.Pointer(&m), v: unsafe.Pointer(&v), ms: unsafe.Pointer(new(uint8))}
	for s := range up {
		up[s] = make(throw, elements/64)
	}
	for i := 0; i < elements; i += drawBlock {
		narrowBlock(b, roll(r.draws(step, r.First+uint64(i))), bf16, mxfp8, bf16, 0, &block)
		for k := range drawBlock {
			at := i + k
			up[0][at/64] |= uint64(m[k]&1) << (at % 64)
			up[1][at/64] |= uint64(v[k]&1) << (at % 64)
			up[2][at/64] |= uint64(p[k]&1) << (at % 64)
		}
	}
	return up
}

// count is how many elements go up.
func (t throw) count() (n int) {
	for _, x := range t {
		n += bits.OnesCount64(x)
	}
	return n
}

// and is how many elements go up of which the element lag places on, all around, does so in another throw.
func (t throw) and(other throw, lag int) (n int) {
	words, shift := lag/64, lag%64
	for i, x := range t {
		at := i + words
		if at >= len(t) {
			at -= len(t)
		}
		next := at + 1
		if next == len(t) {
			next = 0
		}
		n += bits.OnesCount64(x & (other[at]>>shift | other[next]<<(64-shift)))
	}
	return n
}

// wantIndependent reports lags at which throws are correlated, where each element goes up with a probability.
func wantIndependent(t *testing.T, what string, a, b throw, probability float64, lags iter.Seq[int]) {
	t.Helper()
	n := 64 * len(a)
	variance := probability * (1 - probability) // of an element
	expected := probability*float64(a.count()+b.count()) - float64(n)*probability*probability
	for lag := range lags {
		wantSmall(t, fmt.Sprintf("%s, up with probability %g, %d apart", what, probability, lag), (float64(a.and(b, lag))-expected)/variance, n, 6)
	}
}

// lagsFrom are those from lo to before hi.
func lagsFrom(lo, hi int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for lag := lo; lag < hi && yield(lag); lag++ {
		}
	}
}

// Each slot goes up as often as it must.
func TestRoundingsHaveTheirProbability(t *testing.T) {
	const elements = 1 << 19
	for _, fraction := range []uint32{1 << 4, 0x100, 0x1999, 0x4000, 0x8000, 0xaaaa, 0xff00} {
		for _, r := range []Rounding{{}, {Seed: 1, Tensor: 3}} {
			probability := float64(fraction) / (1 << 16)
			for s, up := range throws(r, 1, fraction, elements) {
				off := float64(up.count()) - elements*probability
				wantSmall(t, fmt.Sprintf("%s up with probability %g", slotNames[s], probability), off/math.Sqrt(probability*(1-probability)), elements, 5)
			}
		}
	}
}

// With -thorough, of 2³⁰ roundings the mean is exact to less than 10⁻⁴ of the last place, the slots' correlation to less than 2·10⁻⁴.
func TestRoundingsHaveTheirProbabilityInTheLongRun(t *testing.T) {
	if !*thorough {
		t.Skip("takes minutes; run with -thorough")
	}
	const steps, elements = 1 << 10, 1 << 20
	for _, fraction := range []uint32{0x1999, 0x8000} {
		probability := float64(fraction) / (1 << 16)
		variance := probability * (1 - probability)
		var ups, both [3]int
		for step := range steps {
			up := throws(Rounding{Seed: 5}, step+1, fraction, elements)
			for s := range up {
				ups[s] += up[s].count()
				both[s] += up[s].and(up[(s+1)%3], 0)
			}
		}
		for s := range ups {
			if bias := float64(ups[s])/(steps*elements) - probability; math.Abs(bias) > 1e-4 {
				t.Errorf("%s up with probability %g: off by %.1e", slotNames[s], probability, bias)
			}
			other := (s + 1) % 3
			covariance := (float64(both[s])-probability*float64(ups[s]+ups[other]))/(steps*elements) + probability*probability
			if correlation := covariance / variance; math.Abs(correlation) > 2e-4 {
				t.Errorf("%s and %s up with probability %g: their correlation is %.1e", slotNames[s], slotNames[other], probability, correlation)
			}
		}
	}
}

// Elements of a tensor are rounded independently: neighbours, those that share a word, and those thousands apart. Hashes of counters that are
// good bit by bit have failed here.
func TestElementsAreRoundedIndependently(t *testing.T) {
	const elements, lags = 1 << 19, 1 << 12
	for _, fraction := range []uint32{0x8000, 0x4ccc} {
		for s, up := range throws(Rounding{Seed: 1, Tensor: 3}, 1, fraction, elements) {
			wantIndependent(t, slotNames[s], up, up, float64(fraction)/(1<<16), lagsFrom(1, lags))
			wantIndependent(t, slotNames[s], up, up, float64(fraction)/(1<<16), func(yield func(int) bool) {
				for lag := lags; lag < 1<<16 && yield(lag); lag += 1024 {
				}
			})
		}
	}
}

// So are the slots of an element and of those around it, and elements of other steps, tensors, seeds and parts.
func TestStreamsAreRoundedIndependently(t *testing.T) {
	const elements, lags = 1 << 18, 64
	base := Rounding{Seed: 1, Tensor: 3}
	for _, fraction := range []uint32{0x8000, 0x1999} {
		probability := float64(fraction) / (1 << 16)
		first := throws(base, 7, fraction, elements)
		for s, up := range first {
			other := (s + 1) % 3
			wantIndependent(t, slotNames[s]+" and "+slotNames[other], up, first[other], probability, lagsFrom(0, lags))
			wantIndependent(t, slotNames[other]+" and "+slotNames[s], first[other], up, probability, lagsFrom(1, lags))
		}
		for name, other := range map[string][3]throw{
			"the next step":           throws(base, 8, fraction, elements),
			"the step after":          throws(base, 9, fraction, elements),
			"the next tensor":         throws(Rounding{Seed: 1, Tensor: 4}, 7, fraction, elements),
			"the next seed":           throws(Rounding{Seed: 2, Tensor: 3}, 7, fraction, elements),
			"seed and tensor swapped": throws(Rounding{Seed: 3, Tensor: 1}, 7, fraction, elements),
			"elements 2³³ on":         throws(Rounding{Seed: 1, Tensor: 3, First: 1 << 33}, 7, fraction, elements),
		} {
			for s, up := range first {
				wantIndependent(t, slotNames[s]+" and that of "+name, up, other[s], probability, lagsFrom(0, lags))
			}
		}
	}
}

// Few elements over many steps, tensors or seeds are rounded independently, too.
func TestSuccessorsAreRoundedIndependently(t *testing.T) {
	const rounds, lags = 1 << 11, 64
	const fraction = 0x8000
	for name, r := range map[string]func(i int) (Rounding, int){
		"steps":   func(i int) (Rounding, int) { return Rounding{Seed: 1, Tensor: 3}, i + 1 },
		"tensors": func(i int) (Rounding, int) { return Rounding{Seed: 1, Tensor: uint64(i)}, 1 },
		"seeds":   func(i int) (Rounding, int) { return Rounding{Seed: uint64(i), Tensor: 3}, 1 },
	} {
		var all [3]throw
		for i := range rounds {
			rounding, step := r(i)
			for s, up := range throws(rounding, step, fraction, 64) {
				all[s] = append(all[s], up...)
			}
		}
		for s, up := range all {
			wantSmall(t, slotNames[s]+" over "+name, 2*float64(up.count())-64*rounds, 64*rounds, 5)
			wantIndependent(t, slotNames[s]+" over "+name, up, up, 0.5, lagsFrom(1, 64*lags))
		}
	}
}

// The numbers of a block do not depend on where a part begins.
func TestBlocksFollowEachOther(t *testing.T) {
	r := Rounding{Seed: 1, Tensor: 3}
	for _, first := range []uint64{0, 1 << 20, 1<<33 - 128} {
		counter, key := r.draws(1, first)
		for block := range uint32(4) {
			if got, want := roll(counter+block*drawBlock/2*wordStep, key), roll(r.draws(1, first+uint64(block)*drawBlock)); got != want {
				t.Errorf("block %d from element %d on: %v, not %v", block, first, got, want)
			}
		}
	}
}

// Each bit of counter and key changes each of the bits drawn half the time.
func TestDrawAvalanches(t *testing.T) {
	const n = 1 << 14
	for bit := range 64 {
		var changed [32]int
		for i := range uint32(n) {
			counter, key := i*0x9e3779b9, i*0x85ebca6b
			x := draw(counter, key) ^ draw(counter^uint32(uint64(1)<<bit), key^uint32(uint64(1)<<bit>>32))
			for k := range changed {
				changed[k] += int(x >> k & 1)
			}
		}
		for k, count := range changed {
			if share := float64(count) / n; share < 0.48 || share > 0.52 {
				t.Errorf("bit %d changes bit %d in %.0f %%", bit, k, 100*share)
			}
		}
	}
}
