package main

import (
	"cmp"
	"context"
	"fmt"
	"image/color"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/figure"
	"github.com/posneg/pnm/examples/internal/stats"
	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

// A condition is a way to train, in which PNM and SGD with equal steps are compared.
type condition struct {
	wrong float64 // share of the labels
	lr    float64 // of PNM
	batch int

	sgd, pnm []gained // for each seed
}

// conditions are all shares of wrong labels, with the learning rate and the size of the minibatches in three ways.
func conditions(lr float64) (cs []condition) {
	for _, c := range []condition{{lr: lr, batch: 128}, {lr: 0.3 * lr, batch: 128}, {lr: 0.3 * lr, batch: 32}} {
		for _, c.wrong = range []float64{0, 0.2, 0.4, 0.6} {
			cs = append(cs, c)
		}
	}
	return cs
}

func (c condition) String() string {
	return fmt.Sprintf("%2.0f %% wrong, LR %.2g, batches of %d", 100*c.wrong, c.lr, c.batch)
}

// The noise is measured in three epochs: the second one, the last one with the full learning rate, and the last one.
const (
	early = iota
	middle
	late
	phases
)

// A gained is a run of the experiment. A run of SGD has no noise measured.
type gained struct {
	trials.Result
	Kept     [phases]pnm.Noise           // of all minibatches, at the end of the epoch
	Readings [phases]optim.NoiseEstimate // in the epoch
}

// gains compares PNM with SGD at equal steps, under several conditions, with the noise that PNM's momenta tell.
type gains struct{ conditions []condition }

func newGains(lr float64) *gains { return &gains{conditions(lr)} }

func (e *gains) about(settings) string { return fmt.Sprintf("%d conditions", len(e.conditions)) }

func (e *gains) train(s settings, train, test fashionmnist.Set, workers int, w *os.File) error {
	cs := e.conditions
	p := trials.Plan[gained]{Settings: s.Settings, Workers: workers}
	for _, c := range cs {
		p.Contenders = append(p.Contenders, "SGD-M, matched, "+c.String(), "PNM, "+c.String())
		p.Steps += 2 * s.Epochs * training.Steps(train.Len(), c.batch)
	}
	p.Train = func(ctx context.Context, i int, seed uint64, step func(int)) (gained, error) {
		c, s := cs[i/2], s
		s.noise, s.Batch = c.wrong, c.batch
		if i%2 == 1 {
			return newPNM("", c.lr, 1).trainGauged(ctx, s, seed, train, test, step)
		}
		r, err := newSGD("", c.lr*drift(1)).train(ctx, s, seed, train, test, step)
		return gained{Result: r}, err
	}
	results, err := p.Run(w)
	for i := range cs {
		cs[i].sgd, cs[i].pnm = results[2*i], results[2*i+1]
	}
	return err
}

// trainGauged is train with PNM, and measures the noise.
func (c contender) trainGauged(ctx context.Context, s settings, seed uint64, train, test fashionmnist.Set, step func(int)) (gained, error) {
	var flipped []int
	train.Labels, flipped = flip(train.Labels, s.noise, seed)
	run, g, err := newGauged(c.rule.(pnm.PNM), train, s.Batch, s.Hidden, seed)
	if err != nil {
		return gained{}, err
	}
	defer g.Close()
	wrong := train.Select(flipped)
	rng := rand.New(rand.NewPCG(seed, 2))
	var r gained
	var failed error
	epoch, at := 0, []int{min(2, s.Epochs), (2*s.Epochs + 4) / 5, s.Epochs}
	failed = g.read(slices.Contains(at, 1))
	r.Result, err = s.Train(ctx, run, seed, c.lr, test, func() float64 {
		epoch++
		for phase := range at {
			if epoch == at[phase] && failed == nil {
				r.Readings[phase] = g.estimate()
				r.Kept[phase], _, failed = keepAll(run.Net, train, s.Batch, rng.Perm(train.Len()))
			}
		}
		failed = cmp.Or(failed, g.read(slices.Contains(at, epoch+1)))
		return 1 - run.Error(wrong)
	}, step)
	return r, cmp.Or(err, failed)
}

// A predictor is a number that might tell, before PNM is compared with SGD, how much PNM gains.
type predictor struct {
	name string
	of   func(c condition, seed int) float64
}

func predictors() (ps []predictor) {
	ps = []predictor{{"share of wrong labels", func(c condition, _ int) float64 { return c.wrong }}}
	for phase, when := range [phases]string{"epoch 2", "last epoch at the full LR", "last epoch"} {
		scale := func(c condition, seed int) float64 { return c.pnm[seed].Kept[phase].Scale() }
		ps = append(ps,
			predictor{"noise scale, minibatches, " + when, scale},
			predictor{"noise scale, images, " + when, func(c condition, seed int) float64 { return float64(c.batch) * scale(c, seed) }},
			// The inverse of the scale, since Signal may be 0 or negative.
			predictor{"momenta's Signal/Variance, " + when, func(c condition, seed int) float64 { return 1 / c.pnm[seed].Readings[phase].Scale() }})
	}
	return ps
}

// gain returns by how many points PNM's test error is below that of SGD.
func (c condition) gain(seed int) float64 { return 100 * (c.sgd[seed].Last() - c.pnm[seed].Last()) }

func (e *gains) seeds() int { return len(e.conditions[0].pnm) }

// mean returns the mean of a number over the seeds and its standard error.
func (e *gains) mean(of func(seed int) float64) (mean, stderr float64) {
	values := make([]float64, e.seeds())
	for k := range values {
		values[k] = of(k)
	}
	return stats.Difference(values, make([]float64, len(values)))
}

func (e *gains) report(w io.Writer) {
	fmt.Fprintf(w, "Test error in %%, mean of the last three epochs and of %d runs. Gain: of PNM over SGD with equal steps, in points ± standard error.\n"+
		"Scale: the noise scale in minibatches, from all gradients at the end of epoch 2, of the last epoch at the full LR, and of the last\n"+
		"epoch of PNM. Momenta: Signal/Variance, which PNM's momenta tell in these epochs.\n\n", e.seeds())
	fmt.Fprintf(w, "%-36s%8s%8s%16s%30s%30s\n", "", "SGD", "PNM", "gain", "scale: early, middle, late", "momenta: early, middle, late")
	for _, c := range e.conditions {
		gain, stderr := e.mean(c.gain)
		sgd, _ := e.mean(func(k int) float64 { return 100 * c.sgd[k].Last() })
		pnm, _ := e.mean(func(k int) float64 { return 100 * c.pnm[k].Last() })
		fmt.Fprintf(w, "%-36s%8.2f%8.2f%16s", c, sgd, pnm, stats.PlusMinus("%+.2f", gain, stderr, e.seeds()))
		for phase := range phases {
			scale, _ := e.mean(func(k int) float64 { return c.pnm[k].Kept[phase].Scale() })
			fmt.Fprintf(w, "%10.3g", scale)
		}
		for phase := range phases {
			inverse, _ := e.mean(func(k int) float64 { return 1 / c.pnm[k].Readings[phase].Scale() })
			fmt.Fprintf(w, "%10.3g", inverse)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\nRank correlation of the gain with a predictor over the %d conditions: of means over seeds, with the share of random orders that\n"+
		"correlate as much; and of each seed alone, mean ± standard error.\n\n", len(e.conditions))
	for _, p := range predictors() {
		all, chance := e.correlation(p)
		mean, stderr := e.mean(func(seed int) float64 {
			return rankCorrelation(e.values(func(c condition) (float64, float64) { return p.of(c, seed), c.gain(seed) }))
		})
		fmt.Fprintf(w, "%-60s%+8.2f  (%.3f)%18s\n", p.name, all, chance, stats.PlusMinus("%+.2f", mean, stderr, e.seeds()))
	}
}

// correlation returns the rank correlation of the means of a predictor and of the gain over the conditions, and the share of random
// orders with as large a correlation, of either sign.
func (e *gains) correlation(p predictor) (r, chance float64) {
	x, y := e.values(func(c condition) (float64, float64) {
		x, _ := e.mean(func(seed int) float64 { return p.of(c, seed) })
		y, _ := e.mean(c.gain)
		return x, y
	})
	r = rankCorrelation(x, y)
	const orders = 20000
	rng := rand.New(rand.NewPCG(1, 2))
	n := 0
	for range orders {
		rng.Shuffle(len(x), func(i, k int) { x[i], x[k] = x[k], x[i] })
		if math.Abs(rankCorrelation(x, y)) >= math.Abs(r)-1e-9 {
			n++
		}
	}
	return r, float64(n) / orders
}

func (e *gains) values(of func(condition) (float64, float64)) (x, y []float64) {
	for _, c := range e.conditions {
		a, b := of(c)
		x, y = append(x, a), append(y, b)
	}
	return x, y
}

// rankCorrelation is Spearman's: the correlation of the ranks, where equal numbers share their mean rank.
func rankCorrelation(x, y []float64) float64 { return stat.Correlation(ranks(x), ranks(y), nil) }

func ranks(x []float64) []float64 {
	r := make([]float64, len(x))
	for i, a := range x {
		for _, b := range x {
			if b < a {
				r[i]++
			} else if b == a {
				r[i] += 0.5
			}
		}
	}
	return r
}

// writeCSV writes a line for each condition and seed.
func (e *gains) writeCSV(file string) error {
	header := []string{"wrong", "lr", "batch", "seed", "sgd_last", "pnm_last", "sgd_memorized", "pnm_memorized"}
	for _, phase := range []string{"early", "middle", "late"} {
		header = append(header, phase+"_kept_signal", phase+"_kept_variance", phase+"_signal", phase+"_signal_error", phase+"_variance", phase+"_variance_error")
	}
	lines := [][]string{header}
	for _, c := range e.conditions {
		for k, r := range c.pnm {
			line := trials.Numbers(c.wrong, c.lr, float64(c.batch), float64(r.Seed), c.sgd[k].Last(), r.Last(), memorized(c.sgd[k].Result), memorized(r.Result))
			for phase, n := range r.Kept {
				read := r.Readings[phase]
				line = append(line, trials.Numbers(n.Signal, n.Variance, read.Signal, read.SignalError, read.Variance, read.VarianceError)...)
			}
			lines = append(lines, line)
		}
	}
	return trials.WriteCSV(file, lines)
}

// draw draws the gain against the noise scale, early and late. A line joins the conditions that differ only in the share of wrong labels.
func (e *gains) draw(prefix string) (files []string, err error) {
	type panel struct {
		title string
		phase int
	}
	return figure.WriteEach(prefix, []panel{
		{"Gain of PNM, points: noise scale in epoch 2", early},
		{"Gain of PNM, points: noise scale at the end of the full LR", middle},
	}, func(d panel) (*plot.Plot, error) {
		p := figure.ManyLines(d.title, "noise scale, minibatches")
		figure.Log(&p.X)
		shares := len(e.conditions) / 3
		for i, color := range []color.NRGBA{figure.Blue, figure.Orange, figure.Green} {
			var at points
			for _, c := range e.conditions[i*shares : (i+1)*shares] {
				x, _ := e.mean(func(k int) float64 { return c.pnm[k].Kept[d.phase].Scale() })
				y, stderr := e.mean(c.gain)
				at.XYs = append(at.XYs, plotter.XY{X: x, Y: y})
				at.YErrors = append(at.YErrors, plotter.YErrors{{Low: stderr, High: stderr}}...)
			}
			c := e.conditions[i*shares]
			err := cmp.Or(
				addErrorBars(p, at, color),
				figure.AddLine(p, fmt.Sprintf("LR %.2g, batches of %d", c.lr, c.batch), at, color))
			if err != nil {
				return nil, err
			}
		}
		p.Y.Max += (p.Y.Max - p.Y.Min) / 4 // room for the legend
		return p, nil
	})
}
