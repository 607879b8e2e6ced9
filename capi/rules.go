//go:build linux && cgo

package main

// #include "internal.h"
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/posneg/pnm"
)

// A ruleCache has the last rules, so that steps with the same ones allocate nothing.
type ruleCache struct {
	entries [4]struct {
		bits ruleBits
		rule pnm.Rule
	}
	next int
}

// ruleBits tells rules apart, −0 from 0 and one NaN from another, too.
type ruleBits [unsafe.Sizeof(C.pnm_rule{}) / 8]uint64

func (c *ruleCache) get(r *C.pnm_rule) (pnm.Rule, error) {
	bits := *(*ruleBits)(unsafe.Pointer(r))
	for i := range c.entries {
		if e := &c.entries[i]; e.bits == bits && e.rule != nil {
			return e.rule, nil
		}
	}
	rule, err := ruleOf(*r)
	if err != nil {
		return nil, err
	}
	if err := rule.Validate(); err != nil {
		return nil, nameConstructor(err)
	}
	e := &c.entries[c.next]
	e.bits, e.rule = bits, rule
	c.next = (c.next + 1) % len(c.entries)
	return rule, nil
}

// nameConstructor has an error name what fills a rule's defaults as C calls it: pnm_rule_adapnm() for NewAdaPNM.
func nameConstructor(err error) error {
	if e, ok := errors.AsType[*pnm.HyperparameterError](err); ok {
		if text, ok := strings.CutPrefix(e.Legal, "set: New"); ok {
			name, rest, _ := strings.Cut(text, " ")
			e.Legal = fmt.Sprintf("set: pnm_rule_%s() %s", strings.ToLower(name), rest)
		}
	}
	return err
}

// ruleOf checks what the engine does not: the kind, the flags, and that the rule has no other fields.
func ruleOf(r C.pnm_rule) (pnm.Rule, error) {
	f := fields{rest: r}
	var rule pnm.Rule
	switch r.kind {
	case C.PNM_RULE_PNM:
		f.name = "PNM"
		rule = pnm.PNM{LR: f.number(&f.rest.lr), Beta1: f.number(&f.rest.beta1), Beta0: f.number(&f.rest.beta0),
			WeightDecay: f.number(&f.rest.weight_decay), Decoupled: f.flag(&f.rest.decoupled), Maximize: f.flag(&f.rest.maximize)}
	case C.PNM_RULE_ADAPNM:
		f.name = "AdaPNM"
		rule = pnm.AdaPNM{LR: f.number(&f.rest.lr), Beta1: f.number(&f.rest.beta1), Beta2: f.number(&f.rest.beta2),
			Beta0: f.number(&f.rest.beta0), Eps: f.number(&f.rest.eps), WeightDecay: f.number(&f.rest.weight_decay),
			Decoupled: f.flag(&f.rest.decoupled), AMSGrad: f.flag(&f.rest.amsgrad), Maximize: f.flag(&f.rest.maximize),
			ExactBias: f.flag(&f.rest.exact_bias)}
	case C.PNM_RULE_SGD:
		f.name = "SGD"
		rule = pnm.SGD{LR: f.number(&f.rest.lr), Momentum: f.number(&f.rest.momentum), Dampening: f.number(&f.rest.dampening),
			WeightDecay: f.number(&f.rest.weight_decay), Decoupled: f.flag(&f.rest.decoupled), Nesterov: f.flag(&f.rest.nesterov),
			Maximize: f.flag(&f.rest.maximize)}
	case C.PNM_RULE_ADAM:
		f.name = "Adam"
		rule = pnm.Adam{LR: f.number(&f.rest.lr), Beta1: f.number(&f.rest.beta1), Beta2: f.number(&f.rest.beta2),
			Eps: f.number(&f.rest.eps), WeightDecay: f.number(&f.rest.weight_decay), Decoupled: f.flag(&f.rest.decoupled),
			AMSGrad: f.flag(&f.rest.amsgrad), Maximize: f.flag(&f.rest.maximize)}
	default:
		return nil, outside("rule", "kind", float64(r.kind), fmt.Sprintf("a pnm_rule_kind, %d … %d", C.PNM_RULE_PNM, C.PNM_RULE_ADAM))
	}
	return rule, f.check()
}

// A fields is the fields of a rule that nobody has taken yet. Flags that are neither 0 nor 1 stay.
type fields struct {
	rest C.pnm_rule
	name string
}

func (f *fields) number(at *C.double) float64 {
	x := float64(*at)
	*at = 0
	return x
}

func (f *fields) flag(at *C.int32_t) bool {
	if *at == 1 {
		*at = 0
		return true
	}
	return false
}

// check reports a field that is left. Fields that are not the rule's must be 0.
func (f *fields) check() error {
	r := &f.rest
	for _, left := range []struct {
		field string
		value float64
	}{
		{"decoupled", float64(r.decoupled)}, {"amsgrad", float64(r.amsgrad)}, {"maximize", float64(r.maximize)},
		{"nesterov", float64(r.nesterov)}, {"exact_bias", float64(r.exact_bias)},
	} {
		if left.value != 0 && left.value != 1 {
			return outside(f.name, left.field, left.value, "0 or 1")
		}
		if left.value != 0 {
			return outside(f.name, left.field, left.value, "0: the rule does not have it")
		}
	}
	for _, left := range r.reserved {
		if left != 0 {
			return outside(f.name, "reserved", float64(left), "0")
		}
	}
	for _, left := range []struct {
		field string
		value C.double
	}{
		{"lr", r.lr}, {"beta1", r.beta1}, {"beta2", r.beta2}, {"beta0", r.beta0}, {"eps", r.eps},
		{"weight_decay", r.weight_decay}, {"momentum", r.momentum}, {"dampening", r.dampening},
	} {
		if left.value != 0 {
			return outside(f.name, left.field, float64(left.value), "0: the rule does not have it")
		}
	}
	return nil
}
