package asm

import (
	"fmt"
	"strings"
)

// Calls returns Go source of the functions that call the kernels, those of the active tier:
//
//	func updateType(f form, c *T, s *streams[T], i, n, ahead int)
//	func updateMixed(f form, b *mixed, n, ahead int)
//	func sumSquaresType(sums *float64, g *T, n, ahead int)
//
// The calls are direct ones: what a function value is given would escape to the heap. A stream is named in Go by its first
// letter (Go's assembler has a register called g).
func Calls(types []Type) string {
	var b strings.Builder
	for _, t := range types {
		name := "update" + t.Name
		fmt.Fprintf(&b, "\n// %s runs the active tier's kernel of a form on the elements i … i+n−1.\n", name)
		fmt.Fprintf(&b, "func %s(f form, c *%s, s *streams[%[2]s], i, n, ahead int) {\n", name, t.goName)
		chooseForm(&b, func(k Kernel) (kernel, args string) {
			args = "c, "
			for _, stream := range k.args() {
				args += "&s." + stream[:1] + "[i], "
			}
			return k.Name + t.Name, args + "n, ahead"
		})
		callSumSquares(&b, t)
	}
	b.WriteString("\n// updateMixed runs the active tier's kernel of a form on n elements, a positive multiple of mixedBlock.\n")
	b.WriteString("func updateMixed(f form, b *mixed, n, ahead int) {\n")
	chooseForm(&b, func(k Kernel) (kernel, args string) { return mixedRule(k).Name, "&b.c.gs, n, ahead" })
	callSumSquares(&b, BF16)
	callSumSquares(&b, F16)
	return b.String()
}

// chooseForm writes the rest of a function that calls a kernel for each form.
func chooseForm(b *strings.Builder, call func(k Kernel) (kernel, args string)) {
	b.WriteString("\twide := active == avx512\n\tswitch f {\n")
	for _, k := range Rules {
		fmt.Fprintf(b, "\tcase %s:\n", k.Form)
		kernel, args := call(k)
		chooseISA(b, "\t\t", kernel, args)
	}
	b.WriteString("\tdefault:\n\t\tf.missing()\n\t}\n}\n")
}

func callSumSquares(b *strings.Builder, t Type) {
	name := "sumSquares" + t.Name
	fmt.Fprintf(b, "\n// %s works like sumSquaresGeneric, by the active tier's kernel.\n", name)
	fmt.Fprintf(b, "func %s(sums *float64, g *%s, n, ahead int) {\n\twide := active == avx512\n", name, t.goName)
	chooseISA(b, "\t", name, "sums, g, n, ahead")
	b.WriteString("}\n")
}

func chooseISA(b *strings.Builder, indent, kernel, args string) {
	fmt.Fprintf(b, "%sif wide {\n%[1]s\t%s(%s)\n%[1]s} else {\n%[1]s\t%[4]s(%[3]s)\n%[1]s}\n", indent, kernel+AVX512.Name, args, kernel+AVX2.Name)
}
