package pnm

import (
	"errors"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posneg/pnm/internal/system"
)

// A tally is a task that counts how often each of its parts runs.
type tally struct {
	counts []atomic.Int32
	inside func() // what a part does besides
}

func (c *tally) run(part, parts int) {
	if c.inside != nil {
		c.inside()
	}
	for i := part * len(c.counts) / parts; i < (part+1)*len(c.counts)/parts; i++ {
		c.counts[i].Add(1)
	}
}

// wantOnce runs a task on a pool and fails unless each of its parts ran once.
func wantOnce(t *testing.T, p *Pool, shards, pieces int, inside func()) {
	t.Helper()
	c := &tally{make([]atomic.Int32, shards*pieces), inside}
	p.pool().run(c, shards, pieces)
	for i := range c.counts {
		if n := c.counts[i].Load(); n != 1 {
			t.Fatalf("%d shards of %d pieces: piece %d ran %d times", shards, pieces, i, n)
		}
	}
}

func newTestPool(t testing.TB, workers int) *Pool {
	t.Helper()
	p, err := NewPool(workers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Every piece runs exactly once: for any number of workers, with helpers that wait and helpers that sleep.
func TestPoolRunsEachPieceOnce(t *testing.T) {
	p := newTestPool(t, 64)
	for shards := 1; shards <= 64; shards++ {
		for _, pieces := range []int{1, 3, 16} {
			wantOnce(t, p, shards, pieces, nil)
		}
		if shards%16 == 0 {
			wantAsleep(t, p)
		}
	}
}

// wantAsleep waits until no helper is awake: an idle pool costs nothing.
func wantAsleep(t *testing.T, p *Pool) {
	t.Helper()
	for _, h := range *p.inner.helpers.Load() {
		within(t, "a helper does not go to sleep", h.parked.Load)
	}
}

// Steps that run at the same time, and steps within steps, do not wait for each other, and none is lost.
func TestPoolIsShared(t *testing.T) {
	p := newTestPool(t, 5)
	var wg sync.WaitGroup
	for range 3 * steps { // more than can have helpers
		wg.Go(func() {
			for range 50 {
				wantOnce(t, p, 5, 4, nil)
				wantOnce(t, p, 3, 2, func() { wantOnce(t, p, 4, 1, nil) })
			}
		})
	}
	wg.Wait()
}

// All workers take part, if a step leaves them the time: each waits until the others are there. All sleep before: one that is
// late with a step may begin the next with a piece of another's, which then finds nothing to do.
func TestPoolUsesAllWorkers(t *testing.T) {
	for _, n := range []int{2, 3, 8} {
		p := newTestPool(t, n)
		for range 20 {
			wantAsleep(t, p)
			var arrived atomic.Int32
			p.pool().run(&tally{make([]atomic.Int32, n), func() {
				arrived.Add(1)
				within(t, "not all workers come", func() bool { return arrived.Load() == int32(n) })
			}}, n, 1)
		}
	}
}

// The number of workers follows GOMAXPROCS as it changes, unless it is set.
func TestPoolFollowsGOMAXPROCS(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	p, fixed := newTestPool(t, 0), newTestPool(t, 3)
	for _, n := range []int{1, 4, 2, 7, 1} {
		runtime.GOMAXPROCS(n)
		if p.Workers() != n || fixed.Workers() != 3 {
			t.Errorf("GOMAXPROCS %d: %d and %d workers", n, p.Workers(), fixed.Workers())
		}
		wantOnce(t, p, p.Workers(), 2, nil)
	}
}

// A closed pool has no helpers, and runs what it gets.
func TestPoolClose(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		p := newTestPool(t, 4)
		wantOnce(t, p, 4, 1, nil)
		wantHelpers(t, p, 3)
		var wg sync.WaitGroup
		for range 3 { // under way while it is closed
			wg.Go(func() {
				for range 100 {
					wantOnce(t, p, 4, 3, nil)
				}
			})
		}
		p.Close()
		p.Close()
		wg.Wait()
		wantOnce(t, p, 4, 2, nil)
		if p.Workers() != 1 {
			t.Errorf("%d workers", p.Workers())
		}
	}
	within(t, "goroutines are left over", func() bool { return runtime.NumGoroutine() <= before })
}

func wantHelpers(t *testing.T, p *Pool, n int) {
	t.Helper()
	if got := len(*p.inner.helpers.Load()); got != n {
		t.Fatalf("%d helpers, want %d", got, n)
	}
}

// within fails the test if the condition does not come true in 20 seconds. Helpers may call it, too.
func within(t *testing.T, otherwise string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error(otherwise)
			return
		}
	}
}

// byPart is a task that is told which part to run.
type byPart func(part int)

func (f byPart) run(part, _ int) { f(part) }

// Whoever finished the last piece of a step may be late to wake its caller, and wake that of the next step: which must
// go on waiting.
func TestPoolIsWokenTooEarly(t *testing.T) {
	p := newTestPool(t, 2)
	slot := &p.inner.slots[0]
	var started, finished atomic.Int32
	p.pool().run(byPart(func(part int) {
		started.Add(1)
		within(t, "the other piece was not begun", func() bool { return started.Load() == 2 })
		if part == 1 { // the helper's, since the caller has piece 0 until it is begun
			within(t, "the caller does not wait", func() bool { return slot.parked.CompareAndSwap(true, false) })
			slot.done <- struct{}{}
			within(t, "the caller does not go on waiting", slot.parked.Load)
		}
		finished.Add(1)
	}), 2, 1)
	if n := finished.Load(); n != 2 {
		t.Errorf("the step returned after %d of 2 pieces", n)
	}
}

// A zero Pool, like none, is the default one.
func TestZeroPool(t *testing.T) {
	for _, p := range []*Pool{nil, new(Pool)} {
		if p.Workers() != runtime.GOMAXPROCS(0) {
			t.Errorf("%d workers", p.Workers())
		}
		wantOnce(t, p, 3, 2, nil)
		p.Close()
		if p.Workers() != runtime.GOMAXPROCS(0) {
			t.Error("the default pool was closed")
		}
	}
}

// A pool that is forgotten ends its helpers by itself.
func TestPoolIsCollected(t *testing.T) {
	p, err := NewPool(3)
	wantNoError(t, err)
	wantOnce(t, p, 3, 1, nil)
	inner := p.inner
	p = nil
	eventually(t, "the pool was not closed", inner.closed.Load)
	inner.ended.Wait()
}

// eventually collects garbage until the condition holds.
func eventually(t *testing.T, otherwise string, condition func() bool) {
	t.Helper()
	for range 1000 {
		if runtime.GC(); condition() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal(otherwise)
}

func TestPoolErrors(t *testing.T) {
	for _, n := range []int{-1, maxWorkers + 1} {
		if p, err := NewPool(n); p != nil || err == nil {
			t.Errorf("%d workers: %v", n, err)
		}
	}
	cpus, err := system.AllowedCPUs()
	if errors.Is(err, errors.ErrUnsupported) {
		if got := newTestPool(t, 0).Pin(); !errors.Is(got, errors.ErrUnsupported) {
			t.Errorf("Pin: %v", got)
		}
		return
	}
	wantNoError(t, err)
	if newTestPool(t, len(cpus)+1).Pin() == nil {
		t.Error("more workers are bound than there are CPUs")
	}
	late := newTestPool(t, 2)
	wantOnce(t, late, 2, 1, nil)
	if late.Pin() == nil || new(Pool).Pin() == nil || (*Pool)(nil).Pin() == nil {
		t.Error("a pool that has stepped, or the default one, is pinned")
	}
}

// Helpers that are pinned run on the CPU that is theirs, and there are no more of them than CPUs.
func TestPoolPins(t *testing.T) {
	cpus, err := system.AllowedCPUs()
	if err != nil || len(cpus) < 2 {
		t.Skipf("nothing to bind helpers to: %v, %v", cpus, err)
	}
	p := newTestPool(t, 2)
	wantNoError(t, p.Pin())
	var mu sync.Mutex
	var masks [][]int
	var started atomic.Int32
	p.pool().run(&tally{make([]atomic.Int32, 2), func() {
		started.Add(1)
		within(t, "the helper does not come", func() bool { return started.Load() == 2 })
		mask, err := system.AllowedCPUs()
		mu.Lock()
		defer mu.Unlock()
		if masks = append(masks, mask); err != nil {
			t.Error(err)
		}
	}}, 2, 1)
	slices.SortFunc(masks, func(a, b []int) int { return len(a) - len(b) })
	if !reflect.DeepEqual(masks, [][]int{{cpus[1]}, cpus}) {
		t.Errorf("of CPUs %v the workers may run on %v", cpus, masks)
	}

	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(len(cpus) + 3))
	p = newTestPool(t, 0)
	wantNoError(t, p.Pin())
	if n := p.Workers(); n != len(cpus) {
		t.Errorf("%d workers for %d CPUs", n, len(cpus))
	}
}
