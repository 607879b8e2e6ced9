package pnm

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

// A yardstick is something that a step is measured against, in turn with it: the same streams without arithmetic, say.
type yardstick struct {
	unit string // of the metric, if it is reported: the yardstick's time divided by the step's
	run  func()
}

// inTurn times a step and its yardsticks in turn, in batches that are long enough for the clock. It reports the median
// time of a step and, for each yardstick, the median over the turns of its time divided by the step's, which it returns.
func inTurn(b *testing.B, params int, bytes int64, step func(), yardsticks []yardstick) (medians []float64) {
	runs := []func(){step}
	for _, y := range yardsticks {
		runs = append(runs, y.run)
	}
	for _, f := range runs { // twice, so that both momenta have been written
		f()
		f()
	}
	start := time.Now()
	step()
	batch := 1 + int(50*time.Microsecond/max(time.Since(start), time.Nanosecond))
	times := make([][]float64, len(runs)) // of one call, in ns
	for b.Loop() {
		for i, f := range runs {
			start := time.Now()
			for range batch {
				f()
			}
			times[i] = append(times[i], float64(time.Since(start).Nanoseconds())/float64(batch))
		}
	}
	for i, y := range yardsticks {
		ratios := make([]float64, len(times[0]))
		for k := range ratios {
			ratios[k] = times[i+1][k] / times[0][k]
		}
		medians = append(medians, median(ratios))
		if y.unit != "" {
			b.ReportMetric(medians[i], y.unit)
		}
	}
	ns := median(times[0])
	b.ReportMetric(ns, "ns/op")
	b.ReportMetric(ns/float64(params), "ns/param")
	b.ReportMetric(float64(bytes)/float64(params), "B/param")
	b.ReportMetric(float64(bytes)/ns*1e3, "MB/s")
	return medians
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// A problem is a tensor with its gradient and state.
type problem[T Float] struct {
	rule Rule
	step int
	p, g []T
	s    [][]T
	pool *Pool

	call    dropIn[T] // nil where that would share the step
	slots   [maxSlots][]T
	updates []Update // the same, for UpdateAll
}

// newProblem places all slices at different offsets within a page, as the optimizer does its state and as a caller should;
// see docs/performance.md for what equal offsets cost.
func newProblem[T Float](r Rule, n int) *problem[T] {
	q := problemOn(r, func(i int) []T { return spreadSlice[T]((4+i)%6, n) })
	q.fill()
	return q
}

// problemOn places slice i, in the order of a drop-in call's, where place says.
func problemOn[T Float](r Rule, place func(i int) []T) *problem[T] {
	q := &problem[T]{rule: r, p: place(0), g: place(1)}
	for i := range forms[r.form()].Slots {
		q.s = append(q.s, place(2+i))
	}
	copy(q.slots[:], q.s)
	if t := q.tensor(); t.traffic() < int64(2*leastShard) {
		q.call = dropInOf[T](r)
	}
	q.updates = []Update{{Rule: r, Params: vectorOf(q.p), Grads: vectorOf(q.g), State: Vectors(q.s...)}}
	return q
}

// fill sets parameters and gradients.
func (q *problem[T]) fill() {
	copy(q.p, lcg[T](1, len(q.p)))
	copy(q.g, lcg[T](2, len(q.g)))
	runtime.GC() // not in the middle of a measurement
}

// update is one step: of a small tensor by the drop-in call, of others by UpdateAll on the pool. The count starts where the bias
// corrections still cost something.
func (q *problem[T]) update() {
	q.step++
	var err error
	if q.call != nil {
		err = q.call(q.rule, 1000+q.step, q.p, q.g, &q.slots)
	} else {
		q.updates[0].Step = 1000 + q.step
		_, err = UpdateAll(Options{Pool: q.pool}, q.updates)
	}
	if err != nil {
		panic(err)
	}
}

// spreadSlice is spread for a slice.
func spreadSlice[T Float](position, n int) []T {
	return sliceOf[T](Vector{n: n, layout: layout{format: vectorOf[T](nil).format}}.spread(position))
}

// workers returns a pool of n that ends with the benchmark.
func workers(b testing.TB, n int) *Pool { return newTestPool(b, n) }

// tensor returns the tensor at an odd step.
func (q *problem[T]) tensor() tensor {
	t := tensorOf(q.rule.form(), 1001, q.p, q.g, q.s)
	q.rule.scalars(t.step, &t.c64)
	if err := t.round(t.form); err != nil {
		panic(err)
	}
	return t
}

// bytes is what a step reads and writes.
func (q *problem[T]) bytes() int64 {
	f := forms[q.rule.form()]
	reads, writes := 2+len(f.Slots), 1+len(f.Slots)
	if f.Has("n") { // of two momenta only one is written
		writes--
	}
	return int64(reads+writes) * int64(len(q.p)*sizeOf[T]())
}

// BenchmarkStep runs each rule, type and tier in L1, L2, L3 and memory, by the drop-in call, beside its yardsticks.
func BenchmarkStep(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int // float32 elements: of AdaPNM's six streams, 24, 384 and 6,144 KiB; in memory 1.5 GiB of traffic and more
	}{{"1Ki", 1 << 10}, {"16Ki", 16 << 10}, {"256Ki", 256 << 10}, {"64Mi", 64 << 20}} {
		rules, names := benchRules()
		for i, r := range rules {
			for _, tier := range tiers() {
				b.Run(fmt.Sprintf("rule=%s/type=float32/isa=%s/n=%s", names[i], tier, size.name), func(b *testing.B) {
					benchStep[float32](b, r, tier, size.n)
				})
				b.Run(fmt.Sprintf("rule=%s/type=float64/isa=%s/n=%s", names[i], tier, halved(size.name)), func(b *testing.B) {
					benchStep[float64](b, r, tier, size.n/2)
				})
			}
		}
	}
}

func halved(name string) string {
	return map[string]string{"1Ki": "512", "16Ki": "8Ki", "256Ki": "128Ki", "64Mi": "32Mi"}[name]
}

func benchStep[T Float](b *testing.B, r Rule, tier tier, n int) {
	useTier(b, tier)
	q := newProblem[T](r, n)
	q.pool = workers(b, 1)
	inTurn(b, n, q.bytes(), q.update, yardsticks(q, tier))
}

// BenchmarkSmall is the fixed cost of the drop-in call: a step of 16 elements. That of AdaPNM and Adam depends on the step's
// number, of which they take powers; they cost most while the bias corrections last.
func BenchmarkSmall(b *testing.B) {
	const n = 16
	x := lcg[float32](1, 6*n)
	at := func(i int) []float32 { return x[n*i : n*(i+1)] }
	run := func(name string, call func() error) {
		b.Run("rule="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	pnm, adapnm, sgd, adam := NewPNM(1e-3), NewAdaPNM(), SGD{LR: 1e-3, Momentum: 0.9}, NewAdam()
	adapnm.Eps, adam.Eps = 1, 1 // v may be negative here
	run("PNM", func() error { return UpdatePNM(pnm, 1000, at(0), at(1), at(2), at(3)) })
	run("SGD-momentum", func() error { return UpdateSGD(sgd, 1000, at(0), at(1), at(2)) })
	for _, step := range []int{2, 1000, 100_000} {
		run(fmt.Sprintf("AdaPNM/step=%d", step), func() error {
			return UpdateAdaPNM(adapnm, step, at(0), at(1), at(2), at(3), at(4), at(5))
		})
		run(fmt.Sprintf("Adam/step=%d", step), func() error { return UpdateAdam(adam, step, at(0), at(1), at(2), at(3), nil) })
	}
}

// BenchmarkPrefetch runs the kernels in memory with prefetch at several distances, in bytes, beside the same without.
func BenchmarkPrefetch(b *testing.B) {
	rules, names := benchRules()
	for i, r := range rules {
		for _, ahead := range []int{1 << 10, 2 << 10, 4 << 10, 8 << 10} {
			b.Run(fmt.Sprintf("rule=%s/isa=%s/ahead=%d", names[i], active, ahead), func(b *testing.B) {
				if active == generic || active == neon {
					b.Skip("this tier does not prefetch")
				}
				q := newProblem[float32](r, 64<<20)
				t := q.tensor()
				run := func(ahead int) func() {
					return func() {
						for lo := 0; lo < len(q.p); lo += maxCall {
							t.updateAssembly(lo, min(lo+maxCall, len(q.p)), ahead)
						}
					}
				}
				inTurn(b, len(q.p), q.bytes(), run(ahead), []yardstick{{"without-prefetch", run(0)}})
			})
		}
	}
}
