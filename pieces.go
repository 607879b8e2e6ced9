package pnm

import "unsafe"

// maxPiece is how many bytes are copied or cleared at a time. Go's memmove and memclr cannot be preempted, no more than kernels
// can (see maxCall), and a garbage collection stops all other goroutines until they return. What make clears, Go cuts itself.
const maxPiece = 64 << 10

// copyBytes copies as many bytes as from has, in pieces.
func copyBytes(to, from []byte) {
	for len(from) > 0 {
		n := copyPiece(to, from[:min(len(from), maxPiece)])
		to, from = to[n:], from[n:]
	}
}

// clearBytes zeroes memory of any length, in pieces.
func clearBytes(b []byte) {
	for len(b) > 0 {
		n := min(len(b), maxPiece)
		clearPiece(b[:n])
		b = b[n:]
	}
}

// A loop is preempted where it calls a function, as long as that is not inlined: a signal would find the goroutine in memmove
// or memclr nearly always.

//go:noinline
func copyPiece(to, from []byte) int { return copy(to, from) }

//go:noinline
func clearPiece(b []byte) { clear(b) }

// clear zeroes v.
func (v Vector) clear() { clearBytes(v.bytes()) }

// clone returns a copy in memory of its own.
func (v Vector) clone() Vector {
	to := make([]uint64, (v.n*v.size()+7)/8) // aligned for every format
	c := Vector{unsafe.Pointer(unsafe.SliceData(to)), v.n, v.format}
	copyBytes(c.bytes(), v.bytes())
	return c
}
