package optim

import (
	"cmp"
	"fmt"
	"math"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/floatmode"
)

// A NoiseAverage averages readings of the gradient noise, each number by itself. The ratio of the averages, Scale, has less bias than an
// average of ratios. The zero value is an average without readings, which weights all alike. docs/noise.md derives the formulas.
type NoiseAverage struct {
	// Decay is the weight of a reading in relation to that of the next one: in [0, 1]. With 1 all readings have equal weights, and so they
	// have with 0, the default. With less, the average follows about the last 1/(1−Decay) readings.
	Decay float64

	readings   int
	step       int     // of the last reading
	weight     float64 // the sum of the readings' weights
	mean       pnm.Noise
	ss, sv, vv float64 // weighted sums of the products of deviations from the mean: of Signal (s) and Variance (v)
	linear     serial  // of the part of Signal's error that is linear in those of the momenta
	product    serial  // of its other part, which is a product, and of Variance's error
	ratio      float64 // the variance of Signal's product, divided by that of Variance
}

// A NoiseEstimate is an average of readings, with standard errors. Numbers that are NaN cannot be written by encoding/json.
type NoiseEstimate struct {
	pnm.Noise     // the averages; NaN before the first reading
	Readings  int // their number

	// The true numbers are within two standard errors of the averages in about 95 % of runs. The errors are NaN before the second reading, and
	// rough while the readings span only a few times 1/(1−β1²) steps. ScaleError is unreliable if Signal is less than about four times
	// SignalError.
	SignalError, VarianceError, ScaleError float64
}

// Add adds the reading after a step. Each step must be above the one before. beta1 is β1 of the rule, and tells how much readings of nearby
// steps have in common. For a sum over several tensors, count the steps of the optimizer, and take the largest beta1. A reading before
// step 2 does not count: it has nothing to read. A reading that is NaN or infinite makes the averages NaN.
//
// Add returns a *pnm.ValueError for a Decay, step or beta1 out of its range, and has then changed nothing.
func (a *NoiseAverage) Add(reading pnm.Noise, step int, beta1 float64) error {
	var h floatmode.Hold
	defer h.Take().Release()
	illegal := func(field string, value float64, legal string) error {
		return &pnm.ValueError{Of: "NoiseAverage", Field: field, Value: value, Legal: legal}
	}
	switch {
	case !(a.Decay >= 0 && a.Decay <= 1):
		return illegal("Decay", a.Decay, "in [0, 1]")
	case !(beta1 >= 0 && beta1 < 1):
		return illegal("beta1", beta1, "in [0, 1)")
	case step < 1:
		return illegal("step", float64(step), "≥ 1")
	case step <= a.step:
		return illegal("step", float64(step), fmt.Sprintf("> %d, the step of the reading before", a.step))
	}
	if step > 1 {
		a.add(reading, step, beta1)
	}
	return nil
}

// add adds a reading that has been checked. The products are rounded on their own, so that the bits are the same everywhere.
func (a *NoiseAverage) add(reading pnm.Noise, step int, beta1 float64) {
	b := float64(beta1 * beta1)
	decay := cmp.Or(a.Decay, 1)
	left := remaining(b, step-a.step)
	a.linear.add(decay, a.weight, left)
	a.product.add(decay, a.weight, float64(left*left))
	kept := (1 - b) / (1 + b) // V of docs/noise.md, late
	a.ratio = kept * kept / 2

	before := decay * a.weight
	a.weight = float64(before) + 1
	share := before / a.weight
	s, v := reading.Signal-a.mean.Signal, reading.Variance-a.mean.Variance
	a.mean.Signal += s / a.weight
	a.mean.Variance += v / a.weight
	a.ss = float64(decay*a.ss) + float64(share*s*s)
	a.sv = float64(decay*a.sv) + float64(share*s*v)
	a.vv = float64(decay*a.vv) + float64(share*v*v)
	a.readings++
	a.step = step
}

// remaining returns how much of the momenta's errors is left after a number of steps, as a mean over the two: each is multiplied by b at
// every second step.
func remaining(b float64, steps int) float64 {
	left := 1.0
	if steps%2 == 1 {
		left = (1 + b) / 2
	}
	for n := steps / 2; n > 0; n >>= 1 {
		if n&1 != 0 {
			left *= b
		}
		b *= b
	}
	return left
}

// Estimate returns the averages and their standard errors.
func (a *NoiseAverage) Estimate() NoiseEstimate {
	var h floatmode.Hold
	defer h.Take().Release()
	if a.readings == 0 {
		nan := math.NaN()
		return NoiseEstimate{pnm.Noise{Signal: nan, Variance: nan}, 0, nan, nan, nan}
	}
	linear, linearLost := a.linear.shares()
	product, productLost := a.product.shares()
	// errorOf takes a mean square of deviations, and the variance of the linear part. Without that of their mean, deviations are too small.
	errorOf := func(square, ofLinear float64) float64 {
		ofProduct := max(0, square-float64(ofLinear*linearLost)) / productLost
		return math.Sqrt(float64(ofLinear*linear) + float64(ofProduct*product))
	}
	ss, sv, vv := a.ss/a.weight, a.sv/a.weight, a.vv/a.weight
	ofSignal := max(0, ss-float64(a.ratio*vv)) / linearLost
	scale := a.mean.Scale()
	residual := vv - float64(2*scale*sv) + float64(scale*scale*ss) // of Variance − scale·Signal
	return NoiseEstimate{
		Noise:         a.mean,
		Readings:      a.readings,
		SignalError:   errorOf(ss, ofSignal),
		VarianceError: errorOf(vv, 0),
		ScaleError:    errorOf(residual, scale*scale*ofSignal) / math.Abs(a.mean.Signal),
	}
}

// A serial says how much the errors of readings have in common. Let w(i) be the weight of reading i, and ρ(i, j) the correlation of two.
// The sums apart are kept for themselves, since differences would lose their digits, and their signs, where ρ is near 1.
type serial struct {
	pairs, apart       float64 // Σ w(i)·w(j)·ρ(i, j), and Σ w(i)·w(j)·(1−ρ(i, j))
	withLast, fromLast float64 // Σ w(i)·ρ(i, last), and Σ w(i)·(1−ρ(i, last))
}

// add adds a reading whose correlation with the one before is rho. weight is the sum of the weights so far.
func (s *serial) add(decay, weight, rho float64) {
	before := decay * s.withLast * rho
	s.pairs = float64(decay*decay*s.pairs) + float64(2*before) + 1
	s.withLast = float64(before) + 1
	s.fromLast = decay * (float64((1-rho)*weight) + float64(rho*s.fromLast))
	s.apart = float64(decay*decay*s.apart) + float64(2*s.fromLast)
}

// shares returns the variance of the average, divided by that of one reading, and what is left of 1: what deviations from it have.
func (s *serial) shares() (ofMean, ofDeviations float64) {
	all := s.pairs + s.apart
	return s.pairs / all, s.apart / all
}
