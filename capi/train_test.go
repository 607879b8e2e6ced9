//go:build linux && cgo

package main

import (
	"fmt"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/posneg/pnm"
)

// A C program that trains has the bits of one in Go, also as C++ and under valgrind.
func TestTrain(t *testing.T) {
	want := trainAll(t)
	for name, flags := range map[string][]string{"C": {"-std=c11"}, "C++": {"-x", "c++", "-std=c++17"}} {
		t.Run(name, func(t *testing.T) {
			sameLines(t, run(t, shared.compile(t, "train.c", flags...)), want)
		})
	}
	t.Run("memcheck", func(t *testing.T) {
		sameLines(t, memcheck(t, "train.c"), want)
	})
}

func sameLines(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) {
			t.Fatalf("%d lines, want %d", len(g), len(w))
		}
		if g[i] != w[i] {
			t.Errorf("C has %s\nGo has %s", g[i], w[i])
		}
	}
}

const rows, weights, steps = 24, 69, 40

// trainAll does what testdata/train.c does.
func trainAll(t *testing.T) string {
	momentum := pnm.NewSGD(0.05)
	momentum.Momentum, momentum.Nesterov = 0.9, true
	var out strings.Builder
	for _, f := range []trainFormat{
		{"float32", newFloat32, newFloat32, "float32", nil, false, 0},
		{"float64", newFloat64, newFloat64, "float64", nil, false, 0},
		{"bf16 grads and copy", newFloat32, newBF16, "float32", newBF16, false, 0},
		{"f16 copy", newFloat32, newFloat32, "bf16", newF16, false, 0},
		{"bf16", newBF16, newBF16, "bf16", nil, false, 0},
		{"split", newLow16, newBF16, "float32", newBF16, false, 0},
		{"bf16 copy that is followed", newFloat32, newBF16, "float32", newBF16, true, 0},
		{"mxfp8", newFloat32, newBF16, "mxfp8", nil, false, 0},
		{"mxfp8 in rows", newBF16, newBF16, "mxfp8", nil, false, 3},
		{"mxfp8, split", newLow16, newBF16, "mxfp8", newBF16, false, 3},
	} {
		for _, r := range []struct {
			name string
			rule pnm.Rule
		}{
			{"PNM", pnm.NewPNM(0.5)},
			{"AdaPNM", pnm.NewAdaPNM()},
			{"SGD", pnm.NewSGD(0.1)},
			{"SGD with momentum", momentum},
			{"Adam", pnm.NewAdam()},
			{"AdamW", pnm.NewAdamW()},
		} {
			fmt.Fprintf(&out, "%s, %s: %s\n", r.name, f.name, train(t, r.rule, f))
		}
	}
	return out.String()
}

type trainFormat struct {
	name          string
	params, grads func(n int) pnm.Vector
	state         string
	copy          func(n int) pnm.Vector
	follow        bool
	rows          int // of weights, where momenta are in mxfp8; 0: they are flat
}

func newFloat32(n int) pnm.Vector { return pnm.Float32(make([]float32, n)) }
func newFloat64(n int) pnm.Vector { return pnm.Float64(make([]float64, n)) }
func newBF16(n int) pnm.Vector    { return pnm.BF16(make([]uint16, n)) }
func newF16(n int) pnm.Vector     { return pnm.F16(make([]uint16, n)) }
func newLow16(n int) pnm.Vector   { return pnm.Low16(make([]int16, n)) }

func (f trainFormat) tensor(r pnm.Rule, n int, number uint64) pnm.Update {
	u := pnm.Update{Rule: r, Params: f.params(n), Grads: f.grads(n), Follow: f.follow, Rounding: pnm.Rounding{Seed: 7, Tensor: number}}
	row := 0
	if f.rows > 0 && n > 1 {
		row = n / f.rows
	}
	u.State = must(pnm.AllocState(r, f.state, []int{n}, []int{row})).Vectors()
	if f.copy != nil {
		u.Copy = f.copy(n)
	}
	return u
}

func train(t *testing.T, r pnm.Rule, f trainFormat) string {
	input, target := fill(rows*weights, 1), fill(rows, 2)
	u := []pnm.Update{f.tensor(r, weights, 0), f.tensor(r, 1, 1)}
	var first, last float32
	var report pnm.Report
	for step := 1; step <= steps; step++ {
		last = backward(input, target, u)
		if step == 1 {
			first = last
		}
		u[0].Step, u[1].Step = step, step
		if step == 5 { // as somebody who does not know of other halves or masters
			put(model(u[1]), []float32{0.25})
		}
		var err error
		if report, err = pnm.UpdateAll(pnm.Options{ClipNorm: 1, LossScale: 0.5, ZeroGrads: true}, u); err != nil {
			t.Fatal(err)
		}
	}
	if !(last < first) {
		t.Errorf("%T: the loss goes from %v to %v", r, first, last)
	}
	h := fnv.New64a()
	for i := range u {
		h.Write(u[i].Params.Bytes())
		h.Write(u[i].Copy.Bytes())
		for _, s := range u[i].State {
			h.Write(s.Bytes())
			h.Write(s.Scales())
		}
	}
	h.Write(pnm.Float64([]float64{report.GradNorm}).Bytes())
	h.Write(pnm.Float32([]float32{last}).Bytes())
	return fmt.Sprintf("%016x, loss %.6f to %.6f", h.Sum64(), first, last)
}

// model is what a model computes with.
func model(u pnm.Update) pnm.Vector {
	if u.Follow || u.Params.Format() == "low16" {
		return u.Copy
	}
	return u.Params
}

// backward returns the loss of weights and bias, and sets their gradients.
func backward(input, target []float32, u []pnm.Update) float32 {
	w, b := get(model(u[0])), get(model(u[1]))
	dw := make([]float32, weights)
	var loss, db float32
	for r, want := range target {
		x := input[r*weights:][:weights]
		residual := b[0] - want
		for i := range x {
			residual += float32(x[i] * w[i])
		}
		for i := range x {
			dw[i] += float32(residual * x[i])
		}
		db += residual
		loss += float32(residual * residual)
	}
	for i := range dw {
		dw[i] /= rows
	}
	put(u[0].Grads, dw)
	put(u[1].Grads, []float32{db / rows})
	return loss / rows
}

func fill(n int, seed uint64) []float32 {
	x := make([]float32, n)
	for i := range x {
		seed = seed*6364136223846793005 + 1442695040888963407
		x[i] = float32(float64(seed>>40)/(1<<23) - 1)
	}
	return x
}

func get(v pnm.Vector) []float32 {
	x := make([]float32, v.Len())
	if wide := v.Float64(); wide != nil {
		for i := range x {
			x[i] = float32(wide[i])
		}
	} else if _, err := pnm.Float32(x).Set(v); err != nil {
		panic(err)
	}
	return x
}

func put(v pnm.Vector, x []float32) {
	if wide := v.Float64(); wide != nil {
		for i := range x {
			wide[i] = float64(x[i])
		}
	} else if _, err := v.Set(pnm.Float32(x)); err != nil {
		panic(err)
	}
}
