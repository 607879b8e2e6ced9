package pnm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"github.com/posneg/pnm/internal/system"
)

const mebi = 1 << 20 / 4 // float32 elements of 1 MiB

// The slices of an arena are zeros of the lengths asked for, on cache lines of their own, and large ones lie at different
// offsets within a page. They take no more than is promised.
func TestArena(t *testing.T) {
	for _, lengths := range [][]int{{}, {0}, {3, 0, 5}, {mebi, 0}, {mebi / 2, mebi / 4}, {mebi, 1, mebi, 0, 17, mebi, mebi, mebi + 1, mebi, 12345}} {
		t.Run(fmt.Sprint(lengths), func(t *testing.T) {
			a, err := Alloc("float32", lengths...)
			wantNoError(t, err)
			defer a.Close()
			offsets := map[uintptr]bool{}
			large, end, total, asked := 0, uintptr(0), uintptr(0), 0
			for i, s := range slicesOf[float32](a.Vectors()) {
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
				at := spanOf(Float32(s))
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
			for i, s := range slicesOf[float32](a.Vectors()) {
				for _, x := range s {
					if x != float32(i) {
						t.Fatal("slices share memory")
					}
				}
			}
			if mapped := system.CanMap && asked >= leastMapped; mapped != (a.mapping != nil) {
				t.Errorf("outside the heap: %v", !mapped)
			}
			if a.mapping == nil {
				return
			}
			if end > total {
				t.Errorf("the slices end after %d bytes, %d are promised", end, total)
			}
			if first := uintptr(unsafe.Pointer(&a.mapping.bytes[0])); first%system.HugePage != 0 {
				t.Errorf("the arena begins at %#x", first)
			}
		})
	}
	if unsafe.Sizeof(0) == 8 { // else there might be as much
		if a, err := onHeap([]Vector{{n: math.MaxInt/8 - pageSize, layout: layout{format: f64}}}, func(int) int { return 1 }); a != nil || err == nil {
			t.Error("a slice of more than all memory")
		}
	}
	for _, n := range []int{math.MaxInt, math.MaxInt / 8, 1 << (8*unsafe.Sizeof(0) - 4)} {
		if a, err := Alloc("float64", n); a != nil || err == nil {
			t.Errorf("%d elements of 8 bytes", n)
		}
	}
}

// Arenas refuse what no vectors have, and say what.
func TestArenaErrors(t *testing.T) {
	negative := func(tensor, n int) error {
		return &TensorError{Tensor: tensor, Err: &ValueError{"Alloc", "lengths", float64(n), "≥ 0"}}
	}
	unknown := func(name string) error {
		_, err := formatOf(name)
		return err
	}
	for _, c := range []struct {
		arena func() (*Arena, error)
		want  error
	}{
		{func() (*Arena, error) { return Alloc("float32", mebi, -1) }, negative(1, -1)},
		{func() (*Arena, error) { return Alloc("bf16", -7) }, negative(0, -7)},
		{func() (*Arena, error) { return Alloc("", 1) }, unknown("")},
		{func() (*Arena, error) { return Alloc("float16", 1) }, unknown("float16")},
		{func() (*Arena, error) { return AllocState(NewPNM(1), "float32", []int{1, 2, -1, 5}, nil) }, negative(2, -1)},
		{func() (*Arena, error) { return AllocState(NewSGD(1), "float32", []int{1, -1}, nil) }, negative(1, -1)}, // though it has no state
		{func() (*Arena, error) { return AllocState(NewPNM(1), "Float32", []int{1}, nil) }, unknown("Float32")},
		{func() (*Arena, error) { return AllocState(NewPNM(1), "f16", []int{1}, nil) }, &FormatError{"state", "f16", "float32, float64, bf16 or mxfp8"}},
		{func() (*Arena, error) { return AllocState(NewPNM(1), "low16", []int{1}, nil) }, &FormatError{"state", "low16", "float32, float64, bf16 or mxfp8"}},
		{func() (*Arena, error) { return AllocState(nil, "float32", []int{1}, nil) }, errors.New("pnm: Rule is nil")},
		{func() (*Arena, error) { return AllocState(Adam{}, "float32", []int{1}, nil) }, Adam{}.Validate()},
	} {
		if a, err := c.arena(); a != nil || err == nil || err.Error() != c.want.Error() || reflect.TypeOf(err) != reflect.TypeOf(c.want) && !strings.Contains(err.Error(), "nil") {
			t.Errorf("%v, %v, want %v", a, err, c.want)
		}
	}
}

// The state of an arena is that of the first tensor, then that of the next: zeros, of any length and format, with which steps give
// the same bits as with other memory.
func TestAllocState(t *testing.T) {
	for _, r := range sampleRules() {
		for _, f := range []format{f32, f64, bf16, mxfp8} {
			for _, lengths := range [][]int{nil, {0}, {7}, {5, 0, mebi + 3, 9}} {
				a, err := AllocState(r, f.String(), lengths, nil)
				wantNoError(t, err)
				slots := len(forms[r.form()].Slots)
				state := a.Vectors()
				if len(state) != slots*len(lengths) {
					t.Fatalf("%T: %d vectors for %d tensors", r, len(state), len(lengths))
				}
				for i, n := range lengths {
					p := f
					if f != f64 {
						p = f32
					}
					u := newUpdate(r, formatsOf{p, p, f, f32}, ordinary(p, 1, n), 0)
					u.Grads = ordinary(p, 2, n)
					own := u
					own.Params = ordinary(p, 1, n)
					own.State = state[slots*i : slots*(i+1)]
					for k, v := range own.State {
						wantSameVector(t, "new state", v, u.State[k])
						if v.IsNil() || len(v.Bytes()) > 0 && uintptr(v.at)%8 != 0 {
							t.Errorf("%T: state %d of %d elements lies at %p", r, k, n, v.at)
						}
					}
					_, err := UpdateAll(Options{}, []Update{u, own})
					wantNoError(t, err)
					wantSameList(t, "state in an arena", []Update{own}, []Update{u})
				}
				a.Close()
			}
		}
	}
}

// The streams of a tensor lie at different offsets, wherever they come from: parameters, gradients and state in arenas of their own.
func TestStreamsAreSpread(t *testing.T) {
	lengths := make([]int, 70)
	for i := range lengths {
		lengths[i] = leastSpread / 4
	}
	for _, tensors := range []int{1, 3, 70} { // on the heap and outside it
		p, err := Alloc("float32", lengths[:tensors]...)
		wantNoError(t, err)
		defer p.Close()
		g, err := Alloc("float32", lengths[:tensors]...)
		wantNoError(t, err)
		defer g.Close()
		s, err := AllocState(NewAdaPNM(), "float32", lengths[:tensors], nil)
		wantNoError(t, err)
		defer s.Close()
		for i := range tensors {
			offsets := map[uintptr]bool{}
			for _, v := range append([]Vector{p.Vectors()[i], g.Vectors()[i]}, s.Vectors()[4*i:4*i+4]...) {
				offsets[spanOf(v).lo%pageSize] = true
			}
			if len(offsets) != 6 {
				t.Fatalf("the 6 streams of tensor %d lie at %d offsets", i, len(offsets))
			}
		}
	}
}

// Arenas go back to the system when they are closed, and when they are forgotten.
func TestArenaIsReleased(t *testing.T) {
	if !system.CanMap {
		t.Log("arenas are ordinary memory here")
		return
	}
	for _, alloc := range []func() (*Arena, error){
		func() (*Arena, error) { return Alloc("float64", mebi, mebi) },
		func() (*Arena, error) { return AllocState(NewAdaPNM(), "bf16", []int{mebi, mebi}, nil) },
	} {
		arenaIsReleased(t, alloc)
	}
}

func arenaIsReleased(t *testing.T, alloc func() (*Arena, error)) {
	t.Helper()
	arena := func() *Arena {
		a, err := alloc()
		wantNoError(t, err)
		return a
	}
	a := arena()
	p := a.mapping.pages
	a.Close()
	a.Close()
	if isMapped(p) || a.Vectors() != nil {
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
}

func isMapped(p *pages) bool {
	mapped.Lock()
	defer mapped.Unlock()
	_, ok := mapped.pages[p]
	return ok
}

// forget allocates state that nobody closes, by and by, 8 MiB at a time.
func forget(n int) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for range n {
		if _, err := AllocState(NewPNM(1), "float32", []int{4 * mebi}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Arenas that nobody closes do not pile up, though the collector sees nothing of them.
func TestForgottenArenasAreCollected(t *testing.T) {
	if !system.CanMap {
		t.Log("arenas are ordinary memory here")
		return
	}
	defer func(saved int) { leastCollected = saved }(leastCollected)
	leastCollected = 32 << 20
	large, err := Alloc("float32", 512*mebi)
	wantNoError(t, err)
	collect()
	large.Close() // what was in use then does not matter any more
	before := mapped.bytes
	wantNoError(t, forget(25))
	if more, most := mapped.bytes-before, before+48<<20; more > most {
		t.Errorf("%d bytes are mapped; there were %d", more, before)
	}
}

func TestAdviseHugePages(t *testing.T) {
	s := lcg[float32](1, 9*mebi)
	bytes, err := Float32(s).AdviseHugePages()
	if !system.CanAdvise {
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
	if err != nil || bytes < 6<<20 || bytes > 9<<20 || bytes%system.HugePage != 0 {
		t.Errorf("%d bytes of 9 MiB, %v", bytes, err)
	}
	wantSame(t, "content", s, lcg[float32](1, 9*mebi))
	if bytes, err := Float32(s[:100]).AdviseHugePages(); bytes != 0 || err != nil {
		t.Errorf("of 400 bytes %d were advised, %v", bytes, err)
	}
	if bytes, err := Float64(nil).AdviseHugePages(); bytes != 0 || err != nil {
		t.Errorf("of nothing %d bytes were advised, %v", bytes, err)
	}
}

// Closing what is not there does nothing: so a deferred Close needs no condition.
func TestCloseNil(t *testing.T) {
	(*Arena)(nil).Close()
	(*Pool)(nil).Close()
}
