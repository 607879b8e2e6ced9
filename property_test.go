package pnm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// The facts of this file are exact properties of the rules. The tolerances are rounding errors of float64.

// trajectory runs steps of r on one float64 parameter, with the gradient grad(p, t), and returns the parameter after each.
func trajectory(t *testing.T, r Rule, p0 float64, steps int, grad func(p float64, t int) float64) []float64 {
	t.Helper()
	p, g, state := []float64{p0}, []float64{0}, newState[float64](r, 1)
	out := make([]float64, steps)
	for i := range out {
		g[0] = grad(p[0], i+1)
		wantNoError(t, updateSlices(r, i+1, p, g, state))
		out[i] = p[0]
	}
	return out
}

func noise(t int) float64 { return lcg[float64](uint64(t), 3)[2] }

func wantClose(t *testing.T, what string, got, want, relative float64) {
	t.Helper()
	if !(math.Abs(got-want) <= relative*math.Abs(want)) {
		t.Errorf("%s: got %.17g, want %.17g within %g", what, got, want, relative)
	}
}

// With β0 = −β1/(1+β1) PNM is heavy ball in its averaging form, v = β1·v + (1−β1)·g, p = p − η'·v, with
// η' = η/√γ, the factor by which PNM normalizes its step. SGD's momentum is v/(1−β1).
func TestHeavyBallIdentity(t *testing.T) {
	for _, beta1 := range []float64{0, 0.5, 0.9, 0.99} {
		r := NewPNM(0.1)
		r.Beta1, r.Beta0 = beta1, -beta1/(1+beta1)
		gamma := (1+r.Beta0)*(1+r.Beta0) + r.Beta0*r.Beta0
		curved := func(p float64, t int) float64 { return p + noise(t) }
		sgd := trajectory(t, SGD{LR: r.LR / math.Sqrt(gamma) * (1 - beta1), Momentum: beta1}, 1, 500, curved)
		p, v := 1.0, 0.0
		for i, got := range trajectory(t, r, 1, 500, curved) {
			v = beta1*v + (1-beta1)*curved(p, i+1)
			p -= r.LR / math.Sqrt(gamma) * v
			if !(math.Abs(got-p) < 1e-13) {
				t.Fatalf("β1 = %g, step %d: PNM is at %.17g, heavy ball at %.17g", beta1, i+1, got, p)
			}
			if !(math.Abs(got-sgd[i]) < 1e-13) {
				t.Fatalf("β1 = %g, step %d: PNM is at %.17g, SGD at %.17g", beta1, i+1, got, sgd[i])
			}
		}
	}
}

// On a quadratic with curvature L PNM is stable iff η·L < 2√(γ/(2γ−1)), whatever β1: also 0.99, with -thorough.
func TestStabilityLimit(t *testing.T) {
	all := []float64{0, 0.5, 0.9}
	if *thorough {
		all = append(all, 0.99)
	}
	for _, beta1 := range all {
		steps := int(12_000 / (1 - beta1*beta1)) // near the limit p changes as slowly as the momenta
		for _, beta0 := range []float64{0, 0.5, 1, 2} {
			r := NewPNM(0)
			r.Beta1, r.Beta0 = beta1, beta0
			gamma := (1+beta0)*(1+beta0) + beta0*beta0
			testStability(t, r, 2*math.Sqrt(gamma/(2*gamma-1)), steps)
		}
	}
}

// SGD is stable iff η·L < 2(1+μ) or, with Nesterov, 2(1+μ)/(1+2μ): where −1 solves λ² − (1+μ−ηL)·λ + μ = 0 or
// λ² − (1+μ)(1−ηL)·λ + μ(1−ηL) = 0.
func TestStabilityLimitOfSGD(t *testing.T) {
	for _, mu := range []float64{0, 0.5, 0.9} {
		testStability(t, SGD{Momentum: mu}, 2*(1+mu), 3000)
		if mu > 0 {
			testStability(t, SGD{Momentum: mu, Nesterov: true}, 2*(1+mu)/(1+2*mu), 3000)
		}
	}
}

// testStability runs r with a learning rate 1 % below and above limit/L on a quadratic with curvature L.
func testStability(t *testing.T, r Rule, limit float64, steps int) {
	t.Helper()
	const L = 3.0
	end := func(lr float64) float64 {
		ps := trajectory(t, changed(r, "LR", lr), 1, steps, func(p float64, _ int) float64 {
			return L * max(-1e100, min(p, 1e100)) // bounded, so that a run that diverges stays finite
		})
		return math.Abs(ps[len(ps)-1])
	}
	if p := end(0.99 * limit / L); !(p < 1e-3) {
		t.Errorf("%+v: 1 %% below the limit of stability p goes from 1 to %g", r, p)
	}
	if p := end(1.01 * limit / L); !(p > 1e3) {
		t.Errorf("%+v: 1 %% above the limit of stability p goes from 1 to %g", r, p)
	}
}

// Nesterov's parameter is where heavy ball, with the gradients that were taken there, would go next without another
// gradient: p = q − η·μ·v for v = μ·v + g(p), q = q − η·v.
func TestNesterovLooksAhead(t *testing.T) {
	r := SGD{LR: 0.1, Momentum: 0.9, Nesterov: true}
	curved := func(p float64, t int) float64 { return p + noise(t) }
	p, q, v := 1.0, 1.0, 0.0
	for i, got := range trajectory(t, r, p, 300, curved) {
		v = r.Momentum*v + curved(p, i+1)
		q -= r.LR * v
		p = q - r.LR*r.Momentum*v
		if !(math.Abs(got-p) < 1e-13) {
			t.Fatalf("step %d: at %.17g, want %.17g", i+1, got, p)
		}
	}
}

// Adam's first step is η in size, whatever the gradient's, and against its sign.
func TestFirstStepOfAdam(t *testing.T) {
	for _, amsgrad := range []bool{false, true} {
		r := NewAdam()
		r.Eps, r.AMSGrad = 0, amsgrad
		for _, g := range []float64{1, -1, 1e-100, -3e100} {
			got := trajectory(t, r, 0, 1, func(float64, int) float64 { return g })[0]
			wantClose(t, fmt.Sprintf("the step for gradient %g", g), got, -math.Copysign(r.LR, g), 1e-15)
		}
	}
}

// AMSGrad divides by the largest average so far: after one large gradient and then none, the average of squares decays and
// its largest value does not.
func TestAMSGrad(t *testing.T) {
	r := NewAdam()
	r.Eps, r.AMSGrad = 0, true
	p := trajectory(t, r, 0, 50, func(_ float64, t int) float64 {
		if t == 1 {
			return 1
		}
		return 0
	})
	for i, last := 1, p[0]; i < len(p); last, i = p[i], i+1 {
		n := float64(i + 1)
		m, root := 0.1*math.Pow(0.9, n-1), math.Sqrt(0.001/(1-math.Pow(0.999, n)))
		wantClose(t, fmt.Sprintf("step %d", i+1), p[i]-last, -r.LR*m/(1-math.Pow(0.9, n))/root, 1e-11)
	}
}

// Lion moves a parameter by exactly η a step: against a constant gradient's sign, whatever its size; and if β1 = β2, against that of
// the gradients' average. Without any gradient it stays.
func TestStepsOfLion(t *testing.T) {
	r := NewLion()
	r.LR = 0x1p-10 // all sums of steps are exact
	for _, g := range []float64{1, -1, 1e-310, -1e-300, 1e300, math.Inf(1), 0, math.Copysign(0, -1)} {
		direction := 0.0
		if g != 0 {
			direction = math.Copysign(r.LR, g)
		}
		for i, got := range trajectory(t, r, 3, 50, func(float64, int) float64 { return g }) {
			if want := 3 - direction*float64(i+1); got != want {
				t.Fatalf("gradient %g, step %d: at %g, want %g", g, i+1, got, want)
			}
		}
	}
	r.Beta1 = r.Beta2
	p, m := 3.0, 0.0
	for i, got := range trajectory(t, r, p, 300, func(_ float64, t int) float64 { return noise(t) }) {
		m = r.Beta2*m + (1-r.Beta2)*noise(i+1)
		if p -= math.Copysign(r.LR, m); got != p {
			t.Fatalf("step %d: at %g, want %g", i+1, got, p)
		}
	}
}

// The gradients' scale has no part in Lion's steps, if it is a power of two, by which all is exact.
func TestScaleOfLion(t *testing.T) {
	r := NewLion()
	want := trajectory(t, r, 1, 300, func(_ float64, t int) float64 { return noise(t) })
	for _, scale := range []float64{0x1p-500, 0x1p500} {
		wantSame(t, fmt.Sprintf("scaled by %g", scale), trajectory(t, r, 1, 300, func(_ float64, t int) float64 { return scale * noise(t) }), want)
	}
}

// Every tier takes Lion's sign of all that an average of specials can be: of both zeros, denormals, infinities, NaN.
func TestSignOfLion(t *testing.T) {
	perTier(t, func(t *testing.T) {
		signOfSpecials[float32](t)
		signOfSpecials[float64](t)
	})
}

func signOfSpecials[T Float](t *testing.T) {
	for _, r := range []Lion{NewLion(), {LR: -1, Beta1: 0.5}, {LR: 1, Beta2: 0.5, Decoupled: true, WeightDecay: 0.5}} {
		for _, p0 := range []T{0, T(math.Copysign(0, -1)), 1} {
			var p, g, m []T
			for _, x := range specials[T]() {
				for _, y := range specials[T]() {
					p, g, m = append(p, p0), append(g, x), append(m, y)
				}
			}
			differ(t, r, 1, p, g, [][]T{m})
		}
	}
}

// With β0 = 0 the negative momentum has no weight: two averages take turns, each over every second gradient.
func TestBeta0Zero(t *testing.T) {
	r := NewPNM(0.1)
	r.Beta0 = 0
	p, m := 1.0, [2]float64{}
	for i, got := range trajectory(t, r, 1, 100, func(_ float64, t int) float64 { return noise(t) }) {
		k := i % 2
		m[k] = float64(r.Beta1*r.Beta1*m[k]) + float64((1-float64(r.Beta1*r.Beta1))*noise(i+1))
		p -= float64(r.LR * m[k])
		if got != p {
			t.Fatalf("step %d: %.17g, want %.17g", i+1, got, p)
		}
	}
}

// stepSizes returns how far a constant gradient moves the parameter down at each step, in units of the learning rate.
func stepSizes(t *testing.T, r Rule, lr float64, steps int) []float64 {
	const g = 0.5
	out := make([]float64, steps)
	last := 0.0
	for i, p := range trajectory(t, r, 0, steps, func(float64, int) float64 { return g }) {
		out[i] = (last - p) / lr
		switch r.(type) {
		case PNM, SGD: // these are linear in the gradient
			out[i] /= g
		}
		last = p
	}
	return out
}

// The first steps under a constant gradient, and what they tend to.
func TestFirstSteps(t *testing.T) {
	const n = 4000
	gamma := math.Sqrt(5)
	adapnm, adam := NewAdaPNM(), NewAdam()
	adapnm.Eps, adam.Eps = 0, 0
	exact := adapnm
	exact.ExactBias = true
	for _, c := range []struct {
		name string
		rule Rule
		lr   float64
		want []float64
		end  float64
	}{
		// The masses of the momenta are 0.19 after one update, 0.3439 after two.
		{"PNM", NewPNM(1), 1, []float64{2 * 0.19 / gamma, (2*0.19 - 0.19) / gamma, (2*0.3439 - 0.19) / gamma}, 1 / gamma},
		// The authors divide by 0.1, 0.19, 0.271: 1.699, 0.447, 0.822.
		{"AdaPNM", adapnm, adapnm.LR, []float64{2 * 0.19 / 0.1 / gamma, 1 / gamma, (2*0.3439 - 0.19) / 0.271 / gamma}, 1 / gamma},
		// The exact correction divides by 0.19, 0.19, 0.3439: 0.894, 0.447, …
		{"ExactBias", exact, exact.LR, []float64{2 / gamma, 1 / gamma, (2 - 0.19/0.3439) / gamma}, 1 / gamma},
		{"SGD", NewSGD(1), 1, []float64{1, 1, 1}, 1},
		// (1−μ^t)/(1−μ); Nesterov is one step ahead of that.
		{"momentum", SGD{LR: 1, Momentum: 0.9}, 1, []float64{1, 1.9, 2.71}, 10},
		{"Nesterov", SGD{LR: 1, Momentum: 0.9, Nesterov: true}, 1, []float64{1.9, 2.71, 3.439}, 10},
		// Dampening begins with the second step: 1, 0.9 + 0.6, 0.9·1.5 + 0.6.
		{"dampening", SGD{LR: 1, Momentum: 0.9, Dampening: 0.4}, 1, []float64{1, 1.5, 1.95}, 6},
		{"Adam", adam, adam.LR, []float64{1, 1, 1}, 1},
	} {
		got := stepSizes(t, c.rule, c.lr, n)
		for i, w := range c.want {
			wantClose(t, fmt.Sprintf("%s, step %d", c.name, i+1), got[i], w, 1e-12)
		}
		wantClose(t, c.name+", in the end", got[n-1], c.end, 1e-9)
	}
}

// ExactBias differs from the authors' correction on odd steps only: there by the mass that 1−β1^t misses.
func TestExactBias(t *testing.T) {
	official, exact := NewAdaPNM(), NewAdaPNM()
	exact.ExactBias = true
	for n := 1; n < 200; n++ {
		a, b := exactly(official, n), exactly(exact, n)
		ratio := 1.0
		if n%2 == 1 {
			ratio = (1 - math.Pow(0.9, float64(n))) / (1 - math.Pow(0.9, float64(n+1)))
		}
		wantClose(t, fmt.Sprintf("k1 at step %d", n), b.k1, ratio*a.k1, 1e-13)
		wantClose(t, fmt.Sprintf("k2 at step %d", n), b.k2, ratio*a.k2, 1e-13)
	}
}

// Decay alone, without gradients: decoupled decay shrinks a parameter by 1−ηλ a step; coupled decay acts as a gradient λ·p.
func TestDecay(t *testing.T) {
	none := func(float64, int) float64 { return 0 }
	for _, r := range sampleRules() {
		r = changed(changed(r, "Maximize", false), "WeightDecay", 0.1)
		decoupled, coupled := changed(r, "Decoupled", true), changed(r, "Decoupled", false)
		gradient := changed(coupled, "WeightDecay", 0.0)
		keep := 1 - reflect.ValueOf(r).FieldByName("LR").Float()*0.1
		want := 1.0
		for i, got := range trajectory(t, decoupled, 1, 20, none) {
			want *= keep
			wantClose(t, fmt.Sprintf("%+v, step %d", decoupled, i+1), got, want, 1e-14)
		}
		by := trajectory(t, gradient, 1, 20, func(p float64, _ int) float64 { return 0.1 * p })
		for i, got := range trajectory(t, coupled, 1, 20, none) {
			if got != by[i] {
				t.Fatalf("%+v, step %d: %g, but as a gradient %g", coupled, i+1, got, by[i])
			}
		}
	}
}

// Maximizing is minimizing with the gradient's sign turned, to the bit.
func TestMaximize(t *testing.T) {
	for _, r := range sampleRules() {
		down, up := changed(r, "Maximize", false), changed(r, "Maximize", true)
		a := trajectory(t, down, 1, 50, func(_ float64, t int) float64 { return noise(t) })
		b := trajectory(t, up, 1, 50, func(_ float64, t int) float64 { return -noise(t) })
		wantSame(t, fmt.Sprintf("%+v", up), b, a)
	}
}

// 1−βⁿ is correctly rounded: its power is the float64 nearest to the exact one.
func TestEMAMass(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	check := func(beta float64, n int) {
		t.Helper()
		if got, want := emaMass(beta, n), 1-power(beta, n); got != want {
			t.Errorf("1 − %v^%d is %v, want %v", beta, n, got, want)
		}
	}
	for _, beta := range []float64{0, math.SmallestNonzeroFloat64, 1e-200, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1 - 1e-9, 1 - 0x1p-53} {
		for n := 1; n <= 300; n++ {
			check(beta, n)
		}
		for range 300 {
			check(beta, 1+rng.IntN(1<<rng.IntN(31)))
		}
	}
	for range 3000 {
		check(1-math.Exp(-20*rng.Float64()), 1+rng.IntN(100_000))
	}
	check(0.999, math.MaxInt)
}

// β0 may be any finite number: only the ratio of the weights to √γ counts, which tends to η/√2 and never overflows.
func TestHugeBeta0(t *testing.T) {
	for _, beta0 := range []float64{1e100, 1e155, 1e300, -math.MaxFloat64, math.MaxFloat64} {
		k1, k2 := noiseWeights(0.5, beta0)
		want := math.Copysign(0.5/math.Sqrt2, beta0)
		wantClose(t, fmt.Sprintf("k1 at β0 = %g", beta0), k1, want, 1e-15)
		wantClose(t, fmt.Sprintf("k2 at β0 = %g", beta0), k2, want, 1e-15)
	}
}

// The coefficients' products are rounded on their own, too: the recorded bits alone would seldom show it if they were not.
func TestCoefficientsAreNotFused(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	for range 10_000 {
		x, y, beta0 := rng.Float64(), rng.Float64(), 4*rng.Float64()-2
		if got, want := exactly(PNM{LR: x, WeightDecay: y, Decoupled: true}, 1).keep, sub(1, mul(x, y)); got != want {
			t.Fatalf("keep of %v and %v is %v, want %v", x, y, got, want)
		}
		gamma := add(mul(1+beta0, 1+beta0), mul(beta0, beta0))
		if got, _ := noiseWeights(x, beta0); got != div(mul(x, 1+beta0), math.Sqrt(gamma)) {
			t.Fatalf("k1 of %v and %v is %v", x, beta0, got)
		}
		if got, want := exactly(PNM{Beta1: x}, 1).alpha1, sub(1, mul(x, x)); got != want {
			t.Fatalf("1−β1² of %v is %v, want %v", x, got, want)
		}
	}
}
