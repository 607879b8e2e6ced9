package pnmgomlx

import (
	"slices"
	"testing"
	"time"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/layers"
	"github.com/gomlx/gomlx/ml/layers/activation"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// mlp has 784·2048 + 2048·4096 + 4096·10 weights: ten million.
func mlp(scope *model.Scope, images *graph.Node) *graph.Node {
	x := graph.Reshape(images, images.Shape().Dimensions[0], -1)
	for i, width := range []int{2048, 4096} {
		x = activation.Relu(layers.DenseWithBias(scope.In("hidden%d", i), x, width))
	}
	return layers.DenseWithBias(scope.In("out"), x, fashionmnist.Classes)
}

// Whole training steps with GoMLX's Adam, which is part of the graph, and with the engine's rules, in turn. Their update is what
// their steps take longer than the gradients alone, which the graph of ours computes.
func BenchmarkStep(b *testing.B) {
	for _, network := range []struct {
		name string
		f    modelFn
		size int // of a batch
	}{
		{"cnn", cnn, 16},
		{"mlp", mlp, 16},
	} {
		b.Run("network="+network.name, func(b *testing.B) {
			d := batches{n: 1, size: network.size}
			theirs := newTrainer(newStore(b, nil), network.f, optimizer.Adam().LearningRate(1e-3).Done())
			step := func(rule pnm.Rule) func() (gradients, update time.Duration) {
				store := newStore(b, nil)
				o := newOptimizer(b, store, Group{Rule: rule})
				trainer := newTrainer(store, network.f, o)
				o.attach(trainer)
				return func() (gradients, update time.Duration) {
					batch := d.batch(0)
					start := time.Now()
					metrics, err := trainer.TrainStep(batch)
					gradients = time.Since(start)
					if err == nil {
						err = o.apply(metrics)
					}
					if err != nil {
						b.Fatal(err)
					}
					return gradients, time.Since(start) - gradients
				}
			}
			adam, adapnm := step(pnm.NewAdam()), step(pnm.NewAdaPNM())
			var whole, grads, update, wholeAdaPNM, updateAdaPNM []time.Duration
			round := func() {
				batch := d.batch(0)
				start := time.Now()
				if _, err := theirs.TrainStep(batch); err != nil {
					b.Fatal(err)
				}
				whole = append(whole, time.Since(start))
				g, u := adam()
				grads, update = append(grads, g), append(update, u)
				g, u = adapnm()
				grads, updateAdaPNM, wholeAdaPNM = append(grads, g), append(updateAdaPNM, u), append(wholeAdaPNM, g+u)
			}
			for range 3 {
				round()
			}
			whole, grads, update, wholeAdaPNM, updateAdaPNM = nil, nil, nil, nil, nil
			for b.Loop() {
				round()
			}
			ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
			oursAdam := make([]time.Duration, len(update))
			var ratios []float64
			for i := range update {
				oursAdam[i] = grads[2*i] + update[i]
				ratios = append(ratios, float64(whole[i])/float64(oursAdam[i]))
			}
			slices.Sort(ratios)
			b.ReportMetric(ms(median(grads)), "ms-gradients")
			b.ReportMetric(ms(median(whole)), "ms-gomlx-adam")
			b.ReportMetric(ms(median(oursAdam)), "ms-adam")
			b.ReportMetric(ratios[len(ratios)/2], "gomlx/adam")
			b.ReportMetric(ms(median(wholeAdaPNM)), "ms-adapnm")
			b.ReportMetric(ms(median(whole)-median(grads)), "ms-update-gomlx-adam")
			b.ReportMetric(ms(median(update)), "ms-update-adam")
			b.ReportMetric(ms(median(updateAdaPNM)), "ms-update-adapnm")
		})
	}
}

func median(x []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(x))
	return s[len(s)/2]
}
