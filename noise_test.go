package pnm

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// termsByHand are the numbers whose squares the noise is made of, as noise.go defines them.
func termsByHand[T Float](m, n []T, b float64, step int) (p, d []T) {
	w, v := T(div(1, 1-power(b, step-step/2))), T(div(1, 1-power(b, step/2)))
	for i := range m {
		x, y := mul(w, m[i]), mul(v, n[i])
		p, d = append(p, x+y), append(d, x-y)
	}
	return p, d
}

// noiseByHand returns the sums of an update at its last step: by definition those of the squares of numbers in memory.
func noiseByHand(u *Update) (s NoiseSums) {
	if u.Skip || u.Step < 2 || !forms[u.Rule.form()].Has("n") {
		return s
	}
	c := exactly(u.Rule, u.Step)
	var p, d Vector
	if u.State[0].format == f64 {
		x, y := termsByHand(u.State[0].Float64(), u.State[1].Float64(), c.beta1, u.Step)
		p, d = Float64(x), Float64(y)
	} else {
		x, y := termsByHand(u.State[0].wide(), u.State[1].wide(), c.beta1, u.Step)
		p, d = Float32(x), Float32(y)
	}
	return NoiseSums{SumSquares(nil, p), SumSquares(nil, d)}
}

// noisyRules are rules with two momenta, and one with other decays.
func noisyRules() (all []Rule) {
	for _, r := range sampleRules() {
		if hasTwoMomenta(r) {
			all = append(all, r)
		}
	}
	return append(all, PNM{LR: 1, Beta1: 0.999, Beta0: 1}, PNM{LR: 1, Beta1: 0, Beta0: 1}, PNM{LR: 1, Beta1: 1 - 0x1p-53, Beta0: 1})
}

// noisyUpdate returns an update with momenta in a format, of random numbers of similar size; a few are special.
func noisyUpdate(rng *rand.Rand, r Rule, f format, n, row int) Update {
	u := Update{Rule: r, Step: []int{1, 2, 3, 4, 5, 17, 1000, 1001, math.MaxInt}[rng.IntN(9)], Params: newVector(f32, n), Grads: newVector(f32, n)}
	if f == f64 {
		u.Params, u.Grads = newVector(f64, n), newVector(f64, n)
	}
	u.State = stateOf(r, f, n, row)
	largest := math.Ldexp(1, rng.IntN(60)-50)
	for k := range u.State {
		v := u.State[k].in(anywhereZero)
		if v.format == f64 {
			copy(v.Float64(), spread[float64](rng, n, largest, 60))
		} else {
			convert(v, Float32(spread[float32](rng, n, largest, 30)))
		}
		if n > 0 && rng.IntN(8) == 0 {
			v.fill(rng)
		}
		u.State[k] = v
	}
	return u
}

// someUpdates returns updates of all formats and many lengths.
func someUpdates(rng *rand.Rand, rules []Rule) (all []Update) {
	for range 1 + rng.IntN(6) {
		n := rng.IntN(1 << rng.IntN(14))
		f := []format{f32, f64, bf16, mxfp8}[rng.IntN(4)]
		u := noisyUpdate(rng, rules[rng.IntN(len(rules))], f, n, rowOf(n, rng.Uint64()))
		u.Skip = rng.IntN(8) == 0
		all = append(all, u)
	}
	return all
}

func wantNoise(t *testing.T, what string, got []NoiseSums, updates []Update) {
	t.Helper()
	if len(got) != len(updates) {
		t.Fatalf("%s: %d sums of %d updates", what, len(got), len(updates))
	}
	for i := range updates {
		u := &updates[i]
		if want := noiseByHand(u); got[i] != want {
			t.Fatalf("%s: tensor %d: other sums of %d elements of %s (row %d), %+v after step %d",
				what, i, u.State[0].n, u.State[0].format, u.State[0].row, u.Rule, u.Step)
		}
	}
}

// The sums are those of numbers in memory, in all formats, for any number of workers.
func TestNoiseSums(t *testing.T) {
	sharing(t)
	var pools []*Pool
	for _, n := range workerCounts() {
		pools = append(pools, newTestPool(t, n))
	}
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(51, 52))
		for range 150 {
			updates := someUpdates(rng, append(noisyRules(), NewAdam()))
			for _, p := range pools {
				got, err := SumNoise(p, updates)
				wantNoError(t, err)
				wantNoise(t, fmt.Sprint(p.Workers(), " workers"), got, updates)
			}
		}
	})
}

// sortedBits are the bits of numbers in order, with one NaN.
func sortedBits(v Vector) (bits []uint64) {
	for i := range v.n {
		var x float64
		if v.format == f64 {
			x = v.Float64()[i]
		} else {
			x = float64(v.Float32()[i])
		}
		if x != x {
			x = math.NaN()
		}
		bits = append(bits, math.Float64bits(x))
	}
	slices.Sort(bits)
	return bits
}

// testNoiseTerms compares the numbers that a kernel writes, in whatever order, with those by hand, for all lengths and formats.
func testNoiseTerms(t *testing.T, rng *rand.Rand, place func(bytes int) []byte) {
	t.Helper()
	r := PNM{LR: 1, Beta1: 0.9, Beta0: 1}
	for _, f := range []format{f32, f64, bf16, mxfp8} {
		formats := formatsOf{f32, f32, f, f32}
		if f == f64 {
			formats.p, formats.g = f64, f64
		}
		for n := range 4*lanes + 2 {
			of := mixedTensor(rng, r, formats, 2+rng.IntN(300), n, place)
			r.scalars(of.step, &of.c64)
			var reader noiseReader
			reader.start(of, true)
			var wantP, wantD Vector
			if f == f64 {
				x, y := termsByHand(of.s[0].Float64(), of.s[1].Float64(), of.c64.beta1, of.step)
				wantP, wantD = Float64(x), Float64(y)
			} else {
				x, y := termsByHand(of.s[0].wide(), of.s[1].wide(), of.c64.beta1, of.step)
				wantP, wantD = Float32(x), Float32(y)
			}
			for lo, hi := 0, 0; lo < n; lo = hi {
				hi = min(lo+reader.piece, n)
				p, d := reader.terms(lo, hi)
				if !slices.Equal(sortedBits(p), sortedBits(wantP.cut(lo, hi))) || !slices.Equal(sortedBits(d), sortedBits(wantD.cut(lo, hi))) {
					t.Fatalf("%d elements of %s (row %d), step %d: other terms", n, f, of.s[0].row, of.step)
				}
			}
		}
	}
}

// Every tier makes the same numbers of the momenta, of all bits that these can have, at all alignments.
func TestNoiseTerms(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(61, 62))
		testNoiseTerms(t, rng, anywhere(rng))
	})
}

// A step that reads the noise returns what SumNoise returns after it, and does to memory what it does without.
func TestNoiseOfSteps(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, 3)
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(53, 54))
		for range 150 {
			list := List{Updates: someUpdates(rng, append(noisyRules(), NewAdam()))}
			plain := slices.Clone(list.Updates)
			for i := range plain {
				plain[i].Grads.fill(rng)
				plain[i].Params = plain[i].Params.Clone()
				plain[i].State = slices.Clone(plain[i].State)
				for k := range plain[i].State {
					plain[i].State[k] = plain[i].State[k].Clone()
				}
			}
			noise := make([]NoiseSums, len(list.Updates))
			for i := range noise {
				noise[i].Plus[3] = 7 // what was there before does not matter
			}
			o := Options{Pool: pool, ZeroGrads: rng.IntN(2) == 0}
			o.Noise = noise
			grads := make([]Vector, len(plain)) // the second list zeroes them, too
			for i := range plain {
				grads[i], plain[i].Grads = plain[i].Grads, plain[i].Grads.Clone()
			}
			_, err := UpdateAll(Options{ZeroGrads: o.ZeroGrads}, plain)
			wantNoError(t, err)
			_, err = list.Step(o)
			wantNoError(t, err)
			wantSameList(t, "reading", list.Updates, plain)
			wantNoise(t, "a step", noise, list.Updates)

			after, err := SumNoise(pool, list.Updates)
			wantNoError(t, err)
			if !slices.Equal(noise, after) {
				t.Fatal("SumNoise returns others")
			}
		}
	})
}

// Parts of a step have sums that add up.
func TestNoiseOfParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(55, 56))
	for _, f := range []format{f32, f64, bf16, mxfp8} {
		u := noisyUpdate(rng, NewAdaPNM(), f, 7*blockLen/2+96, 0)
		u.Step = 8
		u.Grads.fill(rng)
		list := List{Updates: []Update{u}}
		var all NoiseSums
		for lo := 0; lo < u.Grads.n; {
			n := min(32*rng.IntN(200), u.Grads.n-lo)
			part := make([]NoiseSums, 1)
			_, err := list.StepPart(Options{Noise: part}, 0, lo, u.Grads.Slice(lo, lo+n))
			wantNoError(t, err)
			all.Add(&part[0])
			lo += n
		}
		want := noiseByHand(&u)
		got, err := all.Noise(u.Rule, u.Step)
		wantNoError(t, err)
		wanted, err := want.Noise(u.Rule, u.Step)
		wantNoError(t, err)
		if !sameBits(got.Signal, wanted.Signal) || !sameBits(got.Variance, wanted.Variance) {
			t.Errorf("%s: %+v in parts, want %+v", f, got, wanted)
		}
	}
}

// A step that is skipped has read nothing.
func TestNoNoiseOfSkippedSteps(t *testing.T) {
	u := noisyUpdate(rand.New(rand.NewPCG(57, 58)), NewPNM(1), f32, 100, 0)
	u.Step = 5
	u.Grads.Float32()[3] = float32(math.Inf(1))
	noise := make([]NoiseSums, 1)
	noise[0].Minus[4] = 5
	report, err := UpdateAll(Options{SkipNonFinite: true, Noise: noise}, []Update{u})
	wantNoError(t, err)
	if !report.Skipped || noise[0] != (NoiseSums{}) {
		t.Errorf("%+v, %v", report, noise[0].Minus[4])
	}
}

// The estimates are what their formulas say.
func TestNoiseEstimates(t *testing.T) {
	for _, beta := range []float64{0, 0.5, 0.9, 0.999} {
		for step := range 40 {
			r := PNM{LR: 1, Beta1: beta, Beta0: 1}
			m, n := []float64{1, -2, 3}, []float64{2, 1, 0.5}
			sums, err := SumNoise(nil, []Update{{Rule: r, Step: step, State: Vectors(m, n)}})
			wantNoError(t, err)
			got, err := sums[0].Noise(r, step)
			wantNoError(t, err)
			if step < 2 {
				if !math.IsNaN(got.Signal) || !math.IsNaN(got.Variance) || !math.IsNaN(got.Scale()) {
					t.Errorf("%+v after step %d", got, step)
				}
				continue
			}
			var product, square, left float64
			k := [2]int{(step + 1) / 2, step / 2}
			for i := range m {
				x, y := m[i]/(1-math.Pow(beta*beta, float64(k[0]))), n[i]/(1-math.Pow(beta*beta, float64(k[1])))
				product += x * y
				square += (x - y) * (x - y)
			}
			for _, k := range k { // the weights of k gradients, one by one
				var sum, squares float64
				for i := range k {
					w := (1 - beta*beta) * math.Pow(beta*beta, float64(i))
					sum, squares = sum+w, squares+w*w
				}
				left += squares / (sum * sum)
			}
			what := fmt.Sprintf("β1 = %g, step %d: ", beta, step)
			wantClose(t, what+"signal", got.Signal, product, 1e-9)
			wantClose(t, what+"variance", got.Variance, square/left, 1e-9)
			wantClose(t, what+"scale", got.Scale(), square/left/product, 1e-9)
		}
	}
}

// Sums that are too large or small for one float64 have estimates.
func TestExtremeNoise(t *testing.T) {
	r := PNM{LR: 1, Beta1: 0, Beta0: 1}
	for _, c := range []struct {
		m, n             float64
		signal, variance float64
	}{
		{0, 0, 0, 0},
		{0x1p-537, 0x1p-537, 0x1p-1074, 0},
		{0x1p500, 0, 0, 0x1p999},
		{0x1p600, 0, math.NaN(), math.Inf(1)},
		{math.Inf(1), 0, math.NaN(), math.Inf(1)},
		{math.NaN(), 0, math.NaN(), math.NaN()},
	} {
		sums, err := SumNoise(nil, []Update{{Rule: r, Step: 2, State: Vectors([]float64{c.m}, []float64{c.n})}})
		wantNoError(t, err)
		if got, err := sums[0].Noise(r, 2); err != nil || !sameBits(got.Signal, c.signal) || !sameBits(got.Variance, c.variance) {
			t.Errorf("%g and %g: %+v, %v", c.m, c.n, got, err)
		}
	}
}

// Bad input is refused, and nothing is read.
func TestBadNoise(t *testing.T) {
	x := make([]float32, 4)
	good := Update{Rule: NewPNM(1), Step: 3, State: Vectors(x[:2], x[2:])}
	with := func(change func(u *Update)) Update {
		u := good
		change(&u)
		return u
	}
	for want, u := range map[string]Update{
		"Rule is nil":                                with(func(u *Update) { u.Rule = nil }),
		"Beta1 is 2, must be in [0, 1)":              with(func(u *Update) { u.Rule = PNM{LR: 1, Beta1: 2, Beta0: 1} }),
		"Step is -1, must be ≥ 0":                    with(func(u *Update) { u.Step = -1 }),
		"length of State (pos_momentum, neg":         with(func(u *Update) { u.State = u.State[:1] }),
		"length of neg_momentum is 1, must be 2":     with(func(u *Update) { u.State = Vectors(x[:2], x[:1]) }),
		"neg_momentum is float64, must be float32":   with(func(u *Update) { u.State = []Vector{Float32(x[:2]), newVector(f64, 2)} }),
		"pos_momentum is f16, must be float32, bf16": with(func(u *Update) { u.State = []Vector{newVector(f16, 2), newVector(f16, 2)} }),
	} {
		sums, err := SumNoise(nil, []Update{good, u})
		var of *TensorError
		if !errors.As(err, &of) || of.Tensor != 1 || !strings.Contains(err.Error(), want) || sums != nil {
			t.Errorf("%v, want %q", err, want)
		}
	}
	var s NoiseSums
	for _, c := range []struct {
		rule Rule
		step int
		want string
	}{
		{NewAdam(), 2, "pnm: Adam does not keep two momenta"}, {nil, 2, "Rule is nil"}, {PNM{}, 2, "NewPNM"}, {NewPNM(1), -2, "Step is -2"},
	} {
		if _, err := s.Noise(c.rule, c.step); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	list := List{Updates: []Update{good}}
	list.Updates[0].Params, list.Updates[0].Grads = newVector(f32, 2), newVector(f32, 2)
	list.Updates[0].Grads.Float32()[0] = 1
	_, whole := list.Step(Options{Noise: make([]NoiseSums, 2)})
	_, part := list.StepPart(Options{Noise: []NoiseSums{}}, 0, 0, list.Updates[0].Grads)
	for n, err := range map[int]error{2: whole, 0: part} {
		var length *LengthError
		if !errors.As(err, &length) || *length != (LengthError{"Options.Noise", n, 1}) || x[0] != 0 {
			t.Errorf("%d sums: %v", n, err)
		}
	}
}

// Reading in a step allocates nothing, once there was one.
func TestNoiseAllocates(t *testing.T) {
	list := List{Updates: []Update{noisyUpdate(rand.New(rand.NewPCG(59, 60)), NewAdaPNM(), bf16, 3*blockLen, 0)}}
	o := Options{Noise: make([]NoiseSums, 1)}
	if n := testing.AllocsPerRun(20, func() {
		list.Updates[0].Step = 7
		_, err := list.Step(o)
		wantNoError(t, err)
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}
