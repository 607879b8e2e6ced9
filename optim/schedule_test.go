package optim

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"testing"
)

func TestSchedules(t *testing.T) {
	for _, c := range []struct {
		name string
		f    func(t int) float64
		want map[int]float64
	}{
		{"StepDecay", func(t int) float64 { return StepDecay(t, 30, 0.5) },
			map[int]float64{math.MinInt: 1, 0: 1, 1: 1, 30: 1, 31: 0.5, 60: 0.5, 61: 0.25, 30*13 + 1: 0x1p-13, math.MaxInt: 0}},
		{"StepDecay that grows", func(t int) float64 { return StepDecay(t, 1, 2) }, map[int]float64{1: 1, 2: 2, 12: 2048, math.MaxInt: math.Inf(1)}},
		{"StepDecay to 0", func(t int) float64 { return StepDecay(t, 10, 0) }, map[int]float64{10: 1, 11: 0, math.MaxInt: 0}},
		{"StepDecay every 0", func(t int) float64 { return StepDecay(t, 0, 0.5) }, map[int]float64{0: 1, 1000: 1}},
		{"CosineDecay", func(t int) float64 { return CosineDecay(t, 12) },
			map[int]float64{math.MinInt: 1, 0: 1, 1: 1, 5: 0.75, 7: 0.5, 9: 0.25, 13: 0, 14: 0, math.MaxInt: 0}},
		{"CosineDecay in 1 step", func(t int) float64 { return CosineDecay(t, 1) }, map[int]float64{0: 1, 1: 1, 2: 0}},
		{"CosineDecay in no step", func(t int) float64 { return CosineDecay(t, 0) }, map[int]float64{0: 1, 1: 0, 2: 0}},
		{"CosineDecay in less", func(t int) float64 { return CosineDecay(t, -5) }, map[int]float64{-9: 1, 1: 0}},
		{"WarmUp", func(t int) float64 { return WarmUp(t, 4) },
			map[int]float64{math.MinInt: 0, 0: 0, 1: 0.25, 2: 0.5, 3: 0.75, 4: 1, 5: 1, math.MaxInt: 1}},
		{"WarmUp of no step", func(t int) float64 { return WarmUp(t, 0) }, map[int]float64{-1: 1, 0: 1, 1: 1}},
	} {
		for step, want := range c.want {
			if got := c.f(step); !(got == want || math.Abs(got-want) < 1e-15) {
				t.Errorf("%s at step %d: %v, want %v", c.name, step, got, want)
			}
		}
	}
}

// The cosine is math.Cos's but for rounding, it falls from step to step, and its halves add up to 1.
func TestCosineDecay(t *testing.T) {
	for _, n := range []int{2, 3, 7, 100, 999, 10_000} {
		last := 2.0
		for i := range n + 1 {
			got := CosineDecay(1+i, n)
			if want := (1 + math.Cos(math.Pi*float64(i)/float64(n))) / 2; math.Abs(got-want) > 4e-16 {
				t.Fatalf("at step %d of %d: %v, want %v", 1+i, n, got, want)
			}
			if !(got < last) {
				t.Fatalf("at step %d of %d: %v after %v", 1+i, n, got, last)
			}
			if other := CosineDecay(1+n-i, n); math.Abs(got+other-1) > 0x1p-53 {
				t.Fatalf("at step %d of %d: %v, and at the opposite step %v", 1+i, n, got, other)
			}
			last = got
		}
	}
}

// The bits of schedules are those of a machine whose compiler fuses nothing.
func TestBitsOfSchedules(t *testing.T) {
	const want = "63807e55e01626fcb3edc29995b01ad03a500e42aa889e734a014357c9bfdbb0"
	var f []float64
	for step := 1; step <= 1000; step++ {
		f = append(f, StepDecay(step, 7, 0.9), CosineDecay(step, 1000), WarmUp(step, 300))
	}
	if sum := sha256.Sum256(littleEndian(nil, f)); hex.EncodeToString(sum[:]) != want {
		t.Errorf("SHA-256 is %x, want %s", sum, want)
	}
}
