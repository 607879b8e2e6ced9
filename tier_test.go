package pnm

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/posneg/pnm/internal/equations"
)

// ran are the tiers that a test has run on.
var ran = map[tier]bool{}

// perTier runs a test once on each tier that this machine has.
func perTier(t *testing.T, test func(t *testing.T)) {
	for _, tier := range tiers() {
		t.Run("isa="+string(tier), func(t *testing.T) {
			useTier(t, tier)
			test(t)
			ran[tier] = true
		})
	}
}

// useTier makes a tier the active one until the test ends.
func useTier(t testing.TB, tier tier) {
	saved := active
	active = tier
	t.Cleanup(func() { active = saved })
}

// With PNM_TEST_REQUIRE=avx512,avx2 the tests fail where one of these did not run.
func TestMain(m *testing.M) {
	code := m.Run()
	for name := range strings.SplitSeq(os.Getenv("PNM_TEST_REQUIRE"), ",") {
		if name != "" && !ran[tier(name)] {
			fmt.Printf("FAIL: PNM_TEST_REQUIRE asks for %s, which no test ran on; this machine has %v\n", name, tiers())
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func TestChooseTier(t *testing.T) {
	if got, err := choose("", []tier{generic, avx2, avx512}); got != avx512 || err != nil {
		t.Errorf("the best tier is %s, %v", got, err)
	}
	if got, err := choose("generic", []tier{generic, avx2}); got != generic || err != nil {
		t.Errorf("pinned to generic: %s, %v", got, err)
	}
	for _, pin := range []string{"avx512", "AVX2", "sse9"} {
		got, err := choose(pin, []tier{generic, avx2})
		if want := (&ISAError{pin, []string{"generic", "avx2"}}); got != generic || !reflect.DeepEqual(err, error(want)) {
			t.Errorf("pinned to %s: %s, %v", pin, got, err)
		}
	}
	if want := os.Getenv("PNM_TEST_EXPECT"); want != "" && ISA() != want {
		t.Errorf("detection picked %s, this machine should get %s", ISA(), want)
	}
	t.Logf("this machine has %v and runs %s", tiers(), ISA())
}

// A pin that cannot be had is reported by every way in, and nothing is written.
func TestBadPinIsReported(t *testing.T) {
	saved := errISA
	defer func() { errISA = saved }()
	_, errISA = choose("sse9", []tier{generic})
	refuse(t, []refusal{
		{"drop-in", func(x []float32) error { return UpdatePNM(NewPNM(1), 1, x[:8], x[8:16], x[16:24], x[24:32]) }, errISA, `PNM_ISA is "sse9"`},
		{"list", func(x []float32) error { _, err := UpdateAll(Options{}, nil); return err }, errISA, "generic"},
		{"state", func(x []float32) error { _, err := AllocState(NewPNM(1), "float32", []int{1}, nil); return err }, errISA, "generic"},
	})
}

// The rules that tests and benchmarks go through have every form: none is left out, in any tier.
func TestEveryFormIsSampled(t *testing.T) {
	benchmarked, _ := benchRules()
	for list, rules := range map[string][]Rule{"sampleRules": sampleRules(), "benchRules": benchmarked} {
		var has [len(forms)]bool
		for _, r := range rules {
			has[r.form()] = true
		}
		for f, has := range has {
			if !has {
				t.Errorf("%s lacks form %d, of %s with %v", list, f, forms[f].Rule, forms[f].Slots)
			}
		}
	}
}

// No tier lacks a kernel for a form: on this machine, and in what is generated for others.
func TestNoKernelIsMissing(t *testing.T) {
	const all = formSet(1)<<len(forms) - 1
	if len(tiers()) > 1 && (kernels != all || mixedKernels != all) {
		t.Errorf("forms %b have kernels, forms %b those for several formats, of %b", kernels, mixedKernels, all)
	}
	for arch, isas := range map[string][]string{"amd64": {"AVX2", "AVX512"}, "arm64": {"NEON"}} {
		text, err := os.ReadFile("update_" + arch + ".go")
		wantNoError(t, err)
		for _, f := range equations.Forms {
			for _, isa := range isas {
				for _, kind := range []string{"F32", "F64", "Mixed"} {
					call := regexp.MustCompile(`(?m)^\t+` + f.Kernel() + kind + isa + `\(`)
					if !call.Match(text) {
						t.Errorf("%s calls no kernel %s", arch, f.Kernel()+kind+isa)
					}
				}
			}
		}
	}
}

// withoutKernels has every form run without a kernel, until the test ends.
func withoutKernels(t *testing.T) {
	saved, mixed := kernels, mixedKernels
	kernels, mixedKernels = 0, 0
	t.Cleanup(func() { kernels, mixedKernels = saved, mixed })
}

// A tier runs the reference of a form that it has no kernel for.
func TestFallback(t *testing.T) {
	perTier(t, func(t *testing.T) {
		withoutKernels(t)
		rng := rand.New(rand.NewPCG(71, 72))
		for _, r := range sampleRules() {
			sameAsReference(t, rng, r, 2, 77, func(n int) []float32 { return make([]float32, n) })
			sameAsReference(t, rng, r, 2, 77, func(n int) []float64 { return make([]float64, n) })
			for _, f := range allFormats(r) {
				mixedLikeReference(t, rng, r, f, 2, 77, anywhere(rng))
			}
			if r.form().assembled(kernels) || r.form().assembled(mixedKernels) {
				t.Errorf("%+v has a kernel", r)
			}
		}
		// It is the reference that runs: it finds what no kernel looks at, a slice that ends too early.
		x := make([]float32, 32)
		short := tensorOf(equations.Adam, 1, x[:8], x[8:16], [][]float32{x[16:20:20], x[24:]})
		defer func() {
			if recover() == nil {
				t.Error("a kernel ran")
			}
		}()
		short.update(0, 8, false, false, nil)
	})
}

// memory makes a slice for one stream, in a place that the test chooses.
type memory[T Float] func(n int) []T

// sameAsReference runs a form on streams filled with specials and random bits, by the active tier and by the reference.
func sameAsReference[T Float](t *testing.T, rng *rand.Rand, r Rule, step, n int, place memory[T]) {
	t.Helper()
	f := r.form()
	o := Options{ClipValue: []float64{0, 1}[rng.IntN(2)], ZeroGrads: rng.IntN(2) == 0}
	got, want := tensorOf[T](f, step, nil, nil, nil), tensorOf[T](f, step, nil, nil, nil)
	scale := []float64{1, 0.7, 1e30}[rng.IntN(3)]
	for _, tensor := range []*tensor{&got, &want} {
		r.scalars(step, &tensor.c64)
		wantNoError(t, tensor.round(tensor.form))
		tensor.apply(&o, scale)
	}
	fill := func(got, want *Vector) {
		values, placed := random[T](rng, n), place(n)
		copy(placed, values)
		*got, *want = vectorOf(placed), vectorOf(values)
	}
	fill(&got.p, &want.p)
	fill(&got.g, &want.g)
	for i := range forms[f].Slots {
		fill(&got.s[i], &want.s[i])
	}
	got.updateFar(rng, o.ZeroGrads)
	tier := active
	active = generic
	want.update(0, n, false, o.ZeroGrads, nil)
	active = tier

	what := fmt.Sprintf("%s, %T, %d elements, step %d: ", forms[f].Rule, *new(T), n, step)
	wantSame(t, what+"params", sliceOf[T](got.p), sliceOf[T](want.p))
	wantSame(t, what+"grads", sliceOf[T](got.g), sliceOf[T](want.g))
	for i, name := range forms[f].Slots {
		wantSame(t, what+name, sliceOf[T](got.s[i]), sliceOf[T](want.s[i]))
	}
}

// updateFar is update as it may be on any processor: with prefetch and without.
func (t *tensor) updateFar(rng *rand.Rand, zero bool) (overflows int) {
	defer func(ahead int) { prefetchAhead = ahead }(prefetchAhead)
	prefetchAhead = rng.IntN(2) * 2048
	return t.update(0, t.len(), rng.IntN(2) == 0, zero, nil)
}

// blocks is how many elements three passes of the kernels' main loop take, of two cache lines each.
func blocks[T Float]() int { return 3 * 128 / sizeOf[T]() }

func testAlignments[T Float](t *testing.T, rng *rand.Rand) {
	for _, r := range sampleRules() {
		for n := range blocks[T]() + 1 {
			sameAsReference(t, rng, r, 1+n%5, n, func(n int) []T {
				at := rng.IntN(64 / sizeOf[T]())
				return make([]T, at+n)[at:]
			})
		}
	}
}

// Every tier gives the bits of the reference, for all lengths up to four blocks, at all alignments.
func TestTiersAgree(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(5, 6))
		testAlignments[float32](t, rng)
		testAlignments[float64](t, rng)
	})
}

// A call into assembly ends after maxCall elements; the borders between calls leave no trace.
func TestLongTensor(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(7, 8))
		for _, n := range []int{maxCall - 1, maxCall, maxCall + 1, 2*maxCall + 77} {
			sameAsReference(t, rng, NewAdaPNM(), 3, n, func(n int) []float32 { return make([]float32, n) })
		}
	})
}

// An element's bits do not depend on where in a slice it is, or how the slice is cut.
func TestCutAnywhere(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(9, 10))
		for _, r := range sampleRules() {
			const n = 150
			p, g, state := random[float32](rng, n), random[float32](rng, n), newState[float32](r, n)
			q, cut := slices.Clone(p), newState[float32](r, n)
			for step := 1; step <= 3; step++ {
				wantNoError(t, updateSlices(r, step, p, g, state))
				for lo := 0; lo < n; {
					hi := min(n, lo+rng.IntN(40))
					part := make([][]float32, len(cut))
					for k := range cut {
						part[k] = cut[k][lo:hi]
					}
					wantNoError(t, updateSlices(r, step, q[lo:hi], g[lo:hi], part))
					lo = hi
				}
			}
			wantSame(t, fmt.Sprintf("%+v", r), q, p)
		}
	})
}

// These tests read the assembly and not package asm: what a test imports becomes part of every importer's go.sum.

func readAssembly(t *testing.T, arch string) string {
	text, err := os.ReadFile("update_" + arch + ".s")
	wantNoError(t, err)
	return string(text)
}

// The assembly finds each coefficient where Go puts it.
func TestScalarsLayout(t *testing.T) {
	amd64, arm64 := readAssembly(t, "amd64"), readAssembly(t, "arm64")
	for bits, layout := range map[string]reflect.Type{"S": reflect.TypeFor[scalars[float32]](), "D": reflect.TypeFor[scalars[float64]]()} {
		check := func(arch string, loads [][]string, unit uintptr) {
			seen := map[string]bool{}
			for _, load := range loads {
				at, _ := strconv.Atoi(load[2]) // none is 0
				field, ok := layout.FieldByName(load[1])
				if !ok || field.Offset != uintptr(at)*unit {
					t.Errorf("%s takes %s from %d·%d bytes, in Go it is at %d", arch, load[1], at, unit, field.Offset)
				}
				seen[load[1]] = true
			}
			if len(seen) != layout.NumField() {
				t.Errorf("%s loads %v", arch, seen)
			}
		}
		check("amd64", regexp.MustCompile(`// (\w+)\n\tVBROADCASTS`+bits+` +(\d*)\(\w+\)`).FindAllStringSubmatch(amd64, -1), 1)
		check("arm64", regexp.MustCompile(`\tCOEFFICIENT\((\w+), (\d+)\)`).FindAllStringSubmatch(arm64, -1), layout.Field(0).Type.Size())
	}
}

// The assembly finds each field of a mixed where Go puts it, and its formats.
func TestMixedLayout(t *testing.T) {
	if strconv.IntSize == 32 {
		t.Skip("pointers have half their size here")
	}
	amd64, arm64, layout := readAssembly(t, "amd64"), readAssembly(t, "arm64"), reflect.TypeFor[mixed]()
	for arch, accesses := range map[string][][]string{
		"amd64": regexp.MustCompile(`// (\w+)\n\t(?:MOV[LQ]|VPBROADCASTD|ADD[LQ]) +(?:\w+, )?(\d+)\(\w+\)`).FindAllStringSubmatch(amd64, -1),
		"arm64": regexp.MustCompile(`(?m)^#define mixed_(\w+) +(\d+)$`).FindAllStringSubmatch(arm64, -1),
	} {
		seen := map[string]bool{"c": true} // as TestScalarsLayout finds it, if it is the first
		for _, access := range accesses {
			name, at := access[1], access[2]
			if name == "grad" {
				name = "g"
			}
			field, ok := layout.FieldByName(name)
			if !ok || fmt.Sprint(field.Offset) != at {
				t.Errorf("%s has %s at %s, Go at %d", arch, name, at, field.Offset)
			}
			seen[name] = true
		}
		if len(seen) != layout.NumField() || layout.Field(0).Name != "c" {
			t.Errorf("%s has c at 0 and %v", arch, seen)
		}
	}
	for name, set := range map[string]uint32{"gradBF16": gradBF16, "gradF16": gradF16, "paramBF16": paramBF16, "stateBF16": stateBF16,
		"outBF16": outBF16, "outF16": outF16, "stochastic": stochastic, "paramLow": paramLow, "follow": follow, "momentMX": momentMX} {
		bit := regexp.MustCompile(`(?m)^#define ` + name + ` +(\d+)$`).FindStringSubmatch(arm64)
		if bit == nil || fmt.Sprint(bits.TrailingZeros32(set)) != bit[1] {
			t.Errorf("arm64 has %s as bit %v, Go as %b", name, bit, set)
		}
	}
}

// The assembly holds no fused operation but in sums of squares whose products are exact, and the AVX2 kernels nothing that needs AVX-512: the generator does not know
// which registers an AVX2 machine has.
func TestAssemblyText(t *testing.T) {
	fused := regexp.MustCompile(`\bVFN?M(ADD|SUB)`)
	exact := regexp.MustCompile(`^sumSquares(F32|BF16|F16)AVX`)
	wide := regexp.MustCompile(`\b([XYZ](1[6-9]|2[0-9]|3[01])|Z[0-9]+|K[0-7])\b`)
	functions := strings.Split(readAssembly(t, "amd64"), "\nTEXT ·")[1:]
	stubs, err := os.ReadFile("update_amd64.go")
	wantNoError(t, err)
	if n := len(regexp.MustCompile(`(?m)^func [^{\n]*$`).FindAll(stubs, -1)); len(functions) != n || n == 0 {
		t.Errorf("%d functions, %d stubs", len(functions), n)
	}
	for _, f := range functions {
		head, body, _ := strings.Cut(f, "\n")
		name, _, _ := strings.Cut(head, "(SB)")
		if name == "pause" { // no vectors
			continue
		}
		if !strings.Contains(head, ", NOSPLIT, $0-") {
			t.Errorf("%s", head)
		}
		if got := fused.FindString(body); got != "" && !exact.MatchString(name) {
			t.Errorf("%s uses %s", name, got)
		}
		if got := wide.FindString(body); got != "" == strings.HasSuffix(name, "AVX2") {
			t.Errorf("%s uses the AVX-512 registers %q", name, got)
		}
		if strings.Contains(body, "VMOVNT") != strings.Contains(body, "SFENCE") {
			t.Errorf("%s does not fence what it writes around the caches", name)
		}
		if !regexp.MustCompile(`VZEROUPPER\s+RET\s`).MatchString(body) || strings.Count(body, "RET") != 1 {
			t.Errorf("%s does not end with VZEROUPPER and RET", name)
		}
	}
}
