package pnm

import (
	"cmp"
	"fmt"
	"math"
)

// Options are the chores around a step, done in the same pass over memory. The zero value asks for none of them. Together
// they do to each gradient, in this order,
//
//	g = g / LossScale                         LossScale⁻¹ and the clip factor are one factor, rounded once
//	g = g · min(1, ClipNorm/‖g‖)              ‖g‖ is taken over all gradients, in a pass of its own before the step
//	g = min(max(g, −ClipValue), ClipValue)
//
// before the rule sees it. Weight decay is the rule's, and does not take part.
//
// “All gradients” are those of one call, or those summed in Squares. A caller that makes a call for each tensor, or is one of several
// processes that share the parameters, first sums the squares of all gradients, by [SumSquares] and [Squares.Add].
type Options struct {
	// LossScale is what the loss was multiplied by, and so the gradients; it is divided out: > 0, and such that its inverse
	// is a normal number of the element type (for float32, up to 2¹²⁶); 0 means 1. Among several processes that add up their
	// gradients it may carry their number.
	LossScale float64

	// ClipNorm bounds the Euclidean norm of all gradients of the step together: > 0; 0 (default) is no bound. +Inf changes
	// nothing, and reports the norm. This is torch's clip_grad_norm_ without the 1e-6 that it adds to the norm. Where the
	// norm is not finite, the factor is as arithmetic has it, 0 for +Inf and NaN for NaN; see SkipNonFinite. A factor too
	// small for the element type is 0.
	ClipNorm float64

	// ClipValue bounds the size of each element: > 0; 0 (default) is no bound. A NaN stays.
	ClipValue float64

	// SkipNonFinite leaves parameters, state and counts of steps as they are if any gradient, as it was passed, is NaN or
	// ±Inf, and reports it.
	SkipNonFinite bool

	// Squares are the sum of the squares of all gradients of the step, as they are passed, where the caller has it already: for ClipNorm
	// and SkipNonFinite, one of which it needs. If it is nil, the step sums up the gradients of its call.
	Squares *Squares

	// ZeroGrads sets the gradients to zero after the step, and also if the step was skipped.
	ZeroGrads bool

	// Pool shares the work of large steps. If it is nil, one that follows GOMAXPROCS does.
	Pool *Pool
}

// A Report tells what became of a step.
type Report struct {
	// GradNorm is the norm of all gradients, divided by LossScale, before any clipping. It is computed if ClipNorm or
	// SkipNonFinite asks for it, and 0 otherwise. See [Squares.Norm]; whether gradients are finite, Skipped tells.
	GradNorm float64

	Skipped bool // by SkipNonFinite: nothing but, with ZeroGrads, the gradients was changed

	// Overflows is how many parameters, themselves finite, became an infinity in an f16 copy; see [Update].
	Overflows int
}

func (o *Options) measures() bool { return o.ClipNorm != 0 || o.SkipNonFinite }

// scales reports whether the gradients are changed by known factors and bounds.
func (o *Options) scales() bool { return o.LossScale != 0 || o.ClipValue != 0 }

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

// rounded returns x in float64 (wide) or as the nearest float32.
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

// lossScale is what the gradients are divided by.
func (o *Options) lossScale() float64 { return cmp.Or(o.LossScale, 1) }

// scale is the factor that divides the loss scale out.
func (o *Options) scale() float64 { return 1 / o.lossScale() }

// apply puts what the options ask for into coefficients; scale is the whole factor on the gradients.
func apply[T Float](o *Options, scale float64, c *scalars[T]) {
	c.gs = T(float64(c.gs) * scale) // gs is 1 or −1
	if o.ClipValue != 0 {
		c.lo, c.hi = -T(o.ClipValue), T(o.ClipValue)
	}
}
