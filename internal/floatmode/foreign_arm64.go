//go:build !purego

package floatmode

// Foreign are modes that C code may have set, for tests. A CPU that lacks one ignores it.
var Foreign = map[string]uint32{
	"flush to zero":        1 << 24,
	"flush float16":        1 << 19,
	"alternative float16":  1 << 26,
	"default NaN":          1 << 25,
	"up":                   1 << 22,
	"down":                 2 << 22,
	"truncate":             3 << 22,
	"traps":                1<<15 | 0x1f<<8,
	"alternative flushing": 3,
}
