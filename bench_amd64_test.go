//go:build !purego

package pnm

import (
	"strings"
	"unsafe"
)

// A bare is a kernel as benchmarks call it.
type bare[T Float] func(c, p, g, m, n, v, x *T, count, ahead int)

// The yardsticks by tier: for each form its streams without arithmetic; square root and division without streams.
var (
	limitKernels = map[tier][len(forms)]bare[float32]{
		avx2: {
			formPNM:           pnmLimitF32AVX2,
			formAdaPNM:        adapnmLimitF32AVX2,
			formAdaPNMAMSGrad: adapnmAMSGradLimitF32AVX2,
			formSGD:           sgdLimitF32AVX2,
			formSGDMomentum:   sgdMomentumLimitF32AVX2,
			formSGDNesterov:   sgdNesterovLimitF32AVX2,
			formAdam:          adamLimitF32AVX2,
			formAdamAMSGrad:   adamAMSGradLimitF32AVX2,
		},
		avx512: {
			formPNM:           pnmLimitF32AVX512,
			formAdaPNM:        adapnmLimitF32AVX512,
			formAdaPNMAMSGrad: adapnmAMSGradLimitF32AVX512,
			formSGD:           sgdLimitF32AVX512,
			formSGDMomentum:   sgdMomentumLimitF32AVX512,
			formSGDNesterov:   sgdNesterovLimitF32AVX512,
			formAdam:          adamLimitF32AVX512,
			formAdamAMSGrad:   adamAMSGradLimitF32AVX512,
		},
	}
	dividers = map[tier]struct {
		f32 bare[float32]
		f64 bare[float64]
	}{
		avx2:   {dividerF32AVX2, dividerF64AVX2},
		avx512: {dividerF32AVX512, dividerF64AVX512},
	}
)

// yardsticks returns what a tier is measured against. The reference is measured against the streams of the best tier.
func yardsticks[T Float](q *problem[T], t tier) []yardstick {
	available := tiers()
	best := available[len(available)-1]
	if best == generic {
		return nil
	}
	f := q.rule.form()
	s, c := q.roles()
	raw := streams[float32]{asFloat32(s.p), asFloat32(s.g), asFloat32(s.m), asFloat32(s.n), asFloat32(s.v), asFloat32(s.x)}
	ahead := prefetchFor(int64(traffic[T](f, len(q.p))))
	limit := func(t tier) yardstick {
		task := &limitTask{limitKernels[t][f], raw, ahead}
		return yardstick{"of-limit", func() { defaultIfNil(q.pool).run(task, q.shards(), mostPieces) }}
	}
	if t == generic {
		return []yardstick{limit(best)}
	}

	all := []yardstick{limit(t)}
	if strings.Contains(forms[f].roles, "v") {
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
				updateAssembly(f, &c, &s, lo, min(most, len(q.p)-lo), ahead)
			}
		}
	}
	other, unit := prefetchAhead, "with-prefetch" // what the step does not do
	if ahead > 0 {
		other, unit = 0, "without-prefetch"
	}
	all = append(all, yardstick{unit, kernel(other, maxCall)})
	if len(q.p) > maxCall {
		all = append(all, yardstick{"unbounded-call", kernel(ahead, len(q.p))})
	}
	return all
}

// A limitTask runs a limit kernel on a pool.
type limitTask struct {
	kernel bare[float32]
	s      streams[float32]
	ahead  int
}

func (l *limitTask) run(part, parts int) {
	n := len(l.s.p)
	cut := func(x []float32) []float32 {
		if x == nil {
			return nil
		}
		return x[n*part/parts&^1023 : n*(part+1)/parts&^1023]
	}
	s := streams[float32]{cut(l.s.p), cut(l.s.g), cut(l.s.m), cut(l.s.n), cut(l.s.v), cut(l.s.x)}
	call(l.kernel, &s, l.ahead)
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

// asFloat32 is the same memory as float32 elements.
func asFloat32[T Float](x []T) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*sizeOf[T]()/4)
}
