package pnm

import (
	"errors"
	"fmt"
	"reflect"
)

// An Update is a step of one tensor on a caller's own memory, as a drop-in call performs it: see [UpdatePNMMixed] and its like
// for what the vectors may be, and how they must be at the first step. All may be float64, too.
type Update struct {
	Rule   Rule     // PNM, AdaPNM, SGD or Adam, as a value
	Step   int      // the tensor's own count, from 1
	Params Vector   // updated
	Grads  Vector   // read, and zeroed where the options ask for it
	State  []Vector // updated; in the order of the rule's drop-in call, those that the rule has

	Copy     Vector   // of the parameters; see [MixedOptions]
	Rounding Rounding // see [MixedOptions]
}

// An UpdateError reports an error in an update of a list.
type UpdateError struct {
	Tensor int // its index in the list
	Err    error
}

func (e *UpdateError) Error() string { return "pnm: " + of(e.Tensor) + withoutPrefix(e.Err) }

func (e *UpdateError) Unwrap() error { return e.Err }

// UpdateAll performs a step of many tensors at once: what ClipNorm and SkipNonFinite say, they say of all gradients together,
// and the workers share the whole list, so that thousands of small tensors take as long as a large one. The bits are those of
// one drop-in call for each, at that norm.
//
// Nothing is kept, and nothing written if there is an error: those of the drop-in calls, and an *OverlapError if what is written
// for one tensor is memory of another. Gradients may share memory with each other, unless they are zeroed. Once a list as long
// has been updated, nothing is allocated.
func UpdateAll(o Options, updates []Update) (Report, error) {
	if errISA != nil {
		return Report{}, errISA
	}
	b := takeBatch()
	defer b.putBack()
	working := int64(0)
	for i := range updates {
		b.tensors = append(b.tensors, tensor{})
		t := &b.tensors[i]
		if err := updates[i].prepare(t); err != nil {
			return Report{}, &UpdateError{i, err}
		}
		if err := checkOptions(&o, t.wide()); err != nil {
			return Report{}, err
		}
		if i > 0 && updates[i].Step == updates[i-1].Step && t.wide() == b.tensors[i-1].wide() && updates[i].Rule == updates[i-1].Rule {
			t.c32, t.c64 = b.tensors[i-1].c32, b.tensors[i-1].c64
		} else if err := updates[i].setCoefficients(t); err != nil {
			return Report{}, &UpdateError{i, err}
		}
		working += t.traffic()
	}
	if err := b.checkOverlaps(o.ZeroGrads); err != nil {
		return Report{}, err
	}
	return b.step(&o, working), nil
}

// prepare sets all of a tensor but its coefficients, and checks it.
func (u *Update) prepare(t *tensor) error {
	if err := checkRuleType(u.Rule); err != nil {
		return err
	}
	if err := u.Rule.Validate(); err != nil {
		return err
	}
	t.form, t.step = u.Rule.form(), u.Step
	t.p, t.g, t.out, t.rounding = u.Params, u.Grads, u.Copy, u.Rounding
	if n := len(forms[t.form].slots); len(u.State) != n {
		return &LengthError{-1, fmt.Sprintf("State (%s)", t.form.state()), len(u.State), n}
	}
	copy(t.s[:], u.State)
	if err := checkStep(u.Step); err != nil {
		return err
	}
	if err := checkBuffers(t); err != nil {
		return err
	}
	return t.rounding.check()
}

func (u *Update) setCoefficients(t *tensor) error {
	exact := u.Rule.scalars(u.Step)
	return t.round(&exact)
}

// checkRuleType reports a rule that is missing or is not one of the package's, by value.
func checkRuleType(r Rule) error {
	if r == nil {
		return errors.New("Rule is nil")
	}
	if t := reflect.TypeOf(r); t.PkgPath() != reflect.TypeFor[PNM]().PkgPath() { // a pointer could change behind our back
		return fmt.Errorf("Rule is a %s, must be one of this package's rules, by value", t)
	}
	return nil
}

// checkOverlaps reports memory that is written for one tensor and belongs to another one, too. Within a tensor nothing overlaps.
func (b *batch) checkOverlaps(zero bool) error {
	written, read := b.written[:0], b.read[:0]
	defer func() { b.written, b.read = written, read }()
	for i := range b.tensors {
		t := &b.tensors[i]
		for k := range t.vectors() {
			v := t.vector(k)
			if v.n == 0 {
				continue
			}
			s := spanOf(*v)
			s.tensor, s.arg = i, t.argument(k)
			if k == 1 && !zero {
				read = append(read, s)
			} else {
				written = append(written, s)
			}
		}
	}
	if err := written.sort(); err != nil {
		return err
	}
	for _, g := range read {
		if w, n := written.overlapping(g); n > 0 {
			return &OverlapError{w.tensor, g.tensor, w.arg, g.arg, n}
		}
	}
	return nil
}
