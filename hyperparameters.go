package pnm

import (
	"fmt"
	"iter"
	"reflect"
	"strings"
	"unsafe"
)

// A hyperparameter is a row of a rule's table.
type hyperparameter struct {
	name  string   // in files, in C and for With, as the official class calls it
	field string   // in Go
	legal interval // of a number; an option has none
}

// option is what an option has instead of an interval.
var option interval

// A table has a rule's hyperparameters, in the order in which the official tuples have betas.
type table struct {
	rule    string
	rows    []hyperparameter
	offsets []uintptr // of the rows' fields
	numbers []bound   // those that are numbers, apart and close together: Validate is part of every step
}

// A bound is the interval of the field at an offset.
type bound struct {
	offset uintptr
	lo, hi float64
}

// tableOf returns the table of the type R.
func tableOf[R any](rows ...hyperparameter) *table {
	rule := reflect.TypeFor[R]()
	t := &table{rule: rule.Name(), rows: rows}
	for _, row := range rows {
		field, ok := rule.FieldByName(row.field)
		want := reflect.TypeFor[float64]()
		if row.legal == option {
			want = reflect.TypeFor[bool]()
		}
		if !ok || field.Type != want {
			panic(fmt.Sprintf("pnm: %s has no field %s of type %v", t.rule, row.field, want))
		}
		t.offsets = append(t.offsets, field.Offset)
		if row.legal != option {
			t.numbers = append(t.numbers, bound{field.Offset, row.legal.lo, row.legal.hi})
		}
	}
	return t
}

// check returns nil, or the *ValueError of the first number outside its interval; a NaN is in none.
func check[R any](t *table, r *R) error { return t.check(unsafe.Pointer(r)) }

func (t *table) check(rule unsafe.Pointer) error {
	for i := range t.numbers {
		b := &t.numbers[i]
		if x := *(*float64)(unsafe.Add(rule, b.offset)); !(b.lo <= x && x <= b.hi) {
			return t.outside(b.offset, x)
		}
	}
	return nil
}

func (t *table) outside(offset uintptr, x float64) error {
	for i := range t.rows {
		if row := &t.rows[i]; t.offsets[i] == offset {
			return row.legal.outside(t.rule, row.field, x)
		}
	}
	panic("unreachable: a bound without a row")
}

// value returns a row's value, a float64 or a bool.
func (t *table) value(rule unsafe.Pointer, row int) any {
	at := unsafe.Add(rule, t.offsets[row])
	if t.rows[row].legal == option {
		return *(*bool)(at)
	}
	return *(*float64)(at)
}

// set sets the hyperparameter of a name.
func (t *table) set(rule unsafe.Pointer, name string, value any) error {
	for i, row := range t.rows {
		if row.name != name {
			continue
		}
		at := unsafe.Add(rule, t.offsets[i])
		switch value := value.(type) {
		case float64:
			if row.legal != option {
				*(*float64)(at) = value
				return nil
			}
		case bool:
			if row.legal == option {
				*(*bool)(at) = value
				return nil
			}
		}
		return fmt.Errorf("pnm: %s of %s must be a %T, not %T", name, t.rule, t.value(rule, i), value)
	}
	names := make([]string, len(t.rows))
	for i, row := range t.rows {
		names[i] = row.name
	}
	return fmt.Errorf("pnm: %s has no hyperparameter %q, only %s", t.rule, name, strings.Join(names, ", "))
}

// hyperparametersOf implements Rule.Hyperparameters.
func hyperparametersOf[R Rule](r R) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		t := r.table()
		for i, row := range t.rows {
			if !yield(row.name, t.value(unsafe.Pointer(&r), i)) {
				return
			}
		}
	}
}

// with implements Rule.With.
func with[R Rule](r R, name string, value any) (Rule, error) {
	if err := r.table().set(unsafe.Pointer(&r), name, value); err != nil {
		return nil, err
	}
	return r, nil
}
