package pnmgorgonia

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/posneg/pnm"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// BenchmarkStep times the step of each solver on float32 networks, all solvers in turn within each round, and reports medians:
// the time of a step, and how often it fits into that of Gorgonia's solver for the same rule, or for AdaPNM and PNM those of
// Adam and Momentum.
//
//	go test -run '^$' -bench Step -benchtime 100x .
func BenchmarkStep(b *testing.B) {
	for _, network := range []struct {
		name   string
		shapes []tensor.Shape
	}{
		{"LeNet", []tensor.Shape{{6, 1, 5, 5}, {1, 6}, {16, 6, 5, 5}, {1, 16}, {400, 120}, {1, 120}, {120, 84}, {1, 84}, {84, 10}, {1, 10}}},
		{"10M", []tensor.Shape{{784, 2600}, {1, 2600}, {2600, 2600}, {1, 2600}, {2600, 500}, {1, 500}, {500, 10}, {1, 10}}},
	} {
		b.Run(network.name, func(b *testing.B) { benchmarkStep(b, network.shapes) })
	}
}

func benchmarkStep(b *testing.B, shapes []tensor.Shape) {
	var model []gorgonia.ValueGrad
	var gradients [][]float32
	rng := rand.New(rand.NewPCG(1, 2))
	for i, s := range shapes {
		filled := func() *tensor.Dense {
			x := make([]float32, s.TotalSize())
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			return tensor.New(tensor.WithShape(s...), tensor.WithBacking(x))
		}
		v, g := filled(), filled()
		model = append(model, &fake{strconv.Itoa(i), v, g, nil})
		gradients = append(gradients, slices.Clone(g.Float32s()))
	}
	momentum := pnm.SGD{LR: 1e-3, Momentum: 0.9}
	adaPNM := pnm.NewAdaPNM()
	adaPNM.AMSGrad = false
	solvers := []struct {
		name    string
		solver  gorgonia.Solver
		against int
	}{
		{"Gorgonia-Adam", gorgonia.NewAdamSolver(), 0},
		{"Gorgonia-Momentum", gorgonia.NewMomentum(), 1},
		{"Gorgonia-Vanilla", gorgonia.NewVanillaSolver(), 2},
		{"Adam", mustSolver(b, pnm.NewAdam(), model), 0},
		{"AdaPNM", mustSolver(b, adaPNM, model), 0},
		{"AdaPNM-AMSGrad", mustSolver(b, pnm.NewAdaPNM(), model), 0},
		{"SGD-momentum", mustSolver(b, momentum, model), 1},
		{"PNM", mustSolver(b, pnm.NewPNM(1e-3), model), 1},
		{"SGD", mustSolver(b, pnm.NewSGD(1e-3), model), 2},
	}
	times := make([][]float64, len(solvers))
	ratios := make([][]float64, len(solvers))
	for range b.N {
		for i, s := range solvers {
			for k, g := range grads[float32](b, model) {
				copy(g, gradients[k])
			}
			start := time.Now()
			if err := s.solver.Step(model); err != nil {
				b.Fatal(err)
			}
			times[i] = append(times[i], time.Since(start).Seconds())
		}
		for i, s := range solvers {
			ratios[i] = append(ratios[i], times[s.against][len(times[i])-1]/times[i][len(times[i])-1])
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, s := range solvers {
		b.ReportMetric(1e6*median(times[i]), s.name+"-µs")
		if !strings.HasPrefix(s.name, "Gorgonia") {
			b.ReportMetric(median(ratios[i]), s.name+"-ratio")
		}
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}
