package pnm

import (
	"iter"
	"math"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

// SGD is stochastic gradient descent, with or without momentum, as torch.optim.SGD defines it. It is one of the baselines of
// the paper on [PNM]. Its defaults are torch's: in particular, Momentum is 0, so set the usual 0.9 yourself. Its ranges are torch's, too:
// Momentum may be 1 or more, which makes it grow, and Dampening may be any finite number.
//
// LR has no default. With momentum μ, a constant gradient g moves a parameter by g·LR/(1−μ) a step in the long run.
type SGD struct {
	LR          float64 // η, the learning rate: finite; a negative one ascends
	Momentum    float64 // μ, decay of the momentum: finite, ≥ 0; default 0, which needs no state
	Dampening   float64 // τ: after a tensor's first step, gradients are added to the momentum as (1−τ)·g: any finite number; default 0
	WeightDecay float64 // λ: finite, ≥ 0; default 0
	Decoupled   bool    // true: decay scales the parameter by 1 − η·λ; false (default): it adds λ·p to the gradient (L2), as in torch
	Nesterov    bool    // look ahead along the momentum; needs Momentum > 0 and Dampening 0; default false
	Maximize    bool    // ascend instead of descend; default false
}

// NewSGD returns an SGD with learning rate lr and torch's defaults.
func NewSGD(lr float64) SGD {
	return SGD{LR: lr}
}

// UpdateSGD performs step t of rule r on one tensor. All slices have the same length (0 is legal) and share no memory; momentumBuffer
// is nil if r.Momentum is 0. It updates params and momentumBuffer in place and only reads grads. Step 1 sets momentumBuffer to the
// gradient, whatever it held. t is the tensor's own count of steps, from 1: a step in which the tensor gets no gradient does not count.
//
// It returns a *[ValueError] for a hyperparameter out of its range or a step below 1, a *[LengthError] for slices of different lengths,
// and an *[OverlapError] for slices that share memory; it has then written nothing. It allocates nothing and keeps none of the slices.
//
// The workers of the default pool share the work of large tensors: see [Pool].
func UpdateSGD[T Float](r SGD, t int, params, grads, momentumBuffer []T) error {
	var h floatmode.Hold
	defer h.Take().Release()
	var one tensor
	one.p, one.g = vectorOf(params), vectorOf(grads)
	if err := check(r.table(), &r); err != nil { // as Validate does, without a second hold
		return err
	}
	if err := checkStep(t); err != nil {
		return err
	}
	if r.Momentum != 0 {
		one.s[0] = vectorOf(momentumBuffer)
	} else if len(momentumBuffer) != 0 {
		return &LengthError{"momentum_buffer (Momentum is 0)", len(momentumBuffer), 0}
	}
	one.form, one.step = r.form(), t
	r.scalars(t, &one.c64)
	return updateOne(&one, &h)
}

// Validate implements [Rule]. The comments of the fields give the legal ranges.
func (r SGD) Validate() error {
	var h floatmode.Hold // the least momentum is a denormal number
	defer h.Take().Release()
	return check(r.table(), &r)
}

// Name implements [Rule].
func (r SGD) Name() string { return forms[r.form()].Rule }

// State implements [Rule].
func (r SGD) State() []string { return forms[r.form()].Slots }

// Hyperparameters implements [Rule].
func (r SGD) Hyperparameters() iter.Seq2[string, any] { return hyperparametersOf(r) }

// With implements [Rule].
func (r SGD) With(name string, value any) (Rule, error) { return with(r, name, value) }

func (r SGD) form() form {
	switch {
	case math.Float64bits(r.Momentum)<<1 == 0: // also without a hold, where denormal numbers may count as 0
		return equations.SGD
	case r.Nesterov:
		return equations.SGDNesterov
	}
	return equations.SGDMomentum
}

var (
	sgdTable      = sgdTableOf(nonNegative, finite)
	nesterovTable = sgdTableOf(
		interval{math.SmallestNonzeroFloat64, math.MaxFloat64, "finite and > 0 with Nesterov"},
		interval{0, 0, "0 with Nesterov"},
	)
)

func sgdTableOf(momentum, dampening interval) *table {
	return tableOf[SGD](
		hyperparameter{"lr", "LR", finite},
		hyperparameter{"momentum", "Momentum", momentum},
		hyperparameter{"dampening", "Dampening", dampening},
		hyperparameter{"weight_decay", "WeightDecay", nonNegative},
		hyperparameter{"decoupled", "Decoupled", option},
		hyperparameter{"nesterov", "Nesterov", option},
		hyperparameter{"maximize", "Maximize", option},
	)
}

func (r SGD) table() *table {
	if r.Nesterov {
		return nesterovTable
	}
	return sgdTable
}

func (r SGD) scalars(t int, c *scalars[float64]) {
	setCommon(c, r.LR, r.WeightDecay, r.Decoupled, r.Maximize)
	c.k1 = r.LR
	if r.Momentum != 0 {
		c.beta1, c.alpha1 = r.Momentum, 1
		if t > 1 {
			c.alpha1 = 1 - r.Dampening
		}
	}
}
