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

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/figure"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

// A scaleCheck compares the noise that PNM's momenta tell with that of all minibatches' gradients.
type scaleCheck struct{ contenders []gauged }

// A gauged is a rule with a size of the minibatches.
type gauged struct {
	name  string
	rule  pnm.PNM
	batch int

	minibatches int // in an epoch
	runs        []gauging
}

// A gauging is what one run has measured.
type gauging struct {
	Seed   uint64
	Points []point
}

func (g gauging) String() string { return fmt.Sprintf("measured in %d epochs", len(g.Points)) }

// A point is the noise in one epoch.
type point struct {
	Epoch           int
	LR              float64
	Kept            pnm.Noise           // of all minibatches, in the middle of the epoch
	Resting, Moving optim.NoiseEstimate // read at the parameters of Kept, and in the epoch
}

var batches = []int{32, 128, 512}

const largestBatch = 512

func newScaleCheck(lr float64) *scaleCheck {
	e := new(scaleCheck)
	for _, batch := range batches {
		e.contenders = append(e.contenders, gauged{name: fmt.Sprintf("batches of %d", batch), rule: positiveNegative(lr, 1), batch: batch})
	}
	momentum := beta0s[0]
	e.contenders = append(e.contenders, gauged{name: fmt.Sprintf("β0 = %.3g, matched", momentum),
		rule: positiveNegative(lr*drift(1)/drift(momentum), momentum), batch: 128})
	return e
}

func (e *scaleCheck) about(s settings) string { return fmt.Sprintf("%g %% wrong labels", 100*s.noise) }

// train leaves out the last images, so that all minibatches have the same size.
func (e *scaleCheck) train(s settings, train, _ fashionmnist.Set, workers int, w *os.File) error {
	if train.Len() < 2*largestBatch {
		return fmt.Errorf("%d images are too few for two minibatches of %d", train.Len(), largestBatch)
	}
	train = train.Head(train.Len() / largestBatch * largestBatch)
	p := trials.Plan[gauging]{Settings: s.Settings, Workers: workers}
	for i := range e.contenders {
		c := &e.contenders[i]
		c.minibatches = train.Len() / c.batch
		p.Contenders = append(p.Contenders, c.name)
		p.Steps += s.Epochs * c.minibatches
	}
	p.Train = func(ctx context.Context, i int, seed uint64, step func(int)) (gauging, error) {
		return e.contenders[i].train(ctx, s, seed, train, step)
	}
	results, err := p.Run(w)
	for i, runs := range results {
		e.contenders[i].runs = runs
	}
	return err
}

// isGauged tells in which epochs, counted from 1, the noise is measured.
func isGauged(epoch int) bool { return epoch == 1 || epoch%2 == 0 }

func (c gauged) train(ctx context.Context, s settings, seed uint64, set fashionmnist.Set, step func(int)) (gauging, error) {
	set.Labels, _ = flip(set.Labels, s.noise, seed)
	run, g, err := newGauged(c.rule, set, c.batch, s.Hidden, seed)
	if err != nil {
		return gauging{}, err
	}
	defer g.Close()
	r := gauging{Seed: seed}
	rng := rand.New(rand.NewPCG(seed, 2))
	for n := range s.Epochs {
		p := point{Epoch: n + 1, LR: c.rule.LR * s.Decay(n)}
		var failed error
		if err := g.read(isGauged(n + 1)); err != nil {
			return r, err
		}
		_, err := run.Epoch(p.LR, func(left int) {
			step(left)
			if left == c.minibatches/2 && isGauged(n+1) {
				p.Kept, p.Resting, failed = keepAll(run.Net, set, c.batch, rng.Perm(set.Len()))
			}
		})
		if err := cmp.Or(err, failed, ctx.Err()); err != nil {
			return r, err
		}
		if isGauged(n + 1) {
			p.Moving = g.estimate()
			r.Points = append(r.Points, p)
		}
	}
	return r, nil
}

// A sampled is the noise as a mean over runs and epochs, with the standard errors of readings.
type sampled struct{ signal, signalError, variance, varianceError float64 }

func (s sampled) scale() float64 { return s.variance / s.signal }

func (s sampled) scaleError() float64 {
	return math.Abs(s.scale()) * math.Hypot(s.signalError/s.signal, s.varianceError/s.variance)
}

// wholeEpochs corrects readings for minibatches that are drawn without replacement, n of them in an epoch. The covariance of two is
// −tr Σ/n, so that their product is too small by that.
func (s sampled) wholeEpochs(n int) sampled {
	s.signal += s.variance / float64(n)
	s.signalError = math.Hypot(s.signalError, s.varianceError/float64(n))
	return s
}

// meanOf returns means over the points that keep tells, in all runs: of the kept gradients, and of the two kinds of readings.
func (c gauged) meanOf(keep func(point) bool) (kept, resting, moving sampled) {
	n := 0.0
	add := func(s *sampled, e optim.NoiseEstimate) {
		s.signal += e.Signal
		s.variance += e.Variance
		s.signalError = math.Hypot(s.signalError, e.SignalError)
		s.varianceError = math.Hypot(s.varianceError, e.VarianceError)
	}
	for _, r := range c.runs {
		for _, p := range r.Points {
			if keep(p) {
				add(&kept, optim.NoiseEstimate{Noise: p.Kept})
				add(&resting, p.Resting)
				add(&moving, p.Moving)
				n++
			}
		}
	}
	for _, s := range []*sampled{&kept, &resting, &moving} {
		*s = sampled{s.signal / n, s.signalError / n, s.variance / n, s.varianceError / n}
	}
	return kept, resting.wholeEpochs(c.minibatches), moving.wholeEpochs(c.minibatches)
}

// report prints a row for each contender and learning rate.
func (e *scaleCheck) report(w io.Writer) {
	fmt.Fprintf(w, "Noise of a minibatch's gradient, means of %d runs and of the epochs with a learning rate.\n"+
		"Kept: from all minibatches' gradients at fixed parameters. Resting: read from momenta at the same parameters. Training: read in the\n"+
		"epoch around. Readings are corrected for minibatches that are drawn without replacement; ± is their standard error.\n\n", len(e.contenders[0].runs))
	for _, q := range []struct {
		name string
		of   func(s sampled, batch float64) (mean, err float64)
	}{
		{"|G|²", func(s sampled, _ float64) (float64, float64) { return s.signal, s.signalError }},
		{"tr Σ", func(s sampled, _ float64) (float64, float64) { return s.variance, s.varianceError }},
		{"noise scale, images", func(s sampled, b float64) (float64, float64) { return b * s.scale(), b * s.scaleError() }},
	} {
		fmt.Fprintf(w, "%-24s%8s%10s%22s%22s\n", q.name, "LR", "kept", "resting", "training")
		for _, c := range e.contenders {
			for _, lr := range c.rates() {
				kept, resting, moving := c.meanOf(func(p point) bool { return p.LR == lr })
				mean, _ := q.of(kept, float64(c.batch))
				fmt.Fprintf(w, "%-24s%8.3g%10.3g", c.name, lr, mean)
				for _, s := range []sampled{resting, moving} {
					mean, err := q.of(s, float64(c.batch))
					fmt.Fprintf(w, "%22s", fmt.Sprintf("%.3g ± %.2g", mean, err))
				}
				fmt.Fprintln(w)
			}
		}
		fmt.Fprintln(w)
	}
}

// rates returns the learning rates of the points, in their order.
func (c gauged) rates() (rates []float64) {
	for _, p := range c.runs[0].Points {
		if !slices.Contains(rates, p.LR) {
			rates = append(rates, p.LR)
		}
	}
	return rates
}

// writeCSV writes a line for each epoch that was measured.
func (e *scaleCheck) writeCSV(file string) error {
	lines := [][]string{{"contender", "batch", "beta0", "lr", "seed", "epoch", "kept_signal", "kept_variance",
		"resting_signal", "resting_signal_error", "resting_variance", "resting_variance_error",
		"training_signal", "training_signal_error", "training_variance", "training_variance_error"}}
	for _, c := range e.contenders {
		for _, r := range c.runs {
			for _, p := range r.Points {
				lines = append(lines, append([]string{c.name}, trials.Numbers(float64(c.batch), c.rule.Beta0, p.LR, float64(r.Seed),
					float64(p.Epoch), p.Kept.Signal, p.Kept.Variance,
					p.Resting.Signal, p.Resting.SignalError, p.Resting.Variance, p.Resting.VarianceError,
					p.Moving.Signal, p.Moving.SignalError, p.Moving.Variance, p.Moving.VarianceError)...))
			}
		}
	}
	return trials.WriteCSV(file, lines)
}

// draw draws |G|², tr Σ and their ratio over the epochs, for each size of minibatches with β0 = 1. Numbers that are not positive are
// missing, since the axes are logarithmic.
func (e *scaleCheck) draw(prefix string) (files []string, err error) {
	panels := make([]*plot.Plot, 3)
	for i, q := range []struct {
		title string
		of    func(s sampled, batch int) (mean, err float64)
	}{
		{"Squared gradient |G|²", func(s sampled, _ int) (float64, float64) { return s.signal, s.signalError }},
		{"Noise of a minibatch, tr Σ", func(s sampled, _ int) (float64, float64) { return s.variance, s.varianceError }},
		{"Noise scale, images", func(s sampled, b int) (float64, float64) { return float64(b) * s.scale(), float64(b) * s.scaleError() }},
	} {
		panels[i] = figure.ManyLines(q.title, "epoch")
		figure.Log(&panels[i].Y)
		for k, color := range []color.NRGBA{figure.Blue, figure.Orange, figure.Green} {
			if err := e.contenders[k].draw(panels[i], color, q.of); err != nil {
				return nil, err
			}
		}
	}
	for k, name := range []string{"momenta, fixed parameters", "momenta, training"} {
		figure.AddGlyphs(panels[0], name, nil, color.Black, readingGlyphs[k])
	}
	for _, p := range panels[1:] {
		p.Legend = plot.NewLegend() // that of the first panel will do
	}
	return figure.WriteAll(prefix, panels...)
}

var readingGlyphs = []draw.GlyphDrawer{draw.CrossGlyph{}, draw.RingGlyph{}}

// draw adds one quantity of the noise: of all gradients as a line, and what the momenta tell as glyphs with standard errors.
func (c gauged) draw(p *plot.Plot, color color.NRGBA, of func(sampled, int) (mean, err float64)) error {
	var series [3]points
	for _, at := range c.runs[0].Points {
		kept, resting, moving := c.meanOf(func(p point) bool { return p.Epoch == at.Epoch })
		for k, s := range []sampled{kept, resting, moving} {
			mean, err := of(s, c.batch)
			if !(mean > 0) {
				continue
			}
			if math.IsNaN(err) {
				err = 0
			}
			series[k].XYs = append(series[k].XYs, plotter.XY{X: float64(at.Epoch), Y: mean})
			series[k].YErrors = append(series[k].YErrors, plotter.YErrors{{Low: min(err, mean/2), High: err}}...)
		}
	}
	if err := figure.AddLine(p, c.name, series[0], color); err != nil {
		return err
	}
	for k, read := range series[1:] {
		if len(read.XYs) == 0 {
			continue
		}
		if err := addErrorBars(p, read, color); err != nil {
			return err
		}
		figure.AddGlyphs(p, "", read.XYs, color, readingGlyphs[k])
	}
	return nil
}
