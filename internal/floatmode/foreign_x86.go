//go:build (amd64 || 386.sse2) && !purego

package floatmode

// Foreign are modes that C code may have set, for tests.
var Foreign = map[string]uint32{
	"denormals are zero": IEEE754 | 1<<6,
	"flush to zero":      IEEE754 | 1<<15,
	"down":               IEEE754 | 1<<13,
	"up":                 IEEE754 | 2<<13,
	"truncate":           IEEE754 | 3<<13,
	// Not the trap for what is not exact: Go's runtime computes so where the thread parks, and dies of it.
	"fast math and traps": 1<<6 | 1<<12 | 1<<15,
}
