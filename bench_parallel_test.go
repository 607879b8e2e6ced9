package pnm

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// inMemory is how many elements a tensor has that is measured in memory: PNM then moves 1.5 GiB a step.
const inMemory = 64 << 20

// BenchmarkWorkers runs a step in memory on one worker and on all, beside the limit kernel on as many.
func BenchmarkWorkers(b *testing.B) {
	rules, names := benchRules()
	for i, r := range rules {
		for n := 1; n <= runtime.GOMAXPROCS(0); n *= 2 {
			b.Run(fmt.Sprintf("rule=%s/isa=%s/n=64Mi/workers=%d", names[i], active, n), func(b *testing.B) {
				q := newProblem[float32](r, inMemory)
				q.pool = workers(b, n)
				var beside []yardstick
				for _, y := range yardsticks(q, active) {
					if y.unit == "of-limit" {
						beside = append(beside, y)
					}
				}
				if n > 1 {
					one := *q
					one.pool = workers(b, 1)
					beside = append(beside, yardstick{"times-one-worker", one.update})
				}
				inTurn(b, inMemory, q.bytes(), q.update, beside)
			})
		}
	}
}

// gpt2Small and resnet50 are the sizes of these networks' parameter tensors.
func gpt2Small() []int {
	const d, vocabulary, context, layers = 768, 50257, 1024, 12
	sizes := []int{vocabulary * d, context * d}
	for range layers {
		sizes = append(sizes, d, d, 3*d*d, 3*d, d*d, d, d, d, 4*d*d, 4*d, 4*d*d, d)
	}
	return append(sizes, d, d)
}

func resnet50() []int {
	sizes := []int{64 * 3 * 7 * 7, 64, 64}
	in := 64
	for i, blocks := range []int{3, 4, 6, 3} {
		width := 64 << i
		for k := range blocks {
			sizes = append(sizes, in*width, width, width, 9*width*width, width, width, 4*width*width, 4*width, 4*width)
			if k == 0 {
				sizes = append(sizes, in*4*width, 4*width, 4*width)
			}
			in = 4 * width
		}
	}
	return append(sizes, 1000*in, 1000)
}

// BenchmarkList steps the tensors of real networks, and thousands of small ones, beside one flat tensor of as many elements.
func BenchmarkList(b *testing.B) {
	small := make([]int, 5000)
	for i := range small {
		small[i] = 1000 + i
	}
	for _, net := range []struct {
		name    string
		tensors int
		sizes   []int
	}{{"GPT-2-small", 148, gpt2Small()}, {"ResNet-50", 161, resnet50()}, {"small", 5000, small}} {
		if len(net.sizes) != net.tensors {
			b.Fatalf("%s has %d tensors, not %d", net.name, len(net.sizes), net.tensors)
		}
		total := 0
		for _, n := range net.sizes {
			total += n
		}
		for n := 1; n <= runtime.GOMAXPROCS(0); n *= 2 {
			b.Run(fmt.Sprintf("rule=AdaPNM/isa=%s/net=%s/tensors=%d/workers=%d", active, net.name, net.tensors, n), func(b *testing.B) {
				o := Options{Pool: workers(b, n)}
				list, flat := stepper(b, o, net.sizes), stepper(b, o, []int{total})
				inTurn(b, total, 40*int64(total), list, []yardstick{{"of-flat", flat}})
			})
		}
	}
}

// stepper returns a step of a list of tensors of these sizes, all of its memory in arenas.
func stepper(b *testing.B, o Options, sizes []int) func() {
	return stepperOn(b, o, arena(b, sizes...), arena(b, sizes...))
}

func stepperOn(b *testing.B, o Options, p, g []Vector) func() {
	lengths := make([]int, len(p))
	for i := range p {
		lengths[i] = p[i].Len()
	}
	state, err := AllocState(NewAdaPNM(), "float32", lengths, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(state.Close)
	return stepperWith(b, o, p, g, state.Vectors())
}

func stepperWith(b *testing.B, o Options, p, g, state []Vector) func() {
	var l List
	for i := range p {
		copy(p[i].Float32(), lcg[float32](uint64(i), p[i].Len()))
		copy(g[i].Float32(), lcg[float32](uint64(i+1), p[i].Len()))
		l.Updates = append(l.Updates, Update{Rule: NewAdaPNM(), Params: p[i], Grads: g[i], State: state[4*i : 4*i+4]})
	}
	runtime.GC()
	step := 0
	return func() {
		step++
		for i := range l.Updates {
			l.Updates[i].Step = step
		}
		if _, err := l.Step(o); err != nil {
			panic(err)
		}
	}
}

func arena(b *testing.B, lengths ...int) []Vector {
	a, err := Alloc("float32", lengths...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(a.Close)
	return a.Vectors()
}

// BenchmarkExtras runs a step in memory with what Options offer, beside the step without.
func BenchmarkExtras(b *testing.B) {
	const huge = 1e30 // clips nothing, but is looked at
	for _, x := range []struct {
		name string
		o    Options
	}{
		{"LossScale", Options{LossScale: 1024}},
		{"ClipValue", Options{ClipValue: 0.5}},
		{"ZeroGrads", Options{ZeroGrads: true}},
		{"ClipNorm", Options{ClipNorm: huge}},
		{"ClipNorm+SkipNonFinite", Options{ClipNorm: huge, SkipNonFinite: true}},
		{"all", Options{LossScale: 1024, ClipNorm: huge, ClipValue: 0.5, SkipNonFinite: true, ZeroGrads: true}},
	} {
		for n := 1; n <= runtime.GOMAXPROCS(0); n *= 2 {
			b.Run(fmt.Sprintf("rule=AdaPNM/isa=%s/n=64Mi/extra=%s/workers=%d", active, x.name, n), func(b *testing.B) {
				p, g := arena(b, inMemory), arena(b, inMemory)
				x.o.Pool = workers(b, n)
				with := stepperOn(b, x.o, p, g)
				plain := stepperOn(b, Options{Pool: x.o.Pool}, p, g)
				inTurn(b, inMemory, 40*inMemory, with, []yardstick{{"of-plain", plain}})
			})
		}
	}
}

// BenchmarkSkip compares a step that clips and would skip with one that only clips.
func BenchmarkSkip(b *testing.B) {
	p, g := arena(b, inMemory), arena(b, inMemory)
	skip := stepperOn(b, Options{ClipNorm: 1e30, SkipNonFinite: true}, p, g)
	clip := stepperOn(b, Options{ClipNorm: 1e30}, p, g)
	inTurn(b, inMemory, 44*inMemory, skip, []yardstick{{"of-clip", clip}})
}

// BenchmarkMemory runs a step on arenas beside one on ordinary slices, as Go places them.
func BenchmarkMemory(b *testing.B) {
	for n := 1; n <= runtime.GOMAXPROCS(0); n *= 2 {
		b.Run(fmt.Sprintf("rule=AdaPNM/isa=%s/n=64Mi/workers=%d", active, n), func(b *testing.B) {
			o := Options{Pool: workers(b, n)}
			ordinary := func() []Vector { return Vectors(make([]float32, inMemory)) }
			staggered := func(positions ...int) (v []Vector) {
				for _, at := range positions {
					v = append(v, Vector{n: inMemory, layout: layout{format: f32}}.spread(at))
				}
				return v
			}
			onArena := stepper(b, o, []int{inMemory})
			state := stepperOn(b, o, ordinary(), ordinary())
			spread := stepperWith(b, o, staggered(6), staggered(7), staggered(0, 1, 2, 3))
			plain := stepperWith(b, o, ordinary(), ordinary(), slices.Concat(ordinary(), ordinary(), ordinary(), ordinary()))
			inTurn(b, inMemory, 40*inMemory, onArena, []yardstick{
				{"times-heap", plain}, {"times-heap-staggered", spread}, {"times-state-in-arena", state}})
		})
	}
}

// A meeting is a task whose shards wait for each other: the caller cannot run those of its helpers.
type meeting struct{ missing atomic.Int32 }

func (m *meeting) run(int, int) {
	for m.missing.Add(-1); m.missing.Load() > 0; {
		pause()
	}
}

// BenchmarkForkJoin is what it costs to have all workers take part, beside what it costs to start a goroutine for each: with
// helpers that wait for it (as in a step that follows another at once), and with helpers that sleep.
func BenchmarkForkJoin(b *testing.B) {
	n := max(2, runtime.GOMAXPROCS(0))
	run := func(b *testing.B, idle time.Duration) {
		p := workers(b, n)
		m := new(meeting)
		measure := func(run func()) float64 {
			m.missing.Store(int32(n))
			if idle > 0 {
				time.Sleep(idle)
			}
			start := time.Now()
			run()
			return float64(time.Since(start).Nanoseconds())
		}
		goroutines := func() {
			var wg sync.WaitGroup
			for range n - 1 {
				wg.Go(func() { m.run(0, 0) })
			}
			m.run(0, 0)
			wg.Wait()
		}
		var times, starts []float64
		for b.Loop() {
			for range 10 { // of the helpers that are to wait, all but the first time do
				times = append(times, measure(func() { p.pool().run(m, n, 1) }))
			}
			for range 10 {
				starts = append(starts, measure(goroutines))
			}
		}
		b.ReportMetric(median(times), "ns/fork+join")
		b.ReportMetric(median(starts), "ns/goroutines")
	}
	b.Run(fmt.Sprintf("helpers=waiting/workers=%d", n), func(b *testing.B) { run(b, 0) })
	b.Run(fmt.Sprintf("helpers=asleep/workers=%d", n), func(b *testing.B) { run(b, 200*time.Microsecond) })
}

// BenchmarkShared finds from what size on a step is worth sharing: steps that touch so many bytes on two workers, beside
// the same on one; one after the other, and with pauses in which helpers fall asleep.
func BenchmarkShared(b *testing.B) {
	for kib := 64; kib <= 8192; kib *= 2 {
		for _, idle := range []time.Duration{0, time.Millisecond} {
			b.Run(fmt.Sprintf("rule=AdaPNM/isa=%s/KiB=%d/idle=%s", active, kib, idle), func(b *testing.B) {
				n := kib << 10 / adapnmBytes
				step := func(shards int) func() float64 {
					pieces := max(1, min(mostPieces, kib<<10/leastShard/shards)) // also where a step would not be shared
					pool, q := workers(b, shards), newProblem[float32](NewAdaPNM(), n)
					t := &sharedTensor{q.tensor()}
					return func() (ns float64) {
						const steps = 20 // so that the data get to where they are worked on
						for range steps {
							if idle > 0 {
								time.Sleep(idle)
							}
							start := time.Now()
							pool.pool().run(t, shards, pieces)
							ns += float64(time.Since(start).Nanoseconds())
						}
						return ns / steps
					}
				}
				one, two := step(1), step(2)
				var ratios, times []float64
				for b.Loop() {
					t := one()
					times = append(times, two())
					ratios = append(ratios, t/times[len(times)-1])
				}
				b.ReportMetric(median(times), "ns/op")
				b.ReportMetric(median(ratios), "times-one-worker")
			})
		}
	}
}

type sharedTensor struct{ tensor }

func (s *sharedTensor) run(shard, shards int) {
	n := s.p.n
	s.update(n*shard/shards, n*(shard+1)/shards, false, false, nil)
}
