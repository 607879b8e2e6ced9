// Gen writes the amd64 kernels that package asm describes: `go generate` runs it in the repository's root.
package main

import (
	"flag"
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

	build.ConstraintExpr("!purego")
	for _, isa := range []asm.ISA{asm.AVX2, asm.AVX512} {
		for _, t := range []asm.Type{asm.Float32, asm.Float64} {
			for _, k := range append(slices.Clone(asm.Rules), asm.Yardsticks(t)...) {
				k.Emit(t, isa)
			}
			asm.EmitSumSquares(t, isa)
		}
	}
	asm.EmitPause()
	build.Generate()
}
