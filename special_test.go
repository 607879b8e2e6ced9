package pnm

import (
	"math"
	"testing"
)

// What an option leaves out is not computed: an infinite parameter stays infinite without a gradient, whatever the decay, unless it
// is coupled; and a gradient of −0 is not made +0, as adding 0·p would.
func TestLeftOut(t *testing.T) {
	inf, negZero := math.Inf(1), math.Copysign(0, -1)
	perTier(t, func(t *testing.T) {
		for _, r := range sampleRules() {
			r = set(r, "maximize", false)
			for _, decoupled := range []bool{false, true} {
				for _, decay := range []float64{0, 0.25} {
					r = set(set(r, "decoupled", decoupled), "weight_decay", decay)
					if decay == 0 || decoupled {
						leftOut(t, r, inf, negZero)
					}
				}
			}
		}
	})
}

func leftOut(t *testing.T, r Rule, inf, negZero float64) {
	t.Helper()
	for n := range 40 { // the main loop, the rest under a mask, and less than that
		p32, g32, s32 := make([]float32, n), make([]float32, n), newState[float32](r, n)
		p64, g64, s64 := make([]float64, n), make([]float64, n), newState[float64](r, n)
		p16, g16, s16 := newVector(bf16, n), newVector(bf16, n), make([]Vector, len(s32))
		for k := range s16 {
			s16[k] = newVector(bf16, n)
		}
		for i := range n {
			p64[i], g64[i] = inf, negZero
			if i%2 == 1 {
				p64[i] = -inf
			}
			p32[i], g32[i] = float32(p64[i]), float32(g64[i])
			p16.Bits()[i], g16.Bits()[i] = narrowBF16(p32[i]), narrowBF16(g32[i])
		}
		for step := 1; step <= 3; step++ {
			wantNoError(t, updateSlices(r, step, p32, g32, s32))
			wantNoError(t, updateSlices(r, step, p64, g64, s64))
			_, err := updateVectors(Options{}, Update{Rule: r, Step: step, Params: p16, Grads: g16, State: s16})
			wantNoError(t, err)
			for i := range n {
				want := inf
				if i%2 == 1 {
					want = -inf
				}
				if got := [...]float64{float64(p32[i]), p64[i], float64(widenBF16(p16.Bits()[i]))}; got != [...]float64{want, want, want} {
					t.Fatalf("%+v, step %d: parameter %d of %d is %v, want %v", r, step, i, n, got, want)
				}
				if forms[r.form()].Starts && step == 1 { // the first momentum is the gradient
					if got := [...]bool{math.Signbit(float64(s32[0][i])), math.Signbit(s64[0][i]), s16[0].Bits()[i] == 1<<15}; got != [...]bool{true, true, true} {
						t.Fatalf("%+v: the first momentum of −0 is not −0: %v", r, got)
					}
				}
			}
		}
	}
}

// A large gradient does not stop a parameter for good: (1−β2)·g·g is finite where g·g is not, as in torch.
func TestLargeGradient(t *testing.T) {
	perTier(t, func(t *testing.T) {
		noAMSGrad := NewAdaPNM()
		noAMSGrad.AMSGrad = false
		for _, r := range []Rule{NewAdam(), NewAdamW(), NewAdaPNM(), noAMSGrad} {
			for _, n := range []int{1, 64} {
				p, g, s := make([]float32, n), make([]float32, n), newState[float32](r, n)
				for step, x := range []float32{1, 3e19, 1, 5e20, -1} {
					before := p[n-1]
					for i := range g {
						g[i] = x
					}
					wantNoError(t, updateSlices(r, step+1, p, g, s))
					if v := s[len(s)-1][n-1]; math.IsInf(float64(v), 0) || p[n-1] == before {
						t.Fatalf("%+v, step %d: the average of squares is %g, the parameter went from %g to %g", r, step+1, v, before, p[n-1])
					}
				}
			}
		}
	})
}
