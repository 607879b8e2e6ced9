package asm

import (
	"fmt"
	"strings"
)

// Calls returns Go source of the functions that call the kernels for one element type, those of the active tier:
//
//	func updateType(f form, c *T, s *streams[T], i, n, ahead int)
//	func sumSquaresType(sums *float64, g *T, n, ahead int)
//
// The calls are direct ones: what a function value is given would escape to the heap. A stream is named in Go by its first
// letter (Go's assembler has a register called g).
func Calls(t Type) string {
	var b strings.Builder
	choice := func(indent, kernel, args string) {
		fmt.Fprintf(&b, "%sif wide {\n%[1]s\t%s(%s)\n%[1]s} else {\n%[1]s\t%[4]s(%[3]s)\n%[1]s}\n", indent, kernel+AVX512.Name, args, kernel+AVX2.Name)
	}

	name := "update" + t.Name
	fmt.Fprintf(&b, "\n// %s runs the active tier's kernel of a form on the elements i … i+n−1.\n", name)
	fmt.Fprintf(&b, "func %s(f form, c *%s, s *streams[%[2]s], i, n, ahead int) {\n", name, t.goName)
	b.WriteString("\twide := active == avx512\n\tswitch f {\n")
	for _, k := range Rules {
		fmt.Fprintf(&b, "\tcase %s:\n", k.Form)
		args := "c, "
		for _, stream := range k.args() {
			args += "&s." + stream[:1] + "[i], "
		}
		choice("\t\t", k.Name+t.Name, args+"n, ahead")
	}
	b.WriteString("\tdefault:\n\t\tf.missing()\n\t}\n}\n")

	name = "sumSquares" + t.Name
	fmt.Fprintf(&b, "\n// %s works like sumSquaresGeneric, by the active tier's kernel.\n", name)
	fmt.Fprintf(&b, "func %s(sums *float64, g *%s, n, ahead int) {\n\twide := active == avx512\n", name, t.goName)
	choice("\t", name, "sums, g, n, ahead")
	b.WriteString("}\n")
	return b.String()
}
