package pnm

import (
	"fmt"
	"math"
)

// Options are the chores around a step, done in the same pass over memory. The zero value asks for none of them. In what
// follows, a gradient is what the caller passed, divided by LossScale.
//
//	g = g / LossScale                         LossScale⁻¹ and the clip factor are one factor, rounded once
//	g = g · min(1, ClipNorm/‖all g‖)          the norm takes a pass over the gradients before the step
//	g = min(max(g, −ClipValue), ClipValue)
//
// Weight decay does not take part in any of this.
type Options struct {
	// LossScale is what the loss was multiplied by, and so the gradients: finite, > 0; 0 means 1. It is divided out. Among
	// several processes it may carry their number, and a norm that was computed elsewhere.
	LossScale float64

	// ClipNorm bounds the Euclidean norm of all gradients of the step together: > 0; 0 (default) is no bound. +Inf changes
	// nothing, and reports the norm. This is torch's clip_grad_norm_ without the 1e-6 that it adds to the norm. Where the
	// norm is not finite, the factor is as arithmetic has it, 0 for +Inf and NaN for NaN; see SkipNonFinite.
	ClipNorm float64

	// ClipValue bounds the size of each element: > 0; 0 (default) is no bound. A NaN stays.
	ClipValue float64

	// SkipNonFinite leaves parameters, state and counts of steps as they are if any gradient is NaN or ±Inf, and reports it.
	SkipNonFinite bool

	// ZeroGrads sets the gradients to zero after the step, and also if the step was skipped.
	ZeroGrads bool

	// Pool shares the work of large steps. If it is nil, the optimizer's own does, or else one that follows GOMAXPROCS.
	Pool *Pool
}

// A Report tells what became of a step.
type Report struct {
	// GradNorm is the norm of all gradients, divided by LossScale, before any clipping. It is computed if ClipNorm or
	// SkipNonFinite asks for it, and 0 otherwise. See [GradNorm].
	GradNorm float64

	Skipped bool // by SkipNonFinite: nothing but, with ZeroGrads, the gradients was changed
}

func (o *Options) measures() bool { return o.ClipNorm != 0 || o.SkipNonFinite }

// scales reports whether the gradients are changed by known factors and bounds.
func (o *Options) scales() bool { return o.LossScale != 0 || o.ClipValue != 0 }

// checkOptions reports a field out of its range.
func checkOptions[T Float](o *Options) error {
	if !o.scales() && o.ClipNorm == 0 {
		return nil
	}
	positive := interval{math.SmallestNonzeroFloat64, math.Inf(1), "> 0, or 0 for none"}
	switch {
	case o.ClipNorm != 0 && positive.check("Options", "ClipNorm", o.ClipNorm) != nil:
		return positive.check("Options", "ClipNorm", o.ClipNorm)
	case o.ClipValue != 0 && positive.check("Options", "ClipValue", o.ClipValue) != nil:
		return positive.check("Options", "ClipValue", o.ClipValue)
	case o.ClipValue != 0 && T(o.ClipValue) == 0:
		return &HyperparameterError{"Options", "ClipValue", o.ClipValue, fmt.Sprintf("large enough not to be 0 in %T", *new(T))}
	case o.LossScale != 0:
		positive.hi, positive.text = math.MaxFloat64, "finite and > 0, or 0 for 1"
		if err := positive.check("Options", "LossScale", o.LossScale); err != nil {
			return err
		}
		if s := T(o.scale()); s == 0 || s-s != 0 {
			return &HyperparameterError{"Options", "LossScale", o.LossScale, fmt.Sprintf("such that its inverse is finite and not 0 in %T", s)}
		}
	}
	return nil
}

// scale is the factor that divides the loss scale out.
func (o *Options) scale() float64 {
	if o.LossScale == 0 {
		return 1
	}
	return 1 / o.LossScale
}

// apply puts what the options ask for into coefficients; scale is the whole factor on the gradients.
func apply[T Float](o *Options, scale float64, c *scalars[T]) {
	c.gs = T(float64(c.gs) * scale) // gs is 1 or −1
	if o.ClipValue != 0 {
		c.lo, c.hi = -T(o.ClipValue), T(o.ClipValue)
	}
}
