//go:build !(amd64 || 386.sse2 || arm64) || purego

package floatmode

// Here the modes of threads cannot be changed: Go alone can neither read nor set them.
const Bits, IEEE754 = 0, 0

func Get() uint32 { return 0 }

func Set(uint32) {}
