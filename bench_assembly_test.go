//go:build (amd64 || arm64) && !purego

package pnm

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm/internal/limit"
)

// yardsticks returns what a tier is measured against. The reference is measured against the streams of the best tier.
func yardsticks[T Float](q *problem[T], t tier) []yardstick {
	available := tiers()
	best := available[len(available)-1]
	if best == generic {
		return nil
	}
	f := q.rule.form()
	if t == generic {
		return []yardstick{{"of-limit", q.limit(best)}}
	}

	whole := q.tensor()
	s := streamsOf[T](&whole)
	ahead := ahead(isFar(whole.traffic()))
	all := []yardstick{{"of-limit", q.limit(t)}}
	if forms[f].Has("v") {
		all = append(all, yardstick{"of-divider", func() {
			switch s := any(&s).(type) {
			case *streams[float32]:
				call(dividers[t].f32, s, 0)
			case *streams[float64]:
				call(dividers[t].f64, s, 0)
			}
		}})
	}
	kernel := func(ahead, most int) func() {
		return func() {
			for lo := 0; lo < len(q.p); lo += most {
				whole.updateAssembly(lo, min(lo+most, len(q.p)), ahead)
			}
		}
	}
	switch { // what the step does not do
	case ahead > 0:
		all = append(all, yardstick{"without-prefetch", kernel(0, maxCall)})
	case t != neon: // whose kernels do not prefetch
		all = append(all, yardstick{"with-prefetch", kernel(2048, maxCall)})
	}
	if len(q.p) > maxCall {
		all = append(all, yardstick{"unbounded-call", kernel(ahead, len(q.p))})
	}
	return all
}

// limit returns a pass of a tier's limit kernel over a step's streams, on its pool.
func (q *problem[T]) limit(t tier) func() {
	whole := q.tensor()
	return whole.limit(t, q.pool, isFar(whole.traffic()))
}

// call runs a kernel over all elements, maxCall at a time.
func call[T Float](kernel bare[T], s *streams[T], ahead int) {
	at := func(x []T, i int) *T {
		if x == nil {
			return nil
		}
		return &x[i]
	}
	for i := 0; i < len(s.p); i += maxCall {
		kernel(nil, at(s.p, i), at(s.g, i), at(s.m, i), at(s.n, i), at(s.v, i), at(s.x, i), min(maxCall, len(s.p)-i), ahead)
	}
}

// Each tier has a limit kernel for each form, and none changes a bit, not even of a NaN.
func TestLimitKernels(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	for _, tier := range tiers()[1:] {
		for f, kernel := range limitKernels[tier] {
			if kernel == nil {
				t.Errorf("%s has no limit kernel for form %d", tier, f)
				continue
			}
			for n := 64; n <= 256; n += 64 { // whole passes
				x := make([]float32, (2+maxSlots)*n)
				for i := range x {
					x[i] = math.Float32frombits(rng.Uint32())
				}
				before := slices.Clone(x)
				at := func(role rune) []float32 { // those alone that the form has
					if i := strings.IndexRune("pg"+forms[f].Roles, role); i >= 0 {
						return x[i*n : (i+1)*n]
					}
					return nil
				}
				call(kernel, &streams[float32]{at('p'), at('g'), at('m'), at('n'), at('v'), at('x')}, 64*rng.IntN(2))
				for i := range x {
					if math.Float32bits(x[i]) != math.Float32bits(before[i]) {
						t.Fatalf("%s, %s with %q, %d elements: %d changed", tier, forms[f].Rule, forms[f].Roles, n, i)
					}
				}
			}
		}
	}
}

// A pass of a list's limit kernels changes nothing, in all formats and on several workers; there is none where a step would be refused.
func TestLimitPass(t *testing.T) {
	pool := workers(t, 3)
	defer func(n int) { leastShard = n }(leastShard)
	leastShard = 1 << 10
	rng := rand.New(rand.NewPCG(35, 36))
	perTier(t, func(t *testing.T) {
		for _, r := range sampleRules() {
			for _, f := range append(allFormats(r), formatsOf{f64, f64, f64, f32}) {
				got := mixedTensor(rng, r, f, 1, 1100, anywhere(rng))
				list := &List{Updates: []Update{{Rule: r, Step: 1, Params: got.p, Grads: got.g, State: got.s[:len(forms[got.form].Slots)],
					Copy: got.out, Follow: got.follow, Rounding: got.rounding}}}
				want := got.clone()
				pass, err := limit.Pass(list, pool)
				if active == generic || got.s[0].row%mixedBlock != 0 {
					if !errors.Is(err, errors.ErrUnsupported) {
						t.Fatalf("%T, %s: %v", r, f, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%T, %s: %v", r, f, err)
				}
				pass()
				if f.out != f32 && f.p != low16 && !got.follow {
					if slices.Equal(want.out.Bits(), got.out.Bits()) {
						t.Fatalf("%T, %s: the pass has moved nothing", r, f)
					}
					copy(want.out.Bytes(), got.out.Bytes())
				}
				wantSameTensor(t, "a pass", got, want)
				list.Updates[0].Step = 0
				if _, err := limit.Pass(list, pool); err == nil || errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("step 0: %v", err)
				}
				list.Updates[0].Skip = true
				if pass, err = limit.Pass(list, pool); err != nil {
					t.Error(err)
				}
				pass()
				wantSameTensor(t, "a pass without tensors", got, want)
			}
		}
	})
}
