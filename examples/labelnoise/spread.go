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

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/figure"
	"github.com/posneg/pnm/examples/internal/stats"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

// spreadLRs are the learning rates of the replicas, relative to that of the training.
var spreadLRs = []float64{0.01, 0.1}

var spreadBeta0s = []float64{-1, -beta1 / (1 + beta1), 0, 0.5, 1, 2}

// A spreading measures how β0 changes the noise that reaches the parameters: how far replicas of a trained network part.
type spreading struct {
	lr       float64
	replicas int // of a trained network, which go on with minibatches of their own
	distance int // steps that each of them makes
	runs     []spread
}

func newSpreading(lr float64) *spreading { return &spreading{lr: lr, replicas: 8, distance: 64} }

func (e *spreading) about(s settings) string { return s.describe() }

// A spread is how far replicas of one network part, as the trace of a covariance divided by LR²·tr Σ. An index of [spreadLRs] and one of
// [spreadBeta0s] tell which replicas.
type spread struct {
	Step [][]float64 // in the last step
	Path [][]float64 // in all steps together, divided by their number
}

func (s spread) String() string { return fmt.Sprintf("replicas with %d β0", len(spreadBeta0s)) }

// spreadTheory returns what independent minibatches of constant gradients would give: the sum of the squared weights with which the
// gradients of the steps enter the last step, and all steps.
func spreadTheory(beta0 float64, steps int) (step, path float64) {
	b, gamma := beta1*beta1, (1+beta0)*(1+beta0)+beta0*beta0
	sum := 0.0
	for age := range steps {
		weight := 1 + beta0
		if age%2 == 1 {
			weight = -beta0
		}
		weight *= (1 - b) * math.Pow(b, float64(age/2))
		sum += weight
		step += weight * weight / gamma
		path += sum * sum / gamma / float64(steps)
	}
	return step, path
}

func (e *spreading) train(s settings, train, _ fashionmnist.Set, workers int, w *os.File) error {
	p := trials.Plan[spread]{Settings: s.Settings, Contenders: []string{"PNM"}, Workers: workers,
		Steps: s.Steps(train.Len()) + len(spreadLRs)*len(spreadBeta0s)*e.replicas*e.distance}
	p.Train = func(ctx context.Context, _ int, seed uint64, step func(int)) (spread, error) {
		return e.measure(ctx, s, seed, train, step)
	}
	results, err := p.Run(w)
	e.runs = results[0]
	return err
}

// measure trains a network, and lets replicas of it part.
func (e *spreading) measure(ctx context.Context, s settings, seed uint64, set fashionmnist.Set, step func(int)) (spread, error) {
	set.Labels, _ = flip(set.Labels, s.noise, seed)
	run, g, err := newGauged(positiveNegative(e.lr, 1), set, s.Batch, s.Hidden, seed)
	if err != nil {
		return spread{}, err
	}
	defer g.Close()
	for n := range s.Epochs {
		if _, err := run.Epoch(e.lr*s.Decay(n), step); err != nil {
			return spread{}, err
		}
	}
	start, err := g.State()
	if err != nil {
		return spread{}, err
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	kept, _, err := keepAll(run.Net, set, s.Batch, rng.Perm(set.Len()))
	if err != nil {
		return spread{}, err
	}

	// The images of a minibatch differ, but minibatches are independent of each other.
	variance := kept.Variance * (1 - float64(s.Batch)/float64(set.Len()))

	net := run.Net
	params := append(net.Weights(), net.Biases()...)
	origin := clone(params)
	var r spread
	for i, factor := range spreadLRs {
		r.Step, r.Path = append(r.Step, nil), append(r.Path, nil)
		for _, beta0 := range spreadBeta0s {
			opt, err := optim.New(optim.Group{Rule: positiveNegative(e.lr*factor, beta0), Params: pnm.Vectors(params...)})
			if err != nil {
				return r, err
			}
			defer opt.Close()
			rng := rand.New(rand.NewPCG(seed, 3)) // all learning rates and all β0 see the same minibatches
			var last, all scatter
			for range e.replicas {
				restore(params, origin)
				if err := cmp.Or(opt.SetState(start), ctx.Err()); err != nil {
					return r, err
				}
				var before [][]float32
				for range e.distance {
					before = clone(params)
					images := set.Select(rng.Perm(set.Len())[:s.Batch])
					net.Loss(images.Images, images.Labels)
					if _, err := opt.Step(pnm.Options{}, pnm.Vectors(net.Grads()...)); err != nil {
						return r, err
					}
					step(0)
				}
				last.add(params, before)
				all.add(params, origin)
			}
			unit := e.lr * factor * e.lr * factor * variance
			r.Step[i] = append(r.Step[i], last.trace()/unit)
			r.Path[i] = append(r.Path[i], all.trace()/unit/float64(e.distance))
		}
	}
	return r, nil
}

// A scatter is a sample of vectors.
type scatter struct {
	sum     []float64
	squares float64
	n       float64
}

// add adds the vector a − b.
func (s *scatter) add(a, b [][]float32) {
	if s.sum == nil {
		for _, x := range a {
			s.sum = append(s.sum, make([]float64, len(x))...)
		}
	}
	at := 0
	for k := range a {
		for i := range a[k] {
			d := float64(a[k][i]) - float64(b[k][i])
			s.sum[at] += d
			s.squares += d * d
			at++
		}
	}
	s.n++
}

// trace returns the trace of the covariance.
func (s *scatter) trace() float64 {
	mean := 0.0
	for _, d := range s.sum {
		mean += d * d / s.n
	}
	return (s.squares - mean) / (s.n - 1)
}

func clone(vs [][]float32) [][]float32 {
	c := make([][]float32, len(vs))
	for k, v := range vs {
		c[k] = append([]float32(nil), v...)
	}
	return c
}

func restore(to, from [][]float32) {
	for k := range to {
		copy(to[k], from[k])
	}
}

// A spreadTable has the noise of all β0 at one learning rate, the mean of the runs with its standard error, and that of the theory.
type spreadTable struct {
	step, path             points
	stepTheory, pathTheory plotter.XYs
}

func (e *spreading) table(lr int) (t spreadTable) {
	add := func(p *points, beta0 float64, of func(spread) float64) {
		values := trials.Values(e.runs, of)
		mean, stderr := stats.Difference(values, make([]float64, len(values)))
		p.XYs = append(p.XYs, plotter.XY{X: beta0, Y: mean})
		p.YErrors = append(p.YErrors, plotter.YErrors{{Low: stderr, High: stderr}}...)
	}
	for k, beta0 := range spreadBeta0s {
		add(&t.step, beta0, func(s spread) float64 { return s.Step[lr][k] })
		add(&t.path, beta0, func(s spread) float64 { return s.Path[lr][k] })
		step, path := spreadTheory(beta0, e.distance)
		t.stepTheory = append(t.stepTheory, plotter.XY{X: beta0, Y: step})
		t.pathTheory = append(t.pathTheory, plotter.XY{X: beta0, Y: path})
	}
	return t
}

func (e *spreading) report(w io.Writer) {
	fmt.Fprintf(w, "Variance between %d replicas of a trained network, after %d steps with minibatches of their own, divided by LR²·tr Σ: mean of\n"+
		"%d networks ± standard error. Step: of the last step. Way: of all steps together, divided by their number. Theory: independent\n"+
		"minibatches, and gradients that do not depend on the parameters.\n\n%8s%10s%18s%16s%18s%16s\n",
		e.replicas, e.distance, len(e.runs), "β0", "LR", "step", "step, theory", "way", "way, theory")
	for i, factor := range spreadLRs {
		t := e.table(i)
		for k, beta0 := range spreadBeta0s {
			fmt.Fprintf(w, "%8.3g%10.3g%18s%16.4f%18s%16.4f\n", beta0, e.lr*factor,
				fmt.Sprintf("%.4f ± %.4f", t.step.XYs[k].Y, t.step.YErrors[k].High), t.stepTheory[k].Y,
				fmt.Sprintf("%.4f ± %.4f", t.path.XYs[k].Y, t.path.YErrors[k].High), t.pathTheory[k].Y)
		}
	}
}

// writeCSV writes a line for each network, learning rate and β0.
func (e *spreading) writeCSV(file string) error {
	lines := [][]string{{"network", "lr", "beta0", "step", "step_theory", "path", "path_theory"}}
	for n, r := range e.runs {
		for i, factor := range spreadLRs {
			for k, beta0 := range spreadBeta0s {
				step, path := spreadTheory(beta0, e.distance)
				lines = append(lines, trials.Numbers(float64(n+1), e.lr*factor, beta0, r.Step[i][k], step, r.Path[i][k], path))
			}
		}
	}
	return trials.WriteCSV(file, lines)
}

// draw draws the noise of a step and of all steps against β0, each with the theory.
func (e *spreading) draw(prefix string) (files []string, err error) {
	type side struct {
		title    string
		measured func(spreadTable) points
		theory   func(spreadTable) plotter.XYs
	}
	return figure.WriteEach(prefix, []side{
		{"Variance of a step / (LR² tr Σ)", func(t spreadTable) points { return t.step }, func(t spreadTable) plotter.XYs { return t.stepTheory }},
		{fmt.Sprintf("Variance of %d steps / (%d LR² tr Σ)", e.distance, e.distance),
			func(t spreadTable) points { return t.path }, func(t spreadTable) plotter.XYs { return t.pathTheory }},
	}, func(d side) (*plot.Plot, error) {
		p := figure.ManyLines(d.title, "β0")
		if err := figure.AddLine(p, "theory", d.theory(e.table(0)), color.Black, figure.Dashed...); err != nil {
			return nil, err
		}
		for i, c := range []color.NRGBA{figure.Blue, figure.Orange} {
			at := d.measured(e.table(i))
			err := cmp.Or(
				addErrorBars(p, at, c),
				figure.AddLine(p, fmt.Sprintf("measured, LR = %.2g", e.lr*spreadLRs[i]), at, c))
			if err != nil {
				return nil, err
			}
		}
		p.Y.Min, p.Y.Max = 0, 1.25*p.Y.Max
		return p, nil
	})
}
