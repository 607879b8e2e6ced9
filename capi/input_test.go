//go:build linux && cgo

package main

import (
	"encoding/hex"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/posneg/pnm"
)

// Tests cannot name C's types. These make what a function takes.
func newUpdate[T any](func(*input, *T) error) *T         { return new(T) }
func newRule[T any](func(*T) (pnm.Rule, error)) *T       { return new(T) }
func newOptions[T any](func(*T) (pnm.Options, error)) *T { return new(T) }
func setInt[T ~int32](to *T, x int)                      { *to = T(x) }
func setFloat[T ~float64](to *T, x float64)              { *to = T(x) }

// adamStep returns a function that performs a step of Adam on memory of its own, and returns its status.
func adamStep() func(workers int) uint32 {
	const n = 100
	r := newRule(ruleOf)
	r.kind, r.lr, r.beta1, r.beta2, r.eps = 4, 1e-3, 0.9, 0.999, 1e-8 // PNM_RULE_ADAM
	u := newUpdate((*input).add)
	u.rule, u.step = r, 1
	memory := make([]float32, 4*n)
	u.params.data, u.grads.data = unsafe.Pointer(&memory[0]), unsafe.Pointer(&memory[n])
	u.state[0].data, u.state[1].data = unsafe.Pointer(&memory[2*n]), unsafe.Pointer(&memory[3*n])
	u.params.length, u.grads.length, u.state[0].length, u.state[1].length = n, n, n, n
	o := newOptions(optionsOf)
	return func(workers int) uint32 {
		setInt(&o.workers, workers)
		return uint32(pnmgo_update_all(o, u, 1, nil))
	}
}

// Once a list as long has been updated, with the same rules, a call allocates nothing, and nothing is kept of the memory.
func TestCallKeepsNothing(t *testing.T) {
	step := adamStep()
	if allocs := testing.AllocsPerRun(100, func() {
		if status := step(1); status != 0 {
			t.Fatal("status", status)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}

	in := takeInput()
	if cap(in.updates) == 0 || cap(in.vectors) == 0 {
		t.Fatal("this is not the input of the call")
	}
	for _, u := range in.updates[:cap(in.updates)] {
		if u.Params.Len() != 0 || u.Grads.Len() != 0 || u.State != nil {
			t.Errorf("%+v is kept", u)
		}
	}
	for _, v := range in.vectors[:cap(in.vectors)] {
		if v.Len() != 0 {
			t.Errorf("%+v is kept", v)
		}
	}
}

// Calls at the same time share inputs and pools, of which there are never too many. This is for the race detector.
func TestCallsAtOnce(t *testing.T) {
	var calls sync.WaitGroup
	for range 8 {
		step := adamStep()
		calls.Go(func() {
			for workers := range 3 * mostPools {
				if status := step(workers); status != 0 {
					t.Error("status", status)
				}
			}
		})
	}
	calls.Wait()
	if n := len(pools.byCount); n == 0 || n > mostPools {
		t.Errorf("%d pools", n)
	}
	if a, b := pools.byCount[3*mostPools-1], must(pools.of(3*mostPools-1)); a == nil || a != b {
		t.Errorf("the last pool is made again")
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

func TestPanicStaysInGo(t *testing.T) {
	if status := call(func() error { panic("oops") }); status != 9 {
		t.Errorf("status %d, want PNM_ERROR_INTERNAL", status)
	}
}

// PNM_ISA pins what runs. What it cannot be makes every step fail.
func TestISA(t *testing.T) {
	program := shared.compile(t, "isa.c", "-std=c11")
	for pin, want := range map[string]string{"generic": "generic 0 0.5 ", "abacus": `generic 7 1 pnm: PNM_ISA is "abacus"`} {
		t.Setenv("PNM_ISA", pin)
		if out := run(t, program); !strings.HasPrefix(out, want) {
			t.Errorf("PNM_ISA=%s: %s, want %s", pin, out, want)
		}
	}
}

// Each field of a rule gets to the engine.
func TestRuleFields(t *testing.T) {
	r := newRule(ruleOf)
	set := func(kind int) {
		*r = *newRule(ruleOf)
		setInt(&r.kind, kind)
		r.lr, r.weight_decay = 1, 2
	}
	want := func(want pnm.Rule) {
		t.Helper()
		if got, err := ruleOf(r); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	set(1)
	r.beta1, r.beta0, r.decoupled = 3, 4, 1
	want(pnm.PNM{LR: 1, WeightDecay: 2, Beta1: 3, Beta0: 4, Decoupled: true})
	r.decoupled, r.maximize = 0, 1
	want(pnm.PNM{LR: 1, WeightDecay: 2, Beta1: 3, Beta0: 4, Maximize: true})

	set(2)
	r.beta1, r.beta2, r.beta0, r.eps, r.decoupled, r.amsgrad = 3, 4, 5, 6, 1, 1
	want(pnm.AdaPNM{LR: 1, WeightDecay: 2, Beta1: 3, Beta2: 4, Beta0: 5, Eps: 6, Decoupled: true, AMSGrad: true})
	r.decoupled, r.maximize = 0, 1
	want(pnm.AdaPNM{LR: 1, WeightDecay: 2, Beta1: 3, Beta2: 4, Beta0: 5, Eps: 6, Maximize: true, AMSGrad: true})
	r.amsgrad, r.exact_bias = 0, 1
	want(pnm.AdaPNM{LR: 1, WeightDecay: 2, Beta1: 3, Beta2: 4, Beta0: 5, Eps: 6, Maximize: true, ExactBias: true})

	set(3)
	r.momentum, r.dampening, r.decoupled = 3, 4, 1
	want(pnm.SGD{LR: 1, WeightDecay: 2, Momentum: 3, Dampening: 4, Decoupled: true})
	r.decoupled, r.nesterov = 0, 1
	want(pnm.SGD{LR: 1, WeightDecay: 2, Momentum: 3, Dampening: 4, Nesterov: true})
	r.nesterov, r.maximize = 0, 1
	want(pnm.SGD{LR: 1, WeightDecay: 2, Momentum: 3, Dampening: 4, Maximize: true})

	set(4)
	r.beta1, r.beta2, r.eps, r.decoupled = 3, 4, 5, 1
	want(pnm.Adam{LR: 1, WeightDecay: 2, Beta1: 3, Beta2: 4, Eps: 5, Decoupled: true})
	r.decoupled, r.amsgrad = 0, 1
	want(pnm.Adam{LR: 1, WeightDecay: 2, Beta1: 3, Beta2: 4, Eps: 5, AMSGrad: true})
	r.amsgrad, r.maximize = 0, 1
	want(pnm.Adam{LR: 1, WeightDecay: 2, Beta1: 3, Beta2: 4, Eps: 5, Maximize: true})
}

// C has every rule, with every hyperparameter and the defaults that it has in Go.
func TestRulesAreGos(t *testing.T) {
	header, err := os.ReadFile("pnm.h")
	if err != nil {
		t.Fatal(err)
	}
	rules := pnm.Rules()
	kinds := regexp.MustCompile(`(?m)^\tPNM_RULE_(\w+) = (\d+)`).FindAllStringSubmatch(string(header), -1)
	if len(kinds) != len(rules) {
		t.Errorf("pnm.h has the kinds %q, Go has %d rules", kinds, len(rules))
	}
	for i, kind := range kinds {
		if want := strings.ToUpper(rules[i].Name()); kind[1] != want || kind[2] != strconv.Itoa(i+1) {
			t.Errorf("%s has the number %s, must be %s and %d", kind[1], kind[2], want, i+1)
		}
	}

	lines := strings.Fields(run(t, shared.compile(t, "rules.c", "-std=c11")))
	rules = append(rules, pnm.NewAdamW())
	if len(lines) != len(rules) {
		t.Fatalf("rules.c prints %d rules, Go has %d", len(lines), len(rules))
	}
	for i, line := range lines {
		r := newRule(ruleOf)
		if _, err := hex.Decode(unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r)), []byte(line)); err != nil {
			t.Fatal(err)
		}
		if got, err := ruleOf(r); err != nil || got != rules[i] {
			t.Errorf("C's constructor makes %+v, %v, Go's %+v", got, err, rules[i])
		}
		for name := range rules[i].Hyperparameters() {
			if !slices.ContainsFunc(fields, func(f field) bool { return f.name == name }) {
				t.Errorf("pnm_rule has no field for %s of %s", name, rules[i].Name())
			}
		}
	}
}

// A rule is found again if, and only if, all its bits are the same.
func TestRuleCache(t *testing.T) {
	var c ruleCache
	r := newRule(ruleOf)
	r.kind = 3 // SGD
	for range 2 {
		for i := range 3 * len(c.entries) {
			for _, zero := range []float64{0, math.Copysign(0, -1)} {
				setFloat(&r.lr, float64(i))
				setFloat(&r.weight_decay, zero)
				got, err := c.get(r)
				want := pnm.SGD{LR: float64(i), WeightDecay: zero}
				if err != nil || got != want || math.Signbit(got.(pnm.SGD).WeightDecay) != math.Signbit(zero) {
					t.Fatalf("got %+v, %v, want %+v", got, err, want)
				}
			}
		}
	}
}

// C's fingerprints are Go's.
func TestFingerprint(t *testing.T) {
	x, wide, halves, low := []float32{1, -2, 3, 0.25}, []float64{1, 2, 3, 4}, []uint16{0x3f80, 0xc000, 0x7fc1, 5}, []int16{1, 2, 3, -4}
	elements := make([]byte, 80)
	for i := range elements {
		elements[i] = byte(3 * i)
	}
	small, bf16 := must(pnm.MXFP8(elements, []byte{127, 3, 4, 5}, 40)), pnm.BF16(halves)
	w := func(v, copied pnm.Vector, first uint64) pnm.Portion {
		return pnm.Portion{Name: "w", Vector: v, Copy: copied, First: first}
	}
	none := pnm.Vector{}
	var want []string
	for _, portions := range [][]pnm.Portion{
		{w(pnm.Float32(x), none, 0)}, {{Name: "größe", Vector: pnm.Float64(wide), First: 1 << 40}}, {w(bf16, none, 0)},
		{w(pnm.F16(halves), none, 3)}, {w(pnm.Low16(low), bf16, 0)}, {w(pnm.Float32(x), pnm.F16(halves), 0)}, {w(small, none, 80)},
	} {
		want = append(want, must(pnm.SumFingerprint(nil, portions...)).String())
	}
	for _, format := range []string{"", "float32", "float64", "bf16", "f16", "mxfp8"} {
		want = append(want, must(pnm.BytesFingerprint("w", format, 5, elements[1:73])).String())
	}
	both := must(pnm.SumFingerprint(nil, w(bf16, none, 0), pnm.Portion{Name: "b", Vector: pnm.Float32(x)}))
	want = append(want, both.String(), pnm.Fingerprint{}.String(), pnm.Fingerprint{}.String())
	if got := strings.Fields(run(t, shared.compile(t, "fingerprint.c", "-std=c11"))); !slices.Equal(got, want) {
		t.Errorf("C has\n%s\nGo has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func BenchmarkC(b *testing.B) {
	program := shared.compile(b, "bench.c", "-std=c11")
	b.ResetTimer()
	for _, line := range strings.Split(strings.TrimSpace(run(b, program, strconv.Itoa(b.N))), "\n") {
		value, unit, _ := strings.Cut(line, " ")
		x, err := strconv.ParseFloat(value, 64)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(x, unit)
	}
}
