package pnm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/posneg/pnm/internal/strictjson"

	"github.com/posneg/pnm/internal/floatmode"
)

// rules has every rule once.
var rules = []Rule{PNM{}, AdaPNM{}, SGD{}, Adam{}}

// A hyperparameter is one of a rule's, for files: under the name that the authors' class, or torch's, has for it.
type hyperparameter struct {
	name string
	at   any // a *float64, a *bool, or a []*float64 for what is a tuple there
}

// ruleName is what files call a rule.
func ruleName(r Rule) string { return forms[r.form()].rule }

// appendRule appends a rule to JSON as the first members of an object.
func appendRule(b []byte, r Rule) []byte {
	var h floatmode.Hold // of decimals: how a denormal number is written
	defer h.Take().Release()
	b = fmt.Appendf(b, `"rule":%q`, ruleName(r))
	list, _ := r.hyperparameters()
	for _, h := range list {
		value, err := json.Marshal(h.at)
		if err != nil {
			panic(err) // a NaN or an infinity, which no valid rule has
		}
		b = fmt.Appendf(b, `,%q:%s`, h.name, value)
	}
	return b
}

// parseRule returns the rule of a name whose hyperparameters are the members of an object: all of them, and no others.
func parseRule(name string, members map[string]*strictjson.Decoder) (Rule, error) {
	i := slices.IndexFunc(rules, func(r Rule) bool { return ruleName(r) == name })
	if i < 0 {
		return nil, fmt.Errorf("the rule %s is unknown", strictjson.Quote(name))
	}
	list, rule := rules[i].hyperparameters()
	for _, h := range list {
		value, ok := members[h.name]
		if !ok {
			return nil, fmt.Errorf("%s lacks %q", name, h.name)
		}
		delete(members, h.name)
		if err := h.parse(value); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, h.name, err)
		}
	}
	for unknown := range members {
		names := make([]string, len(list))
		for i, h := range list {
			names[i] = h.name
		}
		return nil, fmt.Errorf("%s has no %s, but %s", name, strictjson.Quote(unknown), strings.Join(names, ", "))
	}
	r := rule()
	return r, r.Validate()
}

// parse sets a hyperparameter.
func (h *hyperparameter) parse(d *strictjson.Decoder) (err error) {
	switch at := h.at.(type) {
	case *float64:
		*at, err = d.Float()
	case *bool:
		*at, err = d.Bool()
	case []*float64:
		n := 0
		err = d.Array(func() error {
			if n == len(at) {
				return d.Errorf("it has more than %d numbers", n)
			}
			*at[n], err = d.Float()
			n++
			return err
		})
		if err == nil && n < len(at) {
			err = d.Errorf("it has %d numbers, must have %d", n, len(at))
		}
	}
	return err
}
