package main

import (
	"fmt"
	"math"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/trials"
)

// A comparison is a list of contenders, the pairs to compare, and a function that draws it.
type comparison struct {
	contenders []contender
	pairs      [][2]int // each: the first minus the second
	picture    func(cs []contender, prefix string) (files []string, err error)
}

func (e *comparison) about(s settings) string { return s.describe() }

func (e *comparison) draw(prefix string) (files []string, err error) {
	return e.picture(e.contenders, prefix)
}

// A contender is an optimizer and its runs.
type contender struct {
	name      string
	rule      pnm.Rule
	lr, decay float64

	runs []trials.Result // one for each seed
}

const (
	beta1 = 0.9 // the momentum of all optimizers

	// shrink is LR·WeightDecay, the relative change of a parameter by weight decay in a step, the same for every contender. The
	// authors' decay is 5e-4 for PNM, with a learning rate of 1, and 5e-4/LR for the adaptive rules.
	shrink = 5e-4
)

// drift returns 1/√γ: a constant gradient moves a parameter by LR/√γ a step in the long run, where EMA momentum and AdamW
// move it by LR.
func drift(beta0 float64) float64 { return 1 / math.Hypot(1+beta0, beta0) }

func positiveNegative(lr, beta0 float64) pnm.PNM {
	r := pnm.NewPNM(lr)
	r.Beta1, r.Beta0, r.WeightDecay = beta1, beta0, shrink/lr
	return r
}

func newPNM(name string, lr, beta0 float64) contender {
	r := positiveNegative(lr, beta0)
	return contender{name: name, rule: r, lr: lr, decay: r.WeightDecay}
}

// newSGD returns SGD with torch's momentum, whose buffer grows to 1/(1−β1) = 10 times a constant gradient. step is the
// learning rate times this factor.
func newSGD(name string, step float64) contender {
	r := pnm.NewSGD(step * (1 - beta1))
	r.Momentum, r.WeightDecay = beta1, shrink/step
	return contender{name: name, rule: r, lr: r.LR, decay: r.WeightDecay}
}

func newAdamW(name string, lr float64) contender {
	r := pnm.NewAdamW()
	r.LR, r.Beta1, r.WeightDecay = lr, beta1, shrink/lr
	return contender{name: name, rule: r, lr: lr, decay: r.WeightDecay}
}

func newAdaPNM(name string, lr float64) contender {
	r := pnm.NewAdaPNM()
	r.LR, r.Beta1, r.WeightDecay = lr, beta1, shrink/lr
	return contender{name: name, rule: r, lr: lr, decay: r.WeightDecay}
}

// rivals compares PNM and AdaPNM with their baselines. Each baseline runs at the authors' learning rate, and matched, that
// is with the same long-run step as PNM or AdaPNM.
func rivals(pnmLR, adapnmLR float64) *comparison {
	return &comparison{
		contenders: []contender{
			newSGD("SGD-M", pnmLR),
			newSGD("SGD-M, matched", pnmLR*drift(1)),
			newPNM("PNM", pnmLR, 1),
			newAdamW("AdamW", adapnmLR),
			newAdamW("AdamW, matched", adapnmLR*drift(1)),
			newAdaPNM("AdaPNM", adapnmLR),
		},
		pairs:   [][2]int{{2, 0}, {2, 1}, {5, 3}, {5, 4}},
		picture: drawRivals,
	}
}

// beta0s are the values of β0 to sweep; the first makes PNM heavy-ball momentum.
var beta0s = []float64{-beta1 / (1 + beta1), 0, 0.5, 1, 2}

const defaultBeta0 = 3 // its place among them

// beta0Sweep runs PNM at several β0: first at equal learning rates, so that the long-run step LR/√γ changes with β0; then
// matched, all with the long-run step of β0 = 1.
func beta0Sweep(lr float64) *comparison {
	e := &comparison{picture: drawBeta0}
	for _, beta0 := range beta0s {
		e.contenders = append(e.contenders, newPNM(fmt.Sprintf("β0 = %.3g", beta0), lr, beta0))
	}
	for i, beta0 := range beta0s {
		if i == defaultBeta0 {
			continue // matched as it is
		}
		matched := newPNM(fmt.Sprintf("β0 = %.3g, matched", beta0), lr*drift(beta0s[defaultBeta0])/drift(beta0), beta0)
		e.pairs = append(e.pairs, [2]int{i, defaultBeta0}, [2]int{len(e.contenders), defaultBeta0})
		e.contenders = append(e.contenders, matched)
	}
	return e
}
