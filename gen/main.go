// Gen writes the amd64 kernels that package asm describes, their stubs and the Go functions that call them: `go generate` runs
// it in the repository's root.
package main

import (
	"flag"
	"log"
	"os"
	"slices"

	"github.com/mmcloughlin/avo/build"

	"github.com/posneg/pnm/asm"
)

func main() {
	// The output must not depend on the machine that it is made on.
	os.Setenv("GOOS", "linux")
	os.Setenv("GOARCH", "amd64")
	flag.Parse()

	types := []asm.Type{asm.Float32, asm.Float64}
	build.ConstraintExpr("!purego")
	for _, isa := range []asm.ISA{asm.AVX2, asm.AVX512} {
		for _, t := range types {
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
	}
	asm.EmitPause()
	build.Generate()

	stubs, err := os.OpenFile(flag.Lookup("stubs").Value.String(), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = stubs.WriteString(asm.Calls(types))
	}
	if err != nil {
		log.Fatal(err)
	}
}
