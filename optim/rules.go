package optim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/floatmode"
	"github.com/posneg/pnm/internal/strictjson"
)

// sameState reports whether a run may change from one rule to another: whether they have the same type and state.
func sameState(a, b pnm.Rule) bool { return a.Name() == b.Name() && slices.Equal(a.State(), b.State()) }

// joined returns a list of names for an error.
func joined(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// learningRate returns the learning rate of a rule.
func learningRate(r pnm.Rule) float64 {
	for name, value := range r.Hyperparameters() {
		if name == "lr" {
			return value.(float64)
		}
	}
	return 0
}

// A member is a member of a rule's JSON object: a hyperparameter or, under the name "betas", all those whose names begin with "beta",
// like the tuples of the authors' and torch's classes.
type member struct {
	name   string
	rows   []string // the names of the hyperparameters
	values []any    // float64 or bool
}

// membersOf returns a rule's members, in their order.
func membersOf(r pnm.Rule) (members []member) {
	for row, value := range r.Hyperparameters() {
		name := row
		if strings.HasPrefix(row, "beta") {
			name = "betas"
		}
		if k := len(members) - 1; k >= 0 && members[k].name == name {
			members[k].rows, members[k].values = append(members[k].rows, row), append(members[k].values, value)
			continue
		}
		members = append(members, member{name, []string{row}, []any{value}})
	}
	return members
}

// isList reports whether a member is a list in JSON.
func (m *member) isList() bool { return m.name == "betas" }

// appendRule appends a rule to JSON as the first members of an object.
func appendRule(b []byte, r pnm.Rule) []byte {
	var h floatmode.Hold // for denormal numbers in decimal
	defer h.Take().Release()
	b = fmt.Appendf(b, `"rule":%q`, r.Name())
	for _, m := range membersOf(r) {
		value := m.values[0]
		if m.isList() {
			value = m.values
		}
		text, err := json.Marshal(value)
		if err != nil {
			panic(err) // a NaN or an infinity, which valid rules do not have
		}
		b = fmt.Appendf(b, `,%q:%s`, m.name, text)
	}
	return b
}

// parseRule returns the rule of that name. Its hyperparameters are the members of an object, which must have all of them and no others.
func parseRule(name string, members map[string]*strictjson.Decoder) (pnm.Rule, error) {
	rules := pnm.Rules()
	i := slices.IndexFunc(rules, func(r pnm.Rule) bool { return r.Name() == name })
	if i < 0 {
		return nil, fmt.Errorf("unknown rule %s", strictjson.Quote(name))
	}
	r := rules[i]
	var names []string
	for _, m := range membersOf(r) {
		names = append(names, m.name)
		value, ok := members[m.name]
		if !ok {
			return nil, fmt.Errorf("%s lacks %q", name, m.name)
		}
		delete(members, m.name)
		err := m.parse(value)
		for k := 0; k < len(m.rows) && err == nil; k++ {
			r, err = r.With(m.rows[k], m.values[k])
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, m.name, err)
		}
	}
	for unknown := range members {
		return nil, fmt.Errorf("%s has no %s, only %s", name, strictjson.Quote(unknown), strings.Join(names, ", "))
	}
	return r, r.Validate()
}

// parse sets the values.
func (m *member) parse(d *strictjson.Decoder) (err error) {
	if !m.isList() {
		m.values[0], err = parseAs(m.values[0], d)
		return err
	}
	n := 0
	err = d.Array(func() error {
		if n == len(m.values) {
			return d.Errorf("it has more than %d numbers", n)
		}
		m.values[n], err = parseAs(m.values[n], d)
		n++
		return err
	})
	if err == nil && n < len(m.values) {
		err = d.Errorf("it has %d numbers, must have %d", n, len(m.values))
	}
	return err
}

// parseAs reads a value of the same type as was.
func parseAs(was any, d *strictjson.Decoder) (any, error) {
	if _, ok := was.(bool); ok {
		return d.Bool()
	}
	return d.Float()
}
