//go:build !purego

package floatmode

// The mode is FPCR, which is zero unless it has been set.
const (
	Bits    = 1<<32 - 1
	IEEE754 = 0
)
