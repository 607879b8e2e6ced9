package main

import (
	"strings"
	"testing"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/reg"
)

// hungry is a file with two functions: one is fine, the other has so many vectors that live at once.
func hungry(t *testing.T, name string, vectors int, vector func(*build.Context) reg.VecVirtual) *ir.File {
	t.Helper()
	c := build.NewContext()
	c.Function("fineF32AVX2")
	c.SignatureExpr("func()")
	c.RET()
	c.Function(name)
	c.SignatureExpr("func()")
	live := make([]reg.VecVirtual, vectors)
	for i := range live {
		live[i] = vector(c)
		c.VPXORD(live[i], live[i], live[i])
	}
	for _, x := range live {
		c.VPXORD(live[0], x, live[0])
	}
	c.RET()
	f, err := c.Result()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A kernel with too many live vectors is named, whether avo runs out of registers or goes on to those of AVX-512.
func TestAllocation(t *testing.T) {
	ymm, zmm := (*build.Context).YMM, (*build.Context).ZMM
	for _, test := range []struct {
		name    string
		vectors int
		vector  func(*build.Context) reg.VecVirtual
		want    string // "" if nothing is wrong
	}{
		{"eagerF32AVX2", 16, ymm, ""},
		{"greedyF32AVX2", 17, ymm, "greedyF32AVX2: VPXORD uses Y16"},
		{"wideF32AVX2", 1, zmm, "wideF32AVX2: VPXORD uses Z0"},
		{"eagerF32AVX512", 32, zmm, ""},
		{"greedyF32AVX512", 33, zmm, "greedyF32AVX512: failed to allocate registers"},
	} {
		err := compile(hungry(t, test.name, test.vectors, test.vector), pass.Compile)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}
