package pnm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// A trainee is an Optimizer or a MixedOptimizer, over vectors.
type trainee interface {
	step(Options, []Vector) (Report, error)
	part(Options, MixedPart) error
	state() ([]MixedTensorState, error)
	setState([]MixedTensorState) error
	move(params, copies []Vector) error
	add(MixedGroup) error
	engine() *optimizer
}

type mixedTrainee struct{ *MixedOptimizer }

func (o mixedTrainee) step(opts Options, grads []Vector) (Report, error) {
	return o.StepWith(opts, grads)
}
func (o mixedTrainee) part(opts Options, p MixedPart) error {
	_, err := o.StepPart(opts, p)
	return err
}
func (o mixedTrainee) state() ([]MixedTensorState, error)       { return o.State() }
func (o mixedTrainee) setState(states []MixedTensorState) error { return o.SetState(states) }
func (o mixedTrainee) move(params, copies []Vector) error       { return o.SetParams(params, copies) }
func (o mixedTrainee) add(g MixedGroup) error                   { return o.AddGroup(g) }
func (o mixedTrainee) engine() *optimizer                       { return &o.optimizer }

type typedTrainee[T Float] struct{ *Optimizer[T] }

func slicesOf[T Float](vectors []Vector) (slices [][]T) {
	for _, v := range vectors {
		slices = append(slices, sliceOf[T](v))
	}
	return slices
}

func (o typedTrainee[T]) step(opts Options, grads []Vector) (Report, error) {
	return o.StepWith(opts, slicesOf[T](grads))
}
func (o typedTrainee[T]) part(opts Options, p MixedPart) error {
	return o.StepPart(opts, Part[T]{p.Tensor, p.Step, p.Lo, sliceOf[T](p.Grads)})
}
func (o typedTrainee[T]) state() (states []MixedTensorState, err error) {
	typed, err := o.State()
	for _, s := range typed {
		vectors := map[string]Vector{}
		for name, b := range s.Buffers {
			vectors[name] = vectorOf(b)
		}
		states = append(states, MixedTensorState{s.Step, vectors})
	}
	return states, err
}
func (o typedTrainee[T]) setState(states []MixedTensorState) error {
	var typed []TensorState[T]
	for _, s := range states {
		buffers := map[string][]T{}
		for name, v := range s.Buffers {
			buffers[name] = sliceOf[T](v)
		}
		typed = append(typed, TensorState[T]{s.Step, buffers})
	}
	return o.SetState(typed)
}
func (o typedTrainee[T]) move(params, _ []Vector) error { return o.SetParams(slicesOf[T](params)) }
func (o typedTrainee[T]) add(g MixedGroup) error {
	return o.AddGroup(Group[T]{g.Rule, slicesOf[T](g.Params)})
}
func (o typedTrainee[T]) engine() *optimizer { return &o.optimizer }

// A world is two runs of the same training: one steps plainly, its twin takes every detour there is.
type world struct {
	t           *testing.T
	rng         *rand.Rand
	f           formatsOf // all float64 or float32 for an Optimizer
	mixed       bool
	plain, twin run2
	what        string // is being done
}

type run2 struct {
	opt            trainee
	params, copies []Vector
}

func (w *world) newOptimizer(seed uint64) trainee {
	var o trainee
	var err error
	switch {
	case w.mixed:
		var opt *MixedOptimizer
		opt, err = NewMixedOptimizer(Config{Seed: seed})
		o = mixedTrainee{opt}
	case w.f.p == f64:
		var opt *Optimizer[float64]
		opt, err = NewOptimizer[float64]()
		o = typedTrainee[float64]{opt}
	default:
		var opt *Optimizer[float32]
		opt, err = NewOptimizer[float32]()
		o = typedTrainee[float32]{opt}
	}
	wantNoError(w.t, err)
	return o
}

// group returns a group over vectors, with copies as the world's formats have them.
func (w *world) group(r Rule, params, copies []Vector) MixedGroup {
	return MixedGroup{Rule: r, Params: params, Copies: copies, BF16State: w.f.s == bf16}
}

// numbers returns ordinary numbers, and now and then none.
func (w *world) numbers(f format, n int) Vector {
	v := newVector(f, n)
	scale := math.Exp(6*w.rng.Float64() - 3)
	for i := range n {
		x := scale * w.rng.NormFloat64()
		if w.rng.IntN(500) == 0 {
			x = float64(specials[float32]()[w.rng.IntN(13)])
		}
		switch f {
		case f64:
			v.Float64()[i] = x
		case f32:
			v.Float32()[i] = float32(x)
		default:
			convert(v.cut(i, i+1), Float32([]float32{float32(x)}))
		}
	}
	return v
}

// addGroup adds the same group to both.
func (w *world) addGroup() {
	r := sampleRules()[w.rng.IntN(len(sampleRules()))]
	var params, copies []Vector
	for range w.rng.IntN(3) {
		n := []int{0, 1, 7, 33, 100}[w.rng.IntN(5)]
		params = append(params, w.numbers(w.f.p, n))
		if w.f.out != f32 {
			copies = append(copies, newVector(w.f.out, n))
		}
	}
	for _, run := range []*run2{&w.plain, &w.twin} {
		g := w.group(r, vectorClones(params), vectorClones(copies))
		wantNoError(w.t, run.opt.add(g))
		run.params, run.copies = append(run.params, g.Params...), append(run.copies, g.Copies...)
	}
}

// step steps both, the twin perhaps in parts.
func (w *world) step() {
	o := Options{LossScale: []float64{0, 1, 3}[w.rng.IntN(3)], ClipValue: []float64{0, 0.5}[w.rng.IntN(2)], ZeroGrads: w.rng.IntN(2) == 0}
	inParts := w.rng.IntN(2) == 0
	if !inParts {
		o.ClipNorm, o.SkipNonFinite = []float64{0, 2, math.Inf(1)}[w.rng.IntN(3)], w.rng.IntN(2) == 0
	}
	grads := make([]Vector, len(w.plain.params))
	for i, p := range w.plain.params {
		if grads[i] = (Vector{format: w.f.g}); w.rng.IntN(5) > 0 {
			grads[i] = w.numbers(w.f.g, p.n)
		}
	}
	others := make([]Vector, len(grads))
	for i, g := range grads {
		if others[i] = g; g.at != nil {
			others[i] = g.clone()
		}
	}
	want, err := w.plain.opt.step(o, grads)
	wantNoError(w.t, err)
	if inParts {
		w.stepInParts(o, others)
	} else {
		got, err := w.twin.opt.step(o, others)
		wantNoError(w.t, err)
		if got.Skipped != want.Skipped || got.Overflows != want.Overflows || !sameBits(got.GradNorm, want.GradNorm) {
			w.t.Fatalf("%s: reports %+v and %+v", w.what, got, want)
		}
	}
	for i, g := range grads {
		w.wantSame("gradient", i, others[i], g)
	}
}

func (w *world) stepInParts(o Options, grads []Vector) {
	var parts []MixedPart
	for i, g := range grads {
		if g.at == nil {
			continue
		}
		step := w.twin.opt.engine().Steps(i) + 1
		for _, e := range cuts(w.rng, g.n) {
			parts = append(parts, MixedPart{i, step, e.lo, g.cut(e.lo, e.hi)})
		}
		if g.n == 0 {
			parts = append(parts, MixedPart{i, step, 0, g})
		}
	}
	w.rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	for i, p := range parts {
		wantNoError(w.t, w.twin.opt.part(o, p))
		if w.rng.IntN(4) > 0 {
			continue
		}
		if last := p.Lo+p.Grads.n == w.twin.params[p.Tensor].n; p.Grads.n > 0 || last {
			w.refused(w.twin.opt.part(o, p), "a part again")
		}
		if i+1 < len(parts) && w.twin.opt.engine().parts.open > 0 {
			_, err := w.twin.opt.state()
			w.refused(err, "State within a step")
			w.refused(w.twin.opt.move(w.twin.params, w.twin.copies), "SetParams within a step")
		}
	}
}

func (w *world) refused(err error, what string) {
	w.t.Helper()
	if err == nil {
		w.t.Fatalf("%s: %s is not refused", w.what, what)
	}
}

// fail makes calls that are refused and must change nothing.
func (w *world) fail() {
	o, e := w.twin.opt, w.twin.opt.engine()
	n := len(w.twin.params)
	grads := make([]Vector, n)
	for i, p := range w.twin.params {
		grads[i] = w.numbers(w.f.g, p.n)
	}
	_, err := o.step(Options{}, append(slices.Clone(grads), Vector{format: w.f.g}))
	w.refused(err, "a list of other length")
	_, err = o.step(Options{ClipValue: -1}, grads)
	w.refused(err, "a negative bound")
	w.refused(e.SetRule(len(e.groups), NewPNM(1)), "SetRule of no group")
	w.refused(e.SetLR(math.NaN(), len(e.groups)), "SetLR of no group")
	w.refused(o.part(Options{}, MixedPart{Tensor: n, Step: 1}), "a part of no tensor")
	w.refused(o.setState(make([]MixedTensorState, n+1)), "SetState of other length")
	w.refused(o.move(append(vectorClones(w.twin.params), newVector(w.f.p, 1)), nil), "SetParams of other length")
	w.refused(o.add(w.group(nil, nil, nil)), "a group without a rule")
	w.refused(e.loadFrom([]byte("no checkpoint"), LoadOptions{}), "Load of anything")
	if len(e.groups) > 0 {
		w.refused(e.SetLR(-1e300), "a negative learning rate")
		w.refused(e.SetRule(0, nil), "no rule")
	}
	if n == 0 {
		return
	}
	i := w.rng.IntN(n)
	step := e.Steps(i) + 1
	w.refused(o.part(Options{}, MixedPart{i, step + 1, 0, grads[i]}), "a part of the step after the next")
	w.refused(o.part(Options{}, MixedPart{i, step, 1, grads[i]}), "a part behind the end")
	states, err := o.state()
	wantNoError(w.t, err)
	states[i].Step = -1
	w.refused(o.setState(states), "a negative step")
	states[i] = MixedTensorState{1, map[string]Vector{"nonsense": newVector(w.f.s, 1)}}
	w.refused(o.setState(states), "state of another rule")
	if p := w.twin.params[i]; p.n > 0 {
		w.refused(o.add(w.group(NewPNM(1), []Vector{newVector(w.f.p, 1), p}, nil)), "parameters that are there already")
		wrong := slices.Clone(grads)
		wrong[i] = grads[i].cut(1, p.n)
		if p.n > 1 {
			_, err = o.step(Options{}, wrong)
			w.refused(err, "a gradient of other length")
		}
		if w.f.g == w.f.p {
			wrong[i] = p
			_, err = o.step(Options{}, wrong)
			w.refused(err, "parameters as a gradient")
		}
	}
}

// rebuild replaces the twin by a new optimizer, over other memory, whose groups and rules are the old one's, with another learning rate
// if otherLR is set.
func (w *world) rebuild(seed uint64, otherLR bool) {
	old := w.twin.opt.engine()
	defer old.close()
	w.twin.opt = w.newOptimizer(seed)
	w.twin.params, w.twin.copies = vectorClones(w.twin.params), vectorClones(w.twin.copies)
	for g, r := range old.groups {
		first, end := old.members(g)
		if otherLR {
			r = withLR(r, 0.75)
		}
		var copies []Vector
		if w.f.out != f32 {
			copies = w.twin.copies[first:end]
		}
		wantNoError(w.t, w.twin.opt.add(w.group(r, w.twin.params[first:end], copies)))
	}
}

const worldSeed = 5

// run performs a program, a byte a call.
func (w *world) run(program []byte) {
	w.plain.opt, w.twin.opt = w.newOptimizer(worldSeed), w.newOptimizer(worldSeed)
	defer w.plain.opt.engine().close()
	defer func() { w.twin.opt.engine().close() }()
	w.addGroup()
	for at, code := range program {
		plain, twin := w.plain.opt.engine(), w.twin.opt.engine()
		groups := len(plain.groups)
		g := w.rng.IntN(groups)
		w.what = fmt.Sprintf("call %d (%d)", at, code%11)
		switch code % 11 {
		case 0, 1, 2:
			w.step()
		case 3:
			w.fail()
		case 4: // save and load, in another optimizer, of other random numbers and rules
			file := twin.saved(w.t, SaveOptions{StateOnly: true})
			w.rebuild(worldSeed+1, true)
			wantNoError(w.t, w.twin.opt.engine().loadFrom(file, LoadOptions{StateOnly: true}))
			w.twin.opt.engine().config.Seed = worldSeed // for groups to come
		case 5: // the same by State
			states, err := w.twin.opt.state()
			wantNoError(w.t, err)
			w.rebuild(worldSeed, false)
			wantNoError(w.t, w.twin.opt.setState(states))
		case 6: // parameters move, and nobody looks at where they were
			old := w.twin
			w.twin.params, w.twin.copies = vectorClones(old.params), vectorClones(old.copies)
			wantNoError(w.t, old.opt.move(w.twin.params, w.twin.copies))
			for _, v := range append(old.params, old.copies...) {
				for i := range v.bytes() {
					v.bytes()[i] = 0xff // NaNs
				}
			}
		case 7:
			r := withLR(plain.Rule(g), math.Exp(-5*w.rng.Float64()))
			if sgd, ok := r.(SGD); ok && sgd.Momentum > 0 {
				sgd.Nesterov, sgd.Dampening = !sgd.Nesterov, 0
				r = sgd
			}
			wantNoError(w.t, plain.SetRule(g, r))
			wantNoError(w.t, twin.SetRule(g, r))
		case 8:
			lr := math.Exp(-5 * w.rng.Float64())
			wantNoError(w.t, plain.SetLR(lr, []int{g}[:w.rng.IntN(2)]...))
			for i := range groups {
				wantNoError(w.t, twin.SetRule(i, plain.Rule(i)))
			}
		case 9:
			if groups < 5 {
				w.addGroup()
			}
		case 10: // both start anew; the twin in the middle of a step
			if len(w.twin.params) > 0 && w.twin.params[0].n > 1 {
				wantNoError(w.t, w.twin.opt.part(Options{}, MixedPart{0, twin.Steps(0) + 1, 1, w.numbers(w.f.g, 1)}))
				copy(w.twin.params[0].bytes(), w.plain.params[0].bytes())
				if w.f.out != f32 {
					copy(w.twin.copies[0].bytes(), w.plain.copies[0].bytes())
				}
			}
			wantNoError(w.t, w.plain.opt.setState(make([]MixedTensorState, len(w.plain.params))))
			wantNoError(w.t, w.twin.opt.setState(make([]MixedTensorState, len(w.plain.params))))
		}
		w.compare()
	}
}

func (w *world) wantSame(what string, i int, got, want Vector) {
	w.t.Helper()
	what = fmt.Sprintf("%s: %s %d", w.what, what, i)
	switch {
	case string(got.bytes()) == string(want.bytes()):
	case w.f.p == f64:
		wantSame(w.t, what, got.Float64(), want.Float64())
	default:
		wantSame(w.t, what, got.wide(), want.wide())
	}
}

// compare compares all that the two runs have.
func (w *world) compare() {
	w.t.Helper()
	got, err := w.twin.opt.state()
	wantNoError(w.t, err)
	want, err := w.plain.opt.state()
	wantNoError(w.t, err)
	for i, p := range w.plain.params {
		w.wantSame("params", i, w.twin.params[i], p)
		if w.f.out != f32 {
			w.wantSame("copy", i, w.twin.copies[i], w.plain.copies[i])
		}
		if got[i].Step != want[i].Step || w.twin.opt.engine().Steps(i) != want[i].Step {
			w.t.Fatalf("%s: tensor %d has made %d steps, want %d", w.what, i, got[i].Step, want[i].Step)
		}
		for name, v := range want[i].Buffers {
			w.wantSame(name, i, got[i].Buffers[name], v)
		}
	}
}

// An optimizer that steps plainly and one that takes parts in any order, calls that fail, saving and loading, moves of its parameters
// and whatever else a program may do have the same bits after every call.
func FuzzOptimizer(f *testing.F) {
	formats := append([]formatsOf{{f32, f32, f32, f32}, {f64, f64, f64, f32}}, someFormats...)
	rng := rand.New(rand.NewPCG(61, 62))
	for i := range 10 * len(formats) {
		program := make([]byte, 40)
		for k := range program {
			program[k] = byte(rng.IntN(11))
		}
		f.Add(uint64(i), uint8(i), program)
	}
	f.Fuzz(func(t *testing.T, seed uint64, which uint8, program []byte) {
		i := int(which) % len(formats)
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, uint64(which))), f: formats[i], mixed: i >= 2}
		w.run(program[:min(len(program), 100)])
	})
}
