package pnm

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unsafe"
)

// A Group is a list of tensors that share a rule.
type Group[T Float] struct {
	Rule   Rule  // PNM or AdaPNM, as a value
	Params [][]T // the parameters, one slice a tensor, updated in place by Step; may be empty
}

// An Optimizer owns the state of a list of tensors and updates their parameters. Tensors are numbered from 0 in the order
// in which the groups, and the groups' Params, list them. Each has its own count of steps, as in the authors' code.
//
// Distinct optimizers are independent of each other. One optimizer must not be used by several goroutines at once.
type Optimizer[T Float] struct {
	groups  []Rule
	tensors []tensor[T]
	params  regions // where all the parameters lie
	traffic int     // of one step, in bytes
}

// A tensor is one tensor's slices and count of steps.
type tensor[T Float] struct {
	buffers[T]
	group int
	step  int        // steps done
	c     scalars[T] // coefficients of the step under way
}

// NewOptimizer returns an optimizer over the groups' tensors, with state zero. It keeps the slices of parameters, copies
// nothing of them, and fails as [Optimizer.AddGroup] does.
func NewOptimizer[T Float](groups ...Group[T]) (*Optimizer[T], error) {
	o := new(Optimizer[T])
	for _, g := range groups {
		if err := o.AddGroup(g); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// AddGroup adds the tensors of a group behind those that the optimizer has. A rule that is missing or has a bad
// hyperparameter gives a *GroupError, parameters that share memory with each other or with a tensor added before an
// *OverlapError; the optimizer is then as it was.
func (o *Optimizer[T]) AddGroup(g Group[T]) error {
	if err := checkRule[T](len(o.groups), g.Rule); err != nil {
		return err
	}
	params, err := with(o.params, len(o.tensors), g.Params)
	if err != nil {
		return err
	}
	o.params = params
	f := g.Rule.form()
	for _, p := range g.Params {
		t := tensor[T]{group: len(o.groups), buffers: buffers[T]{p: p}}
		for i := range forms[f].slots {
			t.s[i] = staggered[T](i, len(p))
		}
		o.tensors = append(o.tensors, t)
		o.traffic += traffic[T](f, len(p))
	}
	o.groups = append(o.groups, g.Rule)
	return nil
}

// staggered returns n zeros for slot i. Go starts every large slice on a page, and where the slices of a tensor lie at equal
// offsets their elements compete for the same sets of the caches and banks of the memory: for 2²⁶ elements that made a
// step six times slower. So each slot of a large tensor starts 19 cache lines further into its page.
func staggered[T Float](i, n int) []T {
	size := int(unsafe.Sizeof(*new(T)))
	if n*size < 64<<10 {
		return make([]T, n)
	}
	skip := (i + 1) * 19 * 64 / size
	return make([]T, skip+n)[skip:]
}

// Step performs one step: grads has one slice for each tensor, in the optimizer's order, with as many elements. A tensor
// whose slice is nil got no gradient: it is skipped, and keeps its parameters, its state and its count of steps.
//
// Gradients are only read. Several tensors may share a gradient, but none may share memory with parameters. A list or a
// slice of a wrong length gives a *LengthError, shared memory an *OverlapError, and nothing is written. Step allocates
// nothing.
func (o *Optimizer[T]) Step(grads [][]T) error {
	if len(grads) != len(o.tensors) {
		return &LengthError{-1, "gradients", len(grads), len(o.tensors)}
	}
	var last *tensor[T] // the last tensor that coefficients were computed for
	for i, g := range grads {
		if g == nil {
			continue
		}
		t := &o.tensors[i]
		if len(g) != len(t.p) {
			return &LengthError{i, "grads", len(g), len(t.p)}
		}
		if s, n := overlapping(o.params, g); n > 0 {
			return &OverlapError{s.tensor, i, "params", "grads", n}
		}
		if last != nil && last.group == t.group && last.step == t.step {
			t.c = last.c
			continue
		}
		c, err := coefficients[T](o.groups[t.group], t.step+1)
		if err != nil {
			return &GroupError{t.group, err}
		}
		t.c, last = c, t
	}
	for i, g := range grads {
		if g == nil {
			continue
		}
		t := &o.tensors[i]
		t.step++
		t.g = g
		update(o.groups[t.group].form(), t.step, &t.c, &t.buffers, o.traffic)
		t.g = nil
	}
	return nil
}

// Tensors returns the number of tensors, Groups that of groups.
func (o *Optimizer[T]) Tensors() int { return len(o.tensors) }
func (o *Optimizer[T]) Groups() int  { return len(o.groups) }

// Rule returns the rule of a group, or nil if there is no such group.
func (o *Optimizer[T]) Rule(group int) Rule {
	if group < 0 || group >= len(o.groups) {
		return nil
	}
	return o.groups[group]
}

// SetRule replaces the rule of a group from the next step on. Every hyperparameter may change, but the state must remain
// the same: the new rule is of the old one's type, with the same AMSGrad. Otherwise, or if there is no such group, it
// returns a *GroupError and changes nothing.
func (o *Optimizer[T]) SetRule(group int, r Rule) error {
	if err := o.checkGroup(group); err != nil {
		return err
	}
	if err := checkRule[T](group, r); err != nil {
		return err
	}
	if old := o.groups[group].form(); r.form() != old {
		return &GroupError{group, fmt.Errorf("its state is %s; the new rule's would be %s",
			strings.Join(forms[old].slots, ", "), strings.Join(forms[r.form()].slots, ", "))}
	}
	o.groups[group] = r
	return nil
}

// SetLR sets the learning rate of the given groups from the next step on; of all groups, if none are given. A learning
// rate out of range, or a group that does not exist, gives a *GroupError, and no group is changed.
func (o *Optimizer[T]) SetLR(lr float64, groups ...int) error {
	changed := slices.Clone(o.groups)
	if len(groups) == 0 {
		for i := range changed {
			groups = append(groups, i)
		}
	}
	for _, i := range groups {
		if err := o.checkGroup(i); err != nil {
			return err
		}
		changed[i] = changed[i].withLR(lr)
		if err := checkRule[T](i, changed[i]); err != nil {
			return err
		}
	}
	o.groups = changed
	return nil
}

func (o *Optimizer[T]) checkGroup(i int) error {
	if i < 0 || i >= len(o.groups) {
		return &GroupError{i, fmt.Errorf("there is no such group, the optimizer has %d", len(o.groups))}
	}
	return nil
}

// coefficients returns the coefficients of step t, in the element type.
func coefficients[T Float](r Rule, t int) (c scalars[T], err error) {
	if err := checkStep(t); err != nil {
		return c, err
	}
	exact := r.scalars(t)
	err = round(forms[r.form()].rule, &exact, &c)
	return c, err
}

// checkRule reports a rule that group i cannot run.
func checkRule[T Float](i int, r Rule) error {
	if errISA != nil {
		return errISA
	}
	if r == nil {
		return &GroupError{i, errors.New("Rule is nil")}
	}
	if reflect.TypeOf(r).Kind() == reflect.Pointer { // which could change, or be nil, behind our back
		return &GroupError{i, fmt.Errorf("Rule is a %T, must be a value", r)}
	}
	if err := r.Validate(); err != nil {
		return &GroupError{i, err}
	}
	if _, err := coefficients[T](r, 1); err != nil { // bias correction makes step 1's coefficients the largest
		return &GroupError{i, err}
	}
	return nil
}
