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
	Rule   pnm.Rule     // a value, not a pointer; its learning rate is ≥ 0
	Params []pnm.Vector // updated in place: each float32, bf16 or low16, or all float64; may be empty

	// Names are the names of the tensors in errors, in [Optimizer.StepNamed] and in checkpoints. Each is not empty, valid UTF-8, and
	// unique in the optimizer. If Names is nil, the tensors have their numbers in the optimizer as names: "0", "1", ….
	Names []string

	// State is the format of the state: "float32", "bf16" or "mxfp8", or "float64" if Params are float64. With "mxfp8", momenta are mxfp8 and
	// averages of squares bf16. The default, "", means float64 if Params are float64, and float32 otherwise.
	State string

	// Rows has, for each tensor, the number of elements in a row, that is, for one index of its first dimension. It matters only for mxfp8
	// state. Each row begins a new block, so that a run that cuts a tensor between any two rows gives the same bits as a run with the whole
	// tensor. For a part of a tensor, give the row of the whole. 0 (or nil, for all tensors) means flat: a flat tensor can be cut at multiples
	// of 32 elements.
	Rows []int

	// Copies has a bf16 or f16 copy for each tensor, or a nil vector for a tensor without one: see [pnm.Update]. A step writes the copies
	// of tensors that have a gradient. Make the first copies with [pnm.Vector.Set]. Nil (default) means no copies. For Params in low16, Copies
	// has the upper halves, in bf16; make both with [pnm.Split].
	Copies []pnm.Vector

	// Follow makes float32 Params take over numbers that others write to their copies, at the next step or in the next checkpoint: see
	// [pnm.Update]. Make the copies before the first step or checkpoint. Params in low16 always follow.
	Follow bool

	// Rounding selects the random numbers that each tensor draws. Nil (default) takes Config.Seed and the tensor's number in the optimizer.
	// A process that owns parts of tensors sets, for each part, the tensor and the part's first element: for the random numbers, and for
	// [Optimizer.Fingerprint].
	Rounding []pnm.Rounding
}

// A group is the part of a Group that an optimizer keeps.
type group struct {
	rule   pnm.Rule
	first  int  // the number of its first tensor
	wide   bool // its arithmetic is in float64
	follow bool
}

// follows reports whether a tensor of a group follows its copy.
func follows(follow bool, u *pnm.Update) bool {
	return follow && u.Params.Format() == float32Format && !u.Copy.IsNil()
}

// members returns the first tensor of a group, and the one after its last.
func (o *Optimizer) members(group int) (first, end int) {
	if group+1 < len(o.groups) {
		return o.groups[group].first, o.groups[group+1].first
	}
	return o.groups[group].first, len(o.names)
}

// add adds a group, and returns the size of its state in bytes.
func (o *Optimizer) add(g Group) (bytes int, err error) {
	first, number := len(o.names), len(o.groups)
	wide := len(g.Params) == 0 || isWide(g.Params[0]) // without tensors, no coefficient is too large
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
		o.list.Updates = slices.Delete(o.list.Updates, first, len(o.list.Updates)) // also drops the references
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

// updatesOf returns the updates of a group's tensors with the given state.
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

// withNames returns the names of the optimizer's tensors, followed by those of a group's.
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
			return nil, &pnm.TensorError{Tensor: number, Name: name, Err: fmt.Errorf("tensor %d has the same name, %q", other, name)}
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

// checkArithmetic reports parameters that mix float64 with other formats in a group.
func (o *Optimizer) checkArithmetic(params []pnm.Vector, wide bool, names []string) error {
	want := "float32, bf16 or low16, like the first tensor of the group"
	if wide {
		want = "float64, like the first tensor of the group"
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
// the same: the new rule has the type of the old one and the same AMSGrad, and an SGD has momentum if the old one had it, and only then.
// Otherwise, or if there is no such group, or for a rule that [Optimizer.AddGroup] would refuse, it returns an error that names the
// group. It returns a *PartError while a step of [Optimizer.StepPart] is incomplete in the group.
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
		return inGroup(group, fmt.Errorf("its rule is %s with state %s, the new rule is %s with state %s",
			was.Name(), joined(was.State()), r.Name(), joined(r.State())))
	}
	o.setRule(group, r)
	return nil
}

// setRule sets a rule that has been checked.
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

// SetLR sets the learning rate of all groups from the next step on. For a learning rate out of range it returns an error that names the
// group and wraps a *pnm.ValueError. It returns a *PartError while a step of [Optimizer.StepPart] is incomplete. After an error nothing
// has changed.
func (o *Optimizer) SetLR(lr float64) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	return o.setLR(lr, 0, len(o.groups))
}

// SetGroupLR is [Optimizer.SetLR] for one group. It returns an error if there is no such group.
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

// checkRule reports a rule that a group with arithmetic in float64 (wide) or float32 cannot run. The rule's type has been checked.
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

// checkType reports a value that is not a rule, such as nil.
func checkType(r pnm.Rule) error {
	_, err := pnm.AllocState(r, "float32", nil, nil)
	return err
}
