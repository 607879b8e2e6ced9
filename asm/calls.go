package asm

import (
	"fmt"
	"strings"
)

// A Target has the kernels of an architecture and their names. Of several instruction sets, calls test for the last one.
type Target struct {
	ISAs  []string // the last parts of the kernels' names
	Rules []Kernel // those with kernels for all types
	Mixed []Kernel // those with kernels for mixed formats
}

// AMD64 has all kernels that package asm describes.
var AMD64 = Target{[]string{AVX2.Name, AVX512.Name}, Rules, Rules}

// Calls returns Go source of the functions that call the active tier's kernels, and of the sets of forms that have kernels:
//
//	func updateType(f form, c, p, g, m, n, v, x *T, count, ahead int)
//	func updateMixed(f form, b *mixed, n, ahead int)
//	func sumSquaresType(sums *uint64, w *float64, g *T, n, ahead int)
//	func hash(sums *uint64, keys *uint32, check *uint64, x *byte, count int)
//	func noiseF64(c, plus, minus, m, n *float64, count, ahead int)
//	func noiseMixed(b *mixed, n, ahead int)
//
// The calls are direct: arguments of a function value would escape to the heap. In Go, a stream's name is its first letter, since Go's
// assembler has a register called g.
func (t Target) Calls() string {
	var b strings.Builder
	b.WriteString("\n// The forms that have kernels.\nconst (\n")
	fmt.Fprintf(&b, "\tkernelForms formSet = %s\n\tmixedKernelForms formSet = %s\n)\n", set(t.Rules), set(t.Mixed))
	for _, of := range Types {
		fmt.Fprintf(&b, "\n// update%s runs the active tier's kernel of a form, one of kernelForms, on count elements.\n", of.Name)
		fmt.Fprintf(&b, "func update%s(f form, c, p, g, m, n, v, x *%s, count, ahead int) {\n", of.Name, of.goName)
		t.chooseForm(&b, t.Rules, func(k Kernel) (kernel, args string) {
			args = "c, "
			for _, stream := range k.args() {
				args += stream[:1] + ", "
			}
			return k.Name + of.Name, args + "count, ahead"
		})
	}
	b.WriteString("\n// updateMixed runs the active tier's kernel of a form, one of mixedKernelForms, on n elements, a positive multiple of mixedBlock.\n")
	b.WriteString("func updateMixed(f form, b *mixed, n, ahead int) {\n")
	t.chooseForm(&b, t.Mixed, func(k Kernel) (kernel, args string) { return mixedRule(k).Name, "&b.c.gs, n, ahead" })
	for _, of := range sumTypes {
		name := "sumSquares" + of.Name
		fmt.Fprintf(&b, "\n// %s works like sumSquaresGeneric, by the active tier's kernel.\n", name)
		fmt.Fprintf(&b, "func %s(sums *uint64, w *float64, g *%s, n, ahead int) {\n", name, of.goName)
		t.chooseISA(&b, name, "sums, w, g, n, ahead")
		b.WriteString("}\n")
	}
	fmt.Fprintf(&b, "\n// hash %s.\nfunc hash%s {\n", hashDoc, strings.TrimPrefix(hashSignature, "func"))
	t.chooseISA(&b, "hash", "sums, keys, check, x, count")
	b.WriteString("}\n")
	for _, noise := range []struct{ name, params, args string }{
		{Noise.Name + Float64.Name, "c, plus, minus, m, n *float64, count, ahead int", "c, plus, minus, m, n, count, ahead"},
		{mixedNoise.Name, "b *mixed, n, ahead int", "&b.c.gs, n, ahead"},
	} {
		fmt.Fprintf(&b, "\n// %s %s, by the active tier's kernel.\nfunc %[1]s(%[3]s) {\n", noise.name, Noise.Doc, noise.params)
		t.chooseISA(&b, noise.name, noise.args)
		b.WriteString("}\n")
	}
	return b.String()
}

// set returns Go source of a set of forms.
func set(rules []Kernel) string {
	if len(rules) == 0 {
		return "0"
	}
	var bits []string
	for _, k := range rules {
		bits = append(bits, "1<<equations."+k.Form.Constant())
	}
	return strings.Join(bits, " |\n\t\t")
}

// chooseForm writes the rest of a function that calls a kernel for each form.
func (t Target) chooseForm(b *strings.Builder, rules []Kernel, call func(k Kernel) (kernel, args string)) {
	b.WriteString("\tswitch f {\n")
	for _, k := range rules {
		fmt.Fprintf(b, "\tcase equations.%s:\n", k.Form.Constant())
		kernel, args := call(k)
		t.chooseISA(b, kernel, args)
	}
	b.WriteString("\t}\n}\n")
}

// chooseISA writes a call of a kernel.
func (t Target) chooseISA(b *strings.Builder, kernel, args string) {
	if len(t.ISAs) == 1 {
		fmt.Fprintf(b, "%s(%s)\n", kernel+t.ISAs[0], args)
		return
	}
	fmt.Fprintf(b, "if active == avx512 {\n%s(%s)\n} else {\n%s(%[2]s)\n}\n", kernel+t.ISAs[1], args, kernel+t.ISAs[0])
}

// Limits returns Go source of the tables of the kernels that move a step's memory without arithmetic.
func (t Target) Limits() string {
	var b strings.Builder
	b.WriteString("\n// The limit kernels by tier: for each form its streams without arithmetic.\nvar (\n")
	b.WriteString("\tlimitKernels = map[tier][len(forms)]bare[float32]{\n")
	t.each(&b, func(isa string) string {
		var rows strings.Builder
		for _, k := range kernels {
			fmt.Fprintf(&rows, "equations.%s: %s,\n", k.Form.Constant(), limit(k).Name+Float32.Name+isa)
		}
		return "{\n" + rows.String() + "}"
	})
	b.WriteString("}\n\tmixedLimits = map[tier]func(c *float32, count, ahead int){\n")
	t.each(&b, func(isa string) string { return mixedLimit.Name + isa })
	b.WriteString("}\n)\n")
	return b.String()
}

// Dividers returns Go source of the table, for benchmarks, of the kernels that only divide and take square roots.
func (t Target) Dividers() string {
	var b strings.Builder
	b.WriteString("\n// The dividers by tier: square root and division without streams.\n")
	b.WriteString("var dividers = map[tier]struct {\n\tf32 bare[float32]\n\tf64 bare[float64]\n}{\n")
	t.each(&b, func(isa string) string { return fmt.Sprintf("{dividerF32%s, dividerF64%[1]s}", isa) })
	b.WriteString("}\n")
	return b.String()
}

// each writes a value of a map for each instruction set. The engine's tier has its name in lower case.
func (t Target) each(b *strings.Builder, value func(isa string) string) {
	for _, isa := range t.ISAs {
		fmt.Fprintf(b, "%s: %s,\n", strings.ToLower(isa), value(isa))
	}
}
