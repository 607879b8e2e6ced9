//go:build (amd64 || 386.sse2 || arm64) && !purego

package pnm

// floatMode returns how the calling thread computes.
func floatMode() uint32

// setFloatMode sets it.
func setFloatMode(mode uint32)
