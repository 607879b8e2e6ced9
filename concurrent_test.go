package pnm

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// Beside a call on a List every other one is refused, and does nothing.
func TestBusy(t *testing.T) {
	l := listOf(NewPNM(1), formatsOf{f32, f32, f32, f32}, ordinary(f32, 1, 8))
	l.Updates[0].Grads = ordinary(f32, 2, 8)
	before := ordinary(f32, 1, 8)
	calls := map[string]func() error{
		"Step":     func() error { _, err := l.Step(Options{}); return err },
		"StepPart": func() error { _, err := l.StepPart(Options{}, 0, 0, l.Updates[0].Grads); return err },
		"Check":    func() error { return l.Check(0) },
		"Touch":    func() error { return l.Touch(nil, 0) },
	}
	wantNoError(t, l.begin())
	for name, call := range calls {
		if err := call(); !errors.Is(err, ErrBusy) {
			t.Errorf("%s beside another call: %v", name, err)
		}
	}
	wantSameVector(t, "params", l.Updates[0].Params, before)
	l.end()
	for name, call := range calls { // also after one that is refused for another reason
		good := l.Updates[0].Params
		l.Updates[0].Params = newVector(f16, 8)
		if err := call(); err == nil || errors.Is(err, ErrBusy) {
			t.Errorf("%s of f16: %v", name, err)
		}
		l.Updates[0].Params = good
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Two goroutines that step one list lose no step without being told.
func TestStepsAtTheSameTime(t *testing.T) {
	const n = 1 << 16
	p, g := make([]float32, n), make([]float32, n)
	for i := range g {
		g[i] = -1
	}
	l := List{Updates: []Update{{Rule: NewSGD(1), Step: 1, Params: Float32(p), Grads: Float32(g)}}}
	var done atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 50 {
				switch _, err := l.Step(Options{}); {
				case err == nil:
					done.Add(1)
				case !errors.Is(err, ErrBusy):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, x := range p {
		if int64(x) != done.Load() {
			t.Fatalf("%d steps were done, element %d has made %g", done.Load(), i, x)
		}
	}
}

// Parts of a step may come from several goroutines, each of which calls again while it is told that the list is busy.
func TestPartsAtTheSameTime(t *testing.T) {
	const n, parts = 64 * 20, 64
	f := formatsOf{f32, f32, f32, f32}
	whole, inParts := listOf(NewAdaPNM(), f, ordinary(f32, 1, n)), listOf(NewAdaPNM(), f, ordinary(f32, 1, n))
	for step := 1; step <= 3; step++ {
		g := ordinary(f32, uint64(step), n)
		whole.next(t, Options{}, []Vector{g})
		var wg sync.WaitGroup
		for i := range parts {
			lo, hi := i*n/parts, (i+1)*n/parts
			wg.Go(func() {
				_, err := inParts.StepPart(Options{}, 0, lo, g.Slice(lo, hi))
				for ; errors.Is(err, ErrBusy); _, err = inParts.StepPart(Options{}, 0, lo, g.Slice(lo, hi)) {
					runtime.Gosched()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		count(inParts.Updates, Report{})
	}
	wantSameTraining(t, "parts", inParts, whole)
}

// Calls that keep nothing disturb each other as little as lists do, on one pool and on many, with more of them than there are spare
// lists and slots of a pool, and while a pool is closed.
func TestCallsAtTheSameTime(t *testing.T) {
	sharing(t)
	shared, closing := newTestPool(t, 3), newTestPool(t, 3)
	const steps = 4
	o := Options{ClipNorm: 1, ZeroGrads: true}
	want := updateList(sampleRules())
	norms := make([]float64, steps)
	for step := range norms {
		nextGrads(want)
		r, err := UpdateAll(o, want)
		wantNoError(t, err)
		norms[step] = r.GradNorm
	}
	var wg sync.WaitGroup
	runs := make([][]Update, cap(spare)+4)
	for i := range runs {
		runs[i] = updateList(sampleRules())
		o := o
		o.Pool = []*Pool{nil, shared, closing}[i%3]
		wg.Go(func() {
			l := List{Updates: runs[i]}
			for step := range norms {
				nextGrads(runs[i])
				norm := normOf(o.Pool, gradsOf(runs[i])...)
				var r Report
				var err error
				if i%2 == 0 {
					r, err = l.Step(o)
				} else {
					r, err = UpdateAll(o, runs[i])
				}
				if err != nil || r.GradNorm != norms[step] || norm != norms[step] {
					t.Errorf("run %d: %+v, %v, want norm %g", i, r, err, norms[step])
				}
			}
		})
	}
	closing.Close()
	wg.Wait()
	for i, run := range runs {
		wantSameList(t, fmt.Sprint("run ", i), run, want)
	}
}

func gradsOf(list []Update) (grads []Vector) {
	for _, u := range list {
		grads = append(grads, u.Grads)
	}
	return grads
}
