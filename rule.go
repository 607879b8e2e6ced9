package pnm

import (
	"fmt"
	"iter"
	"math"
)

// A Rule is an update rule with its hyperparameters: [PNM], [AdaPNM], [SGD], [Adam] or [Lion]. Rules are plain values that can be
// copied. A field set to zero means zero: the constructors fill in the defaults.
//
// Each hyperparameter has a name, the same in checkpoints, in C and in Go. The names are lr, beta1, beta2, beta0, eps, weight_decay,
// momentum, dampening, decoupled, amsgrad, maximize, nesterov and exact_bias; each rule has some of them.
type Rule interface {
	// Validate returns nil, or a *ValueError that names the first field that is out of its range.
	Validate() error

	// Name returns the rule's name in checkpoints, in errors and in C: the name of its type, such as "AdaPNM".
	Name() string

	// State returns the names of the rule's state buffers, as the official implementation calls them, in the order of the
	// rule's Update function. They depend on the rule's options; without state it returns nil. Do not change the slice: it is shared.
	State() []string

	// Hyperparameters yields the names of all hyperparameters and their values, each a float64 or a bool, always in the same order.
	Hyperparameters() iter.Seq2[string, any]

	// With returns a copy of the rule in which the named hyperparameter has another value. The value must have the hyperparameter's
	// type, float64 or bool. An unknown name or a value of the wrong type returns an error. With does not check ranges: Validate does.
	With(name string, value any) (Rule, error)

	// form tells which equations the rule's options select.
	form() form
	// scalars sets the coefficients of step t ≥ 1 in c, which is zero.
	scalars(t int, c *scalars[float64])
	// table describes the hyperparameters.
	table() *table
}

// Rules returns every rule with the defaults of its constructor. A learning rate without a default is 0.
func Rules() []Rule { return []Rule{NewPNM(0), NewAdaPNM(), NewSGD(0), NewAdam(), NewLion()} }

// scalars are the coefficients of the update equations for one step. A rule computes them in float64; round converts them
// to the element type. Fields that a rule does not use stay zero.
type scalars[T Float] struct {
	gs     T // factor on the gradient: 1, or −1 to maximize; options multiply it
	l2     T // λ if decay is coupled, else 0
	keep   T // 1 − η·λ if decay is decoupled, else 1
	beta1  T // decay of the momentum: β1² in PNM, β1 in Adam, μ in SGD; in Lion its weight in the step
	alpha1 T // weight of the gradient in it: 1 − beta1, in SGD 1 or 1 − τ
	beta2  T // β2: decay of the average of squares, in Lion of the momentum
	alpha2 T // 1 − β2
	k1, k2 T // weights of the two momenta, or k1 of the only one; they include the step size and the bias correction
	r      T // 1/√(1−β2^t)
	eps    T // ε
	lo, hi T // bounds of the scaled gradient: −∞ and +∞, unless it is clipped by value
}

// setCommon sets the coefficients that mean the same in every rule: the gradient's sign and weight decay.
//
// Here and below, float64(…) around a product keeps the compiler from fusing it into an FMA, which would give other bits
// on some architectures.
func setCommon(c *scalars[float64], lr, lambda float64, decoupled, maximize bool) {
	c.gs, c.keep = 1, 1
	c.lo, c.hi = math.Inf(-1), math.Inf(1)
	if maximize {
		c.gs = -1
	}
	if decoupled {
		c.keep = 1 - float64(lr*lambda)
	} else {
		c.l2 = lambda
	}
}

// noiseWeights returns k1 = η(1+β0)/√γ and k2 = η·β0/√γ with γ = (1+β0)² + β0².
func noiseWeights(lr, beta0 float64) (k1, k2 float64) {
	a, b := 1+beta0, beta0
	if math.Abs(b) > 0x1p500 { // γ would overflow; a power of two leaves the ratios as they are
		a, b = a*0x1p-600, b*0x1p-600
	}
	norm := math.Sqrt(float64(a*a) + float64(b*b))
	return lr * a / norm, lr * b / norm
}

// emaMass returns 1 − βⁿ, the sum of the weights in an exponential moving average after n ≥ 1 updates.
//
// It cannot use math.Pow, which has assembly and gives other bits on some architectures. It keeps βⁿ as hi + lo, with lo below half an
// ulp of hi, so that hi ends as the correctly rounded power (the error before the last rounding is about n·2⁻¹⁰⁴).
func emaMass(beta float64, n int) float64 {
	if float64(n)*(1-beta) > 45 {
		return 1 // βⁿ ≤ exp(−n(1−β)) < 2⁻⁶⁴
	}
	hi, lo := 1.0, 0.0
	bh, bl := beta, 0.0
	for ; ; n >>= 1 {
		if n&1 != 0 {
			hi, lo = mulPair(hi, lo, bh, bl)
		}
		if n == 1 {
			return 1 - hi
		}
		bh, bl = mulPair(bh, bl, bh, bl)
	}
}

// mulPair multiplies ah+al by bh+bl; hi of the result is that product rounded to float64, lo what the rounding lost.
func mulPair(ah, al, bh, bl float64) (hi, lo float64) {
	p := float64(ah * bh)
	e := math.FMA(ah, bh, -p) + (float64(ah*bl) + float64(al*bh)) // the first term is the exact error of p
	hi = p + e
	return hi, e - (hi - p)
}

// round rounds the coefficients to the element type; out may be c. If one of them is not finite in that type, a step would fill the
// parameters with NaN: round returns an error that names the hyperparameter at fault.
func round[T Float](f form, c *scalars[float64], out *scalars[T]) error {
	// Adding 0 turns −0 into +0, so that equal rules have equal coefficients.
	out.gs, out.l2, out.keep = T(c.gs), T(c.l2)+0, T(c.keep)+0
	out.beta1, out.alpha1 = T(c.beta1)+0, T(c.alpha1)+0
	out.beta2, out.alpha2 = T(c.beta2)+0, T(c.alpha2)+0
	out.k1, out.k2, out.r, out.eps = T(c.k1)+0, T(c.k2)+0, T(c.r), T(c.eps)+0
	out.lo, out.hi = T(c.lo), T(c.hi)
	// x−x is 0 for a finite x, and NaN for the others. In pairs, so that no sum waits for all others.
	if (((out.k1-out.k1)+(out.k2-out.k2))+((out.keep-out.keep)+(out.l2-out.l2)))+
		(((out.beta1-out.beta1)+(out.alpha1-out.alpha1))+(out.eps-out.eps)) == 0 {
		if out.eps == 0 && c.eps != 0 {
			return &ValueError{forms[f].Rule, "Eps", c.eps, fmt.Sprintf("0, or large enough not to be 0 in %T", out.eps)}
		}
		return nil
	}
	e := &ValueError{forms[f].Rule, "Eps", c.eps, fmt.Sprintf("small enough for its coefficient to be finite in %T", out.eps)}
	switch {
	case out.k1-out.k1 != 0:
		e.Field, e.Value = "LR", c.k1
	case out.k2-out.k2 != 0:
		e.Field, e.Value = "LR", c.k2
	case out.keep-out.keep != 0:
		e.Field, e.Value = "LR·WeightDecay", c.keep
	case out.l2-out.l2 != 0:
		e.Field, e.Value = "WeightDecay", c.l2
	case out.beta1-out.beta1 != 0:
		e.Field, e.Value = "Momentum", c.beta1
	case out.alpha1-out.alpha1 != 0:
		e.Field, e.Value = "Dampening", c.alpha1
	}
	return e
}

// isMomentum reports whether a role is that of a momentum; the other roles are the average of squares and its maximum.
func isMomentum(role rune) bool { return role == 'm' || role == 'n' }

// An interval is a range of legal values of a hyperparameter, bounds included.
type interval struct {
	lo, hi float64
	text   string
}

var (
	finite      = interval{-math.MaxFloat64, math.MaxFloat64, "finite"}
	nonNegative = interval{0, math.MaxFloat64, "finite and ≥ 0"}
	unit        = interval{0, 1 - 0x1p-53, "in [0, 1)"}
)

// check returns nil, or the *ValueError that field is not in the interval; a NaN is in none.
func (i *interval) check(rule, field string, value float64) error {
	if i.lo <= value && value <= i.hi {
		return nil
	}
	return i.outside(rule, field, value) // apart, so that check is inlined
}

func (i *interval) outside(rule, field string, value float64) error {
	return &ValueError{rule, field, value, i.text}
}

// unfilled is the error of a rule in which the given fields are all 0: it is a literal without the constructor's defaults.
func unfilled(rule, fields string) error {
	return &ValueError{rule, fields, 0, "set: New" + rule + " fills in the defaults"}
}
