//go:build !purego

package pnm

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The kernels for mixed formats leave FPCR as it was: arithmetic goes on to keep what a NaN carries.
func TestMixedLeavesFPCR(t *testing.T) {
	rng := rand.New(rand.NewPCG(27, 28))
	for _, r := range sampleRules() {
		var b mixed
		mixedTensor(rng, r, formatsOf{f32, bf16, f32, f32}, 1, mixedBlock, anywhere(rng)).call(&b, 0)
		updateMixed(r.form(), &b, mixedBlock, 0)
		nan := math.Float32frombits(0x7fc12345)
		if got := math.Float32bits(nan + 1); got != 0x7fc12345 {
			t.Errorf("after %T a NaN becomes %x", r, got)
		}
	}
}
