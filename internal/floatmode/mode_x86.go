//go:build (amd64 || 386.sse2) && !purego

package floatmode

// The mode is MXCSR. Go computes with nothing else: the x87 unit and its control word do not matter.
const (
	Bits    = 0xffc0 // all but the flags of exceptions that there have been
	IEEE754 = 0x1f80 // all exceptions masked, rounding to nearest, denormals neither read nor written as zero
)
