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

// A ruleCache has the last rules, so that steps with the same rules allocate nothing.
type ruleCache struct {
	entries [4]struct {
		bits ruleBits
		rule pnm.Rule
	}
	next int
}

// ruleBits compares rules bit by bit: −0 differs from 0, and a NaN equals itself.
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

// nameConstructor replaces the name of a Go constructor in an error by that of the C function: pnm_rule_adapnm() for NewAdaPNM.
func nameConstructor(err error) error {
	if e, ok := errors.AsType[*pnm.ValueError](err); ok {
		if text, ok := strings.CutPrefix(e.Legal, "set: New"); ok {
			name, rest, _ := strings.Cut(text, " ")
			e.Legal = fmt.Sprintf("set: pnm_rule_%s() %s", strings.ToLower(name), rest)
		}
	}
	return err
}

// A field is a field of pnm_rule with the name of a hyperparameter.
type field struct {
	name   string
	offset uintptr
	flag   bool // an int32, or else a double
}

// fields are all fields, in the order of pnm_rule.
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

// ruleOf converts a rule. It checks what the engine does not see: the kind, the flags, and that fields which the rule does not have are 0.
// A kind is the number of a rule in [pnm.Rules], counted from 1.
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

// stateOf returns the names of a rule's state.
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

// names are strings on C's heap, never freed.
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
