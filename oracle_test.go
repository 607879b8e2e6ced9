package pnm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// The oracle computes one element as the package comment says, with every operation in a function of its own that is not
// inlined, so that no compiler can fuse or reorder them, and with powers by math/big. It shares no code with the engine.

//go:noinline
func mul[T Float](a, b T) T { return a * b }

//go:noinline
func add[T Float](a, b T) T { return a + b }

//go:noinline
func sub[T Float](a, b T) T { return a - b }

//go:noinline
func div[T Float](a, b T) T { return a / b }

//go:noinline
func root[T Float](a T) T {
	if a != a || a <= 0 || math.IsInf(float64(a), 1) {
		return T(math.Sqrt(float64(a)))
	}
	exact := new(big.Float).SetPrec(200).SetFloat64(float64(a))
	exact.Sqrt(exact)
	if f, ok := any(&a).(*float32); ok {
		*f, _ = exact.Float32()
		return a
	}
	f, _ := exact.Float64()
	return T(f)
}

func power(b float64, n int) float64 {
	exact := new(big.Float).SetPrec(2000).SetInt64(1)
	base := new(big.Float).SetPrec(2000).SetFloat64(b)
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			exact.Mul(exact, base)
		}
		base.Mul(base, base)
	}
	f, _ := exact.Float64()
	return f
}

// oracle returns the function that updates one element, s being its state, at step t.
func oracle[T Float](rule Rule, t int) func(p, g T, s []T) (T, []T) {
	var h AdaPNM // PNM's hyperparameters are among AdaPNM's
	_, adaptive := rule.(AdaPNM)
	if adaptive {
		h = rule.(AdaPNM)
	} else {
		r := rule.(PNM)
		h = AdaPNM{LR: r.LR, Beta1: r.Beta1, Beta0: r.Beta0, WeightDecay: r.WeightDecay, Decoupled: r.Decoupled, Maximize: r.Maximize}
	}
	one := 1.0
	beta1 := mul(h.Beta1, h.Beta1)
	norm := math.Sqrt(add(mul(add(one, h.Beta0), add(one, h.Beta0)), mul(h.Beta0, h.Beta0)))
	k1, k2 := div(mul(h.LR, add(one, h.Beta0)), norm), div(mul(h.LR, h.Beta0), norm)
	if adaptive {
		n := t
		if h.ExactBias {
			n = (t + 1) / 2 * 2
		}
		bias := sub(one, power(h.Beta1, n))
		k1, k2 = div(k1, bias), div(k2, bias)
	}
	r := div(one, math.Sqrt(sub(one, power(h.Beta2, t))))
	gs, l2, keep := one, 0.0, one
	if h.Maximize {
		gs = -1
	}
	if h.Decoupled {
		keep = sub(one, mul(h.LR, h.WeightDecay))
	} else {
		l2 = h.WeightDecay
	}

	return func(p, g T, s []T) (T, []T) {
		s = slices.Clone(s)
		m, n := &s[0], &s[1]
		if t%2 == 0 {
			m, n = n, m
		}
		g = mul(T(gs), g)
		g = add(g, mul(T(l2), p))
		*m = add(mul(T(beta1), *m), mul(T(sub(one, beta1)), g))
		u := sub(mul(T(k1), *m), mul(T(k2), *n))
		if adaptive {
			v := &s[2]
			*v = add(mul(T(h.Beta2), *v), mul(T(sub(one, h.Beta2)), mul(g, g)))
			w := *v
			if h.AMSGrad {
				x := &s[3]
				if !(*x > w) && *x == *x { // a NaN stays
					*x = w
				}
				w = *x
			}
			u = div(u, add(mul(root(w), T(r)), T(h.Eps)))
		}
		return sub(mul(T(keep), p), u), s
	}
}

// differ runs step t of r on the engine and on the oracle and fails at the first bit that differs, also in what must not
// be written.
func differ[T Float](t *testing.T, r Rule, step int, p, g []T, state [][]T) {
	t.Helper()
	wantP, wantG := slices.Clone(p), slices.Clone(g)
	wantState := make([][]T, len(state))
	for k := range state {
		wantState[k] = slices.Clone(state[k])
	}
	f := oracle[T](r, step)
	s := make([]T, len(state))
	for i := range p {
		for k := range state {
			s[k] = state[k][i]
		}
		next, after := f(p[i], g[i], s)
		wantP[i] = next
		for k := range state {
			wantState[k][i] = after[k]
		}
	}
	if err := updateSlices(r, step, p, g, state); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	what := fmt.Sprintf("%+v, step %d, %T: ", r, step, *new(T))
	wantSame(t, what+"grads", g, wantG)
	for k, name := range forms[r.form()].slots {
		wantSame(t, what+name, state[k], wantState[k])
	}
	wantSame(t, what+"params", p, wantP)
}

// random fills n elements with specials, arbitrary bit patterns and ordinary numbers.
func random[T Float](rng *rand.Rand, n int) []T {
	special := specials[T]()
	out := make([]T, n)
	for i := range out {
		switch rng.IntN(4) {
		case 0:
			out[i] = special[rng.IntN(len(special))]
		case 1:
			out[i] = fromBits[T](rng.Uint64())
		default:
			out[i] = T(rng.NormFloat64())
		}
	}
	return out
}

func fromBits[T Float](b uint64) T {
	var x T
	switch f := any(&x).(type) {
	case *float32:
		*f = math.Float32frombits(uint32(b))
	case *float64:
		*f = math.Float64frombits(b)
	}
	return x
}

func differRandom[T Float](t *testing.T, rng *rand.Rand, rules []Rule) {
	t.Helper()
	for _, r := range rules {
		for n := range 20 {
			state := newState[T](r, n)
			for k := range state {
				state[k] = random[T](rng, n)
			}
			step := 1 + rng.IntN(1<<(1+rng.IntN(20)))
			differ(t, r, step, random[T](rng, n), random[T](rng, n), state)
		}
	}
}

// The engine agrees with the oracle bit for bit on random hyperparameters, steps, special values and bit patterns.
func TestOracle(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		rules := sampleRules()
		for range 200 {
			rules = append(rules, randomRule(rng))
		}
		differRandom[float32](t, rng, rules)
		differRandom[float64](t, rng, rules)
	})
}

// FuzzUpdate holds every tier against the oracle on whatever the fuzzer makes up: hyperparameters, legal or not, a step, a
// length, and the bits of the elements. What is refused must be left as it was.
func FuzzUpdate(f *testing.F) {
	f.Add(true, uint8(0b1111), 1, 1e-3, 0.9, 0.999, 1.0, 1e-8, 0.0, uint8(1), []byte("0123456789abcdefghijklmnopqrstuvwxyz0123456789ab"))
	f.Add(false, uint8(0), 2, 1.0, 0.9, 0.0, -0.5, 0.0, 0.1, uint8(21), bytes.Repeat([]byte{0xff, 0x80, 0x7f}, 16))
	f.Add(true, uint8(0b0110), -1, math.NaN(), 1.0, math.Inf(1), math.MaxFloat64, -1.0, 1e300, uint8(40), []byte{})
	f.Fuzz(func(t *testing.T, adaptive bool, options uint8, step int, lr, beta1, beta2, beta0, eps, decay float64, n uint8, data []byte) {
		option := func(i int) bool { return options>>i&1 != 0 }
		var r Rule = PNM{lr, beta1, beta0, decay, option(0), option(1)}
		if adaptive {
			r = AdaPNM{lr, beta1, beta2, beta0, eps, decay, option(0), option(2), option(1), option(3)}
		}
		// The oracle's γ overflows before the engine's, and its powers of large steps take too long.
		comparable := math.Abs(beta0) < 0x1p500 && int64(step) < 1<<40
		for _, tier := range tiers() {
			useTier(t, tier)
			fuzzOne[float32](t, r, step, int(n%50), data, comparable)
			fuzzOne[float64](t, r, step, int(n%50), data, comparable)
		}
	})
}

func fuzzOne[T Float](t *testing.T, r Rule, step, n int, data []byte, comparable bool) {
	slots := len(forms[r.form()].slots)
	words := make([]T, (2+slots)*n)
	for i := range words {
		var b [8]byte
		copy(b[:], data[8*i%(len(data)+1):])
		words[i] = fromBits[T](binary.LittleEndian.Uint64(b[:]))
	}
	stream := func(i int) []T { return words[i*n : (i+1)*n : (i+1)*n] }
	var state [][]T
	for i := range slots {
		state = append(state, stream(2+i))
	}
	before := slices.Clone(words)
	err := updateSlices(r, step, stream(0), stream(1), state)
	if err != nil {
		wantSame(t, "after an error", words, before)
		if r.Validate() == nil && step > 0 && comparable && fits[T](r, step) {
			t.Fatalf("%+v, step %d was refused: %v", r, step, err)
		}
		return
	}
	if comparable {
		copy(words, before)
		differ(t, r, step, stream(0), stream(1), state)
	}
}

// fits reports whether one step from 1 with gradient 0 leaves the oracle, in T, with finite numbers: its coefficients are.
func fits[T Float](r Rule, step int) bool {
	next, _ := oracle[T](r, step)(1, 0, make([]T, maxSlots))
	return next-next == 0
}
