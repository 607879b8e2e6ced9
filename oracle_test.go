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
	var lr, decay float64
	var decoupled, maximize bool
	var descend func(g T, s []T) T // updates the state and returns what to subtract
	one := 1.0
	ema := func(m *T, decay, weight float64, g T) { *m = add(mul(T(decay), *m), mul(T(weight), g)) }
	second := func(v *T, beta2 float64, g T) { *v = add(mul(T(beta2), *v), mul(mul(T(sub(one, beta2)), g), g)) }
	largest := func(x *T, v T) {
		if !(*x > v) && *x == *x { // a NaN stays
			*x = v
		}
	}
	turns := func(s []T) (m, n *T) {
		if t%2 == 0 {
			return &s[1], &s[0]
		}
		return &s[0], &s[1]
	}
	noise := func(lr, beta0 float64) (k1, k2 float64) {
		norm := math.Sqrt(add(mul(add(one, beta0), add(one, beta0)), mul(beta0, beta0)))
		return div(mul(lr, add(one, beta0)), norm), div(mul(lr, beta0), norm)
	}
	denominator := func(w T, beta2, eps float64) T {
		return add(mul(root(w), T(div(one, math.Sqrt(sub(one, power(beta2, t)))))), T(eps))
	}

	switch r := rule.(type) {
	case PNM:
		lr, decay, decoupled, maximize = r.LR, r.WeightDecay, r.Decoupled, r.Maximize
		k1, k2 := noise(r.LR, r.Beta0)
		descend = func(g T, s []T) T {
			m, n := turns(s)
			ema(m, mul(r.Beta1, r.Beta1), sub(one, mul(r.Beta1, r.Beta1)), g)
			return sub(mul(T(k1), *m), mul(T(k2), *n))
		}
	case AdaPNM:
		lr, decay, decoupled, maximize = r.LR, r.WeightDecay, r.Decoupled, r.Maximize
		n := t
		if r.ExactBias {
			n = (t + 1) / 2 * 2
		}
		bias := sub(one, power(r.Beta1, n))
		k1, k2 := noise(r.LR, r.Beta0)
		k1, k2 = div(k1, bias), div(k2, bias)
		descend = func(g T, s []T) T {
			m, n := turns(s)
			ema(m, mul(r.Beta1, r.Beta1), sub(one, mul(r.Beta1, r.Beta1)), g)
			second(&s[2], r.Beta2, g)
			w := s[2]
			if r.AMSGrad {
				largest(&s[3], w)
				w = s[3]
			}
			return div(sub(mul(T(k1), *m), mul(T(k2), *n)), denominator(w, r.Beta2, r.Eps))
		}
	case SGD: // torch.optim.SGD
		lr, decay, decoupled, maximize = r.LR, r.WeightDecay, r.Decoupled, r.Maximize
		descend = func(g T, s []T) T {
			if r.Momentum == 0 {
				return mul(T(lr), g)
			}
			if t == 1 {
				s[0] = g
			} else {
				ema(&s[0], r.Momentum, sub(one, r.Dampening), g)
			}
			if r.Nesterov {
				return mul(T(lr), add(g, mul(T(r.Momentum), s[0])))
			}
			return mul(T(lr), s[0])
		}
	case Adam: // torch.optim.Adam, torch.optim.AdamW
		lr, decay, decoupled, maximize = r.LR, r.WeightDecay, r.Decoupled, r.Maximize
		k1 := div(lr, sub(one, power(r.Beta1, t)))
		descend = func(g T, s []T) T {
			ema(&s[0], r.Beta1, sub(one, r.Beta1), g)
			second(&s[1], r.Beta2, g)
			w := s[1]
			if r.AMSGrad {
				largest(&s[2], w)
				w = s[2]
			}
			return div(mul(T(k1), s[0]), denominator(w, r.Beta2, r.Eps))
		}
	case Lion:
		lr, decay, decoupled, maximize = r.LR, r.WeightDecay, r.Decoupled, r.Maximize
		descend = func(g T, s []T) T {
			c := s[0]
			ema(&c, r.Beta1, sub(one, r.Beta1), g)
			ema(&s[0], r.Beta2, sub(one, r.Beta2), g)
			if c == 0 || c != c {
				return mul(T(lr), add(c, 0)) // +0 for −0
			}
			return mul(T(lr), T(math.Copysign(1, float64(c))))
		}
	default:
		panic(fmt.Sprintf("no oracle for %T", rule))
	}

	gs, l2, keep := one, 0.0, one
	if maximize {
		gs = -1
	}
	if decoupled {
		keep = sub(one, mul(lr, decay))
	} else {
		l2 = decay
	}
	return func(p, g T, s []T) (T, []T) {
		s = slices.Clone(s)
		g = mul(T(gs), g)
		if T(l2) != 0 {
			g = add(g, mul(T(l2), p))
		}
		u := descend(g, s)
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
	for k, name := range forms[r.form()].Slots {
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
	for rule := range uint8(len(Rules())) {
		f.Add(rule, uint8(0b1111), 1, 1e-3, 0.9, 0.999, 1.0, 1e-8, 0.0, uint8(1), []byte("0123456789abcdefghijklmnopqrstuvwxyz0123456789ab"))
		f.Add(rule, uint8(0), 2, 1.0, 0.9, 0.0, -0.5, 0.0, 0.1, uint8(21), bytes.Repeat([]byte{0xff, 0x80, 0x7f}, 16))
		f.Add(rule, uint8(0b0110), -1, math.NaN(), 1.0, math.Inf(1), math.MaxFloat64, -1.0, 1e300, uint8(40), []byte{})
	}
	f.Fuzz(func(t *testing.T, rule, options uint8, step int, lr, beta1, beta2, beta0, eps, decay float64, n uint8, data []byte) {
		values := map[string]float64{"lr": lr, "beta1": beta1, "beta2": beta2, "beta0": beta0, "eps": eps, "weight_decay": decay,
			"momentum": beta1, "dampening": beta2}
		r := Rules()[int(rule)%len(Rules())]
		bits := options
		for name, was := range r.Hyperparameters() {
			if _, ok := was.(bool); ok {
				r = set(r, name, bits&1 != 0)
				bits >>= 1
			} else {
				r = set(r, name, values[name])
			}
		}
		// The oracle's γ overflows before the engine's, and its powers of large steps take too long.
		comparable := math.Abs(beta0) < 0x1p500 && int64(step) < 1<<40
		for _, tier := range tiers() {
			useTier(t, tier)
			fuzzOne[float32](t, r, step, int(n%50), data, comparable)
			fuzzOne[float64](t, r, step, int(n%50), data, comparable)
			fuzzMixed(t, r, step, int(n%50), options, data)
		}
	})
}

// fuzzMixed updates vectors of all combinations of formats by the active tier and by the reference.
func fuzzMixed(t *testing.T, r Rule, step, n int, formats uint8, data []byte) {
	all := allFormats(r)
	f := all[int(formats)%len(all)]
	place := func(bytes int) []byte {
		b := anywhereZero(bytes)
		for i := range b {
			b[i] = data[i%len(data)]
		}
		return b
	}
	if len(data) == 0 {
		place = anywhereZero
	}
	got := mixedTensor(nil, r, f, step, n, place)
	got.follow = f.p == f32 && f.out != f32 && formats&0x80 != 0
	want := got.clone()
	update := func(t *tensor) (Report, error) {
		u := Update{r, step, t.p, t.g, t.s[:len(forms[t.form].Slots)], t.out, t.follow, Rounding{Seed: uint64(formats)}, false}
		return UpdateAll(Options{ClipValue: float64(formats & 1)}, []Update{u})
	}
	a, err := update(got)
	if err != nil {
		wantSameTensor(t, "after an error", got, want)
		return
	}
	tier := active
	active = generic
	b, err := update(want)
	active = tier
	wantNoError(t, err)
	wantSameTensor(t, fmt.Sprintf("%+v, %s", r, f), got, want)
	if a != b {
		t.Fatalf("reports %+v and %+v", a, b)
	}
}

func fuzzOne[T Float](t *testing.T, r Rule, step, n int, data []byte, comparable bool) {
	slots := len(forms[r.form()].Slots)
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
