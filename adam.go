package pnm

import (
	"iter"
	"math"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

// Adam is torch.optim.Adam or, with Decoupled decay, torch.optim.AdamW. Both are baselines of the paper on [AdaPNM].
type Adam struct {
	LR          float64 // η, the learning rate: finite; a negative one ascends; default 0.001
	Beta1       float64 // β1, decay of the momentum: in [0, 1); default 0.9
	Beta2       float64 // β2, decay of the average of squared gradients: in [0, 1); default 0.999
	Eps         float64 // ε, added to the bias-corrected root: finite, ≥ 0 (0 gives NaN where all gradients were 0); default 1e-8
	WeightDecay float64 // λ: finite, ≥ 0; default 0, for AdamW 0.01
	Decoupled   bool    // true: decay scales the parameter by 1 − η·λ (AdamW); false (default): it adds λ·p to the gradient (L2)
	AMSGrad     bool    // divide by the root of the largest average so far; default false
	Maximize    bool    // ascend instead of descend; default false
}

// NewAdam returns an Adam with the defaults of torch.optim.Adam.
func NewAdam() Adam {
	return Adam{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}
}

// NewAdamW returns an Adam with the defaults of torch.optim.AdamW: decoupled decay of 0.01.
func NewAdamW() Adam {
	r := NewAdam()
	r.Decoupled, r.WeightDecay = true, 0.01
	return r
}

// UpdateAdam performs step t of rule r on one tensor. All slices have the same length (0 is legal) and share no memory; maxExpAvgSq is
// nil if r.AMSGrad is off. It updates all of them in place except grads, which it only reads.
//
// The state must be zero before the first step. t is the tensor's own count of steps, from 1: a step in which the tensor gets no
// gradient does not count.
//
// It returns a *[ValueError] for a hyperparameter out of its range or a step below 1, a *[LengthError] for slices of different lengths,
// and an *[OverlapError] for slices that share memory; it has then written nothing. It allocates nothing and keeps none of the slices.
//
// The workers of the default pool share the work of large tensors: see [Pool].
func UpdateAdam[T Float](r Adam, t int, params, grads, expAvg, expAvgSq, maxExpAvgSq []T) error {
	var h floatmode.Hold
	defer h.Take().Release()
	var one tensor
	one.p, one.g, one.s[0], one.s[1] = vectorOf(params), vectorOf(grads), vectorOf(expAvg), vectorOf(expAvgSq)
	if err := r.Validate(); err != nil {
		return err
	}
	if err := checkStep(t); err != nil {
		return err
	}
	if r.AMSGrad {
		one.s[2] = vectorOf(maxExpAvgSq)
	} else if len(maxExpAvgSq) != 0 {
		return &LengthError{"max_exp_avg_sq (AMSGrad is off)", len(maxExpAvgSq), 0}
	}
	one.form, one.step = r.form(), t
	r.scalars(t, &one.c64)
	return updateOne(&one, &h)
}

// Validate implements [Rule]. The comments of the fields give the legal ranges. Also, Beta1, Beta2 and Eps must not
// all be zero, as they are in a literal that does not begin with [NewAdam].
func (r Adam) Validate() error {
	if err := check(adamTable, &r); err != nil {
		return err
	}
	if r.Beta1 == 0 && r.Beta2 == 0 && r.Eps == 0 {
		return unfilled("Adam", "Beta1, Beta2 and Eps")
	}
	return nil
}

// Name implements [Rule].
func (r Adam) Name() string { return forms[r.form()].Rule }

// State implements [Rule].
func (r Adam) State() []string { return forms[r.form()].Slots }

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

func (r Adam) scalars(t int, c *scalars[float64]) {
	setCommon(c, r.LR, r.WeightDecay, r.Decoupled, r.Maximize)
	c.beta1, c.alpha1 = r.Beta1, 1-r.Beta1
	c.beta2, c.alpha2 = r.Beta2, 1-r.Beta2
	c.k1 = r.LR / emaMass(r.Beta1, t)
	c.r = 1 / math.Sqrt(emaMass(r.Beta2, t))
	c.eps = r.Eps
}
