package pnm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/posneg/pnm/internal/floatmode"
	"github.com/posneg/pnm/internal/strictjson"
)

// lrOf returns the learning rate of a rule.
func lrOf(r Rule) float64 {
	for name, value := range r.Hyperparameters() {
		if name == "lr" {
			return value.(float64)
		}
	}
	panic("pnm: " + r.Name() + " has no learning rate")
}

// withLR returns a rule with another learning rate.
func withLR(r Rule, lr float64) Rule {
	changed, err := r.With("lr", lr)
	if err != nil {
		panic(err)
	}
	return changed
}

// A member is one of the JSON object that a rule is in files, and has one hyperparameter, or all betas in an array: that is how the
// official classes have them.
type member struct {
	name string
	of   []string
}

const betas = "betas"

func membersOf(r Rule) (all []member) {
	for name := range r.Hyperparameters() {
		if !strings.HasPrefix(name, "beta") {
			all = append(all, member{name, []string{name}})
		} else if n := len(all); n > 0 && all[n-1].name == betas {
			all[n-1].of = append(all[n-1].of, name)
		} else {
			all = append(all, member{betas, []string{name}})
		}
	}
	return all
}

// appendRule appends a rule to JSON as the first members of an object.
func appendRule(b []byte, r Rule) []byte {
	var h floatmode.Hold // of decimals: how a denormal number is written
	defer h.Take().Release()
	b = fmt.Appendf(b, `"rule":%q`, r.Name())
	values := maps.Collect(r.Hyperparameters())
	for _, m := range membersOf(r) {
		value := values[m.of[0]]
		if m.name == betas {
			list := make([]any, len(m.of))
			for i, name := range m.of {
				list[i] = values[name]
			}
			value = list
		}
		text, err := json.Marshal(value)
		if err != nil {
			panic(err) // a NaN or an infinity, which no valid rule has
		}
		b = fmt.Appendf(b, `,%q:%s`, m.name, text)
	}
	return b
}

// parseRule returns the rule of a name whose hyperparameters are the members of an object: all of them, and no others.
func parseRule(name string, members map[string]*strictjson.Decoder) (Rule, error) {
	rules := Rules()
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.Name() == name })
	if i < 0 {
		return nil, fmt.Errorf("the rule %s is unknown", strictjson.Quote(name))
	}
	r := rules[i]
	list := membersOf(r)
	for _, m := range list {
		value, ok := members[m.name]
		if !ok {
			return nil, fmt.Errorf("%s lacks %q", name, m.name)
		}
		delete(members, m.name)
		var err error
		if r, err = m.parse(value, r); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, m.name, err)
		}
	}
	for unknown := range members {
		names := make([]string, len(list))
		for i, m := range list {
			names[i] = m.name
		}
		return nil, fmt.Errorf("%s has no %s, but %s", name, strictjson.Quote(unknown), strings.Join(names, ", "))
	}
	return r, r.Validate()
}

// parse returns a rule with the hyperparameters of a member.
func (m *member) parse(d *strictjson.Decoder, r Rule) (Rule, error) {
	if m.name != betas {
		return parseHyperparameter(d, r, m.of[0])
	}
	n := 0
	err := d.Array(func() (err error) {
		if n == len(m.of) {
			return d.Errorf("it has more than %d numbers", n)
		}
		r, err = parseHyperparameter(d, r, m.of[n])
		n++
		return err
	})
	if err == nil && n < len(m.of) {
		err = d.Errorf("it has %d numbers, must have %d", n, len(m.of))
	}
	return r, err
}

func parseHyperparameter(d *strictjson.Decoder, r Rule, name string) (Rule, error) {
	var value any
	var err error
	for n, was := range r.Hyperparameters() {
		if n != name {
			continue
		}
		if _, number := was.(float64); number {
			value, err = d.Float()
		} else {
			value, err = d.Bool()
		}
	}
	if err != nil {
		return nil, err
	}
	return r.With(name, value)
}
