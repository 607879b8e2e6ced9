package pnm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
)

// A sample is what tests and benchmarks must be told of a rule.
type sample struct {
	names string        // of its hyperparameters, in the order that files have
	calls [2]any        // the drop-in call as a dropIn, of float32 and of float64
	rules []Rule        // each form at its defaults, with each option turned around at least once
	bench []benchmarked // each form once, under the name that is printed
}

type benchmarked struct {
	name string
	rule Rule
}

// samples has a row for each rule, in the order of Rules.
var samples = []sample{
	{
		"lr beta1 beta0 weight_decay decoupled maximize",
		[2]any{dropPNM[float32], dropPNM[float64]},
		[]Rule{
			NewPNM(0.5),
			PNM{LR: 0.3, Beta1: 0.9, Beta0: -0.7, WeightDecay: 0.01, Maximize: true},
		},
		[]benchmarked{{"PNM", NewPNM(1e-3)}},
	},
	{
		"lr beta1 beta2 beta0 eps weight_decay amsgrad decoupled maximize exact_bias",
		[2]any{dropAdaPNM[float32], dropAdaPNM[float64]},
		[]Rule{
			NewAdaPNM(),
			AdaPNM{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Beta0: 1, Eps: 1e-8, WeightDecay: 0.5, Decoupled: true},
			AdaPNM{LR: 1e-3, Beta1: 0.9, Beta2: 0.999, Beta0: 2, Eps: 1e-8, WeightDecay: 0.02, AMSGrad: true, Maximize: true, ExactBias: true},
		},
		[]benchmarked{{"AdaPNM-plain", set(NewAdaPNM(), "amsgrad", false)}, {"AdaPNM", NewAdaPNM()}},
	},
	{
		"lr momentum dampening weight_decay decoupled nesterov maximize",
		[2]any{dropSGD[float32], dropSGD[float64]},
		[]Rule{
			NewSGD(0.1),
			SGD{LR: 0.1, Momentum: 0.9, Dampening: 0.3, WeightDecay: 0.02, Maximize: true},
			SGD{LR: 0.05, Momentum: 0.8, Nesterov: true, WeightDecay: 0.1, Decoupled: true},
		},
		[]benchmarked{
			{"SGD", NewSGD(1e-3)},
			{"SGD-momentum", SGD{LR: 1e-3, Momentum: 0.9}},
			{"SGD-Nesterov", SGD{LR: 1e-3, Momentum: 0.9, Nesterov: true}},
		},
	},
	{
		"lr beta1 beta2 eps weight_decay amsgrad decoupled maximize",
		[2]any{dropAdam[float32], dropAdam[float64]},
		[]Rule{
			NewAdam(),
			set(set(NewAdamW(), "amsgrad", true), "maximize", true),
		},
		[]benchmarked{{"Adam", NewAdam()}, {"Adam-AMSGrad", set(NewAdam(), "amsgrad", true)}},
	},
	{
		"lr beta1 beta2 weight_decay decoupled maximize",
		[2]any{dropLion[float32], dropLion[float64]},
		[]Rule{
			NewLion(),
			Lion{LR: 3e-4, Beta1: 0.95, Beta2: 0.98, WeightDecay: 1, Decoupled: true},
			Lion{LR: 1e-4, Beta1: 0.8, Beta2: 0.8, WeightDecay: 0.1, Maximize: true},
		},
		[]benchmarked{{"Lion", NewLion()}},
	},
}

// A dropIn is the drop-in call of some rule; what state the rule does not have is nil.
type dropIn[T Float] = func(r Rule, t int, p, g []T, s *[maxSlots][]T) error

func dropPNM[T Float](r Rule, t int, p, g []T, s *[maxSlots][]T) error {
	return UpdatePNM(r.(PNM), t, p, g, s[0], s[1])
}

func dropAdaPNM[T Float](r Rule, t int, p, g []T, s *[maxSlots][]T) error {
	return UpdateAdaPNM(r.(AdaPNM), t, p, g, s[0], s[1], s[2], s[3])
}

func dropSGD[T Float](r Rule, t int, p, g []T, s *[maxSlots][]T) error {
	return UpdateSGD(r.(SGD), t, p, g, s[0])
}

func dropAdam[T Float](r Rule, t int, p, g []T, s *[maxSlots][]T) error {
	return UpdateAdam(r.(Adam), t, p, g, s[0], s[1], s[2])
}

func dropLion[T Float](r Rule, t int, p, g []T, s *[maxSlots][]T) error {
	return UpdateLion(r.(Lion), t, p, g, s[0])
}

// dropInOf returns the drop-in call of a rule.
func dropInOf[T Float](r Rule) dropIn[T] {
	for _, s := range samples {
		if reflect.TypeOf(s.rules[0]) == reflect.TypeOf(r) {
			return s.calls[sizeOf[T]()/8].(dropIn[T])
		}
	}
	panic(fmt.Sprintf("no drop-in call for %T", r))
}

// updateSlices is the drop-in call of whatever rule r is; state holds the buffers in the order of the call.
func updateSlices[T Float](r Rule, t int, p, g []T, state [][]T) error {
	var s [maxSlots][]T
	copy(s[:], state)
	return dropInOf[T](r)(r, t, p, g, &s)
}

// updateSlicesWith is the same step with options.
func updateSlicesWith[T Float](o Options, r Rule, t int, p, g []T, state [][]T) (Report, error) {
	return UpdateAll(o, []Update{{Rule: r, Step: t, Params: vectorOf(p), Grads: vectorOf(g), State: Vectors(state...)}})
}

// What follows works for every rule, as long as randomValue knows the names of its hyperparameters.

func sampleRules() (all []Rule) {
	for _, s := range samples {
		all = append(all, s.rules...)
	}
	return all
}

// benchRules has each form once.
func benchRules() (rules []Rule, names []string) {
	for _, s := range samples {
		for _, b := range s.bench {
			rules, names = append(rules, b.rule), append(names, b.name)
		}
	}
	return rules, names
}

// set is With for a hyperparameter that the rule has.
func set(r Rule, name string, value any) Rule {
	changed, err := r.With(name, value)
	if err != nil {
		panic(err)
	}
	return changed
}

// randomRule returns any rule with any legal hyperparameters.
func randomRule(rng *rand.Rand) Rule {
	rules := Rules()
	r := rules[rng.IntN(len(rules))]
	for {
		for name, was := range r.Hyperparameters() {
			if _, ok := was.(bool); ok {
				r = set(r, name, rng.IntN(2) == 0)
			} else {
				r = set(r, name, randomValue(rng, name))
			}
		}
		if r.Validate() == nil { // one may not go with another, as dampening with Nesterov
			return r
		}
	}
}

func randomValue(rng *rand.Rand, name string) float64 {
	x := rng.Float64()
	switch name {
	case "lr":
		return math.Exp(8*x - 8)
	case "beta1":
		return x
	case "beta2":
		return 1 - math.Exp(-9*x)
	case "beta0":
		return 4*x - 2
	case "eps":
		return math.Exp(-20 * x)
	case "weight_decay":
		return []float64{0, 0, 0.01, 0.5}[rng.IntN(4)]
	case "momentum":
		return []float64{0, 1.5 * x}[rng.IntN(2)]
	case "dampening":
		return []float64{0, 4*x - 2}[rng.IntN(2)]
	}
	panic("no random values for " + name)
}
