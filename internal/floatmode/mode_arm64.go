//go:build !purego

package floatmode

// The mode is FPCR, which is zero in every thread that has not been set otherwise.
const (
	Bits    = 1<<32 - 1
	IEEE754 = 0
)
