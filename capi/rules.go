//go:build (linux || darwin || windows) && cgo

package main

// #include "internal.h"
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
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
	if err := checkPointer(r, "rule"); err != nil {
		return nil, err
	}
	bits := *(*ruleBits)(unsafe.Pointer(r))
	for i := range c.entries {
		if e := &c.entries[i]; e.bits == bits && e.rule != nil {
			return e.rule, nil
		}
	}
	rule, err := ruleOf(r)
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
	if e, ok := errors.AsType[*pnm.ValueError](err); ok {
		if text, ok := strings.CutPrefix(e.Legal, "set: New"); ok {
			name, rest, _ := strings.Cut(text, " ")
			e.Legal = fmt.Sprintf("set: pnm_rule_%s() %s", strings.ToLower(name), rest)
		}
	}
	return err
}

// A field is one of pnm_rule that has the name of a hyperparameter.
type field struct {
	name   string
	offset uintptr
	flag   bool // an int32, or else a double
}

// fields are all of them, in the order of pnm_rule.
var fields = func() (list []field) {
	rule := reflect.TypeFor[C.pnm_rule]()
	for i := range rule.NumField() {
		if f := rule.Field(i); f.Name != "kind" && !strings.HasPrefix(f.Name, "reserved") {
			list = append(list, field{f.Name, f.Offset, f.Type.Kind() == reflect.Int32})
		}
	}
	return list
}()

func (f field) number(r *C.pnm_rule) float64 {
	if at := unsafe.Add(unsafe.Pointer(r), f.offset); f.flag {
		return float64(*(*int32)(at))
	} else {
		return *(*float64)(at)
	}
}

// ruleOf checks what the engine does not: the kind, the flags, and that the rule has no other fields. A kind is the number of a
// rule in [pnm.Rules], from 1.
func ruleOf(r *C.pnm_rule) (pnm.Rule, error) {
	rules := pnm.Rules()
	if r.kind < 1 || int(r.kind) > len(rules) {
		return nil, outside("rule", "kind", float64(r.kind), fmt.Sprintf("a pnm_rule_kind, 1 … %d", len(rules)))
	}
	rule := rules[r.kind-1]
	of := rule.Name()
	if err := checkReserved(of, r.reserved_flags[:], r.reserved[:]); err != nil {
		return nil, err
	}
	has := maps.Collect(rule.Hyperparameters())
	for _, f := range fields {
		x, err := f.number(r), error(nil)
		switch {
		case f.flag && x != 0 && x != 1:
			return nil, outside(of, f.name, x, "0 or 1")
		case has[f.name] == nil:
			if x != 0 {
				return nil, outside(of, f.name, x, "0: the rule does not have it")
			}
		case f.flag:
			rule, err = rule.With(f.name, x == 1)
		default:
			rule, err = rule.With(f.name, x)
		}
		if err != nil {
			return nil, err
		}
	}
	return rule, nil
}

// stateOf is the names of a rule's state.
func stateOf(r *C.pnm_rule) ([]string, error) {
	if err := checkPointer(r, "rule"); err != nil {
		return nil, err
	}
	rule, err := ruleOf(r)
	if err != nil {
		return nil, err
	}
	return rule.State(), nil
}

// names are strings on C's heap, for ever.
var names struct {
	sync.Mutex
	of map[string]*C.char
}

func cName(s string) *C.char {
	names.Lock()
	defer names.Unlock()
	if names.of == nil {
		names.of = make(map[string]*C.char)
	}
	if names.of[s] == nil {
		names.of[s] = C.CString(s)
	}
	return names.of[s]
}
