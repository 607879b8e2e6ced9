package pnm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// sharing has steps of any size shared among the workers until the test ends.
func sharing(t testing.TB) {
	saved := leastShard
	leastShard = 1
	t.Cleanup(func() { leastShard = saved })
}

// The parts of a batch are a partition of the elements that take part, on the borders of blocks, and about equal.
func TestPartition(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	for range 2000 {
		b := new(batch)
		most := 0 // elements that share a border
		for range rng.IntN(12) {
			n := rng.IntN(1 << rng.IntN(18))
			most = max(most, min(n, blockLen))
			tt := tensorOf(form(rng.IntN(len(forms))), 1, make([]float32, n), nil, nil)
			if rng.IntN(4) > 0 {
				tt.g = tt.p
			}
			b.tensors = append(b.tensors, tt)
		}
		w := []work{withGrads, gradOnly, allTensors}[rng.IntN(3)]
		b.plan(w)
		parts := 1 + rng.IntN(70)
		i, lo := b.border(0, parts)
		for part := range parts {
			j, hi := b.border(part+1, parts)
			if j < i || j == i && hi < lo {
				t.Fatalf("part %d of %d ends at %d/%d and begins at %d/%d", part, parts, j, hi, i, lo)
			}
			if hi%blockLen != 0 || j < len(b.tensors) && hi > 0 && hi >= b.tensors[j].len() {
				t.Fatalf("a part ends at element %d of tensor %d", hi, j)
			}
			position := func(i, element int) int64 {
				if i == len(b.tensors) || element == 0 {
					return b.before[i]
				}
				return b.before[i] + int64(element)*b.tensors[i].work(w)/int64(b.tensors[i].len())
			}
			bytes := position(j, hi) - position(i, lo)
			if fair := b.bytes() / int64(parts); bytes > fair+int64(2*most*4*6)+int64(parts) {
				t.Fatalf("part %d of %d has %d bytes of %d", part, parts, bytes, b.bytes())
			}
			i, lo = j, hi
		}
		if i != len(b.tensors) || lo != 0 {
			t.Fatalf("the last part ends at %d/%d", i, lo)
		}
	}
}

// A listRun is a list over tensors of many sizes.
type listRun[T Float] struct {
	params [][]T
	list   List
}

var listSizes = []int{5, 0, blockLen, 1, 3*blockLen + 17, blockLen - 1, 64, 9*blockLen + 1, blockLen + 1}

func newListRun[T Float](r Rule) *listRun[T] {
	l := new(listRun[T])
	for i, n := range listSizes {
		if i == 4 {
			r = NewPNM(0.1)
		}
		l.params = append(l.params, lcg[T](uint64(i), n))
		l.list.Updates = append(l.list.Updates,
			Update{Rule: r, Step: 1, Params: vectorOf(l.params[i]), State: Vectors(newState[T](r, n)...)})
	}
	return l
}

// step performs a step in which one tensor has no gradient, and returns the gradients as they then are.
func (l *listRun[T]) step(t *testing.T, o Options, step int) ([][]T, Report) {
	t.Helper()
	g := make([][]T, len(l.params))
	for i, p := range l.params {
		u := &l.list.Updates[i]
		if u.Skip = i == step%len(g); !u.Skip {
			g[i] = lcg[T](uint64(100*step+i), len(p))
			u.Grads = vectorOf(g[i])
		}
	}
	report, err := l.list.Step(o)
	wantNoError(t, err)
	for i := range l.list.Updates {
		if u := &l.list.Updates[i]; !u.Skip && !report.Skipped {
			u.Step++
		}
	}
	return g, report
}

func testWorkers[T Float](t *testing.T, r Rule, o Options, workers []*Pool) {
	alone := newListRun[T](r)
	o.Pool = workers[0]
	type result struct {
		grads  [][]T
		report Report
	}
	var want []result
	for step := 1; step <= 4; step++ {
		g, report := alone.step(t, o, step)
		want = append(want, result{g, report})
	}
	for _, pool := range workers[1:] {
		shared := newListRun[T](r)
		o.Pool = pool
		what := fmt.Sprintf("%+v, %+v, %T, %d workers", r, o, *new(T), pool.Workers())
		for step, want := range want {
			g, report := shared.step(t, o, step+1)
			if report != want.report {
				t.Fatalf("%s: %+v, want %+v", what, report, want.report)
			}
			for i := range g {
				wantSame(t, what+", grads", g[i], want.grads[i])
			}
		}
		for i := range alone.params {
			wantSame(t, what+", params", shared.params[i], alone.params[i])
			for k, s := range alone.list.Updates[i].State {
				wantSame(t, what+", state", sliceOf[T](shared.list.Updates[i].State[k]), sliceOf[T](s))
			}
		}
	}
}

// The bits do not depend on the number of workers, for any rule, type and tier, with and without all options.
func TestAnyNumberOfWorkers(t *testing.T) {
	sharing(t)
	var pools []*Pool
	for _, n := range workerCounts() {
		pools = append(pools, newTestPool(t, n))
	}
	defer func() {
		for _, p := range pools[1:] {
			wantHelpers(t, p, p.Workers()-1) // else nothing was shared
		}
	}()
	perTier(t, func(t *testing.T) {
		for _, r := range sampleRules() {
			for _, o := range []Options{{}, {LossScale: 3, ClipNorm: 10, ClipValue: 0.1, SkipNonFinite: true, ZeroGrads: true}} {
				testWorkers[float32](t, r, o, pools)
				testWorkers[float64](t, r, o, pools)
			}
		}
	})
}

// workerCounts has 1 first, and with -thorough all up to 64. With -short, as for the race detector, there are few.
func workerCounts() []int {
	switch {
	case testing.Short():
		return []int{1, 3}
	case !*thorough:
		return []int{1, 2, 3, 8, 64}
	}
	var all []int
	for n := 1; n <= 64; n++ {
		all = append(all, n)
	}
	return all
}

// The drop-in call shares large tensors, too.
func TestDropInIsShared(t *testing.T) {
	sharing(t)
	one, many := newTestPool(t, 1), newTestPool(t, 7)
	const n = 11*blockLen + 3
	for _, r := range sampleRules() {
		g := lcg[float32](5, n)
		p, state := lcg[float32](4, n), newState[float32](r, n)
		q, other := slices.Clone(p), newState[float32](r, n)
		for step := 1; step <= 3; step++ {
			_, err := updateSlicesWith(Options{Pool: one}, r, step, p, g, state)
			wantNoError(t, err)
			_, err = updateSlicesWith(Options{Pool: many}, r, step, q, g, other)
			wantNoError(t, err)
		}
		wantSame(t, fmt.Sprintf("%+v", r), q, p)
	}
	wantHelpers(t, many, 6)
}

// adapnmBytes is what a step of AdaPNM with AMSGrad touches of memory for each parameter.
const adapnmBytes = 24

// Steps are shared, by the pool that they name, from the size on that is worth it.
func TestSmallStepsAreNotShared(t *testing.T) {
	perElement := adapnmBytes
	for _, c := range []struct{ bytes, helpers int }{{2*leastShard - perElement, 0}, {3 * leastShard, 2}, {10 * leastShard, 3}} {
		n := c.bytes / perElement
		p, g := lcg[float32](1, n), lcg[float32](2, n)
		pools := make([]*Pool, 4)
		for i := range pools {
			pools[i] = newTestPool(t, 4)
		}
		var l List
		l.Updates = []Update{{Rule: NewAdaPNM(), Step: 1, Params: Float32(p), Grads: Float32(g), State: Vectors(newState[float32](NewAdaPNM(), n)...)}}
		wantNoError(t, l.Touch(pools[0], 0))
		_, err := l.Step(Options{Pool: pools[1]})
		wantNoError(t, err)
		_, err = l.StepPart(Options{Pool: pools[2]}, 0, 0, Float32(g))
		wantNoError(t, err)
		_, err = UpdateAll(Options{Pool: pools[3]}, l.Updates)
		wantNoError(t, err)
		for _, p := range pools {
			wantHelpers(t, p, c.helpers)
		}
		// The norm touches but the gradients.
		q := newTestPool(t, 4)
		SumSquares(q, Float32(g))
		if want := max(0, min(4, 4*n/leastShard)-1); want != len(*q.inner.helpers.Load()) {
			wantHelpers(t, q, want)
		}
	}
}

// A list that waits for its next use keeps nothing of the caller's.
func TestSparesKeepNothing(t *testing.T) {
	SumSquares(nil, Float64(make([]float64, 100)))
	for range cap(spare) {
		if b := &takeList().batch; len(b.tensors) != 0 {
			t.Fatal("tensors are left over")
		} else if cap(b.tensors) > 0 && b.tensors[:1][0].g.at != nil {
			t.Error("a spare keeps the gradient of the last call")
		}
	}
}

// Lists that share a pool at the same time do not disturb each other.
func TestConcurrentSteps(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, 4)
	o := Options{ClipNorm: 1, ZeroGrads: true, Pool: pool}
	want := newListRun[float64](NewAdaPNM())
	for step := 1; step <= 10; step++ {
		want.step(t, o, step)
	}
	runs := make([]*listRun[float64], 6)
	t.Run("at once", func(t *testing.T) {
		for i := range runs {
			runs[i] = newListRun[float64](NewAdaPNM())
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for step := 1; step <= 10; step++ {
					runs[i].step(t, o, step)
				}
			})
		}
	})
	for _, r := range runs {
		for i := range want.params {
			wantSame(t, "params", r.params[i], want.params[i])
		}
	}
}
