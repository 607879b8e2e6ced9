package main

import (
	"context"
	"os"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/mlp"
	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// An optimizer is a rule, and what became of it in each of [formats].
type optimizer struct {
	name      string
	rule      pnm.Rule
	lr, decay float64

	buffers int // of state
	touched int // how many of them a step reads, and how many it writes

	runs [][]trials.Result
}

// shrink is by how much weight decay shrinks a parameter in a step, relatively, as PNM's authors have it. It is less than half
// a unit in the last place of bf16.
const shrink = 5e-4

// optimizers are PNM's, both at their defaults but for the weight decay. A step updates one momentum and reads the other.
func optimizers(adapnmLR, pnmLR float64) []optimizer {
	adaptive := pnm.NewAdaPNM()
	adaptive.LR, adaptive.WeightDecay = adapnmLR, shrink/adapnmLR
	positiveNegative := pnm.NewPNM(pnmLR)
	positiveNegative.WeightDecay = shrink / pnmLR
	return []optimizer{
		{name: "AdaPNM", rule: adaptive, lr: adapnmLR, decay: adaptive.WeightDecay, buffers: 4, touched: 3 + 2*2},
		{name: "PNM", rule: positiveNegative, lr: pnmLR, decay: positiveNegative.WeightDecay, buffers: 2, touched: 3},
	}
}

// train trains with each optimizer in each format and with each seed, several at a time.
func train(opts []optimizer, s trials.Settings, train, test fashionmnist.Set, workers int, w *os.File) error {
	p := trials.Plan{Settings: s, Images: train.Len(), Workers: workers}
	for _, o := range opts {
		for _, f := range formats {
			p.Contenders = append(p.Contenders, o.name+", "+f.name)
		}
	}
	p.Train = func(ctx context.Context, i int, seed uint64, step func(int)) (trials.Result, error) {
		return opts[i/len(formats)].train(ctx, formats[i%len(formats)], s, seed, train, test, step)
	}
	results, err := p.Run(w)
	for i := range opts {
		opts[i].runs = results[i*len(formats):][:len(formats)]
	}
	return err
}

// train trains one network. Other is, of each epoch, how many steps have been skipped so far.
func (o optimizer) train(ctx context.Context, f format, s trials.Settings, seed uint64, train, test fashionmnist.Set, step func(int)) (trials.Result, error) {
	var m *mixed
	run, err := training.New(train, s.Batch, s.Hidden, seed, func(net *mlp.Net) (opt training.Optimizer, err error) {
		m, err = newMixed(f, o.rule, seed, net)
		return m, err
	})
	if err != nil {
		return trials.Result{}, err
	}
	defer m.Close()
	return s.Train(ctx, run, o.lr, test, func() float64 { return float64(m.skipped) }, step)
}
