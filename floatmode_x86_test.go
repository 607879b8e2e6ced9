//go:build (amd64 || 386.sse2) && !purego

package pnm

// foreignModes are what a thread may have been set to.
var foreignModes = map[string]uint32{
	"denormals are zero": ieee754 | 1<<6,
	"flush to zero":      ieee754 | 1<<15,
	"down":               ieee754 | 1<<13,
	"up":                 ieee754 | 2<<13,
	"truncate":           ieee754 | 3<<13,
	// Not the trap for what is not exact: Go's runtime computes so where the thread parks, and dies of it.
	"fast math and traps": 1<<6 | 1<<12 | 1<<15,
}
