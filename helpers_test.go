package pnm

import (
	"encoding/binary"
	"flag"
	"math"
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

func sizeOf[T Float]() int { return int(unsafe.Sizeof(*new(T))) }

// newState returns zeroed buffers for a tensor of n elements.
func newState[T Float](r Rule, n int) [][]T {
	s := make([][]T, len(forms[r.form()].Slots))
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
	exact := exactly(r, t)
	err = round(r.form(), &exact, &c)
	return c, err
}

// exactly returns them as the rule has them.
func exactly(r Rule, t int) (c scalars[float64]) {
	r.scalars(t, &c)
	return c
}

// changed returns r with a field set to another value.
func changed(r Rule, field string, value any) Rule {
	v := reflect.New(reflect.TypeOf(r)).Elem()
	v.Set(reflect.ValueOf(r))
	v.FieldByName(field).Set(reflect.ValueOf(value))
	return v.Interface().(Rule)
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

func wantNoError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
