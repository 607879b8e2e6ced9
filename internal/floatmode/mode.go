//go:build (amd64 || 386.sse2 || arm64) && !purego

package floatmode

// Get returns the mode of the calling thread.
func Get() uint32

// Set sets it.
func Set(mode uint32)
