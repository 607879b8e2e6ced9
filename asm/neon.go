package asm

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const neon = "NEON"

// NEON returns the target of the hand-written kernels in update_arm64.s, and Go source of their stubs. It leaves out a rule without
// kernels; any other function that is missing, or not called, is an error.
func NEON(source string) (t Target, stubs string, err error) {
	has := map[string]bool{}
	for _, f := range regexp.MustCompile(`(?m)^TEXT ·(\w+)\(`).FindAllStringSubmatch(source, -1) {
		has[f[1]] = true
	}
	t.ISAs = []string{neon}
	var b strings.Builder
	add := func(name, doc, signature string) bool {
		if !has[name] {
			return false
		}
		delete(has, name)
		fmt.Fprintf(&b, "\n// %s %s.\n//\n//go:noescape\nfunc %s%s\n", name, doc, name, strings.TrimPrefix(signature, "func"))
		return true
	}
	var missing []string
	need := func(name, doc, signature string) {
		if !add(name, doc, signature) {
			missing = append(missing, name)
		}
	}
	for _, k := range kernels {
		all := true
		for _, of := range Types {
			all = add(k.Name+of.Name+neon, k.Doc, k.signature(of)) && all
		}
		if all {
			t.Rules = append(t.Rules, k)
		}
		if m := mixedRule(k); add(m.Name+neon, m.Doc, mixedSignature) {
			t.Mixed = append(t.Mixed, k)
		}
	}
	for _, of := range Types {
		for _, k := range Yardsticks(of) {
			need(k.Name+of.Name+neon, k.Doc, k.signature(of))
		}
	}
	need(mixedLimit.Name+neon, mixedLimit.Doc, mixedSignature)
	need(Noise.Name+Float64.Name+neon, Noise.Doc, Noise.signature(Float64))
	need(mixedNoise.Name+neon, mixedNoise.Doc, mixedSignature)
	for _, of := range sumTypes {
		need("sumSquares"+of.Name+neon, sumDoc, of.sumSignature())
	}
	need("hash"+neon, hashDoc, hashSignature)
	if len(missing) > 0 {
		return t, "", fmt.Errorf("update_arm64.s lacks %s", strings.Join(missing, ", "))
	}
	if delete(has, "pause"); len(has) > 0 {
		return t, "", fmt.Errorf("update_arm64.s has %s, which nothing calls", strings.Join(slices.Sorted(maps.Keys(has)), ", "))
	}
	b.WriteString("\n// pause takes some dozen cycles, and leaves the core to its other thread where it has one.\nfunc pause()\n")
	return t, b.String(), nil
}
