package pnm

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"unsafe"
)

var thorough = flag.Bool("thorough", false, "run the variants of tests that take long")

// lcg returns n inputs as the golden and the recorded files define them: multiples of 2⁻²³ in [−1, 1).
func lcg[T Float](seed uint64, n int) []T {
	out := make([]T, n)
	for i := range out {
		seed = seed*6364136223846793005 + 1442695040888963407
		out[i] = T(float64(seed>>40)/(1<<23) - 1)
	}
	return out
}

// updateSlices is the drop-in call of whatever rule r is; state holds the buffers in the order of the call.
func updateSlices[T Float](r Rule, t int, p, g []T, state [][]T) error {
	_, err := updateSlicesWith(Options{}, r, t, p, g, state)
	return err
}

func updateSlicesWith[T Float](o Options, r Rule, t int, p, g []T, state [][]T) (Report, error) {
	var s [maxSlots][]T
	copy(s[:], state)
	switch r := r.(type) {
	case PNM:
		return UpdatePNMWith(o, r, t, p, g, s[0], s[1])
	case AdaPNM:
		return UpdateAdaPNMWith(o, r, t, p, g, s[0], s[1], s[2], s[3])
	case SGD:
		return UpdateSGDWith(o, r, t, p, g, s[0])
	case Adam:
		return UpdateAdamWith(o, r, t, p, g, s[0], s[1], s[2])
	}
	panic(fmt.Sprintf("no drop-in call for %T", r))
}

func sizeOf[T Float]() int { return int(unsafe.Sizeof(*new(T))) }

// newState returns zeroed buffers for a tensor of n elements.
func newState[T Float](r Rule, n int) [][]T {
	s := make([][]T, len(forms[r.form()].slots))
	for i := range s {
		s[i] = make([]T, n)
	}
	return s
}

// tensorOf returns a tensor of a form over slices.
func tensorOf[T Float](f form, step int, p, g []T, state [][]T) tensor {
	t := tensor{form: f, step: step, p: vectorOf(p), g: vectorOf(g)}
	for i, s := range state {
		t.s[i] = vectorOf(s)
	}
	return t
}

// coefficients returns the coefficients of step t.
func coefficients[T Float](r Rule, t int) (c scalars[T], err error) {
	exact := r.scalars(t)
	err = round(forms[r.form()].rule, &exact, &c)
	return c, err
}

// sampleRules has each form at its defaults and with every option turned around.
func sampleRules() []Rule {
	coupled := NewPNM(0.3)
	coupled.Decoupled, coupled.WeightDecay, coupled.Maximize, coupled.Beta0 = false, 0.01, true, -0.7
	noAMSGrad := NewAdaPNM()
	noAMSGrad.AMSGrad, noAMSGrad.WeightDecay = false, 0.5
	exact := NewAdaPNM()
	exact.ExactBias, exact.Decoupled, exact.WeightDecay, exact.Maximize, exact.Beta0 = true, false, 0.02, true, 2
	momentum := SGD{LR: 0.1, Momentum: 0.9, Dampening: 0.3, WeightDecay: 0.02, Maximize: true}
	nesterov := SGD{LR: 0.05, Momentum: 0.8, Nesterov: true, WeightDecay: 0.1, Decoupled: true}
	maxAdam := NewAdamW()
	maxAdam.AMSGrad, maxAdam.Maximize = true, true
	return []Rule{NewPNM(0.5), coupled, NewAdaPNM(), noAMSGrad, exact, NewSGD(0.1), momentum, nesterov, NewAdam(), maxAdam}
}

// changed returns r with a field set to another value.
func changed(r Rule, field string, value any) Rule {
	v := reflect.New(reflect.TypeOf(r)).Elem()
	v.Set(reflect.ValueOf(r))
	v.FieldByName(field).Set(reflect.ValueOf(value))
	return v.Interface().(Rule)
}

func randomRule(rng *rand.Rand) Rule {
	decay := []float64{0, 0, 0.01, 0.5}[rng.IntN(4)]
	beta0, beta2, eps := 4*rng.Float64()-2, 1-math.Exp(-9*rng.Float64()), math.Exp(-20*rng.Float64())
	option := func() bool { return rng.IntN(2) == 0 }
	switch rng.IntN(4) {
	case 0:
		return PNM{math.Exp(8*rng.Float64() - 7), rng.Float64(), beta0, decay, option(), option()}
	case 1:
		return AdaPNM{math.Exp(8*rng.Float64() - 9), rng.Float64(), beta2, beta0, eps, decay, option(), option(), option(), option()}
	case 2:
		r := SGD{LR: math.Exp(8*rng.Float64() - 8), WeightDecay: decay, Decoupled: option(), Maximize: option()}
		if option() {
			r.Momentum, r.Nesterov = 1.5*rng.Float64(), option()
			if !r.Nesterov {
				r.Dampening = 4*rng.Float64() - 2
			}
		}
		return r
	default:
		return Adam{math.Exp(8*rng.Float64() - 9), rng.Float64(), beta2, eps, decay, option(), option(), option()}
	}
}

// specials are the values at which an implementation is most likely to differ.
func specials[T Float]() []T {
	smallest, greatest := math.SmallestNonzeroFloat64, math.MaxFloat64
	if T(smallest) == 0 {
		smallest, greatest = math.SmallestNonzeroFloat32, math.MaxFloat32
	}
	least, largest := T(smallest), T(greatest)
	inf, negZero := T(math.Inf(1)), T(math.Copysign(0, -1))
	return []T{0, negZero, 1, -1, least, -least, 12345 * least, largest, -largest, sqrt(largest), inf, -inf, T(math.NaN())}
}

// littleEndian appends s as little-endian IEEE-754 bytes.
func littleEndian[T Float](b []byte, s []T) []byte {
	b, err := binary.Append(b, binary.LittleEndian, s)
	if err != nil {
		panic(err)
	}
	return b
}

// sameBits reports whether a and b are the same number, bit for bit, or both NaN.
func sameBits[T Float](a, b T) bool {
	return a == b && math.Signbit(float64(a)) == math.Signbit(float64(b)) || a != a && b != b
}

// wantSame fails the test at the first element that differs.
func wantSame[T Float](t *testing.T, what string, got, want []T) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !sameBits(got[i], want[i]) {
			t.Fatalf("%s[%d] = %x, want %x", what, i, got[i], want[i])
		}
	}
}

func stateOf[T Float](t *testing.T, o *Optimizer[T]) []TensorState[T] {
	t.Helper()
	states, err := o.State()
	wantNoError(t, err)
	return states
}

func wantNoError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
