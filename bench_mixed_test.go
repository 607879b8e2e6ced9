//go:build (amd64 || arm64) && !purego

package pnm

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// mixedFormats are what BenchmarkMixed measures.
var mixedFormats = []struct {
	name string
	set  uint32
}{
	{"float32", 0},
	{"bf16-grad", gradBF16},
	{"f16-grad", gradF16},
	{"bf16-state", stateBF16},
	{"bf16-all", gradBF16 | paramBF16 | stateBF16},
	{"bf16-grad,bf16-copy", gradBF16 | outBF16 | outAround},
	{"bf16-grad,f16-copy", gradBF16 | outF16 | outAround},
}

// BenchmarkMixed runs the bare kernels in memory on one core, beside the limit kernel and the kernel for float32.
func BenchmarkMixed(b *testing.B) {
	rules, names := benchRules()
	for i, r := range rules {
		for _, format := range mixedFormats {
			if format.set == stateBF16 && len(forms[r.form()].slots) == 0 {
				continue
			}
			for _, tier := range tiers()[1:] {
				b.Run(fmt.Sprintf("rule=%s/format=%s/isa=%s/n=64Mi", names[i], format.name, tier), func(b *testing.B) {
					benchMixed(b, r, format.set, tier)
				})
			}
		}
	}
}

func benchMixed(b *testing.B, r Rule, formats uint32, tier tier) {
	useTier(b, tier)
	wide := newProblem[float32](r, inMemory)
	if formats == 0 {
		inTurn(b, inMemory, wide.bytes(), wide.bare(), nil)
		return
	}
	q := newMixedProblem(r, inMemory, withStochastic(r.form(), formats))
	beside := []yardstick{{"of-float32", wide.bare()}}
	if limit := mixedLimits[tier]; limit != nil {
		beside = append(beside, yardstick{"of-limit", q.run(q.b.formats, func(b *mixed, n, ahead int) { limit(&b.c.gs, n, ahead) })})
	}
	update := func(b *mixed, n, ahead int) { updateMixed(r.form(), b, n, ahead) }
	if formats&outAround == 0 {
		inTurn(b, inMemory, q.bytes(), q.run(q.b.formats, update), beside)
		return
	}
	beside = append(beside,
		yardstick{"times-through-caches", q.run(q.b.formats&^outAround, update)},
		yardstick{"times-without-copy", q.run(q.b.formats&^(outBF16|outF16|outAround), update)})
	ratios := inTurn(b, inMemory, q.bytes(), q.run(q.b.formats, update), beside)
	b.ReportMetric(1/ratios[len(ratios)-1], "cost")
}

// The limit kernel changes nothing but the copy of the parameters.
func TestMixedLimit(t *testing.T) {
	rng := rand.New(rand.NewPCG(25, 26))
	for _, tier := range tiers()[1:] {
		limit := mixedLimits[tier]
		if limit == nil {
			t.Skip("there is none")
		}
		for f := range form(len(forms)) {
			for _, formats := range formatSets(f) {
				const n = 3 * mixedBlock
				m := newMixedMemory(rng, f, formats, n)
				var before [len(m.bytes)][]byte
				for i := range before {
					before[i] = slices.Clone(m.bytes[i])
				}
				b := m.call(f, scalars[float32]{}, formats, 0, 0)
				limit(&b.c.gs, n, rng.IntN(2)*prefetchAhead)
				if b.out != nil {
					copy(before[6][m.at[6]:], m.bytes[6][m.at[6]:][:2*n])
				}
				for i := range before {
					if !slices.Equal(m.bytes[i], before[i]) {
						t.Fatalf("%s, form %d, formats %b: stream %d changed", tier, f, formats, i)
					}
				}
			}
		}
	}
}

// bare is a step by the kernel alone, of the active tier.
func (q *problem[T]) bare() func() {
	s, c := q.roles()
	return func() {
		for lo := 0; lo < len(q.p); lo += maxCall {
			updateAssembly(q.rule.form(), &c, &s, lo, min(maxCall, len(q.p)-lo), prefetchAhead)
		}
	}
}

// A mixedProblem is a tensor with its gradient and state, in several formats.
type mixedProblem struct {
	b mixed
	n int
}

// streams are where a mixed has its streams, and their roles: p, g, those of the state, and o, the copy of p.
func (b *mixed) streams() (all [7]*unsafe.Pointer, roles string) {
	return [...]*unsafe.Pointer{&b.p, &b.g, &b.m, &b.n, &b.v, &b.x, &b.out}, "pgmnvxo"
}

// size is that of an element of a role, in bytes.
func (b *mixed) size(role byte) int {
	narrow := uint32(stateBF16)
	switch role {
	case 'o':
		return 2
	case 'p':
		narrow = paramBF16
	case 'g':
		narrow = gradBF16 | gradF16
	}
	if b.formats&narrow != 0 {
		return 2
	}
	return 4
}

// newMixedProblem places all streams at different offsets within a page, as newProblem does.
func newMixedProblem(r Rule, n int, formats uint32) *mixedProblem {
	c, err := coefficients[float32](r, 1001)
	if err != nil {
		panic(err)
	}
	q := &mixedProblem{mixed{c: c, formats: formats}, n}
	roles := "pg" + forms[r.form()].roles
	if formats&(outBF16|outF16) != 0 {
		roles += "o"
	}
	streams, order := q.b.streams()
	for i, role := range []byte(order) {
		if strings.IndexByte(roles, role) < 0 {
			continue
		}
		at := unsafe.Pointer(unsafe.SliceData(spread[float32](i, n*q.b.size(role)/4)))
		*streams[i] = at
		switch {
		case role != 'p' && role != 'g':
		case q.b.size(role) == 4:
			copy(elements32(at, 0, n), lcg[float32](uint64(i), n))
		default:
			round := narrowBF16
			if formats&gradF16 != 0 {
				round = narrowF16
			}
			narrow(at, bf16, 0, lcg[float32](uint64(i), n), func(_ int, x float32) uint16 { return round(x) })
		}
	}
	runtime.GC() // not in the middle of a measurement
	return q
}

// run returns a pass of a kernel over all elements, in calls as a step makes them.
func (q *mixedProblem) run(formats uint32, kernel func(b *mixed, n, ahead int)) func() {
	whole := q.b
	whole.formats = formats
	return func() {
		from, roles := whole.streams()
		for lo := 0; lo < q.n; lo += maxCall {
			piece := whole
			piece.counter += uint32(lo)
			to, _ := piece.streams()
			for i, role := range []byte(roles) {
				if *from[i] != nil {
					*to[i] = unsafe.Add(*from[i], lo*whole.size(role))
				}
			}
			kernel(&piece, min(maxCall, q.n-lo), prefetchAhead)
		}
	}
}

// bytes is what a step reads and writes.
func (q *mixedProblem) bytes() (total int64) {
	streams, roles := q.b.streams()
	for i, role := range []byte(roles) {
		moved := int64(q.n * q.b.size(role))
		switch {
		case *streams[i] == nil:
		case strings.IndexByte("gno", role) >= 0: // either read or written
			total += moved
		default:
			total += 2 * moved
		}
	}
	return total
}
