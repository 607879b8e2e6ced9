//go:build !purego

package pnm

// The mode is FPCR, which is zero in every thread that has not been set otherwise.
const (
	modeBits = 1<<32 - 1
	ieee754  = 0
)
