// Gen writes what package asm describes: the amd64 kernels, and for amd64 and arm64 the kernels' stubs, the Go functions that call
// them, and the tables by which programs and benchmarks do. `go generate` runs it in the repository's root. Where it fails it writes nothing.
package main

import (
	"flag"
	"fmt"
	"go/format"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"

	"github.com/posneg/pnm/asm"
)

func main() {
	// The output must not depend on the machine that it is made on.
	os.Setenv("GOOS", "linux")
	os.Setenv("GOARCH", "amd64")
	log.SetFlags(0)

	build.ConstraintExpr("!purego")
	for _, isa := range []asm.ISA{asm.AVX2, asm.AVX512} {
		asm.Noise.Emit(asm.Float64, isa)
		for _, t := range asm.Types {
			for _, k := range append(slices.Clone(asm.Rules), asm.Yardsticks(t)...) {
				k.Emit(t, isa)
			}
			asm.EmitSumSquares(t, isa)
		}
		for _, k := range asm.MixedKernels() {
			k.EmitMixed(isa)
		}
		asm.EmitSumSquares(asm.BF16, isa)
		asm.EmitSumSquares(asm.F16, isa)
		asm.EmitHash(isa)
	}
	asm.EmitPause()

	// Avo compiles for itself only, and prints from the flags that it defines: the files are written by the pass that replaces its own.
	if err := flag.Set("out", os.DevNull); err != nil {
		log.Fatal(err)
	}
	compileAll := pass.Compile
	pass.Compile = pass.Func(func(f *ir.File) error {
		if err := compile(f, compileAll); err != nil {
			return err
		}
		return write(f)
	})
	build.Generate()
}

// compile does to each function what avo does to all, so that an error names the one at fault.
func compile(f *ir.File, avo pass.Interface) error {
	for _, fn := range f.Functions() {
		err := avo.Execute(&ir.File{Sections: []ir.Section{fn}})
		if err == nil {
			err = checkRegisters(fn)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", fn.Name, err)
		}
	}
	return pass.IncludeTextFlagHeader(f)
}

// checkRegisters reports a register that an AVX2 kernel uses and AVX2 does not have: avo knows no instruction sets.
func checkRegisters(fn *ir.Function) error {
	if !strings.HasSuffix(fn.Name, asm.AVX2.Name) {
		return nil
	}
	for _, i := range fn.Instructions() {
		for _, r := range i.Registers() {
			p := reg.ToPhysical(r)
			if p.Kind() == reg.KindOpmask || p.Kind() == reg.KindVector && (p.PhysicalIndex() >= 16 || p.Size() > 32) {
				return fmt.Errorf("%s uses %s, which AVX2 does not have: more than its 16 vectors are live at once", i.Opcode, p.Asm())
			}
		}
	}
	return nil
}

// write makes all files of the compiled amd64 kernels and the text of the arm64 ones, and writes them if nothing is wrong.
func write(f *ir.File) error {
	config := printer.Config{Argv: []string{"go", "run", "./gen"}, Pkg: "pnm"}
	assembly, err := printer.NewGoAsm(config).Print(f)
	if err != nil {
		return err
	}
	amd64, err := printer.NewStubs(config).Print(f)
	if err != nil {
		return err
	}
	source, err := os.ReadFile("update_arm64.s")
	if err != nil {
		return err
	}
	neon, arm64, err := asm.NEON(string(source))
	if err != nil {
		return err
	}
	head := fmt.Sprintf("// %s\n\n//go:build !purego\n\npackage pnm\n", config.GeneratedWarning())
	const imports = "\nimport \"github.com/posneg/pnm/internal/equations\"\n"
	_, stubs, _ := strings.Cut(string(amd64), "\npackage pnm\n")

	files := map[string][]byte{"update_amd64.s": assembly}
	for name, text := range map[string]string{
		"update_amd64.go":     head + imports + stubs + asm.AMD64.Calls() + asm.AMD64.Limits(),
		"update_arm64.go":     head + imports + arm64 + neon.Calls() + neon.Limits(),
		"bench_amd64_test.go": head + asm.AMD64.Dividers(),
		"bench_arm64_test.go": head + neon.Dividers(),
	} {
		if files[name], err = format.Source([]byte(text)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o666); err != nil {
			return err
		}
	}
	return nil
}
