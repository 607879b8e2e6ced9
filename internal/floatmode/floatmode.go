// Package floatmode keeps floating-point modes that C code has set for threads, such as flush to zero, out of computations.
package floatmode

import "runtime"

// A Hold keeps a goroutine on its thread, and the thread's arithmetic at IEEE 754's: rounding to nearest even, denormal numbers,
// no traps. C code may have set another mode, or the thread may have inherited one from the thread that started it.
//
// Every exported function that computes takes a hold first, and so does every worker for its part of a job. A mode belongs to a
// thread, so that a goroutine that moves to another thread must check again. Do not park with a hold: the runtime would have to wake
// that very thread.
type Hold struct{ found uint32 }

// Take takes the hold, and returns it to be released.
func (h *Hold) Take() *Hold {
	if Bits == 0 {
		return h
	}
	runtime.LockOSThread() // else the goroutine may move on to a thread that is set otherwise
	h.found = Get()
	if h.found&Bits != IEEE754 {
		Set(IEEE754)
	}
	return h
}

// Release restores the thread's mode.
func (h *Hold) Release() {
	if Bits == 0 {
		return
	}
	if h.found&Bits != IEEE754 {
		Set(h.found)
	}
	runtime.UnlockOSThread()
}
