package optim

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/floatmode"
)

// A Group is a list of tensors that share a rule.
type Group struct {
	Rule   pnm.Rule     // as a value; with a learning rate ≥ 0
	Params []pnm.Vector // updated in place by steps: float32, bf16 and low16, or all float64; may be empty

	// Names are what the tensors are called in errors, in gradients by name and in checkpoints: not empty, UTF-8, and unlike all others
	// of the optimizer. If it is nil, they are called by their numbers in the optimizer: "0", "1", ….
	Names []string

	// State is the format of the state: "float32", "bf16", "mxfp8", or "float64" if Params are. With "mxfp8" momenta are mxfp8, and averages
	// of squares bf16. The default, "", stands for float64 where Params are float64, and for float32 otherwise.
	State string

	// Rows has, for each tensor, the number of elements of a row: of one index of its first dimension. Blocks of mxfp8 then begin anew at
	// each row, and a run that cuts the tensors between any two rows has the bits of a run of whole tensors. Give each part the row of the
	// whole. 0, or nil for all tensors, means flat: a tensor can then be cut at multiples of 32 elements. State in other formats has no use of it.
	Rows []int

	// Copies has a bf16 or f16 copy for each tensor, or a nil vector where there is to be none: see [pnm.Update]. A step writes it for
	// tensors that have a gradient; [pnm.Vector.Set] makes the first one. Nil (default) means none at all. Of Params in low16 it has the
	// upper halves, in bf16; [pnm.Split] makes both.
	Copies []pnm.Vector

	// Follow has float32 Params take over what others write to their copies, at the next step or in the next checkpoint: see
	// [pnm.Update]. A copy must have been made before. Params in low16 always follow.
	Follow bool

	// Rounding tells which random numbers each tensor draws. If it is nil, they are those of Config.Seed and of the tensor's number in
	// the optimizer. A process that owns parts of tensors names, for each, the tensor and the part's first element.
	Rounding []pnm.Rounding
}

// A group is what is kept of a Group.
type group struct {
	rule   pnm.Rule
	first  int  // the number of its first tensor
	wide   bool // its arithmetic is in float64
	follow bool
}

// follows reports whether a tensor of a group is one that Follow is about.
func follows(follow bool, u *pnm.Update) bool {
	return follow && u.Params.Format() == float32Format && !u.Copy.IsNil()
}

// members returns the first tensor of a group, and the one behind its last.
func (o *Optimizer) members(group int) (first, end int) {
	if group+1 < len(o.groups) {
		return o.groups[group].first, o.groups[group+1].first
	}
	return o.groups[group].first, len(o.names)
}

// add adds a group, and returns how many bytes its state has.
func (o *Optimizer) add(g Group) (bytes int, err error) {
	first, number := len(o.names), len(o.groups)
	wide := len(g.Params) == 0 || isWide(g.Params[0]) // no coefficient is too large for tensors that there are not
	if err := checkType(g.Rule); err != nil {
		return 0, inGroup(number, err)
	}
	if err := o.checkRule(g.Rule, wide); err != nil {
		return 0, inGroup(number, err)
	}
	if err := g.checkLengths(); err != nil {
		return 0, inGroup(number, err)
	}
	if g.Follow && g.Copies == nil && len(g.Params) > 0 {
		return 0, inGroup(number, errors.New("there are no Copies, but Follow is set"))
	}
	names, err := o.withNames(g)
	if err != nil {
		return 0, err
	}
	if err := o.checkArithmetic(g.Params, wide, names); err != nil {
		return 0, err
	}

	lengths := make([]int, len(g.Params))
	for i, p := range g.Params {
		lengths[i] = p.Len()
	}
	arena, err := pnm.AllocState(g.Rule, g.stateFormat(wide), lengths, g.Rows)
	if e := (*pnm.TensorError)(nil); errors.As(err, &e) {
		e.Tensor += first
		return 0, named(e, names)
	}
	if err != nil {
		return 0, inGroup(number, err)
	}
	o.list.Updates = append(o.list.Updates, o.updatesOf(g, arena.Vectors())...)
	if err := o.list.Check(first); err != nil {
		o.list.Updates = slices.Delete(o.list.Updates, first, len(o.list.Updates)) // which forgets them
		arena.Close()
		return 0, named(err, names)
	}

	o.names = names
	for i, name := range names[first:] {
		o.number[name] = first + i
	}
	o.groups = append(o.groups, group{g.Rule, first, wide, g.Follow})
	o.arenas = append(o.arenas, arena)
	o.parts.of = append(o.parts.of, make([]progress, len(g.Params))...)
	for _, v := range arena.Vectors() {
		bytes += len(v.Bytes()) + len(v.Scales())
	}
	return bytes, nil
}

// updatesOf returns the tensors of a group, which get this state.
func (o *Optimizer) updatesOf(g Group, state []pnm.Vector) []pnm.Update {
	updates := make([]pnm.Update, len(g.Params))
	slots := len(g.Rule.State())
	for i, p := range g.Params {
		u := &updates[i]
		u.Rule, u.Step, u.Params, u.Skip = g.Rule, 1, p, true
		u.State, state = state[:slots:slots], state[slots:]
		u.Rounding = pnm.Rounding{Seed: o.config.Seed, Tensor: uint64(len(o.names) + i)}
		if g.Copies != nil {
			u.Copy = g.Copies[i]
		}
		u.Follow = follows(g.Follow, u)
		if g.Rounding != nil {
			u.Rounding = g.Rounding[i]
		}
	}
	return updates
}

// checkLengths reports a list of a group whose length is not that of Params.
func (g *Group) checkLengths() error {
	for _, list := range []struct {
		name  string
		given bool
		n     int
	}{
		{"names", g.Names != nil, len(g.Names)},
		{"copies", g.Copies != nil, len(g.Copies)},
		{"roundings", g.Rounding != nil, len(g.Rounding)},
	} {
		if list.given && list.n != len(g.Params) {
			return &pnm.LengthError{Arg: list.name, Len: list.n, Want: len(g.Params)}
		}
	}
	return nil
}

// withNames returns the names of the optimizer's tensors, and behind them those of a group's.
func (o *Optimizer) withNames(g Group) ([]string, error) {
	all := o.names
	here := make(map[string]int, len(g.Params))
	for i := range g.Params {
		number := len(all)
		name := strconv.Itoa(number)
		if g.Names != nil {
			name = g.Names[i]
		}
		other, taken := o.number[name]
		if !taken {
			other, taken = here[name]
		}
		switch {
		case taken:
			return nil, &pnm.TensorError{Tensor: number, Name: name, Err: fmt.Errorf("tensor %d is called %q, too", other, name)}
		case name == "" || !utf8.ValidString(name):
			return nil, &pnm.TensorError{Tensor: number, Err: fmt.Errorf("its name is %q, must be UTF-8 and not empty", name)}
		}
		here[name] = number
		all = append(all, name)
	}
	return all, nil
}

const (
	float32Format = "float32"
	float64Format = "float64"
	low16Format   = "low16"
	mxfp8Format   = "mxfp8"
)

func isWide(v pnm.Vector) bool { return v.Format() == float64Format }

// checkArithmetic reports parameters whose arithmetic is not the group's.
func (o *Optimizer) checkArithmetic(params []pnm.Vector, wide bool, names []string) error {
	want := "float32, bf16 or low16, as the group's first"
	if wide {
		want = "float64, as the group's first"
	}
	for i, p := range params {
		if isWide(p) != wide {
			number := len(o.names) + i
			return &pnm.TensorError{Tensor: number, Name: names[number], Err: &pnm.FormatError{Arg: "params", Format: p.Format(), Want: want}}
		}
	}
	return nil
}

func (g *Group) stateFormat(wide bool) string {
	switch {
	case g.State != "":
		return g.State
	case wide:
		return float64Format
	}
	return float32Format
}

// Groups returns the number of groups.
func (o *Optimizer) Groups() int {
	o.calls.RLock()
	defer o.calls.RUnlock()
	return len(o.groups)
}

// Rule returns the rule of a group, or nil if there is no such group.
func (o *Optimizer) Rule(group int) pnm.Rule {
	o.calls.RLock()
	defer o.calls.RUnlock()
	if group < 0 || group >= len(o.groups) {
		return nil
	}
	return o.groups[group].rule
}

// SetRule replaces the rule of a group from the next step on. Every hyperparameter may change, but the state must remain
// the same: the new rule is of the old one's type, with the same AMSGrad, and with or without momentum as before. Otherwise,
// or if there is no such group, or for a rule that [Optimizer.AddGroup] would refuse, the error names the group. A tensor of the group of
// which [Optimizer.StepPart] has done a part gives a *PartError.
func (o *Optimizer) SetRule(group int, r pnm.Rule) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if err := o.checkGroup(group); err != nil {
		return err
	}
	if err := o.wholeSteps(o.members(group)); err != nil {
		return err
	}
	if reflect.TypeOf(r) != reflect.TypeOf(o.groups[group].rule) {
		if err := checkType(r); err != nil {
			return inGroup(group, err)
		}
	}
	if err := o.checkRule(r, o.groups[group].wide); err != nil {
		return inGroup(group, err)
	}
	if was := o.groups[group].rule; !sameState(was, r) {
		return inGroup(group, fmt.Errorf("its rule is %s with state %s; the new one is %s with state %s",
			was.Name(), joined(was.State()), r.Name(), joined(r.State())))
	}
	o.setRule(group, r)
	return nil
}

// setRule sets a rule that fits.
func (o *Optimizer) setRule(group int, r pnm.Rule) {
	o.groups[group].rule = r
	for i, end := o.members(group); i < end; i++ {
		o.list.Updates[i].Rule = r
	}
}

// LR returns the learning rate of a group, or 0 if there is no such group.
func (o *Optimizer) LR(group int) float64 {
	if r := o.Rule(group); r != nil {
		return learningRate(r)
	}
	return 0
}

// SetLR sets the learning rate of all groups from the next step on. A learning rate out of range gives an error that names the group,
// with a *pnm.ValueError behind it; a tensor of which [Optimizer.StepPart] has done a part gives a *PartError. Nothing changes then.
func (o *Optimizer) SetLR(lr float64) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	return o.setLR(lr, 0, len(o.groups))
}

// SetGroupLR is [Optimizer.SetLR] for one group. If there is no such group, it returns an error that says so.
func (o *Optimizer) SetGroupLR(group int, lr float64) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	if err := o.checkGroup(group); err != nil {
		return err
	}
	return o.setLR(lr, group, group+1)
}

// setLR sets the learning rate of the groups from first to end−1.
func (o *Optimizer) setLR(lr float64, first, end int) error {
	rules := make([]pnm.Rule, 0, end-first)
	for i := first; i < end; i++ {
		if err := o.wholeSteps(o.members(i)); err != nil {
			return err
		}
		r, err := o.groups[i].rule.With("lr", lr)
		if err == nil {
			err = o.checkRule(r, o.groups[i].wide)
		}
		if err != nil {
			return inGroup(i, err)
		}
		rules = append(rules, r)
	}
	for k, r := range rules {
		o.setRule(first+k, r)
	}
	return nil
}

func (o *Optimizer) checkGroup(i int) error {
	if i < 0 || i >= len(o.groups) {
		return inGroup(i, fmt.Errorf("there is no such group, the optimizer has %d", len(o.groups)))
	}
	return nil
}

// checkRule reports a rule, of a type that the engine knows, that a group cannot run whose arithmetic is in float64 (wide) or float32.
func (o *Optimizer) checkRule(r pnm.Rule, wide bool) error {
	var h floatmode.Hold
	defer h.Take().Release()
	if lr := learningRate(r); lr < 0 {
		return &pnm.ValueError{Of: r.Name(), Field: "LR", Value: lr, Legal: "finite and ≥ 0"}
	}
	none := pnm.Float32(nil)
	if wide {
		none = pnm.Float64(nil)
	}
	if o.trial.Updates == nil {
		o.trial.Updates = make([]pnm.Update, 1)
	}
	state := o.trial.Updates[0].State[:0]
	for range r.State() {
		state = append(state, none)
	}
	o.trial.Updates[0] = pnm.Update{Rule: r, Step: 1, Params: none, State: state, Skip: true}
	err := o.trial.Check(0)
	if e := (*pnm.TensorError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// checkType reports what is no rule, such as nil.
func checkType(r pnm.Rule) error {
	_, err := pnm.AllocState(r, "float32", nil, nil)
	return err
}
