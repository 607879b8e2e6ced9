package pnm

import (
	"math"
	"math/rand/v2"
	"testing"
)

// nearest rounds to nearest even to a format of 16 bits, in float64, where every step is exact.
func nearest(x float64, f format) float64 {
	digits, least, greatest := 8, -126, math.Ldexp(255, 120) // bf16: bits of the significand, smallest normal exponent, largest number
	if f == f16 {
		digits, least, greatest = 11, -14, 65504
	}
	if x == 0 || x-x != 0 {
		return x
	}
	_, e := math.Frexp(x) // |x| in [½, 1)·2ᵉ
	ulp := math.Ldexp(1, max(e-digits, least-digits+1))
	r := math.RoundToEven(x/ulp) * ulp
	if math.Abs(r) > greatest {
		return math.Copysign(math.Inf(1), x)
	}
	return math.Copysign(r, x)
}

// value is what the bits of a format of 16 bits stand for, by the standard's definition.
func value(x uint16, f format) float64 {
	digits, bias := 7, 127
	if f == f16 {
		digits, bias = 10, 15
	}
	fraction, e := float64(x&(1<<digits-1)), int(x&0x7fff)>>digits
	sign := 1 - 2*float64(x>>15)
	switch e {
	case 0:
		return math.Copysign(math.Ldexp(fraction, 1-bias-digits), sign)
	case 2*bias + 1:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(fraction+math.Ldexp(1, digits), e-bias-digits)
}

var formats16 = []struct {
	format format
	widen  func(uint16) float32
	narrow func(float32) uint16
}{{bf16, widenBF16, narrowBF16}, {f16, widenF16, narrowF16}}

// Every number of 16 bits means what the standard says, and comes back as it was.
func TestWiden(t *testing.T) {
	for _, f := range formats16 {
		for i := range 1 << 16 {
			x := uint16(i)
			if got, want := float64(f.widen(x)), value(x, f.format); !sameBits(got, want) {
				t.Fatalf("%s %#04x is %g, want %g", f.format, x, got, want)
			}
			if back := f.narrow(f.widen(x)); back != x && !math.IsNaN(value(x, f.format)) {
				t.Fatalf("%s %#04x comes back as %#04x", f.format, x, back)
			}
			if v := value(f.narrow(f.widen(x)), f.format); !sameBits(v, value(x, f.format)) {
				t.Fatalf("%s %#04x comes back as %g", f.format, x, v)
			}
		}
	}
}

// Float32 of every kind round to nearest even: all of them with -thorough.
func TestNarrow(t *testing.T) {
	check := func(b uint32) {
		x := math.Float32frombits(b)
		for _, f := range formats16 {
			want := nearest(float64(x), f.format)
			if got := value(f.narrow(x), f.format); !sameBits(got, want) {
				t.Fatalf("%x in %s is %x, want %x", x, f.format, got, want)
			}
			if f.format == f16 && overflowsF16(x) != (x-x == 0 && math.IsInf(want, 0)) {
				t.Fatalf("%x overflows f16: %v", x, overflowsF16(x))
			}
		}
	}
	rng := rand.New(rand.NewPCG(25, 26))
	for high := range uint32(1 << 16) {
		// The middle and the ends of what is cut off, by bf16 and by f16, and their neighbours.
		for _, low := range []uint32{0, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff, rng.Uint32N(1 << 16)} {
			check(high<<16 | low)
		}
	}
	if !*thorough {
		return
	}
	for _, sign := range []uint32{0, 1 << 31} {
		for b := uint32(0x7f80_0000); b < 1<<31; b++ { // infinity and NaN
			check(sign | b)
		}
		for _, f := range formats16 {
			checkFinite(t, sign, sign|0x7f7f_ffff, f.format, f.narrow, check)
		}
	}
}

// checkFinite checks all finite float32 from the bits lo to the bits hi, which have one sign. Rounding to nearest is monotone: what has
// the same result at both ends has it in between.
func checkFinite(t *testing.T, lo, hi uint32, f format, narrow func(float32) uint16, check func(uint32)) {
	t.Helper()
	first, last := math.Float32frombits(lo), math.Float32frombits(hi)
	if !sameBits(nearest(float64(first), f), nearest(float64(last), f)) {
		mid := lo + (hi-lo)/2
		checkFinite(t, lo, mid, f, narrow, check)
		checkFinite(t, mid+1, hi, f, narrow, check)
		return
	}
	check(lo)
	want, overflows := narrow(first), overflowsF16(first)
	for b := lo; b != hi; {
		b++
		x := math.Float32frombits(b)
		if got := narrow(x); got != want || f == f16 && overflowsF16(x) != overflows {
			t.Fatalf("%x in %s is %#04x, want %#04x; it overflows: %v", x, f, got, want, overflows)
		}
	}
}

// Set converts every format into every other, and refuses what does not fit.
func TestSet(t *testing.T) {
	const n = 3000
	x, rng := make([]float32, n), rand.New(rand.NewPCG(27, 28))
	for i := range x {
		x[i] = float32(rng.NormFloat64() * 3e4)
	}
	x[7] = float32(math.Inf(-1))
	for _, f := range formats16 {
		bits, back := make([]uint16, n), make([]float32, n)
		narrow := vectorAs(f.format, bits)
		overflows, err := narrow.Set(Float32(x))
		wantNoError(t, err)
		_, err = Float32(back).Set(narrow)
		wantNoError(t, err)
		count := 0
		for i := range x {
			if want := nearest(float64(x[i]), f.format); float64(back[i]) != want {
				t.Fatalf("%s: element %d is %g, want %g", f.format, i, back[i], want)
			}
			if math.IsInf(float64(back[i]), 0) && i != 7 {
				count++
			}
		}
		if overflows != count || count == 0 != (f.format == bf16) {
			t.Errorf("%s: %d overflows, want %d", f.format, overflows, count)
		}
		other := make([]uint16, n)
		_, err = vectorAs(f.format, other).Set(narrow)
		wantNoError(t, err)
		for i := range other {
			if other[i] != bits[i] {
				t.Fatalf("%s: a copy differs at %d", f.format, i)
			}
		}
		refuse(t, []refusal{
			{"length", func([]float32) error { _, err := Float32(x[1:]).Set(narrow); return err }, &LengthError{"to", n - 1, n}, "length of to"},
			{"overlap", func([]float32) error { _, err := narrow.cut(0, n-1).Set(narrow.cut(1, n)); return err },
				&OverlapError{Arg: "to", OtherArg: "from", Elements: n - 2}, "share 2998 elements"},
		})
	}
}

// What is split is joined again, bit for bit, and its upper half is the nearest bf16. What others write to that is not lost.
func TestSplitAndJoin(t *testing.T) {
	for upper := range 1 << 16 {
		for _, low := range []uint32{0, 1, 0x1234, 0x7fff, 0x8000, 0x8001, 0xedcb, 0xffff} {
			x := math.Float32frombits(uint32(upper)<<16 | low)
			half, rest := splitBF16(x)
			near := widenBF16(half)
			switch joined := joinBF16(half, rest); {
			case x != x:
				if near == near || joined == joined || rest != 0 {
					t.Fatalf("%x is split into %x and %x", x, half, rest)
				}
			case math.Float32bits(joined) != math.Float32bits(x):
				t.Fatalf("%x is split into %x and %x, which are %x", x, half, rest, joined)
			case half != narrowBF16(x) && rest != 0x8000 || half&0x8000 != uint16(math.Float32bits(x)>>16)&0x8000:
				t.Fatalf("%x becomes %x, the nearest is %x", x, half, narrowBF16(x))
			}
			written := joinBF16(uint16(upper), uint16(low))
			if near := widenBF16(uint16(upper)); near != near {
				if written == written {
					t.Fatalf("%x, a NaN, with %x is %x", upper, low, written)
				}
			} else if half, _ := splitBF16(written); half != uint16(upper) && !(math.IsInf(float64(near), 0) && written != written) {
				t.Fatalf("%x with %x is %x, which rounds to %x", upper, low, written, half)
			}
			if upper&0x7fff == 0 && low >= 0x8000 && math.Float32bits(written) != uint32(upper)<<16 {
				t.Fatalf("a zero with %x is %x", low, written)
			}
		}
	}
}
