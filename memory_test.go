package pnm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"unsafe"
)

const mebi = 1 << 20 / 4 // float32 elements of 1 MiB

// The slices of an arena are zeros of the lengths asked for, on cache lines of their own, and large ones lie at different
// offsets within a page. They take no more than is promised.
func TestArena(t *testing.T) {
	for _, lengths := range [][]int{{}, {0}, {3, 0, 5}, {mebi, 0}, {mebi / 2, mebi / 4}, {mebi, 1, mebi, 0, 17, mebi, mebi, mebi + 1, mebi, 12345}} {
		t.Run(fmt.Sprint(lengths), func(t *testing.T) {
			a, err := Alloc[float32](lengths...)
			wantNoError(t, err)
			defer a.Close()
			offsets := map[uintptr]bool{}
			large, end, total, asked := 0, uintptr(0), uintptr(0), 0
			for i, s := range a.Slices() {
				if s == nil || len(s) != lengths[i] || cap(s) != lengths[i] {
					t.Fatalf("slice %d has %d elements, room for %d", i, len(s), cap(s))
				}
				for _, x := range s {
					if x != 0 {
						t.Fatal("not zero")
					}
				}
				for k := range s {
					s[k] = float32(i)
				}
				asked += 4 * len(s)
				total += uintptr(4*len(s) + cacheLine)
				if i == 0 && 4*len(s) < leastSpread {
					total += pageSize
				}
				if 4*len(s) < leastSpread {
					continue
				}
				at := spanOf(vectorOf(s))
				offsets[at.lo%pageSize] = true
				large++
				total += pageSize
				if a.mapping != nil {
					if at.lo%cacheLine != 0 {
						t.Errorf("slice %d begins within a cache line", i)
					}
					end = at.hi - uintptr(unsafe.Pointer(&a.mapping.bytes[0]))
				}
			}
			if len(offsets) != large {
				t.Errorf("%d large slices at %d offsets", large, len(offsets))
			}
			for i, s := range a.Slices() {
				for _, x := range s {
					if x != float32(i) {
						t.Fatal("slices share memory")
					}
				}
			}
			if mapped := canMap && asked >= leastMapped; mapped != (a.mapping != nil) {
				t.Errorf("outside the heap: %v", !mapped)
			}
			if a.mapping == nil {
				return
			}
			if end > total {
				t.Errorf("the slices end after %d bytes, %d are promised", end, total)
			}
			if first := uintptr(unsafe.Pointer(&a.mapping.bytes[0])); first%hugePage != 0 {
				t.Errorf("the arena begins at %#x", first)
			}
		})
	}
	if a, err := Alloc[float32](mebi, -1); a != nil || err == nil {
		t.Error("-1 elements")
	}
	if a, err := onHeap[float64]([]int{math.MaxInt}, 1, func(int) int { return 1 }); a != nil || err == nil {
		t.Error("a slice of more than all memory")
	}
	for _, n := range []int{math.MaxInt, math.MaxInt / 8, 1 << (8*unsafe.Sizeof(0) - 4)} {
		if a, err := Alloc[float64](n); a != nil || err == nil {
			t.Errorf("%d elements of 8 bytes", n)
		}
	}
}

// The streams of a tensor lie at different offsets, wherever they come from: parameters and gradients in arenas of their own.
func TestStreamsAreSpread(t *testing.T) {
	lengths := make([]int, 70)
	for i := range lengths {
		lengths[i] = leastSpread / 4
	}
	p, err := Alloc[float32](lengths...)
	wantNoError(t, err)
	defer p.Close()
	g, err := Alloc[float32](lengths...)
	wantNoError(t, err)
	defer g.Close()
	o, err := NewOptimizer(Group[float32]{NewAdaPNM(), p.Slices()})
	wantNoError(t, err)
	defer o.Close()
	for i := range lengths {
		offsets := map[uintptr]bool{}
		streams := append([]Vector{Float32(p.Slices()[i]), Float32(g.Slices()[i])}, o.batch.tensors[i].s[:]...)
		for _, s := range streams {
			offsets[spanOf(s).lo%pageSize] = true
		}
		if len(offsets) != 6 {
			t.Fatalf("the 6 streams of tensor %d lie at %d offsets", i, len(offsets))
		}
	}
}

// Arenas and the state of optimizers go back to the system when they are closed, and when they are forgotten.
func TestArenaIsReleased(t *testing.T) {
	if !canMap {
		t.Log("arenas are ordinary memory here")
		return
	}
	arena := func() *Arena[float64] {
		a, err := Alloc[float64](mebi, mebi)
		wantNoError(t, err)
		return a
	}
	a := arena()
	p := a.mapping.pages
	a.Close()
	a.Close()
	if isMapped(p) || a.Slices() != nil {
		t.Error("a closed arena is still there")
	}
	a = arena()
	p = a.mapping.pages
	collect()
	if !isMapped(p) {
		t.Error("an arena is gone that is in use")
	}
	runtime.KeepAlive(a)
	a = nil
	eventually(t, "a forgotten arena is still there", func() bool { return !isMapped(p) })

	optimizer := func() *Optimizer[float32] {
		o, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{make([]float32, mebi)}})
		wantNoError(t, err)
		wantNoError(t, o.Step([][]float32{make([]float32, mebi)}))
		return o
	}
	o := optimizer()
	p = o.arenas[0].mapped().pages
	o.Close()
	if isMapped(p) {
		t.Error("the state of a closed optimizer is still there")
	}
	o = optimizer()
	p = o.arenas[0].mapped().pages
	o = nil
	eventually(t, "the state of a forgotten optimizer is still there", func() bool { return !isMapped(p) })
}

func isMapped(p *pages) bool {
	mapped.Lock()
	defer mapped.Unlock()
	_, ok := mapped.pages[p]
	return ok
}

// forget builds optimizers that nobody closes, by and by. The state of each takes 8 MiB.
func forget(n int) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	p := make([]float32, 4*mebi)
	for range n {
		if _, err := NewOptimizer(Group[float32]{NewPNM(1), [][]float32{p}}); err != nil {
			return err
		}
	}
	return nil
}

// Optimizers that nobody closes do not pile up, though the collector sees nothing of their state.
func TestForgottenOptimizersAreCollected(t *testing.T) {
	if !canMap {
		t.Log("state is ordinary memory here")
		return
	}
	defer func(saved int) { leastCollected = saved }(leastCollected)
	leastCollected = 32 << 20
	large, err := Alloc[float32](512 * mebi)
	wantNoError(t, err)
	collect()
	large.Close() // what was in use then does not matter any more
	before := mapped.bytes
	wantNoError(t, forget(25))
	if more, most := mapped.bytes-before, before+48<<20; more > most {
		t.Errorf("%d bytes are mapped; there were %d", more, before)
	}
}

// State in an arena, state on the heap: the same bits.
func TestHeapState(t *testing.T) {
	const n = mebi + 3
	p, q := lcg[float32](1, n), lcg[float32](1, n)
	onArena, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{p}})
	wantNoError(t, err)
	defer onArena.Close()
	onHeap, err := NewOptimizerWith(Config{HeapState: true}, Group[float32]{NewAdaPNM(), [][]float32{q}})
	wantNoError(t, err)
	if len(onHeap.arenas) != 0 || canMap && onArena.arenas[0].mapped() == nil {
		t.Error("the state is not where it should be")
	}
	for step := range 3 {
		g := lcg[float32](uint64(step), n)
		wantNoError(t, onArena.Step([][]float32{g}))
		wantNoError(t, onHeap.Step([][]float32{g}))
	}
	wantSame(t, "params", p, q)
}

func TestAdviseHugePages(t *testing.T) {
	s := lcg[float32](1, 9*mebi)
	bytes, err := AdviseHugePages(s)
	if !canMap {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%d bytes, %v", bytes, err)
		}
		return
	}
	huge, _ := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil && len(huge) == 0 {
		t.Logf("this kernel has no huge pages: %v", err)
		return
	}
	if err != nil || bytes < 6<<20 || bytes > 9<<20 || bytes%hugePage != 0 {
		t.Errorf("%d bytes of 9 MiB, %v", bytes, err)
	}
	wantSame(t, "content", s, lcg[float32](1, 9*mebi))
	if bytes, err := AdviseHugePages(s[:100]); bytes != 0 || err != nil {
		t.Errorf("of 400 bytes %d were advised, %v", bytes, err)
	}
	if bytes, err := AdviseHugePages[float64](nil); bytes != 0 || err != nil {
		t.Errorf("of nothing %d bytes were advised, %v", bytes, err)
	}
}
