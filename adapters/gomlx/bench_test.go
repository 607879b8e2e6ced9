package pnmgomlx

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/layers"
	"github.com/gomlx/gomlx/ml/layers/activation"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/posneg/pnm"
)

// mlp has 784·2048 + 2048·4096 + 4096·10 weights: ten million.
func mlp(scope *model.Scope, images *graph.Node) *graph.Node {
	x := graph.Reshape(images, images.Shape().Dimensions[0], -1)
	for i, width := range []int{2048, 4096} {
		x = activation.Relu(layers.DenseWithBias(scope.In("hidden%d", i), x, width))
	}
	return layers.DenseWithBias(scope.In("out"), x, classes)
}

// BenchmarkStep takes whole training steps with GoMLX's Adam, which is part of the graph, and with the engine's rules, in turn,
// and reports medians in milliseconds. ms-gradients is the graph of ours, which only computes them; what GoMLX's Adam takes
// longer than that in the same round is ms-update-gomlx-adam. gomlx/… is the whole step with GoMLX's Adam, divided by ours.
func BenchmarkStep(b *testing.B) {
	for _, c := range []struct {
		name  string
		f     modelFn
		batch int
	}{
		{"cnn", cnn, 16},
		{"mlp", mlp, 16},
		{"mlp", mlp, 128},
	} {
		b.Run(fmt.Sprintf("network=%s/batch=%d", c.name, c.batch), func(b *testing.B) {
			d := batches{size: c.batch}
			theirs := newTrainer(newStore(b, nil), c.f, optimizer.Adam().LearningRate(1e-3).Done())
			adam, adapnm := newTimed(b, c.f, pnm.NewAdam()), newTimed(b, c.f, pnm.NewAdaPNM())
			samples := make(map[string][]float64) // by unit
			add := func(unit string, x float64) { samples[unit] = append(samples[unit], x) }
			round := func() {
				batch := d.batch(0)
				start := time.Now()
				if _, err := theirs.TrainStep(batch); err != nil {
					b.Fatal(err)
				}
				whole := ms(start)
				gradients, update := adam(d)
				gradients2, update2 := adapnm(d)
				add("ms-gradients", gradients)
				add("ms-gomlx-adam", whole)
				add("ms-update-gomlx-adam", whole-gradients)
				add("ms-adam", gradients+update)
				add("ms-update-adam", update)
				add("gomlx/adam", whole/(gradients+update))
				add("ms-adapnm", gradients2+update2)
				add("ms-update-adapnm", update2)
				add("gomlx/adapnm", whole/(gradients2+update2))
			}
			round() // builds the graphs, and binds the variables
			first := samples["ms-update-adam"][0]
			round()
			clear(samples)
			for b.Loop() {
				round()
			}
			for unit, x := range samples {
				slices.Sort(x)
				b.ReportMetric(x[len(x)/2], unit)
			}
			b.ReportMetric(first, "ms-first-update-adam")
		})
	}
}

func ms(since time.Time) float64 { return time.Since(since).Seconds() * 1e3 }

// newTimed returns a function that takes a step, and the times of its two parts in milliseconds.
func newTimed(b *testing.B, f modelFn, rule pnm.Rule) func(batches) (gradients, update float64) {
	store := newStore(b, nil)
	o := newOptimizer(b, store, Group{Rule: rule})
	trainer := newTrainer(store, f, o)
	o.attach(trainer)
	return func(d batches) (gradients, update float64) {
		batch := d.batch(0)
		start := time.Now()
		metrics, err := trainer.TrainStep(batch)
		gradients = ms(start)
		start = time.Now()
		if err == nil {
			err = o.apply(metrics)
		}
		if err != nil {
			b.Fatal(err)
		}
		return gradients, ms(start)
	}
}
