//go:build !(amd64 || 386.sse2 || arm64) || purego

package pnm

// Here the mode of a thread is what it is: Go alone can neither read nor set it.
const modeBits, ieee754 = 0, 0

func floatMode() uint32 { return 0 }

func setFloatMode(uint32) {}
