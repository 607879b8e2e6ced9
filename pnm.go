package pnm

import (
	"iter"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

// PNM is Positive-Negative Momentum (the paper's Algorithm 2, the authors' class PNM): SGD with two momenta, updated on
// alternate steps; their weighted difference is the direction of the step. Beta0 sets how much gradient noise the
// difference carries: its variance grows with γ = (1+β0)² + β0². The step is divided by √γ, so that a constant gradient g moves a
// parameter by g·LR/√γ a step in the long run.
//
// LR has no default, as in the authors' code. The authors use 1.0 where torch's SGD with momentum 0.9 takes 0.1: torch's momentum
// buffer is a sum with gain 1/(1−momentum) = 10, and this momentum is an average with gain 1.
type PNM struct {
	LR          float64 // η, the learning rate: finite; a negative one ascends
	Beta1       float64 // β1, decay of the momenta (each is updated every second step, with β1²): in [0, 1); default 0.9
	Beta0       float64 // β0, the weight of the negative momentum: any finite number; default 1. Called betas[1] by the authors
	WeightDecay float64 // λ: finite, ≥ 0; default 0
	Decoupled   bool    // true (default): decay scales the parameter by 1 − η·λ; false: it adds λ·p to the gradient (L2)
	Maximize    bool    // ascend instead of descend; default false
}

// NewPNM returns a PNM with learning rate lr and the authors' defaults.
func NewPNM(lr float64) PNM {
	return PNM{LR: lr, Beta1: 0.9, Beta0: 1, Decoupled: true}
}

// UpdatePNM performs step t of rule r on one tensor. All slices have the same length (0 is legal) and share no memory. It updates
// params and one momentum in place: posMomentum on odd t, negMomentum on even t. It only reads grads and the other momentum.
//
// Both momenta must be zero before the first step. t is the tensor's own count of steps, from 1: a step in which the tensor gets no
// gradient does not count.
//
// It returns a *[ValueError] for a hyperparameter out of its range or a step below 1, a *[LengthError] for slices of different lengths,
// and an *[OverlapError] for slices that share memory; it has then written nothing. It allocates nothing and keeps none of the slices.
//
// The workers of the default pool share the work of large tensors: see [Pool].
func UpdatePNM[T Float](r PNM, t int, params, grads, posMomentum, negMomentum []T) error {
	var h floatmode.Hold
	defer h.Take().Release()
	var one tensor
	one.p, one.g, one.s[0], one.s[1] = vectorOf(params), vectorOf(grads), vectorOf(posMomentum), vectorOf(negMomentum)
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

// Validate implements [Rule]. The comments of the fields give the legal ranges. Also, Beta1, Beta0 and Decoupled must not
// all be zero, as they are in a literal that does not begin with [NewPNM].
func (r PNM) Validate() error {
	if err := check(pnmTable, &r); err != nil {
		return err
	}
	if r.Beta1 == 0 && r.Beta0 == 0 && !r.Decoupled { // with Decoupled, as NewPNM sets it, this is somebody's choice: plain gradient descent
		return unfilled("PNM", "Beta1 and Beta0")
	}
	return nil
}

// Name implements [Rule].
func (r PNM) Name() string { return forms[r.form()].Rule }

// State implements [Rule].
func (r PNM) State() []string { return forms[r.form()].Slots }

// Hyperparameters implements [Rule].
func (r PNM) Hyperparameters() iter.Seq2[string, any] { return hyperparametersOf(r) }

// With implements [Rule].
func (r PNM) With(name string, value any) (Rule, error) { return with(r, name, value) }

func (r PNM) form() form { return equations.PNM }

var pnmTable = tableOf[PNM](
	hyperparameter{"lr", "LR", finite},
	hyperparameter{"beta1", "Beta1", unit},
	hyperparameter{"beta0", "Beta0", finite},
	hyperparameter{"weight_decay", "WeightDecay", nonNegative},
	hyperparameter{"decoupled", "Decoupled", option},
	hyperparameter{"maximize", "Maximize", option},
)

func (r PNM) table() *table { return pnmTable }

func (r PNM) scalars(_ int, c *scalars[float64]) {
	setCommon(c, r.LR, r.WeightDecay, r.Decoupled, r.Maximize)
	c.beta1 = r.Beta1 * r.Beta1
	c.alpha1 = 1 - float64(r.Beta1*r.Beta1)
	c.k1, c.k2 = noiseWeights(r.LR, r.Beta0)
}
