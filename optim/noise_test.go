package optim

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/posneg/pnm"
)

// A sampler draws gradients with a known mean and known variances, which differ from element to element. The noise is uniform: the
// estimates hold for any distribution.
type sampler struct {
	rng         *rand.Rand
	mean, sigma []float64
	signal      float64 // |mean|²
	variance    float64 // Σ sigma²
}

// newSampler returns a sampler with |G|² = signal and tr Σ = n.
func newSampler(seed uint64, n int, signal float64) *sampler {
	s := &sampler{rng: rand.New(rand.NewPCG(seed, 0)), mean: make([]float64, n), sigma: make([]float64, n)}
	for i := range n {
		s.mean[i], s.sigma[i] = s.rng.NormFloat64(), math.Exp(0.5*s.rng.NormFloat64())
		s.signal += s.mean[i] * s.mean[i]
		s.variance += s.sigma[i] * s.sigma[i]
	}
	for i := range n {
		s.mean[i] *= math.Sqrt(signal / s.signal)
		s.sigma[i] *= math.Sqrt(float64(n) / s.variance)
	}
	s.signal, s.variance = signal, float64(n)
	return s
}

// draw sets g to the next gradient.
func draw[T pnm.Float](s *sampler, g []T) {
	for i := range g {
		g[i] = T(s.mean[i] + s.sigma[i]*math.Sqrt(12)*(s.rng.Float64()-0.5))
	}
}

// noisyRules are the rules with two momenta. They do not move the parameters.
var noisyRules = []pnm.Rule{pnm.NewPNM(0), with(pnm.NewAdaPNM(), "lr", 0.0), with(pnm.NewPNM(0), "beta1", 0.5)}

// near fails the test unless got is want within a relative error.
func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within*math.Abs(want)) {
		t.Errorf("%s = %.6g, want %.6g within %g %%", what, got, want, 100*within)
	}
}

// The estimates have no bias, from step 2 on, and neither have their averages. With -thorough, the tensor has 10⁶ elements, and there
// are 500 steps.
func TestNoiseOfSamples(t *testing.T) {
	n, steps := 100_000, 40
	if *thorough {
		n, steps = 1_000_000, 500
	}
	for _, r := range noisyRules {
		testNoiseOfSamples[float32](t, r, n, steps)
		testNoiseOfSamples[float64](t, r, n, steps)
	}
}

func testNoiseOfSamples[T pnm.Float](t *testing.T, r pnm.Rule, n, steps int) {
	s := newSampler(1, n, float64(n)) // Signal's error is then at most a few times √n
	o := optimizerOf(t, groupOf(r, make([]T, n)))
	wantNoError(t, o.ReadNoise(1, 0))
	g := make([]T, n)
	for step := 1; step <= steps; step++ {
		draw(s, g)
		wantNoError(t, stepOf(o, g))
		if step > 20 {
			continue
		}
		noise, err := o.NoiseScale()
		wantNoError(t, err)
		what := fmt.Sprintf("%T, %+v, step %d", *new(T), r, step)
		if step == 1 {
			if got := noise.Total; !math.IsNaN(got.Signal) || !math.IsNaN(got.Variance) {
				t.Errorf("%s: %v", what, got)
			}
			continue
		}
		near(t, what+": Signal", noise.Total.Signal, s.signal, 0.02)
		near(t, what+": Variance", noise.Total.Variance, s.variance, 0.02)
	}
	e := o.NoiseAverages().Total
	if e.Readings != steps-1 {
		t.Errorf("%d readings of %d steps", e.Readings, steps)
	}
	what := fmt.Sprintf("%T, %+v, average", *new(T), r)
	near(t, what+" of Signal", e.Signal, s.signal, 0.005)
	near(t, what+" of Variance", e.Variance, s.variance, 0.005)
	near(t, what+" of Scale", e.Scale(), s.variance/s.signal, 0.01)
}

// Rounding of the momenta adds to Variance what docs/noise.md says, in relation to the mean square of a momentum.
func TestNoiseOfFormats(t *testing.T) {
	const n, steps, b = 50_000, 60, 0.81
	for _, r := range noisyRules[:2] {
		for format, rounding := range map[string]float64{"bf16": 1.4e-6, mxfp8Format: 1.4e-3} {
			s := newSampler(2, n, n)
			o := optimizerOf(t, Group{Rule: r, Params: pnm.Vectors(make([]float32, n)), State: format})
			wantNoError(t, o.ReadNoise(1, 0))
			g := make([]float32, n)
			for range steps {
				draw(s, g)
				wantNoError(t, stepOf(o, g))
			}
			e := o.NoiseAverages().Total
			what := fmt.Sprintf("%s, %s", r.Name(), format)
			near(t, what+": Signal", e.Signal, s.signal, 0.005)
			near(t, what+": Variance", e.Variance, s.variance+rounding/(1-b)/(1-b)*(s.signal+(1-b)/(1+b)*s.variance), 0.015)
		}
	}
}

// readingAfter returns the reading after steps of PNM, in float64, with the gradients that set makes.
func readingAfter(t *testing.T, n, steps int, set func(g []float64, step int)) pnm.Noise {
	t.Helper()
	o := optimizerOf(t, groupOf(pnm.NewPNM(0), make([]float64, n)))
	g := make([]float64, n)
	for step := 1; step <= steps; step++ {
		set(g, step)
		wantNoError(t, stepOf(o, g))
	}
	r, err := o.NoiseScale()
	wantNoError(t, err)
	return r.Total
}

// What docs/noise.md says of gradients that are not independent samples with one mean, at β1 = 0.9.
func TestNoiseOfDrift(t *testing.T) {
	const b = 0.81
	t.Run("a straight line", func(t *testing.T) {
		const steps, each = 300, 0.01
		r := readingAfter(t, 1, steps, func(g []float64, step int) { g[0] = each * float64(step) })
		at := each * (steps - 2*b/(1-b) - 0.5)
		near(t, "Signal", r.Signal, at*at-each*each/4, 1e-9)
		near(t, "Variance", r.Variance, each*each*(1+b)/(2*(1-b)), 1e-9)
	})
	t.Run("alternating", func(t *testing.T) {
		const a = 0.5
		r := readingAfter(t, 1, 300, func(g []float64, step int) { g[0] = 1 + a*float64(1-2*(step&1)) })
		near(t, "Signal", r.Signal, 1-a*a, 1e-9)
		near(t, "Variance", r.Variance, 2*a*a*(1+b)/(1-b), 1e-9)
	})
	t.Run("a random walk", func(t *testing.T) {
		const n, steps = 100_000, 60 // a reading's standard error is 0.27 in Signal/n, and 0.0022 in Variance/n
		rng := rand.New(rand.NewPCG(3, 0))
		r := readingAfter(t, n, steps, func(g []float64, step int) {
			for i := range g {
				g[i] += rng.NormFloat64()
			}
		})
		near(t, "the age of Signal", steps-r.Signal/n, (1+2*b)/(1-b), 0.06)
		near(t, "Variance", r.Variance, n*0.5, 0.02)
	})
	t.Run("fluctuation", func(t *testing.T) { // |G|² stays n, while each element changes its sign now and then
		const n, often = 100_000, 0.001 // Signal's standard error is 2 % of what it lacks
		const q = 4 * often
		rng := rand.New(rand.NewPCG(5, 0))
		r := readingAfter(t, n, 60, func(g []float64, step int) {
			for i := range g {
				if step == 1 {
					g[i] = 1
				} else if rng.Float64() < often {
					g[i] = -g[i]
				}
			}
		})
		near(t, "what Signal lacks", n-r.Signal, n*q*(1+b)/(2*(1-b)), 0.08)
		near(t, "Variance", r.Variance, n*q/2, 0.08)
	})
	// The noise moves the parameters, and they answer: gradients at a quadratic's minimum.
	for _, c := range []struct{ lr, signal, variance float64 }{
		{0.1, -0.0285, 1.075}, {0.3, -0.083, 1.265}, {0.5, -0.138, 1.516}, {1, -0.353, 3.09}, {1.3, -0.89, 8.01},
	} {
		t.Run(fmt.Sprintf("a quadratic, LR·L = %g", c.lr), func(t *testing.T) {
			const n = 2000
			p, g := make([]float64, n), make([]float64, n)
			o := optimizerOf(t, groupOf(pnm.NewPNM(c.lr), p))
			rng := rand.New(rand.NewPCG(6, 0))
			square := 0.0 // of the gradients' mean, averaged over the readings
			stepAndRead := func(steps, from int) NoiseEstimate {
				square = 0
				for step := range steps {
					if step == from {
						wantNoError(t, o.ReadNoise(1, 0))
					}
					for i, x := range p {
						if step >= from {
							square += x * x / float64(steps-from)
						}
						g[i] = x + rng.NormFloat64()
					}
					wantNoError(t, stepOf(o, g))
				}
				return o.NoiseAverages().Total
			}
			e := stepAndRead(1200, 200)
			near(t, "Signal − |G|²", (e.Signal-square)/n, c.signal, 0.04)
			near(t, "Variance", e.Variance/n, c.variance, 0.02)

			wantNoError(t, o.SetLR(0)) // the parameters stay, and the momenta forget
			e = stepAndRead(60, 30)
			near(t, "Signal at rest", e.Signal/n, square/n, 0.03+0.02*n/square) // twice the standard error, or more
			near(t, "Variance at rest", e.Variance/n, 1, 0.04)
		})
	}
	// Batches of an epoch exclude each other. Variance is as with replacement, and Signal lacks a batch's variance divided by their number.
	t.Run("without replacement", func(t *testing.T) {
		const n, batches, size = 20_000, 50, 8
		rng := rand.New(rand.NewPCG(4, 0))
		samples := make([][]float32, batches*size) // with mean 0
		mean := make([]float32, n)
		variance := 0.0 // of a sample
		for k := range samples {
			samples[k] = make([]float32, n)
			for i := range n {
				samples[k][i] = float32(rng.Float64()) - 0.5
				mean[i] += samples[k][i] / (batches * size)
			}
		}
		for _, s := range samples {
			for i := range n {
				s[i] -= mean[i]
				variance += float64(s[i]) * float64(s[i]) / (batches*size - 1)
			}
		}
		r := readingAfter(t, n, batches, func(g []float64, step int) {
			clear(g)
			for _, s := range samples[(step-1)*size : step*size] {
				for i := range g {
					g[i] += float64(s[i]) / size
				}
			}
		})
		near(t, "Variance", r.Variance, variance/size, 0.02)
		near(t, "Signal", r.Signal, -variance/size/batches, 0.1) // its standard error is 3.7 %
	})
}

// About 95 % of averages are within two of their standard errors of the truth: for signals that are less than the noise of a momentum, as
// large, and larger; for readings at every step, where they have most in common, and now and then.
func TestNoiseStandardErrors(t *testing.T) {
	runs := 150
	if *thorough {
		runs = 2000
	}
	for _, c := range []struct {
		beta1, scale float64
		every        int
		decay        float64
	}{{0.9, 30, 1, 0}, {0.9, 3, 1, 0.98}, {0.9, 0.1, 1, 0}, {0.9, 10, 3, 0}, {0.9, 1, 10, 0}, {0.5, 3, 1, 0}, {0, 3, 2, 0}, {0.97, 3, 3, 0}} {
		const n, steps = 20, 400
		var within [3]int
		for run := range runs {
			s := newSampler(uint64(run), n, n/c.scale)
			o := optimizerOf(t, groupOf(pnm.PNM{Beta1: c.beta1, Beta0: 1, Decoupled: true}, make([]float64, n)))
			wantNoError(t, o.ReadNoise(c.every, c.decay))
			g := make([]float64, n)
			for range steps {
				draw(s, g)
				wantNoError(t, stepOf(o, g))
			}
			e := o.NoiseAverages().Total
			for k, off := range []float64{
				(e.Signal - s.signal) / e.SignalError, (e.Variance - s.variance) / e.VarianceError, (e.Scale() - c.scale) / e.ScaleError,
			} {
				if math.Abs(off) <= 2 {
					within[k]++
				}
			}
			o.Close()
		}
		t.Logf("%+v: %v of %d", c, within, runs)
		for k, what := range []string{"Signal", "Variance", "Scale"} {
			if share := float64(within[k]) / float64(runs); share < 0.9 || share > 0.998 {
				t.Errorf("%+v: %s is within two standard errors in %.1f %%", c, what, 100*share)
			}
		}
	}
}

// noiseByHand returns what to read off an optimizer now, at a time of it, from copies of its state. Only the tensors for which count is true
// have a reading.
func noiseByHand(t *testing.T, o *Optimizer, at int, count func(tensor int) bool) *readings {
	t.Helper()
	r := newReadings(o.Groups(), o.Tensors())
	exact := make(map[*float64]*big.Float)
	add := func(sum *float64, x float64) {
		if exact[sum] == nil {
			exact[sum] = new(big.Float).SetPrec(4000)
		}
		*sum, _ = exact[sum].Add(exact[sum], big.NewFloat(x)).Float64()
	}
	for i, s := range stateOf(t, o) {
		g := o.Groups() - 1
		for first, _ := o.members(g); i < first; first, _ = o.members(g) {
			g--
		}
		rule := o.Rule(g)
		if rule.Name() != "PNM" && rule.Name() != "AdaPNM" || s.Step < 2 || !count(i) {
			continue
		}
		u := pnm.Update{Rule: rule, Step: s.Step}
		for _, name := range rule.State() {
			u.State = append(u.State, s.Buffers[name])
		}
		sums, err := pnm.SumNoise(nil, []pnm.Update{u})
		wantNoError(t, err)
		n, err := sums[0].Noise(rule, s.Step)
		wantNoError(t, err)
		beta1 := 0.0
		for name, value := range rule.Hyperparameters() {
			if name == "beta1" {
				beta1 = value.(float64)
			}
		}
		r.tensors[i] = reading{n, s.Step, beta1}
		for _, sum := range []*reading{&r.groups[g], &r.total} {
			add(&sum.Signal, n.Signal)
			add(&sum.Variance, n.Variance)
			sum.at, sum.beta1 = at, max(sum.beta1, beta1)
		}
	}
	return r
}

func wantSameNoise(t *testing.T, what string, got, want pnm.Noise) {
	t.Helper()
	if !sameBits(got.Signal, want.Signal) || !sameBits(got.Variance, want.Variance) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Readings are those of the engine, added up over the tensors that have one; a step reads what a call after it does, at the steps that
// count; and the averages are those of the readings.
func TestNoiseReadings(t *testing.T) {
	for _, every := range []int{1, 2, 5} {
		params := [][]float64{lcg[float64](1, 33), lcg[float64](2, 5), lcg[float64](3, 16), lcg[float64](4, 7), nil}
		o := optimizerOf(t, groupOf(pnm.NewPNM(0.1), params[:2]...), groupOf(pnm.NewAdam(), params[2]),
			groupOf(with(pnm.NewAdaPNM(), "beta1", 0.7), params[3], params[4]), Group{Rule: pnm.NewPNM(1)})
		const decay = 0.9
		wantNoError(t, o.ReadNoise(every, decay))
		fresh := NoiseAverage{Decay: decay}
		total, groups, tensors := fresh, []NoiseAverage{fresh, fresh, fresh, fresh}, []NoiseAverage{fresh, fresh, fresh, fresh, fresh}
		add := func(a *NoiseAverage, r reading) {
			if r.at > 0 {
				wantNoError(t, a.Add(r.Noise, r.at, r.beta1))
			}
		}
		counted := 0
		for step := 1; step <= 25; step++ {
			what := fmt.Sprintf("every %d, step %d", every, step)
			grads := make([]pnm.Vector, len(params))
			for i, p := range params {
				if (step+i)%3 > 0 {
					grads[i] = pnm.Float64(lcg[float64](uint64(100*step+i), len(p)))
				}
			}
			opts := pnm.Options{SkipNonFinite: true}
			if step%7 == 0 && grads[0].Len() > 0 {
				grads[0].Float64()[0] = math.NaN()
			}
			if step%4 == 0 { // the caller reads, too
				opts.Noise = make([]pnm.NoiseSums, len(params))
			}
			report, err := o.Step(opts, grads)
			wantNoError(t, err)
			if !report.Skipped {
				if counted++; counted%every == 0 {
					r := noiseByHand(t, o, counted, func(i int) bool { return !grads[i].IsNil() })
					add(&total, r.total)
					for g := range r.groups {
						add(&groups[g], r.groups[g])
					}
					for i := range r.tensors {
						add(&tensors[i], r.tensors[i])
					}
				}
			}
			if opts.Noise != nil && !report.Skipped {
				r := noiseByHand(t, o, 1, func(i int) bool { return !grads[i].IsNil() })
				for i, want := range r.tensors {
					if want.at > 0 {
						got, err := opts.Noise[i].Noise(pnm.PNM{Beta1: want.beta1}, o.Steps(i))
						wantNoError(t, err)
						wantSameNoise(t, fmt.Sprintf("%s, the caller's sums of tensor %d", what, i), got, want.Noise)
					}
				}
			}
			now, err := o.NoiseScale()
			wantNoError(t, err)
			want := noiseByHand(t, o, 1, func(int) bool { return true })
			wantSameNoise(t, what+", all", now.Total, want.total.orNaN())
			for g := range want.groups {
				wantSameNoise(t, fmt.Sprintf("%s, group %d", what, g), now.Groups[g], want.groups[g].orNaN())
			}
			for i := range want.tensors {
				wantSameNoise(t, fmt.Sprintf("%s, tensor %d", what, i), now.Tensors[i], want.tensors[i].orNaN())
			}
		}
		got := o.NoiseAverages()
		want := NoiseEstimates{total.Estimate(), estimates(groups), estimates(tensors)}
		if fmt.Sprintf("%x", got) != fmt.Sprintf("%x", want) || total.readings < 20/every {
			t.Errorf("every %d: averages %+v\nwant %+v", every, got, want)
		}
	}
}

// The readings of formats, workers and cuts are the same, bit for bit, since the sums are.
func TestWorkersReadTheSameNoise(t *testing.T) {
	for _, f := range append(someFormats, formatsOf{"float64", "float64", "", ""}) {
		var want string
		for _, workers := range []int{1, 3} {
			r := newRun(t, pnm.NewAdaPNM(), f, Config{Pool: newTestPool(t, workers)}, listSizes)
			wantNoError(t, r.opt.ReadNoise(2, 0))
			for step := 1; step <= 4; step++ {
				r.step(t, step)
			}
			now, err := r.opt.NoiseScale()
			wantNoError(t, err)
			got := fmt.Sprintf("%x %x", now, r.opt.NoiseAverages())
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("%v: with %d workers %s\nwant %s", f, workers, got, want)
			}
		}
	}
}

// Readings after a restart come at the steps at which they do in a program that begins there.
func TestNoiseBeginsToCountAnew(t *testing.T) {
	x := lcg[float32](1, 16)
	o := optimizerOf(t, groupOf(pnm.NewPNM(0.1), x[:8]))
	wantNoError(t, o.ReadNoise(10, 0))
	for range 15 {
		wantNoError(t, stepOf(o, x[8:]))
	}
	wantNoError(t, loadFrom(o, saved(t, o, SaveOptions{}), LoadOptions{}))
	for step, want := range []int{9: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2} {
		wantNoError(t, stepOf(o, x[8:]))
		if got := o.NoiseAverages().Total.Readings; got != want {
			t.Errorf("%d steps after a load: %d readings, want %d", step+1, got, want)
		}
	}
}

// What changes the tensors, or their states, begins the averages anew; nothing else does.
func TestNoiseBeginsAnew(t *testing.T) {
	x := lcg[float32](1, 32)
	for what, c := range map[string]struct {
		call    func(o *Optimizer) error
		tensors int // whose averages are new; 0 if the old ones go on
	}{
		"AddGroup":  {func(o *Optimizer) error { return o.AddGroup(groupOf(pnm.NewPNM(1), x[24:])) }, 2},
		"SetState":  {func(o *Optimizer) error { return o.SetState(make([]TensorState, 1)) }, 1},
		"SetSteps":  {func(o *Optimizer) error { return o.SetSteps(0, 3) }, 1},
		"LoadFrom":  {func(o *Optimizer) error { return loadFrom(o, saved(t, o, SaveOptions{}), LoadOptions{}) }, 1},
		"ReadNoise": {func(o *Optimizer) error { return o.ReadNoise(1, 0) }, 1},
		"SetParams": {func(o *Optimizer) error { return o.SetParams(pnm.Vectors(x[16:24]), nil) }, 0},
		"SetRule":   {func(o *Optimizer) error { return o.SetRule(0, pnm.NewPNM(0.5)) }, 0},
		"a refused call": {func(o *Optimizer) error {
			for _, err := range []error{
				o.AddGroup(Group{}), o.SetState(nil), o.SetSteps(0, -1), o.ReadNoise(-1, 0), loadFrom(o, []byte("no"), LoadOptions{}),
			} {
				if err == nil {
					t.Error("a call is not refused")
				}
			}
			return nil
		}, 0},
	} {
		o := optimizerOf(t, groupOf(pnm.NewPNM(0.1), x[:8]))
		wantNoError(t, o.ReadNoise(1, 0))
		for range 3 {
			wantNoError(t, stepOf(o, x[8:16]))
		}
		wantNoError(t, c.call(o))
		e := o.NoiseAverages()
		readings, tensors := 0, c.tensors
		if tensors == 0 {
			readings, tensors = 2, 1
		}
		if e.Total.Readings != readings || len(e.Tensors) != tensors || len(e.Groups) != tensors || e.Tensors[0].Readings != readings {
			t.Errorf("after %s: %+v", what, e)
		}
		grads := []pnm.Vector{pnm.Float32(x[8:16]), pnm.Float32(x[8:16])}[:tensors]
		for range 2 {
			_, err := o.Step(pnm.Options{}, grads)
			wantNoError(t, err)
		}
		if got := o.NoiseAverages().Tensors[0].Readings; got <= readings {
			t.Errorf("after %s, and 2 steps: %d readings", what, got)
		}
	}
}

// Steps that do not read, and parts of steps, leave no readings.
func TestNoiseWithoutReadings(t *testing.T) {
	x := lcg[float32](1, 32)
	o := optimizerOf(t, groupOf(pnm.NewPNM(0.1), x[:8]))
	none := func(what string, lists int) {
		t.Helper()
		e := o.NoiseAverages()
		if all := e.Total; all.Readings != 0 || !math.IsNaN(all.Signal) || !math.IsNaN(all.ScaleError) || len(e.Tensors) != lists || len(e.Groups) != lists {
			t.Errorf("%s: %+v", what, e)
		}
	}
	wantNoError(t, stepOf(o, x[8:16]))
	none("unasked", 0)
	wantNoError(t, o.ReadNoise(1, 0.5))
	for step := 2; step <= 5; step++ {
		opts := pnm.Options{Noise: make([]pnm.NoiseSums, 1)}
		wantNoError(t, partOf(o, opts, Part{0, step, 0, pnm.Float32(x[8:12])}))
		if _, err := o.NoiseScale(); !errors.As(err, new(*PartError)) {
			t.Errorf("within a step: %v", err)
		}
		first := opts.Noise[0]
		wantNoError(t, partOf(o, opts, Part{0, step, 4, pnm.Float32(x[12:16])}))
		first.Add(&opts.Noise[0])
		whole, err := o.NoiseScale()
		wantNoError(t, err)
		got, err := first.Noise(pnm.NewPNM(0.1), step)
		wantNoError(t, err)
		wantSameNoise(t, "the parts", got, whole.Total)
	}
	none("parts", 1)
	wantNoError(t, o.ReadNoise(0, 0))
	wantNoError(t, stepOf(o, x[8:16]))
	none("no longer asked", 0)
}

// NaN and infinities in the momenta reach the readings, and the averages.
func TestNoiseIsNaN(t *testing.T) {
	x := lcg[float64](1, 32)
	o := optimizerOf(t, groupOf(pnm.NewPNM(0.1), x[:8], x[8:16]))
	wantNoError(t, o.ReadNoise(1, 0))
	g := x[16:24]
	for range 4 {
		wantNoError(t, stepOf(o, x[24:], g))
		g[3] = math.NaN()
	}
	now, err := o.NoiseScale()
	wantNoError(t, err)
	e := o.NoiseAverages()
	for what, n := range map[string]pnm.Noise{
		"total": now.Total, "tensor": now.Tensors[1], "average": e.Total.Noise, "tensor's average": e.Tensors[1].Noise,
	} {
		if !math.IsNaN(n.Signal) || !math.IsNaN(n.Variance) {
			t.Errorf("%s: %v", what, n)
		}
	}
	for what, n := range map[string]pnm.Noise{"tensor": now.Tensors[0], "average": e.Tensors[0].Noise} {
		if math.IsNaN(n.Signal) || math.IsNaN(n.Variance) {
			t.Errorf("the other %s: %v", what, n)
		}
	}
}

func TestNoiseErrors(t *testing.T) {
	o := optimizerOf(t, groupOf(pnm.NewPNM(0.1), make([]float32, 8)))
	for _, c := range []struct {
		err  error
		want string
	}{
		{o.ReadNoise(-1, 0), "pnm: ReadNoise.every is -1, must be ≥ 0"},
		{o.ReadNoise(1, 1.5), "pnm: ReadNoise.decay is 1.5, must be in [0, 1]"},
		{o.ReadNoise(1, math.NaN()), "pnm: ReadNoise.decay is NaN, must be in [0, 1]"},
		{(&NoiseAverage{Decay: -1}).Add(pnm.Noise{}, 1, 0.9), "pnm: NoiseAverage.Decay is -1, must be in [0, 1]"},
		{new(NoiseAverage).Add(pnm.Noise{}, 0, 0.9), "pnm: NoiseAverage.step is 0, must be ≥ 1"},
		{new(NoiseAverage).Add(pnm.Noise{}, 1, 1), "pnm: NoiseAverage.beta1 is 1, must be in [0, 1)"},
		{(&NoiseAverage{step: 5}).Add(pnm.Noise{}, 4, 0), "pnm: NoiseAverage.step is 4, must be > 5, the step of the reading before"},
		{(&NoiseAverage{step: 5}).Add(pnm.Noise{}, 5, 0), "pnm: NoiseAverage.step is 5, must be > 5, the step of the reading before"},
	} {
		if e := (*pnm.ValueError)(nil); !errors.As(c.err, &e) || c.err.Error() != c.want {
			t.Errorf("%v, want %s", c.err, c.want)
		}
	}
}

// The averages have the same bits everywhere, also where the compiler fuses operations. Python computed these, operation by operation.
func TestBitsOfNoiseAverages(t *testing.T) {
	for _, c := range []struct {
		decay, beta1 float64
		every        int
		want         []float64 // of Signal, Variance, their errors, Scale and its error
	}{
		{0, 0.9, 1, []float64{
			0x1.f3937e87d6343p-1, 0x1.72e63cd0fac69p+1, 0x1.a99566f30957bp-2, 0x1.0d1f0a072234fp-2, 0x1.7c1f88cbc4c1ep+1, 0x1.43774a3eee5e7p+0,
		}},
		{0.95, 0.9, 10, []float64{
			0x1.f765b5121e2fap-1, 0x1.797c3636ee25dp+1, 0x1.3033f3931f5a0p-3, 0x1.bd9855344e76cp-4, 0x1.7fefa81cf7cc2p+1, 0x1.cf56c6e733c0ap-2,
		}},
		{0.7, 0.3, 3, []float64{
			0x1.c84275eae4415p-1, 0x1.848f6c55441c2p+1, 0x1.23518e03b23d7p-2, 0x1.d0a9acbdcbc3bp-3, 0x1.b407a9757b580p+1, 0x1.eb3bdc6794c9cp-1,
		}},
		{1, 1 - 0x1p-30, 1, []float64{
			0x1.f3937e87d6343p-1, 0x1.72e63cd0fac69p+1, 0x1.2f0affc888ab5p+12, 0x1.8c5318112f46dp+11, 0x1.7c1f88cbc4c1ep+1, 0x1.cd2a61ca7b7f1p+13,
		}},
		{0.9, 1 - 0x1p-53, 1, []float64{
			0x1.fdea9d8610d60p-1, 0x1.7f92760107686p+1, 0x1.1f19b7effc58fp+24, 0x1.6d7bfd404c16fp+23, 0x1.8123afbb0512cp+1, 0x1.b1b181ec6607ep+25,
		}},
		{1, 0, 1, []float64{
			0x1.f3937e87d6343p-1, 0x1.72e63cd0fac69p+1, 0x1.14e5d7c65c67cp-3, 0x1.a690ca681c347p-4, 0x1.7c1f88cbc4c1ep+1, 0x1.9feb8c0e52618p-2,
		}},
	} {
		a := NoiseAverage{Decay: c.decay}
		x := lcg[float64](7, 100)
		for i := range 50 {
			wantNoError(t, a.Add(pnm.Noise{Signal: 1 + x[2*i], Variance: 3 + x[2*i+1]}, c.every*(i+1), c.beta1))
		}
		e := a.Estimate()
		for i, got := range [...]float64{e.Signal, e.Variance, e.SignalError, e.VarianceError, e.Scale(), e.ScaleError} {
			if got != c.want[i] {
				t.Errorf("decay %g, β1 %g, every %d: number %d is %x, want %x", c.decay, c.beta1, c.every, i, got, c.want[i])
			}
		}
	}
}

// Numbers that are not finite, and a signal of 0, do what they do in Python, whose test has the same list.
func TestNoiseAveragesOfSpecialNumbers(t *testing.T) {
	inf, nan, zero := math.Inf(1), math.NaN(), math.Copysign(0, -1)
	for _, c := range []struct {
		readings [][2]float64 // Signal, Variance
		want     [6]float64   // Signal, Variance, their errors, Scale and its error
	}{
		{[][2]float64{{1, 2}, {nan, nan}, {1, 3}}, [6]float64{nan, nan, nan, nan, nan, nan}},
		{[][2]float64{{1, 2}, {inf, inf}, {1, 3}}, [6]float64{nan, nan, nan, inf, nan, nan}},
		{[][2]float64{{1, 2}, {inf, 2}}, [6]float64{inf, 2, nan, 0, 0, nan}},
		{[][2]float64{{1, 2}, {2, inf}}, [6]float64{1.5, inf, 0x1.2144f81ce5b4fp-1, inf, inf, nan}},
		{[][2]float64{{1, 2}, {-1, 2}}, [6]float64{0, 2, 0x1.70615e07e8bbfp+0, 0, inf, nan}},
		{[][2]float64{{zero, 1}, {zero, 1}}, [6]float64{0, 1, 0, 0, inf, nan}},
		{[][2]float64{{0, -1}, {0, -1}}, [6]float64{0, -1, 0, 0, -inf, nan}},
		{[][2]float64{{0, 0}, {0, 0}}, [6]float64{0, 0, 0, 0, nan, nan}},
		{[][2]float64{{1, 2}, {1, 2}}, [6]float64{1, 2, 0, 0, 2, 0}},
		{[][2]float64{{1, 2}}, [6]float64{1, 2, nan, nan, 2, nan}},
	} {
		var a NoiseAverage
		for i, n := range c.readings {
			wantNoError(t, a.Add(pnm.Noise{Signal: n[0], Variance: n[1]}, 10*(i+1), 0.9))
		}
		e := a.Estimate()
		for i, got := range [...]float64{e.Signal, e.Variance, e.SignalError, e.VarianceError, e.Scale(), e.ScaleError} {
			if want := c.want[i]; !(math.IsNaN(got) && math.IsNaN(want) || sameBits(got, want)) {
				t.Errorf("%v: number %d is %x, want %x", c.readings, i, got, want)
			}
		}
	}
}

// A tensor that sits out some steps, such as an expert, does not disturb the averages of the others, nor those of its group: readings of a
// sum are as far apart as the optimizer's steps.
func TestNoiseOfTensorsThatSitOut(t *testing.T) {
	params := [][]float64{make([]float64, 7), make([]float64, 9), make([]float64, 8)}
	o := optimizerOf(t, groupOf(pnm.NewPNM(0.1), params[0]), groupOf(pnm.NewPNM(0.1), params[1:]...))
	wantNoError(t, o.ReadNoise(1, 0))
	var total, group NoiseAverage
	for step := 1; step <= 40; step++ {
		grads := []pnm.Vector{pnm.Float64(lcg[float64](uint64(step), 7)), pnm.Float64(lcg[float64](uint64(100+step), 9)), {}}
		if step%4 == 0 {
			grads[1], grads[2] = pnm.Vector{}, pnm.Float64(lcg[float64](uint64(step), 8))
		}
		_, err := o.Step(pnm.Options{}, grads)
		wantNoError(t, err)
		r := noiseByHand(t, o, step, func(i int) bool { return !grads[i].IsNil() })
		for a, r := range map[*NoiseAverage]reading{&total: r.total, &group: r.groups[1]} {
			if r.at > 0 {
				wantNoError(t, a.Add(r.Noise, step, r.beta1))
			}
		}
	}
	got := o.NoiseAverages()
	for what, e := range map[string][2]NoiseEstimate{"total": {got.Total, total.Estimate()}, "group": {got.Groups[1], group.Estimate()}} {
		if fmt.Sprintf("%x", e[0]) != fmt.Sprintf("%x", e[1]) || !(e[0].VarianceError > 0) {
			t.Errorf("%s: %+v, want %+v", what, e[0], e[1])
		}
	}
	readings := []int{got.Total.Readings, got.Groups[0].Readings, got.Groups[1].Readings}
	for _, e := range got.Tensors {
		readings = append(readings, e.Readings)
	}
	if want := []int{39, 39, 38, 39, 29, 9}; !slices.Equal(readings, want) {
		t.Errorf("readings %v, want %v", readings, want)
	}
}
