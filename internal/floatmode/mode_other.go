//go:build !(amd64 || 386.sse2 || arm64) || purego

package floatmode

// Here the mode of a thread is what it is: Go alone can neither read nor set it.
const Bits, IEEE754 = 0, 0

func Get() uint32 { return 0 }

func Set(uint32) {}
