package optim

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/posneg/pnm"
)

const mebi = 1 << 20 / 4 // float32 elements of 1 MiB

// memory returns how many bytes of addresses the process has, and how many of them are in memory.
func memory(t *testing.T) (size, resident int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	wantNoError(t, err)
	_, err = fmt.Sscan(string(text), &size, &resident)
	wantNoError(t, err)
	return size * os.Getpagesize(), resident * os.Getpagesize()
}

// isMapped reports whether there is memory at an address.
func isMapped(t *testing.T, at uintptr) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	wantNoError(t, err)
	for line := range strings.Lines(string(text)) {
		var lo, hi uintptr
		_, err := fmt.Sscanf(line, "%x-%x", &lo, &hi)
		wantNoError(t, err)
		if lo <= at && at < hi {
			return true
		}
	}
	return false
}

// The state of optimizers goes back to the system when they are closed, and when they are forgotten.
func TestStateIsReleased(t *testing.T) {
	p, g := make([]float32, mebi), make([]float32, mebi)
	build := func() (o *Optimizer, state uintptr) {
		o, err := New(groupOf(pnm.NewAdaPNM(), p))
		wantNoError(t, err)
		wantNoError(t, stepOf(o, g))
		state = reflect.ValueOf(o.list.Updates[0].State[0].Bytes()).Pointer()
		if !isMapped(t, state) {
			t.Fatal("there is no state")
		}
		return o, state
	}
	o, state := build()
	o.Close()
	if isMapped(t, state) {
		t.Error("the state of a closed optimizer is still there")
	}
	o, state = build()
	runtime.GC()
	if !isMapped(t, state) {
		t.Error("the state is gone that is in use")
	}
	wantNoError(t, stepOf(o, g))
	o = nil
	eventually(t, "the state of a forgotten optimizer is still there", func() bool { return !isMapped(t, state) })
}

// Optimizers that nobody closes do not pile up, though the collector sees nothing of their state.
func TestForgottenOptimizersAreCollected(t *testing.T) {
	const each, many = 16 << 20, 60
	p := make([]float32, each/8)
	runtime.GC()
	before, _ := memory(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for range many {
		_, err := New(groupOf(pnm.NewPNM(1), p))
		wantNoError(t, err)
	}
	after, _ := memory(t)
	if got := after - before; got > each*many*2/3 {
		t.Errorf("%d bytes are still there, of %d", got, each*many)
	}
}

// The workers have touched the state before the first step.
func TestStateIsTouched(t *testing.T) {
	p := make([]float32, 16*mebi)
	most := 0
	for range 10 { // meanwhile, what other tests have left may go
		debug.FreeOSMemory()
		_, before := memory(t)
		o := optimizerOf(t, groupOf(pnm.NewAdaPNM(), p))
		_, after := memory(t)
		o.Close()
		if most = max(most, after-before); most >= 48<<20 {
			return
		}
	}
	t.Errorf("of 64 MiB, %d are in memory", most)
}
