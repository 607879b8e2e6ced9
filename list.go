package pnm

import "fmt"

// An Update is a step of one tensor on a caller's own memory, as a drop-in call performs it: see [UpdatePNMMixed] and its like
// for what the vectors may be, and how they must be at the first step. All may be float64, too.
type Update struct {
	Rule   Rule     // PNM, AdaPNM, SGD or Adam, as a value
	Step   int      // the tensor's own count, from 1
	Params Vector   // updated
	Grads  Vector   // read, and zeroed where the options ask for it
	State  []Vector // updated; in the order of the rule's drop-in call, those that the rule has

	Copy     Vector   // of the parameters; see [MixedOptions]
	Rounding Rounding // see [MixedOptions]: give each tensor a number of its own, or all draw the same random numbers
}

// UpdateAll performs a step of many tensors at once: what ClipNorm and SkipNonFinite say, they say of all gradients together,
// and the workers share the whole list, so that thousands of small tensors take as long as a large one. The bits are those of
// drop-in calls, one for each, with the gradients scaled by the same factor.
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
	defer b.held.Take().Release()
	if len(updates) == 0 {
		return Report{}, checkOptions(&o, true)
	}
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
	return checkBuffers(t)
}

func (u *Update) setCoefficients(t *tensor) error {
	exact := u.Rule.scalars(u.Step)
	return t.round(&exact)
}
