package pnm

import (
	"iter"
	"math"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

// Adam is torch.optim.Adam or, with Decoupled decay, torch.optim.AdamW. They are baselines of the paper on [AdaPNM].
type Adam struct {
	LR          float64 // η, the learning rate: finite; a negative one, which an [Optimizer] refuses, ascends; default 0.001
	Beta1       float64 // β1, decay of the momentum: in [0, 1); default 0.9
	Beta2       float64 // β2, decay of the squared gradient's average: in [0, 1); default 0.999
	Eps         float64 // ε, added to the root, outside the bias correction: finite, ≥ 0 (0 gives NaN where all gradients were 0 so far); default 1e-8
	WeightDecay float64 // λ: finite, ≥ 0; default 0, of AdamW 0.01
	Decoupled   bool    // decay shrinks the parameter by η·λ (AdamW), or else joins the gradient as λ·p (L2; default)
	AMSGrad     bool    // divide by the root of the largest average so far; default false
	Maximize    bool    // ascend instead of descend; default false
}

// NewAdam returns an Adam with the defaults of torch.optim.Adam.
func NewAdam() Adam {
	return Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}
}

// NewAdamW returns an Adam with the defaults of torch.optim.AdamW: decay is decoupled, and 0.01.
func NewAdamW() Adam {
	r := NewAdam()
	r.Decoupled, r.WeightDecay = true, 0.01
	return r
}

// UpdateAdam performs step t of rule r on one tensor. All slices have the same length n (n = 0 is a legal no-op) and share no
// memory; maxExpAvgSq is nil if r.AMSGrad is off. All but grads, which is only read, are updated in place. The caller zeroes
// the state before the first step, counts t from 1 and adds one at every call on the same tensor; one that gets no gradient
// in some step keeps its count.
//
// A bad hyperparameter, a step below 1, a length that differs or slices that overlap give a *HyperparameterError,
// *StepError, *LengthError or *OverlapError, and nothing is written. Nothing is allocated, and nothing kept.
//
// Large tensors are shared among the workers of a pool that follows GOMAXPROCS; see [Pool].
func UpdateAdam[T Float](r Adam, t int, params, grads, expAvg, expAvgSq, maxExpAvgSq []T) error {
	_, err := UpdateAdamWith(Options{}, r, t, params, grads, expAvg, expAvgSq, maxExpAvgSq)
	return err
}

// UpdateAdamWith is [UpdateAdam] with options. Where they ask for it, grads is set to zero. If the report says that the step was
// skipped, it has not been done, and t is the number of the next one, too. An option out of its range gives a
// *HyperparameterError.
func UpdateAdamWith[T Float](o Options, r Adam, t int, params, grads, expAvg, expAvgSq, maxExpAvgSq []T) (Report, error) {
	var one tensor
	one.p, one.g, one.s[0], one.s[1], one.s[2] = vectorOf(params), vectorOf(grads), vectorOf(expAvg), vectorOf(expAvgSq), vectorOf(maxExpAvgSq)
	return updateAdam(&o, r, t, &one)
}

// UpdateAdamMixed is [UpdateAdamWith] in mixed precision: see [MixedOptions] for what the vectors may be. One in a format that is not
// for its place gives a *FormatError.
func UpdateAdamMixed(o MixedOptions, r Adam, t int, params, grads, expAvg, expAvgSq, maxExpAvgSq Vector) (Report, error) {
	one := tensor{out: o.Copy, rounding: o.Rounding}
	one.p, one.g, one.s[0], one.s[1], one.s[2] = params, grads, expAvg, expAvgSq, maxExpAvgSq
	return updateAdam(&o.Options, r, t, &one)
}

func updateAdam(o *Options, r Adam, t int, one *tensor) (Report, error) {
	var h floatmode.Hold
	defer h.Take().Release()
	if err := r.Validate(); err != nil {
		return Report{}, err
	}
	if err := checkStep(t); err != nil {
		return Report{}, err
	}
	if !r.AMSGrad && one.s[2].n != 0 {
		return Report{}, &LengthError{-1, "max_exp_avg_sq (AMSGrad is off)", one.s[2].n, 0}
	}
	one.form, one.step = r.form(), t
	exact := r.scalars(t)
	return updateOne(one, &exact, o, &h)
}

// Validate implements [Rule]. The legal ranges are those in the comments of the fields; Beta1, Beta2 and Eps must not all be zero,
// as they are in a literal that nobody has filled.
func (r Adam) Validate() error {
	if err := check(adamTable, &r); err != nil {
		return err
	}
	return filled("Adam", "Beta1, Beta2 and Eps", r.Beta1, r.Beta2, r.Eps)
}

// Name implements [Rule].
func (r Adam) Name() string { return forms[r.form()].rule }

// State implements [Rule].
func (r Adam) State() []string { return forms[r.form()].slots }

// Hyperparameters implements [Rule].
func (r Adam) Hyperparameters() iter.Seq2[string, any] { return hyperparametersOf(r) }

// With implements [Rule].
func (r Adam) With(name string, value any) (Rule, error) { return with(r, name, value) }

func (r Adam) form() form {
	if r.AMSGrad {
		return equations.AdamAMSGrad
	}
	return equations.Adam
}

var adamTable = tableOf[Adam](
	hyperparameter{"lr", "LR", finite},
	hyperparameter{"beta1", "Beta1", unit},
	hyperparameter{"beta2", "Beta2", unit},
	hyperparameter{"eps", "Eps", nonNegative},
	hyperparameter{"weight_decay", "WeightDecay", nonNegative},
	hyperparameter{"amsgrad", "AMSGrad", option},
	hyperparameter{"decoupled", "Decoupled", option},
	hyperparameter{"maximize", "Maximize", option},
)

func (r Adam) table() *table { return adamTable }

func (r Adam) scalars(t int) (c scalars[float64]) {
	setCommon(&c, r.LR, r.WeightDecay, r.Decoupled, r.Maximize)
	c.beta1, c.alpha1 = r.Beta1, 1-r.Beta1
	c.beta2, c.alpha2 = r.Beta2, 1-r.Beta2
	c.k1 = r.LR / emaMass(r.Beta1, t)
	c.r = 1 / math.Sqrt(emaMass(r.Beta2, t))
	c.eps = r.Eps
	return c
}
