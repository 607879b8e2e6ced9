//go:build (amd64 || arm64) && !purego

package pnm

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

// mixedFormats are what BenchmarkMixed measures.
var mixedFormats = []struct {
	name string
	formatsOf
	follow bool
}{
	{"float32", formatsOf{f32, f32, f32, f32}, false},
	{"bf16-grad", formatsOf{f32, bf16, f32, f32}, false},
	{"f16-grad", formatsOf{f32, f16, f32, f32}, false},
	{"bf16-state", formatsOf{f32, f32, bf16, f32}, false},
	{"bf16-all", formatsOf{bf16, bf16, bf16, f32}, false},
	{"bf16-grad,mxfp8-state", formatsOf{f32, bf16, mxfp8, f32}, false},
	{"bf16-all,mxfp8-state", formatsOf{bf16, bf16, mxfp8, f32}, false},
	{"bf16-grad,bf16-copy", formatsOf{f32, bf16, f32, bf16}, false},
	{"bf16-grad,f16-copy", formatsOf{f32, bf16, f32, f16}, false},
	{"bf16-grad,split", formatsOf{low16, bf16, f32, bf16}, false},
	{"bf16-grad,f16-copy-followed", formatsOf{f32, bf16, f32, f16}, true},
}

// BenchmarkMixed runs the bare kernels in memory on one core, beside the limit kernel and the kernel for float32.
func BenchmarkMixed(b *testing.B) {
	rules, names := benchRules()
	for i, r := range rules {
		for _, format := range mixedFormats {
			if strings.HasSuffix(format.name, "-state") && len(forms[r.form()].Slots) == 0 {
				continue
			}
			for _, tier := range tiers()[1:] {
				b.Run(fmt.Sprintf("rule=%s/format=%s/isa=%s/n=64Mi", names[i], format.name, tier), func(b *testing.B) {
					benchMixed(b, r, format.formatsOf, format.follow, tier)
				})
			}
		}
	}
}

func benchMixed(b *testing.B, r Rule, f formatsOf, follow bool, tier tier) {
	useTier(b, tier)
	wide := newProblem[float32](r, inMemory)
	if f == (formatsOf{}) {
		inTurn(b, inMemory, wide.bytes(), wide.bare(), nil)
		return
	}
	q := newMixedProblem(r, f, inMemory)
	q.follow = follow
	limit := func(b *mixed, n, ahead int) { mixedLimits[tier](&b.c.gs, n, ahead) }
	update := func(b *mixed, n, ahead int) { updateMixed(r.form(), b, n, ahead) }
	beside := []yardstick{{"of-float32", wide.bare()}}
	if f.out == f32 {
		inTurn(b, inMemory, q.moved(), q.run(0, update), append(beside, yardstick{"of-limit", q.run(0, limit)}))
		return
	}
	around := uint32(outAround)
	if q.readsCopy() {
		around = 0
	}
	all := append(beside, yardstick{"of-limit", q.run(around, limit)})
	if around != 0 {
		all = append(all, yardstick{"times-through-caches", q.run(0, update)})
	}
	ratios := inTurn(b, inMemory, q.moved(), q.run(around, update), append(all, yardstick{"times-without-copy", q.withoutCopy().run(0, update)}))
	b.ReportMetric(1/ratios[len(ratios)-1], "cost")
}

// BenchmarkFormats steps a tensor in memory on one worker and on all, beside one in float32 on as many.
func BenchmarkFormats(b *testing.B) {
	rules, names := benchRules()
	for i, r := range rules {
		for _, format := range mixedFormats {
			if !strings.Contains(format.name, "-state") && format.name != "bf16-all" || len(forms[r.form()].Slots) == 0 {
				continue
			}
			for n := 1; n <= runtime.GOMAXPROCS(0); n *= 2 {
				b.Run(fmt.Sprintf("rule=%s/format=%s/isa=%s/n=64Mi/workers=%d", names[i], format.name, active, n), func(b *testing.B) {
					wide, q := newProblem[float32](r, inMemory), newMixedProblem(r, format.formatsOf, inMemory)
					wide.pool = workers(b, n)
					l := List{Updates: []Update{{Rule: r, Step: q.step, Params: q.p, Grads: q.g, State: q.s[:len(forms[q.form].Slots)]}}}
					step := func() {
						if _, err := l.Step(Options{Pool: wide.pool}); err != nil {
							b.Fatal(err)
						}
					}
					inTurn(b, inMemory, q.moved(), step, []yardstick{{"of-float32", wide.update}})
				})
			}
		}
	}
}

// The limit kernel for mixed formats changes nothing but the copy of the parameters, where a step does not read it.
func TestMixedLimit(t *testing.T) {
	rng := rand.New(rand.NewPCG(25, 26))
	for _, tier := range tiers()[1:] {
		for _, r := range sampleRules() {
			for _, f := range allFormats(r) {
				const n = 3 * mixedBlock
				got := mixedTensor(rng, r, f, 1, n, anywhere(rng))
				want := got.clone()
				var b mixed
				got.call(&b, 0)
				mixedLimits[tier](&b.c.gs, n, 64*rng.IntN(2))
				if f.p != low16 && !got.follow {
					copy(want.out.Bytes(), got.out.Bytes())
				}
				wantSameTensor(t, fmt.Sprintf("%s, %T, %s", tier, r, f), got, want)
			}
		}
	}
}

// bare is a step by the kernel alone, of the active tier.
func (q *problem[T]) bare() func() {
	t := q.tensor()
	return func() {
		for lo := 0; lo < len(q.p); lo += maxCall {
			t.updateAssembly(lo, min(lo+maxCall, len(q.p)), prefetchAhead)
		}
	}
}

// A mixedProblem is a tensor in several formats, as BenchmarkMixed has it.
type mixedProblem struct{ tensor }

// newMixedProblem places all vectors at different offsets within a page, as newProblem does.
func newMixedProblem(r Rule, f formatsOf, n int) *mixedProblem {
	place := 0
	q := &mixedProblem{*mixedTensor(nil, r, f, 1001, n, func(bytes int) []byte {
		place++
		return Vector{n: bytes, layout: layout{format: mxfp8}}.spread(place).Bytes()
	})}
	p := Float32(lcg[float32](1, n))
	if f.p == low16 {
		if err := Split(q.out, q.p, p); err != nil {
			panic(err)
		}
	} else {
		convert(q.p, p)
		if f.out != f32 {
			convert(q.out, p)
		}
	}
	convert(q.g, Float32(lcg[float32](2, n)))
	r.scalars(q.step, &q.c64)
	if err := q.round(q.form); err != nil {
		panic(err)
	}
	runtime.GC() // not in the middle of a measurement
	return q
}

// withoutCopy returns the same with float32 parameters alone.
func (q *mixedProblem) withoutCopy() *mixedProblem {
	c := *q
	if c.p.format == low16 {
		c.p = Vector{n: c.p.n, layout: layout{format: f32}}.spread(0)
		if err := Join(c.p, c.out, q.p); err != nil {
			panic(err)
		}
	}
	c.out, c.follow = Vector{}, false
	return &c
}

// readsCopy reports whether a step reads the copy that it writes.
func (q *mixedProblem) readsCopy() bool { return q.p.format == low16 || q.follow }

// run returns a pass of a kernel over all elements, in calls as a step makes them, with more formats.
func (q *mixedProblem) run(formats uint32, kernel func(b *mixed, n, ahead int)) func() {
	return func() {
		var b mixed
		for lo := 0; lo < q.p.n; lo += maxCall {
			q.call(&b, lo)
			b.formats |= formats
			kernel(&b, min(maxCall, q.p.n-lo), prefetchAhead)
		}
	}
}

// moved is how many bytes a step reads and writes.
func (q *mixedProblem) moved() (total int64) {
	for i := range q.vectors() {
		v := q.vector(i)
		moved := int64(v.bytes())
		if total += moved; i != 1 && (v != &q.out || q.readsCopy()) { // what is written has been read
			total += moved
		}
	}
	if forms[q.form].Has("n") { // of two momenta only one is written
		total -= int64(q.s[0].bytes())
	}
	return total
}
