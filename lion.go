package pnm

import (
	"iter"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

// Lion moves each parameter by the learning rate, against the sign of an average of gradients (Chen and others, Symbolic Discovery of
// Optimization Algorithms, NeurIPS 2023, arXiv 2302.06675). It keeps one momentum, half of Adam's state. A step is larger than
// Adam's: the authors take learning rates 3 to 10 times smaller than AdamW's, and a decay λ as many times larger.
//
// The sign of zero is 0: such a parameter only decays. That of a NaN is NaN, so that it reaches the parameter; torch.sign makes it 0.
type Lion struct {
	LR          float64 // η, the learning rate: finite; a negative one ascends; default 0.0001
	Beta1       float64 // β1, weight of the momentum in the average whose sign is the step: in [0, 1); default 0.9
	Beta2       float64 // β2, decay of the momentum: in [0, 1); default 0.99
	WeightDecay float64 // λ: finite, ≥ 0; default 0
	Decoupled   bool    // decay shrinks the parameter by η·λ (default, and all that the authors have), or else joins the gradient as λ·p (L2)
	Maximize    bool    // ascend instead of descend; default false
}

// NewLion returns a Lion with the defaults of the authors' PyTorch implementation.
func NewLion() Lion {
	return Lion{LR: 1e-4, Beta1: 0.9, Beta2: 0.99, Decoupled: true}
}

// UpdateLion performs step t of rule r on one tensor. All slices have the same length n (n = 0 is a legal no-op) and share no memory.
// params and expAvg are updated in place, grads is only read. The caller zeroes expAvg before the first step, counts t from 1 and
// adds one at every call on the same tensor; one that gets no gradient in some step keeps its count.
//
// A bad hyperparameter or a step below 1 gives a *[ValueError], a length that differs a *[LengthError], slices that overlap an
// *[OverlapError], and nothing is written. Nothing is allocated, and nothing kept.
//
// Large tensors are shared among the workers of a pool that follows GOMAXPROCS; see [Pool].
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

// Validate implements [Rule]. The legal ranges are those in the comments of the fields; Beta1 and Beta2 must not both be zero, as
// they are in a literal that nobody has filled.
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
