package optim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/posneg/pnm"
)

// A world is two runs of the same training: one steps plainly, its twin takes every detour there is.
type world struct {
	t           *testing.T
	rng         *rand.Rand
	formats     []formatsOf // that a group may have
	f           []formatsOf // of each tensor
	plain, twin run
	what        string // is being done
}

func (w *world) newOptimizer(seed uint64) *Optimizer {
	o, err := Config{Seed: seed}.New()
	wantNoError(w.t, err)
	return o
}

// numbers returns ordinary numbers, and now and then none.
func (w *world) numbers(f string, n int) pnm.Vector {
	v := newVector(f, n)
	scale := math.Exp(6*w.rng.Float64() - 3)
	for i := range n {
		x := scale * w.rng.NormFloat64()
		if w.rng.IntN(500) == 0 {
			x = specials[w.rng.IntN(len(specials))]
		}
		switch f {
		case float64Format:
			v.Float64()[i] = x
		case low16Format:
			v.Bits()[i] = uint16(w.rng.Uint32())
		default:
			set(v.Slice(i, i+1), pnm.Float32([]float32{float32(x)}))
		}
	}
	return v
}

// addGroup adds the same group to both.
func (w *world) addGroup() {
	r := sampleRules()[w.rng.IntN(len(sampleRules()))]
	f := w.formats[w.rng.IntN(len(w.formats))]
	var params, copies []pnm.Vector
	for range w.rng.IntN(3) {
		n := []int{0, 1, 7, 33, 100}[w.rng.IntN(5)]
		params = append(params, w.numbers(f.p, n))
		c := pnm.Vector{}
		if f.out != "" {
			c = w.numbers(f.out, n)
		}
		copies = append(copies, c)
		w.f = append(w.f, f)
	}
	follow := f.out != "" && w.rng.IntN(2) == 0
	for _, run := range []*run{&w.plain, &w.twin} {
		g := Group{Rule: r, Params: vectorClones(params), Copies: vectorClones(copies), State: f.s, Rows: rowsFor(params, f.row), Follow: follow}
		wantNoError(w.t, run.opt.AddGroup(g))
		run.params, run.copies = append(run.params, g.Params...), append(run.copies, g.Copies...)
	}
}

// grads returns a gradient for each tensor, now and then none.
func (w *world) grads() []pnm.Vector {
	grads := make([]pnm.Vector, len(w.plain.params))
	for i, p := range w.plain.params {
		if w.rng.IntN(5) > 0 {
			grads[i] = w.numbers(w.f[i].g, p.Len())
		}
	}
	return grads
}

// step steps both, the twin perhaps in parts.
func (w *world) step() {
	o := pnm.Options{LossScale: []float64{0, 1, 3}[w.rng.IntN(3)], ClipValue: []float64{0, 0.5}[w.rng.IntN(2)], ZeroGrads: w.rng.IntN(2) == 0}
	inParts := w.rng.IntN(2) == 0
	if !inParts {
		o.ClipNorm, o.SkipNonFinite = []float64{0, 2, math.Inf(1)}[w.rng.IntN(3)], w.rng.IntN(2) == 0
	}
	grads := w.grads()
	others := vectorClones(grads)
	want, err := w.plain.opt.Step(o, grads)
	wantNoError(w.t, err)
	if inParts {
		w.stepInParts(o, others)
	} else {
		got, err := w.stepTwin(o, others)
		wantNoError(w.t, err)
		if got.Skipped != want.Skipped || got.Overflows != want.Overflows || !sameBits(got.GradNorm, want.GradNorm) {
			w.t.Fatalf("%s: reports %+v and %+v", w.what, got, want)
		}
	}
	for i, g := range grads {
		w.wantSame("gradient", i, others[i], g)
	}
}

// stepTwin performs a step, perhaps by the tensors' names.
func (w *world) stepTwin(o pnm.Options, grads []pnm.Vector) (pnm.Report, error) {
	if w.rng.IntN(2) == 0 {
		return w.twin.opt.Step(o, grads)
	}
	byName := make(map[string]pnm.Vector)
	for i, name := range w.twin.opt.Names() {
		if !grads[i].IsNil() {
			byName[name] = grads[i]
		}
	}
	return w.twin.opt.StepNamed(o, byName)
}

func (w *world) stepInParts(o pnm.Options, grads []pnm.Vector) {
	var parts []Part
	for i, g := range grads {
		if g.IsNil() {
			continue
		}
		step := w.twin.opt.Steps(i) + 1
		for _, e := range cuts(w.rng, g.Len(), w.f[i].border(g.Len())) {
			parts = append(parts, Part{i, step, e.lo, g.Slice(e.lo, e.hi)})
		}
		if g.Len() == 0 {
			parts = append(parts, Part{i, step, 0, g})
		}
	}
	w.rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	for i, p := range parts {
		wantNoError(w.t, partOf(w.twin.opt, o, p))
		if w.rng.IntN(4) > 0 {
			continue
		}
		if last := p.Lo+p.Grads.Len() == w.twin.params[p.Tensor].Len(); p.Grads.Len() > 0 || last {
			w.refused(partOf(w.twin.opt, o, p), "a part again")
		}
		if i+1 < len(parts) && w.twin.opt.parts.open > 0 {
			_, err := w.twin.opt.State()
			w.refused(err, "State within a step")
			w.refused(w.twin.opt.SetParams(w.twin.params, w.twin.copies), "SetParams within a step")
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
	o := w.twin.opt
	n, groups := len(w.twin.params), o.Groups()
	grads := make([]pnm.Vector, n)
	for i, p := range w.twin.params {
		grads[i] = w.numbers(w.f[i].g, p.Len())
	}
	_, err := o.Step(pnm.Options{}, append(slices.Clone(grads), pnm.Vector{}))
	w.refused(err, "a list of other length")
	_, err = o.Step(pnm.Options{ClipValue: -1}, grads)
	w.refused(err, "a negative bound")
	_, err = o.StepNamed(pnm.Options{}, map[string]pnm.Vector{"x": {}})
	w.refused(err, "a gradient of no tensor")
	w.refused(o.SetRule(groups, pnm.NewPNM(1)), "SetRule of no group")
	w.refused(o.SetGroupLR(groups, 1), "SetGroupLR of no group")
	w.refused(o.SetSteps(n, 1), "SetSteps of no tensor")
	w.refused(partOf(o, pnm.Options{}, Part{Tensor: n, Step: 1}), "a part of no tensor")
	w.refused(o.SetState(make([]TensorState, n+1)), "SetState of other length")
	w.refused(o.SetParams(append(vectorClones(w.twin.params), newVector("float32", 1)), nil), "SetParams of other length")
	w.refused(o.AddGroup(Group{}), "a group without a rule")
	w.refused(loadFrom(o, []byte("no checkpoint"), LoadOptions{}), "Load of anything")
	if groups > 0 {
		w.refused(o.SetLR(-1e300), "a negative learning rate")
		w.refused(o.SetRule(0, nil), "no rule")
	}
	if n == 0 {
		return
	}
	i := w.rng.IntN(n)
	step := o.Steps(i) + 1
	w.refused(partOf(o, pnm.Options{}, Part{i, step + 1, 0, grads[i]}), "a part of the step after the next")
	w.refused(partOf(o, pnm.Options{}, Part{i, step, 1, grads[i]}), "a part behind the end")
	states, err := o.State()
	wantNoError(w.t, err)
	states[i].Step = -1
	w.refused(o.SetState(states), "a negative step")
	states[i] = TensorState{1, map[string]pnm.Vector{"nonsense": newVector("float32", 1)}}
	w.refused(o.SetState(states), "state of another rule")
	w.refused(o.AddGroup(Group{Rule: pnm.NewPNM(1), Params: pnm.Vectors([]float32{1}), Names: []string{o.Names()[i]}}), "a name that is there already")
	if p := w.twin.params[i]; p.Len() > 0 {
		w.refused(o.AddGroup(Group{Rule: pnm.NewPNM(1), Params: []pnm.Vector{newVector(p.Format(), 1), p}}), "parameters that are there already")
		wrong := slices.Clone(grads)
		wrong[i] = grads[i].Slice(1, p.Len())
		if p.Len() > 1 {
			_, err = o.Step(pnm.Options{}, wrong)
			w.refused(err, "a gradient of other length")
		}
		if w.f[i].g == w.f[i].p {
			wrong[i] = p
			_, err = o.Step(pnm.Options{}, wrong)
			w.refused(err, "parameters as a gradient")
		}
	}
}

// rebuild replaces the twin by a new optimizer, over other memory, whose groups and rules are the old one's, with another learning rate
// if withLR is set.
func (w *world) rebuild(seed uint64, withLR bool) {
	old := w.twin.opt
	defer old.Close()
	w.twin.opt = w.newOptimizer(seed)
	wantNoError(w.t, w.twin.opt.ReadNoise(1+w.rng.IntN(3), 0))
	w.twin.params, w.twin.copies = vectorClones(w.twin.params), vectorClones(w.twin.copies)
	for g := range old.groups {
		r := old.Rule(g)
		first, end := old.members(g)
		if withLR {
			r = with(r, "lr", 0.75)
		}
		params := w.twin.params[first:end]
		wantNoError(w.t, w.twin.opt.AddGroup(Group{Rule: r, Params: params, Copies: w.twin.copies[first:end], State: w.stateOf(old, g), Rows: w.rowsOf(old, g),
			Follow: old.groups[g].follow}))
	}
}

// stateOf returns the format of a group's state.
func (w *world) stateOf(o *Optimizer, group int) string {
	if first, end := o.members(group); first < end {
		return w.f[first].s
	}
	return ""
}

// rowsOf returns the rows of a group.
func (w *world) rowsOf(o *Optimizer, group int) (rows []int) {
	for i, end := o.members(group); i < end; i++ {
		rows = append(rows, w.f[i].row(w.twin.params[i].Len()))
	}
	return rows
}

const worldSeed = 5

// run performs a program, a byte a call.
func (w *world) run(program []byte) {
	w.plain.opt, w.twin.opt = w.newOptimizer(worldSeed), w.newOptimizer(worldSeed)
	defer w.plain.opt.Close()
	defer func() { w.twin.opt.Close() }()
	wantNoError(w.t, w.twin.opt.ReadNoise(1, 0))
	w.addGroup()
	for at, code := range program {
		plain, twin := w.plain.opt, w.twin.opt
		groups := plain.Groups()
		g := w.rng.IntN(groups)
		w.what = fmt.Sprintf("call %d (%d)", at, code%11)
		switch code % 11 {
		case 0, 1, 2:
			w.step()
		case 3:
			w.fail()
		case 4: // save and load, in another optimizer, of other random numbers and rules
			file := saved(w.t, twin, SaveOptions{StateOnly: true})
			w.rebuild(worldSeed+1, true)
			wantNoError(w.t, loadFrom(w.twin.opt, file, LoadOptions{StateOnly: true}))
			w.twin.opt.config.Seed = worldSeed // for groups to come
		case 5: // the same by State
			states, err := w.twin.opt.State()
			wantNoError(w.t, err)
			w.rebuild(worldSeed, false)
			wantNoError(w.t, w.twin.opt.SetState(states))
		case 6: // parameters move, and nobody looks at where they were
			old := w.twin
			w.twin.params, w.twin.copies = vectorClones(old.params), vectorClones(old.copies)
			wantNoError(w.t, old.opt.SetParams(w.twin.params, w.twin.copies))
			for _, v := range append(old.params, old.copies...) {
				b := v.Bytes()
				for i := range b {
					b[i] = 0xff // NaNs
				}
			}
		case 7:
			r := with(plain.Rule(g), "lr", math.Exp(-5*w.rng.Float64()))
			if sgd, ok := r.(pnm.SGD); ok && sgd.Momentum > 0 {
				sgd.Nesterov, sgd.Dampening = !sgd.Nesterov, 0
				r = sgd
			}
			wantNoError(w.t, plain.SetRule(g, r))
			wantNoError(w.t, twin.SetRule(g, r))
		case 8:
			lr := math.Exp(-5 * w.rng.Float64())
			if w.rng.IntN(2) == 0 {
				wantNoError(w.t, plain.SetLR(lr))
			} else {
				wantNoError(w.t, plain.SetGroupLR(g, lr))
			}
			for i := range groups {
				wantNoError(w.t, twin.SetRule(i, plain.Rule(i)))
			}
		case 9:
			if groups < 5 {
				w.addGroup()
			}
		case 10: // both start anew; the twin in the middle of a step
			if len(w.twin.params) > 0 && w.twin.params[0].Len() > w.f[0].border(w.twin.params[0].Len()) {
				n := w.twin.params[0].Len()
				lo := w.f[0].border(n)
				wantNoError(w.t, partOf(twin, pnm.Options{}, Part{0, twin.Steps(0) + 1, lo, w.numbers(w.f[0].g, min(lo, n-lo))}))
				set(w.twin.params[0], w.plain.params[0])
				if w.f[0].out != "" {
					set(w.twin.copies[0], w.plain.copies[0])
				}
			}
			wantNoError(w.t, plain.SetState(make([]TensorState, len(w.plain.params))))
			wantNoError(w.t, twin.SetState(make([]TensorState, len(w.plain.params))))
		}
		w.compare()
	}
}

func (w *world) wantSame(what string, i int, got, want pnm.Vector) {
	w.t.Helper()
	wantSameVector(w.t, fmt.Sprintf("%s: %s %d", w.what, what, i), got, want)
}

// compare compares all that the two runs have.
func (w *world) compare() {
	w.t.Helper()
	got, err := w.twin.opt.State()
	wantNoError(w.t, err)
	want, err := w.plain.opt.State()
	wantNoError(w.t, err)
	for i, p := range w.plain.params {
		w.wantSame("params", i, w.twin.params[i], p)
		w.wantSame("copy", i, w.twin.copies[i], w.plain.copies[i])
		if got[i].Step != want[i].Step || w.twin.opt.Steps(i) != want[i].Step {
			w.t.Fatalf("%s: tensor %d has made %d steps, want %d", w.what, i, got[i].Step, want[i].Step)
		}
		for name, v := range want[i].Buffers {
			w.wantSame(name, i, got[i].Buffers[name], v)
		}
	}
	noise, err := w.twin.opt.NoiseScale()
	wantNoError(w.t, err)
	wantNoise, err := w.plain.opt.NoiseScale()
	wantNoError(w.t, err)
	if noise, want := fmt.Sprintf("%x", noise), fmt.Sprintf("%x", wantNoise); noise != want {
		w.t.Fatalf("%s: noise %s, want %s", w.what, noise, want)
	}
	if x, y := fingerprintOfRun(w.t, w.twin.opt), fingerprintOfRun(w.t, w.plain.opt); x != y {
		w.t.Fatalf("%s: the fingerprint is %v, want %v", w.what, x, y)
	}
}

// An optimizer that steps plainly and one that takes parts in any order, calls that fail, saving and loading, moves of its parameters
// and whatever else a program may do have the same bits after every call.
func FuzzOptimizer(f *testing.F) {
	formats := append([]formatsOf{{"float32", "float32", "float32", ""}, {"float64", "float64", "", ""}}, someFormats...)
	rng := rand.New(rand.NewPCG(61, 62))
	for i := range 10 * (len(formats) + 2) {
		program := make([]byte, 40)
		for k := range program {
			program[k] = byte(rng.IntN(11))
		}
		f.Add(uint64(i), uint8(i), program)
	}
	f.Fuzz(func(t *testing.T, seed uint64, which uint8, program []byte) {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, uint64(which))), formats: formats}
		if i := int(which) % (len(formats) + 2); i < len(formats) {
			w.formats = formats[i : i+1] // all groups have one format
		}
		w.run(program[:min(len(program), 100)])
	})
}

// specials are the values at which an implementation is most likely to differ.
var specials = []float64{0, math.Copysign(0, -1), 1, -1, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, math.MaxFloat32, -math.MaxFloat32,
	1.8446743e19, math.Inf(1), math.Inf(-1), math.NaN()}
