package pnm

import (
	"iter"
	"math"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

// AdaPNM is the adaptive form of [PNM] (the paper's Algorithm 3, the authors' class AdaPNM): the difference of the two
// momenta is divided by the root of an average of squared gradients, as in Adam. A constant gradient, of any size, moves a parameter by
// LR/√γ a step in the long run. With Beta0 = 1 that is 0.447 of AdamW's step at the same LR.
type AdaPNM struct {
	LR          float64 // η, the learning rate: finite; a negative one ascends; default 0.001
	Beta1       float64 // β1, decay of the momenta (each is updated every second step, with β1²): in [0, 1); default 0.9
	Beta2       float64 // β2, decay of the average of squared gradients: in [0, 1); default 0.999
	Beta0       float64 // β0, the weight of the negative momentum: any finite number; default 1. Called betas[2] by the authors
	Eps         float64 // ε, added to the bias-corrected root: finite, ≥ 0 (0 gives NaN where all gradients were 0); default 1e-8
	WeightDecay float64 // λ: finite, ≥ 0; default 0. The authors use 5e-4/LR with decoupled decay
	Decoupled   bool    // true (default): decay scales the parameter by 1 − η·λ; false: it adds λ·p to the gradient (L2)
	AMSGrad     bool    // divide by the root of the largest average so far; default true
	Maximize    bool    // ascend instead of descend; default false

	// ExactBias corrects the bias by 1−β1^(2⌈t/2⌉), the true sum of the weights in the momentum updated at step t. The
	// authors' 1−β1^t (default) is the same on even steps and smaller on odd ones: with the defaults, the first step is
	// 1.70·LR instead of 0.89·LR.
	ExactBias bool
}

// NewAdaPNM returns an AdaPNM with the authors' defaults.
func NewAdaPNM() AdaPNM {
	return AdaPNM{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Beta0: 1, Eps: 1e-8, Decoupled: true, AMSGrad: true}
}

// UpdateAdaPNM performs step t of rule r on one tensor. All slices have the same length (0 is legal) and share no memory; maxExpAvgSq
// is nil if r.AMSGrad is off. It updates params, expAvgSq, maxExpAvgSq and one momentum in place: expAvg on odd t, negExpAvg on even t.
// It only reads grads and the other momentum.
//
// The state must be zero before the first step. t is the tensor's own count of steps, from 1: a step in which the tensor gets no
// gradient does not count.
//
// It returns a *[ValueError] for a hyperparameter out of its range or a step below 1, a *[LengthError] for slices of different lengths,
// and an *[OverlapError] for slices that share memory; it has then written nothing. It allocates nothing and keeps none of the slices.
//
// The workers of the default pool share the work of large tensors: see [Pool].
func UpdateAdaPNM[T Float](r AdaPNM, t int, params, grads, expAvg, negExpAvg, expAvgSq, maxExpAvgSq []T) error {
	var h floatmode.Hold
	defer h.Take().Release()
	var one tensor
	one.p, one.g, one.s[0], one.s[1], one.s[2] = vectorOf(params), vectorOf(grads), vectorOf(expAvg), vectorOf(negExpAvg), vectorOf(expAvgSq)
	if err := r.Validate(); err != nil {
		return err
	}
	if err := checkStep(t); err != nil {
		return err
	}
	if r.AMSGrad {
		one.s[3] = vectorOf(maxExpAvgSq)
	} else if len(maxExpAvgSq) != 0 {
		return &LengthError{"max_exp_avg_sq (AMSGrad is off)", len(maxExpAvgSq), 0}
	}
	one.form, one.step = r.form(), t
	r.scalars(t, &one.c64)
	return updateOne(&one, &h)
}

// Validate implements [Rule]. The comments of the fields give the legal ranges. Also, Beta1, Beta2 and Eps must not
// all be zero, as they are in a literal that does not begin with [NewAdaPNM].
func (r AdaPNM) Validate() error {
	if err := check(adapnmTable, &r); err != nil {
		return err
	}
	if r.Beta1 == 0 && r.Beta2 == 0 && r.Eps == 0 {
		return unfilled("AdaPNM", "Beta1, Beta2 and Eps")
	}
	return nil
}

// Name implements [Rule].
func (r AdaPNM) Name() string { return forms[r.form()].Rule }

// State implements [Rule].
func (r AdaPNM) State() []string { return forms[r.form()].Slots }

// Hyperparameters implements [Rule].
func (r AdaPNM) Hyperparameters() iter.Seq2[string, any] { return hyperparametersOf(r) }

// With implements [Rule].
func (r AdaPNM) With(name string, value any) (Rule, error) { return with(r, name, value) }

func (r AdaPNM) form() form {
	if r.AMSGrad {
		return equations.AdaPNMAMSGrad
	}
	return equations.AdaPNM
}

var adapnmTable = tableOf[AdaPNM](
	hyperparameter{"lr", "LR", finite},
	hyperparameter{"beta1", "Beta1", unit},
	hyperparameter{"beta2", "Beta2", unit},
	hyperparameter{"beta0", "Beta0", finite},
	hyperparameter{"eps", "Eps", nonNegative},
	hyperparameter{"weight_decay", "WeightDecay", nonNegative},
	hyperparameter{"amsgrad", "AMSGrad", option},
	hyperparameter{"decoupled", "Decoupled", option},
	hyperparameter{"maximize", "Maximize", option},
	hyperparameter{"exact_bias", "ExactBias", option},
)

func (r AdaPNM) table() *table { return adapnmTable }

func (r AdaPNM) scalars(t int, c *scalars[float64]) {
	setCommon(c, r.LR, r.WeightDecay, r.Decoupled, r.Maximize)
	c.beta1 = r.Beta1 * r.Beta1
	c.alpha1 = 1 - float64(r.Beta1*r.Beta1)
	c.beta2 = r.Beta2
	c.alpha2 = 1 - r.Beta2
	n := t
	if r.ExactBias && t < math.MaxInt {
		n += t % 2 // 2⌈t/2⌉
	}
	correction := emaMass(r.Beta1, n)
	c.k1, c.k2 = noiseWeights(r.LR, r.Beta0)
	c.k1 /= correction
	c.k2 /= correction
	c.r = 1 / math.Sqrt(emaMass(r.Beta2, t))
	c.eps = r.Eps
}
