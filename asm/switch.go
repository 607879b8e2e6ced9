package asm

import (
	"fmt"
	"strings"
)

// Switch returns Go source of the function that calls the rules' kernels for one element type and ISA:
//
//	func updateTypeISA(f form, c *T, s *streams[T], i, n, ahead int)
//
// The calls are direct ones: what a function value is given would escape to the heap. A stream is named in Go by its first
// letter (Go's assembler has a register called g).
func Switch(t Type, isa ISA) string {
	var b strings.Builder
	name := "update" + t.Name + isa.Name
	fmt.Fprintf(&b, "\n// %s runs the kernel of a form on the elements i … i+n−1.\n", name)
	fmt.Fprintf(&b, "func %s(f form, c *%s, s *streams[%[2]s], i, n, ahead int) {\n\tswitch f {\n", name, t.goName)
	for _, k := range Rules {
		fmt.Fprintf(&b, "\tcase %s:\n\t\t%s%s%s(c, ", k.Form, k.Name, t.Name, isa.Name)
		for _, stream := range k.args() {
			fmt.Fprintf(&b, "&s.%s[i], ", stream[:1])
		}
		b.WriteString("n, ahead)\n")
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}
