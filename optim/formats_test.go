package optim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
)

// The same bits come from an optimizer on any number of workers, from the engine alone, from parts in any order, and from
// optimizers that own but parts of tensors, with all that options do.
func TestWaysAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(33, 34))
	one, three := newTestPool(t, 1), newTestPool(t, 3)
	o := pnm.Options{LossScale: 8, ClipValue: 0.05}
	for i, r := range pnm.Rules() {
		if pnm.ISA() == "generic" && i > 0 && !*thorough {
			continue
		}
		r = with(r, "lr", 0.1)
		if momentum, err := r.With("momentum", 0.9); err == nil {
			r = momentum
		}
		for _, f := range someFormats {
			what := fmt.Sprintf("%T, %s", r, f)
			want := newRun(t, r, f, Config{Pool: one, Seed: 5}, listSizes)
			many := newRun(t, r, f, Config{Pool: three, Seed: 5}, listSizes)
			parts := newRun(t, r, f, Config{Seed: 5}, listSizes)
			alone := newRun(t, r, f, Config{}, listSizes)
			state := make([][]pnm.Vector, len(alone.params))
			var arenas []*pnm.Arena
			var owners []*Optimizer
			owned := newRun(t, r, f, Config{}, listSizes)
			cut := func(v []pnm.Vector, i, lo, hi int) []pnm.Vector {
				if v == nil {
					return nil
				}
				return []pnm.Vector{v[i].Slice(lo, hi)}
			}
			for i, p := range alone.params {
				arena, err := pnm.AllocState(r, f.s, []int{p.Len()}, []int{f.row(p.Len())})
				wantNoError(t, err)
				arenas, state[i] = append(arenas, arena), arena.Vectors()
				for k := range 2 {
					lo, hi := halfOf(f, p.Len(), k)
					owners = append(owners, optimizerOf(t, Group{Rule: r, Params: cut(owned.params, i, lo, hi), Copies: cut(owned.copies, i, lo, hi),
						State: f.s, Rows: []int{f.row(p.Len())}, Rounding: []pnm.Rounding{{Seed: 5, Tensor: uint64(i), First: uint64(lo)}}}))
				}
			}
			for step := 1; step <= 3; step++ {
				g := want.grads(step)
				report, err := want.opt.Step(o, g)
				wantNoError(t, err)
				many.params, many.copies = vectorClones(many.params), vectorClones(many.copies)
				wantNoError(t, many.opt.SetParams(many.params, many.copies))
				other, err := many.opt.Step(o, g)
				wantNoError(t, err)
				if !reflect.DeepEqual(report, other) {
					t.Errorf("%s: reports %+v and %+v", what, report, other)
				}
				for i, p := range alone.params {
					u := pnm.Update{Rule: r, Step: step, Params: p, Grads: g[i], State: state[i], Rounding: pnm.Rounding{Seed: 5, Tensor: uint64(i)}}
					if alone.copies != nil {
						u.Copy = alone.copies[i]
					}
					_, err := pnm.UpdateAll(o, []pnm.Update{u})
					wantNoError(t, err)
					n := p.Len()
					border := f.border(n)
					borders := []int{0, rng.IntN(n/border+1) * border, rng.IntN(n/border+1) * border, n}
					slices.Sort(borders)
					for _, k := range rng.Perm(3) {
						lo, hi := borders[k], borders[k+1]
						if lo == hi && (n > 0 || k > 0) {
							continue
						}
						wantNoError(t, partOf(parts.opt, o, Part{i, step, lo, g[i].Slice(lo, hi)}))
					}
					for k := range 2 {
						lo, hi := halfOf(f, n, k)
						_, err := owners[2*i+k].Step(o, cut(g, i, lo, hi))
						wantNoError(t, err)
					}
				}
			}
			runtime.KeepAlive(arenas)
			wantSameRun(t, what+", 3 workers, moving", many, want)
			wantSameRun(t, what+", parts", parts, want)
			for i := range want.params {
				wantSameVector(t, what+", alone", alone.params[i], want.params[i])
				wantSameVector(t, what+", owners", owned.params[i], want.params[i])
				if want.copies != nil {
					wantSameVector(t, what+", copies", alone.copies[i], want.copies[i])
					wantSameVector(t, what+", copies of owners", owned.copies[i], want.copies[i])
				}
			}
		}
	}
}

// halfOf returns half k of n elements: where it begins, and the next one does.
func halfOf(f formatsOf, n, k int) (lo, hi int) {
	border := f.border(n)
	middle := n / 2 / border * border
	return []int{0, middle}[k], []int{middle, n}[k]
}

// Where nothing is rounded, gradients of 16 bits count as what they are, and a copy is what Set makes of the parameters.
func TestFormatsAreFloat32(t *testing.T) {
	sizes := []int{5, 0, 33, 1, 70, 4096 + 17}
	for _, r := range sampleRules() {
		for _, f := range []formatsOf{{"float32", "float32", "float32", ""}, {"float32", "bf16", "float32", ""}, {"float32", "f16", "float32", "bf16"}, {"float32", "float32", "float32", "f16"}} {
			m := newRun(t, r, f, Config{}, sizes)
			var params [][]float32
			for _, p := range m.params {
				params = append(params, wide(p))
			}
			opt := optimizerOf(t, groupOf(r, params...))
			for step := 1; step <= 3; step++ {
				g := m.grads(step)
				var q [][]float32
				for _, v := range g {
					q = append(q, wide(v))
				}
				report, err := m.opt.Step(pnm.Options{ClipNorm: 3, ZeroGrads: true}, g)
				wantNoError(t, err)
				want, err := opt.Step(pnm.Options{ClipNorm: 3}, pnm.Vectors(q...))
				wantNoError(t, err)
				if report != want || report.GradNorm == 0 {
					t.Errorf("%s: report %+v, want %+v", f, report, want)
				}
				for i, v := range g {
					if !isZero(v) {
						t.Fatalf("%s: gradients %d are not zeroed", f, i)
					}
				}
			}
			for i, p := range params {
				wantSame(t, "params", m.params[i].Float32(), p)
				if f.out != "" {
					c := newVector(f.out, len(p))
					set(c, pnm.Float32(p))
					wantSameVector(t, "copy", m.copies[i], c)
				}
			}
			wantSameState(t, f.String(), m.opt, opt)
		}
	}
}

// A gradient that is not finite, wherever it is and in whatever format, leaves all as it was, and is reported.
func TestSkipNonFinite(t *testing.T) {
	sizes := []int{5, 0, 4096, 1, 3*4096 + 17}
	for _, f := range append([]formatsOf{{"float64", "float64", "", ""}}, someFormats...) {
		m := newRun(t, pnm.NewAdaPNM(), f, Config{Pool: newTestPool(t, 3)}, sizes)
		m.step(t, 1)
		before := newRun(t, pnm.NewAdaPNM(), f, Config{}, sizes)
		before.step(t, 1)
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
			for tensor, n := range sizes {
				for _, at := range []int{0, n / 2, n - 1} {
					if n == 0 {
						continue
					}
					g := m.grads(2)
					if isWide(g[tensor]) {
						g[tensor].Float64()[at] = float64(bad)
					} else {
						set(g[tensor].Slice(at, at+1), pnm.Float32([]float32{bad}))
					}
					grads := vectorClones(g)
					zero := at == 0
					report, err := m.opt.Step(pnm.Options{SkipNonFinite: true, ZeroGrads: zero}, g)
					wantNoError(t, err)
					if !report.Skipped || report.GradNorm-report.GradNorm == 0 {
						t.Fatalf("%g at %d of tensor %d: %+v", bad, at, tensor, report)
					}
					for i := range g {
						if zero { // else it would be accumulated upon
							grads[i].Clear()
						}
						wantSameVector(t, "grads", g[i], grads[i])
					}
					if m.opt.Steps(tensor) != 1 {
						t.Fatal("the step was counted")
					}
				}
			}
		}
		wantSameRun(t, "skipped, "+f.String(), m, before)
	}
}

// Finite parameters that f16 cannot hold are counted in steps and parts of them; those that are infinite themselves are not.
func TestOverflows(t *testing.T) {
	const n = 3*4096 + 5
	for _, workers := range []int{1, 4} {
		p, g, out := make([]float32, n), make([]float32, n), make([]uint16, n)
		for i := 0; i < n; i += 7 {
			p[i] = []float32{65519.99, 65520, -1e30, 3e38}[i/7%4]
			if i/7%4 == 3 {
				p[i] = float32(math.Inf(1))
			}
		}
		want := (n+6)/7/4*2 + []int{0, 0, 1, 2}[(n+6)/7%4]
		opt := Config{Pool: newTestPool(t, workers)}.of(t, Group{Rule: pnm.NewSGD(0), Params: pnm.Vectors(p), Copies: []pnm.Vector{pnm.F16(out)}})
		report, err := opt.Step(pnm.Options{}, pnm.Vectors(g))
		wantNoError(t, err)
		part, err := opt.StepPart(pnm.Options{}, Part{0, 2, 0, pnm.Float32(g[:n/2])})
		wantNoError(t, err)
		other, err := opt.StepPart(pnm.Options{}, Part{0, 2, n / 2, pnm.Float32(g[n/2:])})
		wantNoError(t, err)
		if report.Overflows != want || part.Overflows+other.Overflows != want || part.Overflows == 0 || other.Overflows == 0 {
			t.Errorf("%d overflows, and %d and %d in parts, want %d", report.Overflows, part.Overflows, other.Overflows, want)
		}
		if out[0] != 0x7bff || out[7] != 0x7c00 || out[14] != 0xfc00 || out[21] != 0x7c00 {
			t.Errorf("%x %x %x %x", out[0], out[7], out[14], out[21])
		}
	}
}

// A run continues from its exported state with the same bits, and state in another format is converted.
func TestStateOfFormats(t *testing.T) {
	sizes := []int{5, 0, 33, 1, 70, 4096 + 17}
	for _, f := range someFormats {
		a := newRun(t, pnm.NewAdaPNM(), f, Config{Seed: 3}, sizes)
		for step := 1; step <= 3; step++ {
			a.step(t, step)
		}
		state := stateOf(t, a.opt)
		b := newRun(t, pnm.NewAdaPNM(), f, Config{Seed: 3}, sizes)
		for i, p := range a.params {
			set(b.params[i], p)
			if f.out != "" {
				set(b.copies[i], a.copies[i])
			}
		}
		wantNoError(t, b.opt.SetState(state))
		for step := 4; step <= 5; step++ {
			a.step(t, step)
			b.step(t, step)
		}
		wantSameRun(t, f.String(), b, a)

		for _, s := range []string{"float32", "bf16", mxfp8Format} {
			other := f
			other.s = s
			c := newRunOf(t, pnm.NewAdaPNM(), other, Config{}, sizes, func(int) int { return 0 })
			wantNoError(t, c.opt.SetState(state))
			converted := stateOf(t, c.opt)
			for i := range state {
				for name, v := range state[i].Buffers {
					want := newVector(s, v.Len())
					if s == mxfp8Format && strings.HasSuffix(name, "_sq") {
						want = newVector("bf16", v.Len())
					}
					set(want, v)
					wantSameVector(t, name, converted[i].Buffers[name], want)
				}
			}
		}
	}
}

// What others write to a copy is taken over by the group that follows, from a nil copy nothing is, and moves of the parameters change neither.
func TestFollow(t *testing.T) {
	one := func() []pnm.Vector { return pnm.Vectors([]float32{1}, []float32{1}) }
	copied := func() []pnm.Vector { return []pnm.Vector{ordinary("bf16", 1, 1), {}} }
	params, copies := [2][]pnm.Vector{one(), one()}, [2][]pnm.Vector{copied(), copied()}
	rule := pnm.NewSGD(0)
	o := optimizerOf(t, Group{Rule: rule}, Group{Rule: rule, Params: params[0], Copies: copies[0]},
		Group{Rule: rule, Params: params[1], Copies: copies[1], Follow: true})
	step := func(what string, want ...float32) {
		t.Helper()
		_, err := o.Step(pnm.Options{}, []pnm.Vector{newVector("bf16", 1), newVector("bf16", 1), newVector("bf16", 1), newVector("bf16", 1)})
		wantNoError(t, err)
		for i, w := range want {
			if got := params[i/2][i%2].Float32()[0]; got != w {
				t.Errorf("%s: parameters %d are %g, want %g", what, i, got, w)
			}
		}
	}
	write := func(x float32) {
		for _, c := range copies {
			set(c[0], pnm.Float32([]float32{x}))
		}
	}
	move := func(withCopies bool) {
		for i := range params {
			params[i], copies[i] = vectorClones(params[i]), vectorClones(copies[i])
		}
		var all []pnm.Vector
		if withCopies {
			all = slices.Concat(copies[0], copies[1])
		}
		wantNoError(t, o.SetParams(slices.Concat(params[0], params[1]), all))
	}
	write(2)
	step("written", 1, 1, 2, 1)
	write(3)
	move(true)
	step("moved", 1, 1, 3, 1)
	move(false)
	write(4)
	step("without copies", 1, 1, 3, 1)
	move(true)
	step("with copies again", 1, 1, 4, 1)
	write(5)
	_, err := o.StepPart(pnm.Options{}, Part{2, o.Steps(2) + 1, 0, newVector("bf16", 1)})
	wantNoError(t, err)
	if got := params[1][0].Float32()[0]; got != 5 {
		t.Errorf("a part: %g, want 5", got)
	}
}
