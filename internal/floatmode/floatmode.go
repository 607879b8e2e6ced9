// Package floatmode keeps what C code has set for a process's threads, such as flush to zero, out of computations.
package floatmode

import "runtime"

// A Hold keeps a goroutine on its thread, and the thread at IEEE 754's arithmetic: rounding to nearest even, denormal numbers,
// no traps. A thread may have been set to something else by C code, or have inherited that from the thread which started it.
//
// Whoever computes what a caller gets takes a hold first: every exported function that does, and every worker for its part of a
// job. A mode belongs to a thread, so that a goroutine which moves to another one must check again. Nobody parks with a hold: the
// runtime would have to wake that very thread.
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

// Release gives the thread back as it was found.
func (h *Hold) Release() {
	if Bits == 0 {
		return
	}
	if h.found&Bits != IEEE754 {
		Set(h.found)
	}
	runtime.UnlockOSThread()
}
