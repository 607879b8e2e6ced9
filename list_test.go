package pnm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// A training is a List with a trainer that counts its steps.
type training struct{ List }

// listOf returns a training of tensors, with state and copies in the formats of f.
func listOf(r Rule, f formatsOf, params ...Vector) *training {
	l := new(training)
	for _, p := range params {
		l.Updates = append(l.Updates, newUpdate(r, f, p, uint64(len(l.Updates))))
	}
	return l
}

// newUpdate returns the first update of a tensor, without gradients.
func newUpdate(r Rule, f formatsOf, p Vector, number uint64) Update {
	u := Update{Rule: r, Step: 1, Params: p, Rounding: Rounding{Seed: 5, Tensor: number}}
	for _, v := range stateOf(r, f.s, p.n, rowOf(p.n, number)) {
		u.State = append(u.State, v.in(anywhereZero))
	}
	switch {
	case f.p == low16:
		u.Copy = ordinary(f.out, 1000+number, p.n)
	case f.out != f32:
		u.Copy = newVector(f.out, p.n)
		convert(u.Copy, p)
		u.Follow = f.p == f32 && number%2 == 0
	}
	return u
}

// next performs a step; a gradient that is nil is none.
func (l *training) next(t testing.TB, o Options, grads []Vector) Report {
	t.Helper()
	for i := range l.Updates {
		u := &l.Updates[i]
		u.Grads, u.Skip = grads[i], grads[i].IsNil()
	}
	r, err := l.Step(o)
	wantNoError(t, err)
	count(l.Updates, r)
	return r
}

// count counts a step.
func count(list []Update, r Report) {
	for i := range list {
		if !list[i].Skip && !r.Skipped {
			list[i].Step++
		}
	}
}

// updateVectors is UpdateAll of one tensor.
func updateVectors(o Options, u Update) (Report, error) { return UpdateAll(o, []Update{u}) }

// dropInUpdate is the drop-in call, if there is one for the formats of the tensor.
func dropInUpdate(u Update) error {
	same := func(f format) bool {
		return u.Copy.IsNil() && !slices.ContainsFunc(append(u.State, u.Params, u.Grads), func(v Vector) bool { return v.format != f })
	}
	switch {
	case same(f32):
		return updateSlices(u.Rule, u.Step, u.Params.Float32(), u.Grads.Float32(), slicesOf[float32](u.State))
	case same(f64):
		return updateSlices(u.Rule, u.Step, u.Params.Float64(), u.Grads.Float64(), slicesOf[float64](u.State))
	}
	_, err := updateVectors(Options{}, u)
	return err
}

func slicesOf[T Float](vectors []Vector) (slices [][]T) {
	for _, v := range vectors {
		slices = append(slices, sliceOf[T](v))
	}
	return slices
}

// updateList is a list of tensors of all rules and some formats, float64 among them.
func updateList(rules []Rule) (list []Update) {
	for i, n := range slices.Concat(listSizes, listSizes) {
		all := append(slices.Clone(someFormats), formatsOf{f32, f32, f32, f32})
		f := all[i%len(all)]
		if i%5 == 4 {
			f = formatsOf{f64, f64, f64, f32}
		}
		u := newUpdate(rules[i/3%len(rules)], f, ordinary(f.p, uint64(i), n), uint64(i)) // neighbours may have the same
		u.Step, u.Grads = i/2%2, newVector(f.g, n)
		list = append(list, u)
	}
	return list
}

func (u *Update) vectors() []Vector { return append([]Vector{u.Params, u.Grads, u.Copy}, u.State...) }

// wantSameList compares all memory of two lists.
func wantSameList(t *testing.T, what string, got, want []Update) {
	t.Helper()
	for i := range want {
		for k, v := range want[i].vectors() {
			wantSameVector(t, fmt.Sprintf("%s: tensor %d, vector %d", what, i, k), got[i].vectors()[k], v)
		}
	}
}

// nextGrads counts the step and sets the gradients.
func nextGrads(list []Update) {
	for i := range list {
		u := &list[i]
		u.Step++
		convert(u.Grads, ordinary(u.Grads.format, uint64(100*u.Step+i), u.Grads.n))
	}
}

// A list has the bits of one call for each tensor, at the norm of all, for any number of workers.
func TestUpdateAll(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		rules := sampleRules()
		one, many, alone := updateList(rules), updateList(rules), updateList(rules)
		for range 3 {
			nextGrads(one)
			nextGrads(many)
			nextGrads(alone)
			norm := listNorm(one) / 4
			o := Options{LossScale: 4, ClipNorm: norm / 8, ZeroGrads: true} // by an eighth, exactly
			o.Pool = newTestPool(t, 1)
			report, err := UpdateAll(o, one)
			wantNoError(t, err)
			if report.GradNorm != norm {
				t.Errorf("the norm is %g, want %g", report.GradNorm, norm)
			}
			o.Pool = newTestPool(t, 5)
			other, err := UpdateAll(o, many)
			wantNoError(t, err)
			if report != other {
				t.Errorf("reports %+v and %+v", report, other)
			}
			for _, u := range alone {
				_, err := updateVectors(Options{LossScale: 4 * 8, ZeroGrads: true}, u)
				wantNoError(t, err)
			}
		}
		wantSameList(t, "5 workers", many, one)
		wantSameList(t, "alone", alone, one)
	})
}

// listNorm is the norm of all gradients of a list.
func listNorm(list []Update) float64 {
	var wide []Vector
	for _, u := range list {
		g := u.Grads.Float64()
		if g == nil {
			g = make([]float64, u.Grads.n)
			for i, x := range u.Grads.wide() {
				g[i] = float64(x)
			}
		}
		wide = append(wide, Float64(g))
	}
	return normOf(nil, wide...)
}

// A list, in one call or kept for many, is exactly its drop-in calls.
func TestUpdateAllIsDropIn(t *testing.T) {
	perTier(t, func(t *testing.T) {
		list, kept, alone := updateList(sampleRules()), List{Updates: updateList(sampleRules())}, updateList(sampleRules())
		for range 3 {
			nextGrads(list)
			nextGrads(kept.Updates)
			nextGrads(alone)
			_, err := UpdateAll(Options{}, list)
			wantNoError(t, err)
			_, err = kept.Step(Options{})
			wantNoError(t, err)
			for _, u := range alone {
				wantNoError(t, dropInUpdate(u))
			}
		}
		wantSameList(t, "UpdateAll", list, alone)
		wantSameList(t, "List", kept.Updates, alone)
	})
}

// Rules that are equal have equal coefficients, also where one has −0.
func TestNegativeZeros(t *testing.T) {
	zero := math.Copysign(0, -1)
	for _, rules := range [][2]Rule{
		{PNM{LR: 1, Beta1: 0.5}, PNM{LR: 1, Beta1: 0.5, Beta0: zero, WeightDecay: zero}},
		{PNM{Beta1: 0.5, Beta0: -1}, PNM{LR: zero, Beta1: 0.5, Beta0: -1}},
		{SGD{LR: 1}, SGD{LR: 1, Dampening: zero, WeightDecay: zero}},
		{Adam{LR: 1, Eps: 1}, Adam{LR: 1, Beta1: zero, Beta2: zero, Eps: 1}},
	} {
		a, err := coefficients[float32](rules[0], 1)
		wantNoError(t, err)
		b, err := coefficients[float32](rules[1], 1)
		wantNoError(t, err)
		if rules[0] != rules[1] || fmt.Sprint(a) != fmt.Sprint(b) { // which tells −0 from 0
			t.Errorf("%+v has %v, %+v has %v", rules[0], a, rules[1], b)
		}
	}
}

// A twins is two lists of the same tensors, each in memory of its own: to the one happens by a List what happens to the other by
// calls of UpdateAll, which knows nothing of the calls before.
type twins struct {
	t     *testing.T
	rng   *rand.Rand
	list  List
	plain []Update
	done  struct{ steps, parts, errors int }
}

// both makes a change, which the random numbers and the shape of the list decide, to both lists.
func (w *twins) both(change func(rng *rand.Rand, u []Update) []Update) {
	seed := w.rng.Uint64()
	w.list.Updates = change(rand.New(rand.NewPCG(seed, 0)), w.list.Updates)
	w.plain = change(rand.New(rand.NewPCG(seed, 0)), w.plain)
}

// one applies a change to some tensor, if there is one.
func one(change func(rng *rand.Rand, u *Update)) func(*rand.Rand, []Update) []Update {
	return func(rng *rand.Rand, u []Update) []Update {
		if len(u) > 0 {
			change(rng, &u[rng.IntN(len(u))])
		}
		return u
	}
}

func randomUpdate(rng *rand.Rand) Update {
	all := append(slices.Clone(someFormats), formatsOf{f32, f32, f32, f32}, formatsOf{f64, f64, f64, f32})
	f := all[rng.IntN(len(all))]
	rules := sampleRules()
	n := []int{0, 1, 7, 33, 100, blockLen + 1}[rng.IntN(6)]
	return newUpdate(rules[rng.IntN(len(rules))], f, ordinary(f.p, rng.Uint64(), n), rng.Uint64())
}

// changes are what a caller may do between two steps of a List.
var changes = []func(rng *rand.Rand, u []Update) []Update{
	func(rng *rand.Rand, u []Update) []Update { return append(u, randomUpdate(rng)) },
	func(rng *rand.Rand, u []Update) []Update { return append(u, randomUpdate(rng), randomUpdate(rng)) },
	func(rng *rand.Rand, u []Update) []Update {
		if len(u) < 5 {
			return u
		}
		i := rng.IntN(len(u))
		return slices.Delete(u, i, i+1)
	},
	one(func(rng *rand.Rand, u *Update) { u.Rule = set(u.Rule, "lr", rng.Float64()) }),
	func(rng *rand.Rand, u []Update) []Update {
		lr := rng.Float64()
		for i := range u {
			u[i].Rule = set(u[i].Rule, "lr", lr)
		}
		return u
	},
	one(func(rng *rand.Rand, u *Update) { // with the state as it is
		first := f32
		if len(u.State) > 0 {
			first = u.State[0].format
		}
		for {
			r := sampleRules()[rng.IntN(len(sampleRules()))]
			if slices.EqualFunc(stateOf(r, first, 0, 0), u.State, func(like, v Vector) bool { return like.format == v.format }) {
				u.Rule = r
				return
			}
		}
	}),
	one(func(rng *rand.Rand, u *Update) { // with new state
		r, f := sampleRules()[rng.IntN(len(sampleRules()))], u.Params.format
		if f != f64 {
			f = []format{f32, bf16, mxfp8}[rng.IntN(3)]
		}
		*u = Update{Rule: r, Step: 1, Params: u.Params, State: newUpdate(r, formatsOf{s: f}, u.Params, rng.Uint64()).State, Copy: u.Copy, Follow: u.Follow}
	}),
	one(func(rng *rand.Rand, u *Update) { u.Step = 1 + rng.IntN(5) }),
	func(rng *rand.Rand, u []Update) []Update {
		for i := range u {
			u[i].Rounding = Rounding{rng.Uint64(), rng.Uint64(), rng.Uint64()}
			if len(u[i].State) > 0 {
				u[i].Rounding.First -= u[i].Rounding.First % uint64(u[i].State[0].step())
			}
		}
		return u
	},
	one(func(rng *rand.Rand, u *Update) { u.Params = u.Params.Clone() }),
	one(func(rng *rand.Rand, u *Update) { u.State = vectorClones(u.State) }),
	one(func(rng *rand.Rand, u *Update) { // in the caller's own list, too
		if len(u.State) > 0 {
			k := rng.IntN(len(u.State))
			u.State[k] = u.State[k].Clone()
			u.State[k].Clear()
		}
		u.State = vectorClones(u.State)
	}),
	one(func(rng *rand.Rand, u *Update) {
		if u.Params.format == f32 {
			u.Copy = []Vector{{}, newVector(bf16, u.Params.n)}[rng.IntN(2)]
			u.Follow = !u.Copy.IsNil() && rng.IntN(2) == 0
		}
	}),
}

// faults are what a caller must not do. Some of them need tensors of some shape, or options, to be faults.
var faults = []func(rng *rand.Rand, u []Update) []Update{
	one(func(rng *rand.Rand, u *Update) { u.Rule = set(u.Rule, "lr", math.NaN()) }),
	one(func(rng *rand.Rand, u *Update) { u.Rule = set(u.Rule, "lr", 1e39) }),
	one(func(rng *rand.Rand, u *Update) { u.Rule = nil }),
	one(func(rng *rand.Rand, u *Update) { u.Step = -rng.IntN(3) }),
	one(func(rng *rand.Rand, u *Update) { u.State = append(slices.Clone(u.State), newVector(f32, u.Params.n)) }),
	one(func(rng *rand.Rand, u *Update) { u.Params = newVector(f16, u.Params.n) }),
	one(func(rng *rand.Rand, u *Update) { u.Grads = newVector(u.Grads.format, u.Params.n+1) }),
	one(func(rng *rand.Rand, u *Update) { u.Grads = newVector(f64-u.Params.format&1, u.Params.n) }),
	one(func(rng *rand.Rand, u *Update) { u.Grads = u.Params }),
	one(func(rng *rand.Rand, u *Update) {
		if len(u.State) > 0 {
			u.Grads = u.State[rng.IntN(len(u.State))]
		}
	}),
	one(func(rng *rand.Rand, u *Update) { u.Copy = newVector(bf16, u.Params.n+1) }),
	func(rng *rand.Rand, u []Update) []Update {
		if len(u) > 1 {
			p := rng.Perm(len(u))
			u[p[0]].Params = u[p[1]].Params
		}
		return u
	},
	func(rng *rand.Rand, u []Update) []Update {
		if len(u) > 1 {
			p := rng.Perm(len(u))
			u[p[0]].Grads = u[p[1]].Grads
		}
		return u
	},
}

// setGrads gives most tensors gradients, in new memory or in that of the last ones.
func setGrads(rng *rand.Rand, u []Update) []Update {
	for i := range u {
		u := &u[i]
		u.Skip = rng.IntN(4) == 0
		f := []format{f32, bf16, f16}[rng.IntN(3)]
		switch {
		case u.Skip:
			u.Grads = []Vector{{}, u.Grads, u.Params, newVector(f, 3)}[rng.IntN(4)] // it is not looked at
			continue
		case u.Params.format == f64:
			f = f64
		}
		if u.Grads.format != f || u.Grads.n != u.Params.n || u.Grads == u.Params || rng.IntN(2) == 0 {
			u.Grads = newVector(f, u.Params.n)
		}
		convert(u.Grads, ordinary(f, rng.Uint64(), u.Params.n))
	}
	return u
}

// wantSameError compares errors. Of an overlap it compares the tensors: which of two vectors comes first depends on their addresses.
func wantSameError(t *testing.T, what string, got, want error) {
	t.Helper()
	var a, b *OverlapError
	if errors.As(got, &a) && errors.As(want, &b) {
		if a.Elements == b.Elements && reflect.DeepEqual(a.Tensors, b.Tensors) &&
			(a.Arg == b.Arg && a.OtherArg == b.OtherArg || a.Arg == b.OtherArg && a.OtherArg == b.Arg) {
			return
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s: the error is %v, want %v", what, got, want)
	}
}

// step performs a step, which may be refused.
func (w *twins) step(o Options) {
	w.t.Helper()
	what := fmt.Sprintf("%+v, after %+v", o, w.done)
	check := w.list.Check(0)
	a, errA := w.list.Step(o)
	b, errB := UpdateAll(o, w.plain)
	wantSameError(w.t, what, errA, errB)
	if a != b {
		w.t.Fatalf("%s: reports %+v and %+v", what, a, b)
	}
	wantSameList(w.t, what, w.list.Updates, w.plain)
	var tensor *TensorError
	switch isOption := new(ValueError); {
	case errA != nil && errors.As(errA, &isOption) && isOption.Of == "Options":
	case errA != nil && !o.ZeroGrads:
		wantSameError(w.t, "Check: "+what, withoutValue(check), withoutValue(errA))
	case errA == nil && check != nil && !(errors.As(check, &tensor) && w.plain[tensor.Tensor].Skip):
		w.t.Fatalf("%s: Check fails: %v", what, check)
	}
	if w.done.steps++; errA != nil {
		w.done.errors++
		return
	}
	count(w.list.Updates, a)
	count(w.plain, a)
}

// withoutValue leaves out the value of a coefficient, of which Check names the largest.
func withoutValue(err error) error {
	var tensor *TensorError
	var value *ValueError
	if errors.As(err, &tensor) && errors.As(err, &value) && value.Field != "Step" {
		return &TensorError{Tensor: tensor.Tensor, Err: &ValueError{value.Of, value.Field, 0, value.Legal}}
	}
	return err
}

// parts performs a step of the one list in parts, in any order.
func (w *twins) parts(o Options) {
	o.ClipNorm, o.SkipNonFinite = 0, false
	_, err := UpdateAll(o, w.plain)
	wantNoError(w.t, err)
	for _, i := range w.rng.Perm(len(w.plain)) {
		u := &w.list.Updates[i]
		if u.Skip {
			continue
		}
		borders := []int{0, u.border(w.rng.IntN(u.Params.n + 1)), u.border(w.rng.IntN(u.Params.n + 1)), u.Params.n}
		slices.Sort(borders)
		for _, k := range w.rng.Perm(3) {
			_, err := w.list.StepPart(o, i, borders[k], u.Grads.Slice(borders[k], borders[k+1]))
			wantNoError(w.t, err)
			w.done.parts++
		}
	}
	wantSameList(w.t, fmt.Sprintf("parts: %+v, after %+v", o, w.done), w.list.Updates, w.plain)
	count(w.list.Updates, Report{})
	count(w.plain, Report{})
}

// A List does what UpdateAll does, whatever changes between its steps; and what it refuses changes neither memory nor what it does
// next.
func TestListIsUpdateAll(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, 3)
	perTier(t, func(t *testing.T) {
		rounds := 250
		if *thorough {
			rounds = 5000
		}
		w := &twins{t: t, rng: rand.New(rand.NewPCG(61, 62))}
		for range rounds {
			for range w.rng.IntN(4) {
				w.both(changes[w.rng.IntN(len(changes))])
			}
			w.both(setGrads)
			o := everyOption(w.rng)
			o.Pool = []*Pool{nil, pool}[w.rng.IntN(2)]
			switch w.rng.IntN(3) {
			case 0:
				w.step(o)
			case 1:
				w.parts(o)
			case 2:
				list, plain := slices.Clone(w.list.Updates), slices.Clone(w.plain)
				w.both(faults[w.rng.IntN(len(faults))])
				before := w.done.errors
				if w.step(o); w.done.errors > before {
					w.list.Updates, w.plain = list, plain
				} else { // it was none
					w.list.Updates, w.plain = nil, nil
				}
			}
		}
		if n := rounds / 10; w.done.steps < n || w.done.parts < n || w.done.errors < n {
			t.Errorf("%+v show little", w.done)
		}
	})
}

// A list sees memory that two vectors share, and no other, wherever vectors were before: all that a step writes, and the gradients that
// it reads.
func TestListSeesOverlaps(t *testing.T) {
	type places struct{ p, m, g int } // of eight elements, four apart
	rng := rand.New(rand.NewPCG(63, 64))
	x := make([]float32, 4*24)
	at := func(place int) Vector { return Float32(x[4*place : 4*place+8]) }
	meet := func(a, b int) bool { return a-b < 2 && b-a < 2 }
	var counts [2]int
	var l List
	var where []places
	for range 10_000 {
		if len(where) == 0 || rng.IntN(4) == 0 {
			where = nil
			for i := range 3 {
				where = append(where, places{6 * i, 6*i + 2, 6*i + 4})
			}
		}
		random := &where[rng.IntN(len(where))]
		*[]*int{&random.p, &random.m, &random.g, &random.g}[rng.IntN(4)] = rng.IntN(23)
		if rng.IntN(10) == 0 {
			where = where[:2+rng.IntN(2)%len(where)]
		} else if len(where) < 3 && rng.IntN(3) == 0 {
			where = append(where, places{12, 14, 16})
		}
		o := Options{ZeroGrads: rng.IntN(2) == 0}
		l.Updates = l.Updates[:0]
		var written, read []int
		for _, w := range where {
			u := Update{Rule: SGD{LR: 1, Momentum: 0.5}, Step: 2, Params: at(w.p), Grads: at(w.g), State: []Vector{at(w.m)}, Skip: rng.IntN(8) == 0}
			l.Updates = append(l.Updates, u)
			written = append(written, w.p, w.m)
			switch {
			case u.Skip:
			case o.ZeroGrads:
				written = append(written, w.g)
			default:
				read = append(read, w.g)
			}
		}
		legal := true
		for i, a := range written {
			for _, b := range written[:i] {
				legal = legal && !meet(a, b)
			}
			for _, b := range read {
				legal = legal && !meet(a, b)
			}
		}
		var overlap *OverlapError
		for k, step := range []func() (Report, error){
			func() (Report, error) { return l.Step(o) },
			func() (Report, error) { return UpdateAll(o, l.Updates) }, // by a list that knows the memory of the call before
		} {
			if _, err := step(); (err == nil) != legal || err != nil && !errors.As(err, &overlap) {
				t.Fatalf("%d: %v, %+v: %v", k, where, o, err)
			}
		}
		counts[map[bool]int{true: 1}[legal]]++
	}
	if min(counts[0], counts[1]) < 1000 {
		t.Errorf("%d refused, %d legal", counts[0], counts[1])
	}
}

// A part is compared with the memory that the list has now.
func TestPartSeesOverlaps(t *testing.T) {
	x := make([]float32, 64)
	at := func(place int) Vector { return Float32(x[8*place : 8*place+8]) }
	sgd := SGD{LR: 1, Momentum: 0.5}
	update := func(p, m int) Update { return Update{Rule: sgd, Step: 2, Params: at(p), State: []Vector{at(m)}} }
	l := List{Updates: []Update{update(0, 1), update(2, 3)}}
	part := func(place int) error { _, err := l.StepPart(Options{}, 0, 0, at(place)); return err }
	wantNoError(t, part(5))
	if err := part(3); err == nil {
		t.Error("the state of another tensor is taken for a gradient")
	}
	l.Updates[1].State = []Vector{at(5)}
	wantNoError(t, part(3)) // where it was
	if err := part(5); err == nil {
		t.Error("the state of another tensor, which has moved, is taken for a gradient")
	}
	l.Updates = append(l.Updates, update(6, 7))
	if err := part(6); err == nil {
		t.Error("the parameters of a new tensor are taken for a gradient")
	}
	l.Updates = l.Updates[:1]
	wantNoError(t, part(2)) // of a tensor that is gone
	l.Updates = append(l.Updates, update(2, 3))
	wantNoError(t, part(5))
	l.Updates[1].State = nil
	if err := part(3); !errors.As(err, new(*LengthError)) {
		t.Errorf("a part that meets memory of a tensor without state: %v", err)
	}
	l.Updates[1] = update(2, 4)
	wantNoError(t, part(3))
}

func TestUpdateAllErrors(t *testing.T) {
	sgd := SGD{LR: 1, Momentum: 0.9}
	at := func(x []float32, i int) Vector { return Float32(x[8*i : 8*i+8]) }
	good := func(x []float32) []Update {
		return []Update{{Rule: sgd, Step: 1, Params: at(x, 0), Grads: at(x, 1), State: []Vector{at(x, 2)}},
			{Rule: sgd, Step: 2, Params: at(x, 3), Grads: at(x, 4), State: []Vector{at(x, 5)}}}
	}
	// Two tensors with their gradients and momenta; bad changes one of them. A List that knows them says the same, and goes on.
	call := func(o Options, bad func(x []float32, u []Update)) func(x []float32) error {
		return func(x []float32) error {
			u, before := good(x), slices.Clone(x)
			bad(x, u)
			_, err := UpdateAll(o, u)
			l := List{Updates: good(x)}
			wantNoError(t, l.Check(0))
			l.Updates = u
			_, again := l.Step(o)
			wantSameError(t, "List", again, err)
			if err != nil {
				wantSame(t, "memory", x, before)
			}
			l.Updates = good(x)
			_, again = l.Step(Options{})
			wantNoError(t, again)
			copy(x, before)
			return err
		}
	}
	tensor := func(i int, err error) error { return &TensorError{Tensor: i, Err: err} }
	refuse(t, []refusal{
		{"hyperparameter", call(Options{}, func(_ []float32, u []Update) { u[1].Rule = SGD{LR: math.Inf(-1), Momentum: 0.9} }),
			tensor(1, &ValueError{"SGD", "LR", math.Inf(-1), "finite"}), "pnm: tensor 1: SGD.LR is -Inf"},
		{"coefficient", call(Options{}, func(_ []float32, u []Update) { u[1].Rule = SGD{LR: 1e39, Momentum: 0.9} }),
			tensor(1, &ValueError{"SGD", "LR", 1e39, "small enough for its coefficient to be finite in float32"}), "tensor 1: SGD.LR leads to 1e+39"},
		{"step", call(Options{}, func(_ []float32, u []Update) { u[0].Step = 0 }),
			tensor(0, &ValueError{"Update", "Step", 0, "≥ 1"}), "pnm: tensor 0: Update.Step is 0, must be ≥ 1"},
		{"state", call(Options{}, func(_ []float32, u []Update) { u[1].State = nil }),
			tensor(1, &LengthError{"State (momentum_buffer)", 0, 1}), "State (momentum_buffer) is 0"},
		{"too much state", call(Options{}, func(x []float32, u []Update) { u[1].State = append(u[1].State, at(x, 6)) }),
			tensor(1, &LengthError{"State (momentum_buffer)", 2, 1}), "State (momentum_buffer) is 2"},
		{"state of none", call(Options{}, func(x []float32, u []Update) { u[1].Rule = NewSGD(1) }),
			tensor(1, &LengthError{"State (empty)", 1, 0}), "State (empty) is 1, must be 0"},
		{"other state", call(Options{}, func(x []float32, u []Update) { u[1].Rule = NewAdaPNM() }),
			tensor(1, &LengthError{"State (exp_avg, neg_exp_avg, exp_avg_sq, max_exp_avg_sq)", 1, 4}), "tensor 1: length of State (exp_avg"},
		{"far too much state", call(Options{}, func(x []float32, u []Update) { u[0].State = make([]Vector, 9) }),
			tensor(0, &LengthError{"State (momentum_buffer)", 9, 1}), "is 9, must be 1"},
		{"no gradient", call(Options{}, func(x []float32, u []Update) { u[0].Grads = Vector{} }),
			tensor(0, &LengthError{"grads", 0, 8}), "tensor 0: length of grads is 0, must be 8"},
		{"length", call(Options{}, func(x []float32, u []Update) { u[1].Grads = at(x, 4).cut(0, 5) }),
			tensor(1, &LengthError{"grads", 5, 8}), "tensor 1: length of grads is 5"},
		{"length of state", call(Options{}, func(x []float32, u []Update) { u[0].State = []Vector{at(x, 2).cut(0, 5)} }),
			tensor(0, &LengthError{"momentum_buffer", 5, 8}), "tensor 0: length of momentum_buffer is 5, must be 8"},
		{"length of a copy", call(Options{}, func(_ []float32, u []Update) { u[1].Copy = BF16(make([]uint16, 9)) }),
			tensor(1, &LengthError{"copy", 9, 8}), "length of copy is 9"},
		{"f16 state", call(Options{}, func(_ []float32, u []Update) { u[0].State = []Vector{F16(make([]uint16, 8))} }),
			tensor(0, &FormatError{"momentum_buffer", "f16", "float32, bf16 or mxfp8"}), "the format of momentum_buffer is f16"},
		{"float64", call(Options{}, func(_ []float32, u []Update) { u[1].Grads = Float64(make([]float64, 8)) }),
			tensor(1, &FormatError{"grads", "float64", "float32, bf16 or f16"}), "grads is float64"},
		{"float64 params", call(Options{}, func(_ []float32, u []Update) {
			u[1].Params, u[1].Grads = Float64(make([]float64, 8)), Float64(make([]float64, 8))
		}), tensor(1, &FormatError{"momentum_buffer", "float32", "float64 like params, since one of the two is float64"}), "momentum_buffer is float32"},
		{"float64 params alone", call(Options{}, func(_ []float32, u []Update) {
			u[1].Params, u[1].State = Float64(make([]float64, 8)), []Vector{Float64(make([]float64, 8))}
		}), tensor(1, &FormatError{"grads", "float32", "float64 like params"}), "grads is float32, must be float64 like params"},
		{"no rule", call(Options{}, func(_ []float32, u []Update) { u[0].Rule = nil }),
			tensor(0, errors.New("pnm: Rule is nil")), "pnm: tensor 0: Rule is nil"},
		{"a pointer to a rule", call(Options{}, func(_ []float32, u []Update) { u[0].Rule = &sgd }),
			tensor(0, fmt.Errorf("pnm: Rule is a %s, must be one of this package's rules, by value", "*pnm.SGD")), "by value"},
		{"a rule of another package", call(Options{}, func(_ []float32, u []Update) { u[1].Rule = struct{ SGD }{sgd} }),
			tensor(1, fmt.Errorf("pnm: Rule is a %s, must be one of this package's rules, by value", "struct { pnm.SGD }")), "one of this package's"},
		{"option", call(Options{ClipNorm: -1}, func([]float32, []Update) {}),
			&ValueError{"Options", "ClipNorm", -1, "> 0, or 0 for none"}, "pnm: Options.ClipNorm is -1"},
		{"option of float32", call(Options{LossScale: 1e200}, func([]float32, []Update) {}),
			&ValueError{"Options", "LossScale", 1e200, "> 0 with an inverse that is a normal number of float32, or 0 for 1"}, "float32"},
		{"shared params", call(Options{}, func(x []float32, u []Update) { u[1].Params = Float32(x[4:12]) }),
			&OverlapError{"params", "params", 4, []int{0, 1}, nil}, "pnm: params of tensor 0 and params of tensor 1 share 4 elements"},
		{"params as gradient", call(Options{}, func(x []float32, u []Update) { u[1].Grads = Float32(x[28:36]) }),
			tensor(1, &OverlapError{"params", "grads", 4, nil, nil}), "pnm: tensor 1: params and grads share 4"},
		{"another's state as params", call(Options{}, func(x []float32, u []Update) { u[0].Params = at(x, 5) }),
			&OverlapError{"params", "momentum_buffer", 8, []int{0, 1}, nil}, "params of tensor 0 and momentum_buffer of tensor 1 share 8"},
		{"own state as params", call(Options{}, func(x []float32, u []Update) { u[0].Params = Float32(x[12:20]) }),
			tensor(0, &OverlapError{"params", "momentum_buffer", 4, nil, nil}), "tensor 0: params and momentum_buffer share 4"},
		{"another's params as gradient", call(Options{}, func(x []float32, u []Update) { u[0].Grads = Float32(x[25:33]) }),
			&OverlapError{"params", "grads", 7, []int{1, 0}, nil}, "params of tensor 1 and grads of tensor 0 share 7"},
		{"own state as gradient", call(Options{}, func(x []float32, u []Update) { u[1].Grads = Float32(x[38:46]) }),
			tensor(1, &OverlapError{"momentum_buffer", "grads", 6, nil, nil}), "tensor 1: momentum_buffer and grads share 6"},
		{"params as copy", call(Options{}, func(x []float32, u []Update) {
			u[0].Copy = Vector{at: Float32(x[6:10]).at, n: 8, layout: layout{format: bf16}}
		}),
			tensor(0, &OverlapError{"params", "copy", 2, nil, nil}), "tensor 0: params and copy share 2"},
		{"another's state as gradient", call(Options{}, func(x []float32, u []Update) { u[1].Grads = Float32(x[12:20]) }),
			&OverlapError{"momentum_buffer", "grads", 4, []int{0, 1}, nil}, "momentum_buffer of tensor 0 and grads of tensor 1 share 4"},
		{"another's copy as gradient", call(Options{}, func(x []float32, u []Update) {
			u[1].Grads, u[0].Copy = at(x, 6), Vector{at: at(x, 6).at, n: 8, layout: layout{format: f16}}
		}), &OverlapError{"copy", "grads", 4, []int{0, 1}, nil}, "copy of tensor 0 and grads of tensor 1 share 4"},
		{"shared gradients to be zeroed", call(Options{ZeroGrads: true}, func(x []float32, u []Update) { u[1].Grads = at(x, 1) }),
			&OverlapError{"grads", "grads", 8, []int{0, 1}, nil}, "grads of tensor 0 and grads of tensor 1 share 8"},
	})
	wide := func() Vector { return Float64(lcg[float64](1, 8)) }
	_, err := UpdateAll(Options{LossScale: 1e200}, []Update{{Rule: NewSGD(1), Step: 1, Params: wide(), Grads: wide()}})
	wantNoError(t, err) // in float64
	for _, none := range [][]Update{nil, {{Rule: NewSGD(1), Params: wide(), Skip: true}}} {
		if _, err := UpdateAll(Options{ClipNorm: -1}, none); err == nil {
			t.Error("an option out of its range is not refused where no tensor is due")
		}
	}
	x := lcg[float32](1, 64)
	wantNoError(t, call(Options{}, func(x []float32, u []Update) { u[1].Grads = at(x, 1) })(x)) // shared, and only read
}

func TestStepPartErrors(t *testing.T) {
	half := func(x []float32) Vector {
		return Vector{at: Float32(x).at, n: 2 * len(x), layout: layout{format: bf16}}
	}
	call := func(part func(l *List, x []float32) (Report, error)) func(x []float32) error {
		return func(x []float32) error {
			l := List{Updates: []Update{{Rule: NewPNM(1), Step: 1, Params: Float32(x[:8]), State: Vectors(x[8:16], x[16:24])}}}
			_, err := part(&l, x)
			return err
		}
	}
	tensor := func(err error) error { return &TensorError{Tensor: 0, Err: err} }
	refuse(t, []refusal{
		{"no tensor", call(func(l *List, x []float32) (Report, error) { return l.StepPart(Options{}, 1, 0, Vector{}) }),
			&ValueError{"StepPart", "tensor", 1, "in [0, 1)"}, "StepPart.tensor is 1, must be in [0, 1)"},
		{"negative tensor", call(func(l *List, x []float32) (Report, error) { return l.StepPart(Options{}, -1, 0, Vector{}) }),
			&ValueError{"StepPart", "tensor", -1, "in [0, 1)"}, "StepPart.tensor is -1"},
		{"before the first", call(func(l *List, x []float32) (Report, error) { return l.StepPart(Options{}, 0, -1, Float32(x[30:32])) }),
			tensor(&ValueError{"StepPart", "lo", -1, "in [0, 8]"}), "tensor 0: StepPart.lo is -1"},
		{"behind the last", call(func(l *List, x []float32) (Report, error) {
			return l.StepPart(Options{}, 0, math.MaxInt, Float32(x[30:32]))
		}),
			tensor(&ValueError{"StepPart", "lo", math.MaxInt, "in [0, 8]"}), "must be in [0, 8]"},
		{"too long", call(func(l *List, x []float32) (Report, error) { return l.StepPart(Options{}, 0, 7, Float32(x[30:32])) }),
			tensor(&LengthError{"grads", 2, 1}), "length of grads is 2, must be 1"},
		{"format", call(func(l *List, x []float32) (Report, error) {
			return l.StepPart(Options{}, 0, 7, Float64(make([]float64, 1)))
		}),
			tensor(&FormatError{"grads", "float64", "float32, bf16 or f16"}), "grads is float64"},
		{"option", call(func(l *List, x []float32) (Report, error) {
			return l.StepPart(Options{ClipValue: -1}, 0, 7, Float32(x[30:31]))
		}),
			&ValueError{"Options", "ClipValue", -1, "> 0, or 0 for none"}, "pnm: Options.ClipValue"},
		{"overlap", call(func(l *List, x []float32) (Report, error) { return l.StepPart(Options{}, 0, 1, half(x[22:25])) }),
			tensor(&OverlapError{"neg_momentum", "grads", 2, nil, nil}), "neg_momentum and grads share 2"},
		{"step", call(func(l *List, x []float32) (Report, error) {
			l.Updates[0].Step = 0
			return l.StepPart(Options{}, 0, 0, Float32(x[30:31]))
		}), tensor(&ValueError{"Update", "Step", 0, "≥ 1"}), "Step is 0"},
		{"rule", call(func(l *List, x []float32) (Report, error) {
			l.Touch(nil, 0) // which gets to know the tensor
			l.Updates[0].Rule = NewPNM(math.Inf(1))
			return l.StepPart(Options{}, 0, 0, Float32(x[30:31]))
		}), tensor(&ValueError{"PNM", "LR", math.Inf(1), "finite"}), "PNM.LR is +Inf"},
	})
}

// Check finds what would be refused later of tensors that are skipped now, without a look at their gradients.
func TestCheckOfSkipped(t *testing.T) {
	good := func() *training {
		l := listOf(NewAdam(), formatsOf{f32, f32, f32, f32}, ordinary(f32, 1, 8), ordinary(f32, 2, 8))
		for i := range l.Updates {
			l.Updates[i].Skip = true
		}
		return l
	}
	wantNoError(t, good().Check(0))
	for name, c := range map[string]struct {
		bad  func(u *Update)
		want error
	}{
		"rule":        {func(u *Update) { u.Rule = set(NewAdam(), "beta1", 1.0) }, &ValueError{"Adam", "Beta1", 1, "in [0, 1)"}},
		"coefficient": {func(u *Update) { u.Rule = set(NewAdam(), "lr", 1e39) }, nil},
		"coefficient of the first step only": {func(u *Update) {
			u.Step, u.Rule = 1000, set(set(NewAdam(), "lr", 1e37), "beta1", 0.999)
		}, nil},
		"coefficient that float64 has": {func(u *Update) {
			u.Rule = set(NewAdam(), "lr", 1e39)
			*u = newUpdate(u.Rule, formatsOf{f64, f64, f64, f32}, ordinary(f64, 1, 8), 0)
			u.Skip = true
		}, errExpected},
		"state":  {func(u *Update) { u.State = u.State[:1] }, &LengthError{"State (exp_avg, exp_avg_sq)", 1, 2}},
		"format": {func(u *Update) { u.Params = newVector(f16, 8) }, &FormatError{"params", "f16", "float32, bf16 or low16"}},
		"memory": {func(u *Update) { u.Params = u.State[1] }, nil},
	} {
		for _, known := range []bool{false, true} {
			l := good()
			if known {
				wantNoError(t, l.Check(0))
			}
			c.bad(&l.Updates[1])
			err := l.Check(0)
			var tensor *TensorError
			switch {
			case c.want == errExpected: // that is legal
				wantNoError(t, err)
			case !errors.As(err, &tensor) || tensor.Tensor != 1 || c.want != nil && !reflect.DeepEqual(tensor.Err, c.want):
				t.Errorf("%s: %v", name, err)
			}
			if c.want != errExpected {
				wantNoError(t, good().Check(0))
			}
		}
	}
}

// The error of a coefficient names the rule that the tensor has now.
func TestCheckNamesTheRule(t *testing.T) {
	l := listOf(NewPNM(1), formatsOf{f32, f32, f32, f32}, ordinary(f32, 1, 8))
	l.Updates[0].Skip = true
	wantNoError(t, l.Check(0))
	l.Updates[0].Rule = set(NewAdam(), "lr", 1e39) // which has two buffers, too
	var e *ValueError
	if err := l.Check(0); !errors.As(err, &e) || e.Of != "Adam" {
		t.Errorf("of Adam: %v", err)
	}
}

// Errors name the state as the rule that the tensor has now does.
func TestOverlapNamesTheState(t *testing.T) {
	l := listOf(NewPNM(1), formatsOf{f32, f32, f32, f32}, ordinary(f32, 1, 8))
	l.next(t, Options{}, []Vector{ordinary(f32, 2, 8)})
	l.Updates[0].Rule, l.Updates[0].Grads = NewAdam(), l.Updates[0].State[1]
	_, err := l.Step(Options{})
	var e *OverlapError
	if !errors.As(err, &e) || e.Arg != "exp_avg_sq" {
		t.Errorf("of Adam: %v", err)
	}
}

// Once it has made a step, a list allocates nothing, wherever the gradients are and whatever the step; nor does UpdateAll.
func TestListAllocatesNothing(t *testing.T) {
	sharing(t)
	kept, once := List{Updates: updateList(sampleRules())}, updateList(sampleRules())
	o := Options{LossScale: 2, ClipNorm: 1, ClipValue: 1, SkipNonFinite: true, ZeroGrads: true, Pool: newTestPool(t, 2)}
	var slabs []Vector
	var rules [2][]Rule
	for _, u := range once {
		rules[0], rules[1] = append(rules[0], u.Rule), append(rules[1], set(u.Rule, "lr", 0.5))
		slabs = append(slabs, newVector(u.Grads.format, u.Params.n+100))
	}
	move := func(list []Update, by int) {
		for i := range list {
			u := &list[i]
			u.Step, u.Skip = u.Step+1, i%7 == by%7
			u.Rule = rules[by%2][i]
			u.Grads = slabs[i].Slice(by, by+u.Params.n)
		}
	}
	by := 0
	for _, c := range []struct {
		name string
		call func() (Report, error)
	}{
		{"List", func() (Report, error) { move(kept.Updates, by); return kept.Step(o) }},
		{"UpdateAll", func() (Report, error) { move(once, by); return UpdateAll(o, once) }},
		{"StepPart", func() (Report, error) {
			return kept.StepPart(Options{ClipNorm: 1, ZeroGrads: true}, 0, 2, slabs[0].Slice(by, by+3))
		}},
		{"Check", func() (Report, error) { return Report{}, kept.Check(0) }},
	} {
		by = 0
		if n := testing.AllocsPerRun(40, func() {
			by++
			if _, err := c.call(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %g allocations", c.name, n)
		}
	}
}

// The workers that touch the state leave it as it is, and all else.
func TestTouch(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, 3)
	l, want := List{Updates: updateList(sampleRules())}, updateList(sampleRules())
	for i := range want {
		for k, v := range want[i].State {
			convert(v, ordinary(v.format, uint64(k), v.n))
			convert(l.Updates[i].State[k], v)
		}
	}
	for _, first := range []int{0, 5, len(want)} {
		wantNoError(t, l.Touch(pool, first))
		wantSameList(t, "touched", l.Updates, want)
	}
	wantHelpers(t, pool, 2)
	l.Updates[1].Rule = nil
	l.Updates[1].Params = newVector(f32, 3)
	if l.Touch(pool, 0) == nil {
		t.Error("a tensor without a rule is touched")
	}
}

// What a list has looked at of the caller's gradients it does not keep, whatever became of the call.
func TestListLetsGradientsGo(t *testing.T) {
	l := List{Updates: updateList(sampleRules())}
	nextGrads(l.Updates)
	last := &l.Updates[len(l.Updates)-1]
	for _, step := range []int{1, 0} {
		last.Step = step
		_, err := l.Step(Options{})
		for _, err := range []error{err, l.Check(0)} {
			if (err == nil) != (step > 0) {
				t.Error(err)
			}
			for i := range l.batch.tensors {
				if l.batch.tensors[i].g.at != nil {
					t.Errorf("gradient %d is kept, where the step is %d", i, step)
				}
			}
		}
	}
}

// How much memory a step touches does not depend on which tensors were looked at last.
func TestWorkingIsOfAllTensors(t *testing.T) {
	l, whole := List{Updates: updateList(sampleRules())}, List{Updates: updateList(sampleRules())}
	wantNoError(t, whole.Touch(nil, 0))
	all := l.Updates
	l.Updates = all[:2]
	wantNoError(t, l.Touch(nil, 0))
	l.Updates = all
	nextGrads(l.Updates)
	wantNoError(t, l.Check(2))
	if l.working != whole.working || l.working == 0 {
		t.Errorf("%d bytes, must be %d", l.working, whole.working)
	}
}

// There is no tensor in front of the first, and there need be none from first on.
func TestFirst(t *testing.T) {
	l := List{Updates: updateList(sampleRules())}
	for _, call := range []func(first int) error{l.Check, func(first int) error { return l.Touch(nil, first) }} {
		wantNoError(t, call(len(l.Updates)+1))
		if err := call(-1); !reflect.DeepEqual(err, &ValueError{"List", "first", -1, "≥ 0"}) {
			t.Error(err)
		}
	}
}

// Draws tells of each combination of formats whether another seed gives other bits.
func TestDraws(t *testing.T) {
	const n = 200
	if (&Update{}).Draws() || (&Update{Rule: (*PNM)(nil)}).Draws() {
		t.Error("what has no rule draws numbers")
	}
	if (&Update{Rule: NewLion(), Params: mx(1, 0), State: []Vector{newVector(f32, 1)}}).Draws() { // no step takes it
		t.Error("float32 state draws numbers")
	}
	for _, r := range sampleRules() {
		for _, f := range allFormats(r) {
			var out [2]*tensor
			var u Update
			for seed := range out {
				rng := rand.New(rand.NewPCG(61, 62))
				x := mixedTensor(rng, r, f, 2, n, anywhereZero)
				u = Update{Rule: r, Step: 2, Params: x.p, Grads: x.g, State: x.s[:len(r.State())], Copy: x.out, Rounding: Rounding{Seed: uint64(seed)}}
				_, err := UpdateAll(Options{}, []Update{u})
				wantNoError(t, err)
				out[seed] = x
			}
			differ := false
			for i := range out[0].vectors() {
				a, b := out[0].vector(i), out[1].vector(i)
				differ = differ || string(a.Bytes()) != string(b.Bytes()) || string(a.Scales()) != string(b.Scales())
			}
			if u.Draws() != differ {
				t.Errorf("%+v, %s: Draws is %v", r, f, u.Draws())
			}
		}
	}
}
