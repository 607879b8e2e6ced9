package pnm

import (
	"cmp"
	"fmt"
	"math"
)

// Options add to a step what trainers do around it. The zero value adds nothing. Before the rule sees a
// gradient, the options change it, in this order:
//
//	g = g / LossScale                         LossScale⁻¹ and the clip factor are one factor, rounded once
//	g = g · min(1, ClipNorm/‖g‖)              ‖g‖ is the norm of all gradients: one more pass, before the step, reads them
//	g = min(max(g, −ClipValue), ClipValue)
//
// Weight decay belongs to the rule: clipping does not see it.
//
// “All gradients” are those of one call, or those summed in Squares. If a step takes several calls, or several processes share the
// parameters, sum the squares of all gradients first, with [SumSquares] and [Squares.Add].
type Options struct {
	// LossScale is the factor by which the loss, and so the gradients, were multiplied. The step divides by it. It must be > 0 and
	// have an inverse that is a normal number of the element type (for float32: up to 2¹²⁶); 0 means 1. If gradients are sums over several
	// processes, multiply LossScale by the number of processes to get means.
	LossScale float64

	// ClipNorm bounds the Euclidean norm of all gradients of the step together: > 0; 0 (default) means no bound. +Inf changes
	// no gradient but reports the norm. Clipping is that of torch's clip_grad_norm_, without the 1e-6 that it adds to the norm. A norm of
	// +Inf gives the factor 0, and NaN gives NaN: see SkipNonFinite. A factor too small for the element type is 0.
	ClipNorm float64

	// ClipValue bounds the absolute value of each element: > 0; 0 (default) means no bound. A NaN stays a NaN.
	ClipValue float64

	// SkipNonFinite skips the step if any gradient, as passed, is NaN or ±Inf: parameters and state stay as they are, and the report
	// says Skipped. Do not count such a step.
	SkipNonFinite bool

	// Squares is the sum of the squares of all gradients of the step, as passed, if the caller has computed it. Set it only with ClipNorm
	// or SkipNonFinite. If it is nil, these two use the gradients of the call.
	Squares *Squares

	// Noise, if not nil, has the step read the two momenta of each tensor of [PNM] and [AdaPNM], as it leaves them, in the same pass: it
	// sets Noise[i] to the sums of Updates[i], those that [SumNoise] would return after the step. They are 0 where there is nothing
	// to read, which includes tensors with Skip, and all tensors if the step is skipped. There must be as many as the Updates, or
	// for [List.StepPart] one, for the part: NoiseSums.Add adds up the parts.
	Noise []NoiseSums

	// ZeroGrads sets the gradients to zero after the step, even if it was skipped.
	ZeroGrads bool

	// Pool shares the work of large steps among its workers. Nil means the default pool, which follows GOMAXPROCS.
	Pool *Pool
}

// A Report says what a step did.
type Report struct {
	// GradNorm is the norm of all gradients, divided by LossScale, before any clipping. It is computed with ClipNorm or
	// SkipNonFinite, and is 0 otherwise. It can be +Inf although all gradients are finite (see [Squares.Norm]): test Skipped instead.
	GradNorm float64

	Skipped bool // SkipNonFinite skipped the step: nothing was changed, except the gradients with ZeroGrads

	// Overflows is the number of finite parameters that became an infinity in an f16 copy: see [Update].
	Overflows int
}

func (o *Options) measures() bool { return o.ClipNorm != 0 || o.SkipNonFinite }

// scales reports whether an option scales or clips the gradients by a number known before the step.
func (o *Options) scales() bool { return o.LossScale != 0 || o.ClipValue != 0 }

// checkNoise reports a Noise of another length than that of the step's list.
func (o *Options) checkNoise(n int) error {
	if o.Noise != nil && len(o.Noise) != n {
		return &LengthError{"Options.Noise", len(o.Noise), n}
	}
	return nil
}

// checkOptions reports a field out of its range, for arithmetic in float64 (wide) or float32.
func checkOptions(o *Options, wide bool) error {
	if o.Squares != nil && !o.measures() {
		return &ValueError{"Options", "Squares", o.Squares.Norm(), "nil unless ClipNorm or SkipNonFinite is set"}
	}
	if !o.scales() && o.ClipNorm == 0 {
		return nil
	}
	legal := interval{math.SmallestNonzeroFloat64, math.Inf(1), "> 0, or 0 for none"}
	for _, bound := range []struct {
		field string
		value float64
	}{{"ClipNorm", o.ClipNorm}, {"ClipValue", o.ClipValue}} {
		if bound.value != 0 {
			if err := legal.check("Options", bound.field, bound.value); err != nil {
				return err
			}
		}
	}
	if o.ClipValue != 0 && rounded(o.ClipValue, wide) == 0 {
		return &ValueError{"Options", "ClipValue", o.ClipValue, fmt.Sprintf("large enough not to be 0 in %s", arithmetic(wide))}
	}
	least, greatest := 0x1p-126, math.MaxFloat32
	if wide {
		least, greatest = 0x1p-1022, math.MaxFloat64
	}
	if inverse := rounded(o.scale(), wide); !(least <= inverse && inverse <= greatest) {
		return &ValueError{"Options", "LossScale", o.LossScale,
			fmt.Sprintf("> 0 with an inverse that is a normal number of %s, or 0 for 1", arithmetic(wide))}
	}
	return nil
}

// rounded returns x as float64 (wide), or rounded to float32.
func rounded(x float64, wide bool) float64 {
	if wide {
		return x
	}
	return float64(float32(x))
}

// arithmetic names the type that rounded rounds to.
func arithmetic(wide bool) string {
	if wide {
		return f64.String()
	}
	return f32.String()
}

// lossScale is the divisor of the gradients.
func (o *Options) lossScale() float64 { return cmp.Or(o.LossScale, 1) }

// scale is the inverse of the loss scale.
func (o *Options) scale() float64 { return 1 / o.lossScale() }

// apply puts the options into coefficients; scale is the whole factor on the gradients.
func apply[T Float](o *Options, scale float64, c *scalars[T]) {
	c.gs = T(float64(c.gs) * scale) // gs is 1 or −1
	if o.ClipValue != 0 {
		c.lo, c.hi = -T(o.ClipValue), T(o.ClipValue)
	}
}
