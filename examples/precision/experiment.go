package main

import (
	"context"
	"os"
	"strings"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/mlp"
	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// An optimizer is a rule, with its formats and the runs in each. The first format is float32.
type optimizer struct {
	name    string
	rule    pnm.Rule
	lr      float64
	formats []format

	runs [][]trials.Result
}

// shrink is LR·WeightDecay, the relative change of a parameter by weight decay in a step, as PNM's authors have it. It is less
// than half a unit in the last place of bf16.
const shrink = 5e-4

// rates are the learning rates.
type rates struct{ adapnm, pnm, adamw, lion float64 }

var defaults = rates{adapnm: 1e-3, pnm: 0.5, adamw: 1e-3, lion: 2e-4}

// optimizers have their rules' defaults except for learning rate and weight decay. The first two have all formats, the others
// only those that change the state.
func optimizers(r rates) []optimizer {
	adapnm := pnm.NewAdaPNM()
	adapnm.LR, adapnm.WeightDecay = r.adapnm, shrink/r.adapnm
	without := adapnm
	without.AMSGrad = false
	positiveNegative := pnm.NewPNM(r.pnm)
	positiveNegative.WeightDecay = shrink / r.pnm
	adamw := pnm.NewAdamW()
	adamw.LR, adamw.WeightDecay = r.adamw, shrink/r.adamw
	lion := pnm.NewLion()
	lion.LR, lion.WeightDecay = r.lion, shrink/r.lion
	return []optimizer{
		{name: "AdaPNM", rule: adapnm, lr: r.adapnm, formats: formats},
		{name: "PNM", rule: positiveNegative, lr: r.pnm, formats: formats},
		{name: "AdaPNM without AMSGrad", rule: without, lr: r.adapnm, formats: stateFormats()},
		{name: "AdamW", rule: adamw, lr: r.adamw, formats: stateFormats()},
		{name: "Lion", rule: lion, lr: r.lion, formats: stateFormats()},
	}
}

// buffers returns the numbers of momenta and of averages of squares in the state.
func (o optimizer) buffers() (momenta, averages int) {
	for _, name := range o.rule.State() {
		if strings.HasSuffix(name, "_sq") {
			averages++
		} else {
			momenta++
		}
	}
	return momenta, averages
}

// train trains with each optimizer in each of its formats and with each seed, several at a time.
func train(opts []optimizer, s trials.Settings, train, test fashionmnist.Set, workers int, w *os.File) error {
	type contender struct {
		optimizer
		format
	}
	var list []contender
	p := trials.Plan[trials.Result]{Settings: s, Workers: workers}
	for _, o := range opts {
		for _, f := range o.formats {
			list = append(list, contender{o, f})
			p.Contenders = append(p.Contenders, o.name+", "+f.name)
		}
	}
	p.Steps = len(list) * s.Steps(train.Len())
	p.Train = func(ctx context.Context, i int, seed uint64, step func(int)) (trials.Result, error) {
		return list[i].optimizer.train(ctx, list[i].format, s, seed, train, test, step)
	}
	results, err := p.Run(w)
	for i := range opts {
		n := len(opts[i].formats)
		opts[i].runs, results = results[:n], results[n:]
	}
	return err
}

// train trains one network. Other is the number of steps skipped up to the end of each epoch.
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
	return s.Train(ctx, run, seed, o.lr, test, func() float64 { return float64(m.skipped) }, step)
}
