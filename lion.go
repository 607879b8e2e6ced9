package pnm

import (
	"iter"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

// Lion moves each parameter by the learning rate, against the sign of an average of gradients (Chen and others, Symbolic Discovery of
// Optimization Algorithms, NeurIPS 2023, arXiv 2302.06675). It keeps one momentum, half of Adam's state. Its steps are larger than
// Adam's: the authors divide AdamW's learning rate by 3 to 10 and multiply its decay λ by the same factor.
//
// The sign of 0 is 0: such a parameter only decays. The sign of a NaN is NaN, so that it reaches the parameter; torch.sign gives 0.
type Lion struct {
	LR          float64 // η, the learning rate: finite; a negative one ascends; default 0.0001
	Beta1       float64 // β1, weight of the momentum in the average whose sign is the step: in [0, 1); default 0.9
	Beta2       float64 // β2, decay of the momentum: in [0, 1); default 0.99
	WeightDecay float64 // λ: finite, ≥ 0; default 0
	Decoupled   bool    // true (default, the authors' only kind): decay scales the parameter by 1 − η·λ; false: it adds λ·p to the gradient (L2)
	Maximize    bool    // ascend instead of descend; default false
}

// NewLion returns a Lion with the defaults of the authors' PyTorch implementation.
func NewLion() Lion {
	return Lion{LR: 1e-4, Beta1: 0.9, Beta2: 0.99, Decoupled: true}
}

// UpdateLion performs step t of rule r on one tensor. All slices have the same length (0 is legal) and share no memory. It updates
// params and expAvg in place and only reads grads.
//
// expAvg must be zero before the first step. t is the tensor's own count of steps, from 1: a step in which the tensor gets no gradient
// does not count.
//
// It returns a *[ValueError] for a hyperparameter out of its range or a step below 1, a *[LengthError] for slices of different lengths,
// and an *[OverlapError] for slices that share memory; it has then written nothing. It allocates nothing and keeps none of the slices.
//
// The workers of the default pool share the work of large tensors: see [Pool].
func UpdateLion[T Float](r Lion, t int, params, grads, expAvg []T) error {
	var h floatmode.Hold
	defer h.Take().Release()
	var one tensor
	one.p, one.g, one.s[0] = vectorOf(params), vectorOf(grads), vectorOf(expAvg)
	if err := r.Validate(); err != nil {
		return err
	}
	if err := checkStep(t); err != nil {
		return err
	}
	one.form, one.step = r.form(), t
	r.scalars(t, &one.c64)
	return updateOne(&one, &h)
}

// Validate implements [Rule]. The comments of the fields give the legal ranges. Also, Beta1 and Beta2 must not
// both be zero, as they are in a literal that does not begin with [NewLion].
func (r Lion) Validate() error {
	if err := check(lionTable, &r); err != nil {
		return err
	}
	if r.Beta1 == 0 && r.Beta2 == 0 {
		return unfilled("Lion", "Beta1 and Beta2")
	}
	return nil
}

// Name implements [Rule].
func (r Lion) Name() string { return forms[r.form()].Rule }

// State implements [Rule].
func (r Lion) State() []string { return forms[r.form()].Slots }

// Hyperparameters implements [Rule].
func (r Lion) Hyperparameters() iter.Seq2[string, any] { return hyperparametersOf(r) }

// With implements [Rule].
func (r Lion) With(name string, value any) (Rule, error) { return with(r, name, value) }

func (r Lion) form() form { return equations.Lion }

var lionTable = tableOf[Lion](
	hyperparameter{"lr", "LR", finite},
	hyperparameter{"beta1", "Beta1", unit},
	hyperparameter{"beta2", "Beta2", unit},
	hyperparameter{"weight_decay", "WeightDecay", nonNegative},
	hyperparameter{"decoupled", "Decoupled", option},
	hyperparameter{"maximize", "Maximize", option},
)

func (r Lion) table() *table { return lionTable }

func (r Lion) scalars(_ int, c *scalars[float64]) {
	setCommon(c, r.LR, r.WeightDecay, r.Decoupled, r.Maximize)
	c.beta1, c.alpha1 = r.Beta1, 1-r.Beta1
	c.beta2, c.alpha2 = r.Beta2, 1-r.Beta2
	c.k1 = r.LR
}
