package pnm

import (
	"errors"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
	p.run(c, shards, pieces)
	for i := range c.counts {
		if n := c.counts[i].Load(); n != 1 {
			t.Fatalf("%d shards of %d pieces: piece %d ran %d times", shards, pieces, i, n)
		}
	}
}

func newTestPool(t testing.TB, c PoolConfig) *Pool {
	t.Helper()
	p, err := NewPool(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Every piece runs exactly once: for any number of workers, with helpers that wait and helpers that sleep.
func TestPoolRunsEachPieceOnce(t *testing.T) {
	p := newTestPool(t, PoolConfig{Workers: 64})
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
	deadline := time.Now().Add(20 * time.Second)
	for _, h := range *p.helpers.Load() {
		for !h.parked.Load() {
			if time.Now().After(deadline) {
				t.Fatalf("helper %d does not go to sleep", h.number)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// Steps that run at the same time, and steps within steps, do not wait for each other, and none is lost.
func TestPoolIsShared(t *testing.T) {
	p := newTestPool(t, PoolConfig{Workers: 5})
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

// All workers take part, if a step leaves them the time: each waits until the others are there.
func TestPoolUsesAllWorkers(t *testing.T) {
	for _, n := range []int{2, 3, 8} {
		p := newTestPool(t, PoolConfig{Workers: n})
		for range 20 {
			arrived := make(chan struct{}, n)
			all := make(chan struct{})
			p.run(&tally{make([]atomic.Int32, n), func() {
				if arrived <- struct{}{}; len(arrived) == n {
					close(all)
				}
				<-all
			}}, n, 1)
		}
	}
}

// The number of workers follows GOMAXPROCS as it changes, unless it is set.
func TestPoolFollowsGOMAXPROCS(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	p, fixed := newTestPool(t, PoolConfig{}), newTestPool(t, PoolConfig{Workers: 3})
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
		p := newTestPool(t, PoolConfig{Workers: 4})
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
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, before %d", after, before)
	}
}

// A pool that is forgotten ends its helpers by itself.
func TestPoolIsCollected(t *testing.T) {
	p, err := NewPool(PoolConfig{Workers: 3})
	wantNoError(t, err)
	wantOnce(t, p, 3, 1, nil)
	inner := p.pool
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
		if p, err := NewPool(PoolConfig{Workers: n}); p != nil || err == nil {
			t.Errorf("%d workers: %v", n, err)
		}
	}
	cpus, err := allowedCPUs()
	if errors.Is(err, errors.ErrUnsupported) {
		if _, got := NewPool(PoolConfig{Pin: true}); !errors.Is(got, errors.ErrUnsupported) {
			t.Errorf("Pin: %v", got)
		}
		return
	}
	wantNoError(t, err)
	if _, err := NewPool(PoolConfig{Workers: len(cpus) + 1, Pin: true}); err == nil {
		t.Error("more workers are bound than there are CPUs")
	}
}

// Helpers that are pinned run on the CPU that is theirs.
func TestPoolPins(t *testing.T) {
	cpus, err := allowedCPUs()
	if err != nil || len(cpus) < 2 {
		t.Skipf("nothing to bind helpers to: %v, %v", cpus, err)
	}
	p := newTestPool(t, PoolConfig{Workers: 2, Pin: true})
	var here, there [][]int
	var mu sync.Mutex
	caller := make(chan struct{})
	p.run(pinned{func(part int) {
		now, err := allowedCPUs()
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		if len(now) == 1 {
			there = append(there, now)
			close(caller)
		} else {
			here = append(here, now)
			mu.Unlock()
			<-caller
			mu.Lock()
		}
	}}, 2, 1)
	if !reflect.DeepEqual(there, [][]int{{cpus[1]}}) || !reflect.DeepEqual(here, [][]int{cpus}) {
		t.Errorf("of CPUs %v the helper may run on %v, the caller on %v", cpus, there, here)
	}
}

type pinned struct{ each func(part int) }

func (p pinned) run(part, _ int) { p.each(part) }
