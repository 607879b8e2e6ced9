package pnm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// A Vector is its slice: elements, bytes and parts of it are the caller's memory.
func TestVectorIsItsSlice(t *testing.T) {
	x, y, b := lcg[float32](1, 9), lcg[float64](2, 9), []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9}
	h := slices.Clone(b)
	l := []int16{1, 2, 3, 4, 5, 6, 7, 8, 9}
	all := append(Vectors(x), append(Vectors(y), BF16(b), F16(h), Low16(l))...)
	for i, v := range all {
		if v.Len() != 9 || v.Format() != formats[i] || v.IsNil() || len(v.Bytes()) != 9*v.size() {
			t.Errorf("%d elements of %s, %d bytes, want 9 of %s", v.Len(), v.Format(), len(v.Bytes()), formats[i])
		}
		part := v.Slice(2, 7).Slice(1, 3) // elements 3 and 4
		if part.Len() != 2 || &part.Bytes()[0] != &v.Bytes()[3*v.size()] {
			t.Errorf("%s: a slice lies elsewhere", v.Format())
		}
		bytes := slices.Clone(v.Bytes())
		if part.Clear(); slices.Equal(bytes, v.Bytes()) || !slices.Equal(append(append(bytes[:3*v.size():3*v.size()], make([]byte, 2*v.size())...), bytes[5*v.size():]...), v.Bytes()) {
			t.Errorf("%s: % x is cleared to % x", v.Format(), bytes, v.Bytes())
		}
		c := v.Clone()
		if c.Format() != v.Format() || !slices.Equal(c.Bytes(), v.Bytes()) || &c.Bytes()[0] == &v.Bytes()[0] {
			t.Errorf("%s: the clone is %v", v.Format(), c)
		}
		if empty := v.Slice(9, 9); empty.IsNil() || empty.Len() != 0 || len(empty.Bytes()) != 0 {
			t.Errorf("%s: an empty slice is %v", v.Format(), empty)
		}
		for _, bad := range [][2]int{{-1, 2}, {3, 2}, {0, 10}, {10, 10}} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: elements %v are there", v.Format(), bad)
					}
				}()
				v.Slice(bad[0], bad[1])
			}()
		}
	}
	for i, v := range all {
		got := [...]bool{v.Float32() != nil, v.Float64() != nil, v.Bits() != nil}
		if want := [...]bool{i == 0, i == 1, i >= 2}; got != want {
			t.Errorf("%s: slices of float32, float64 and 16 bits: %v", v.Format(), got)
		}
	}
	if &all[0].Float32()[8] != &x[8] || &all[1].Float64()[8] != &y[8] || &all[2].Bits()[8] != &b[8] || &all[3].Bits()[8] != &h[8] ||
		unsafe.Pointer(&all[4].Bits()[8]) != unsafe.Pointer(&l[8]) {
		t.Error("the slices lie elsewhere")
	}
}

// A nil slice is nil however it is taken, and one without elements is not.
func TestNilVector(t *testing.T) {
	for _, v := range append(Vectors[float64](nil), Vector{}, Float32(nil), BF16[uint16](nil), F16[uint16](nil), Low16[int16](nil), Vector{}.Slice(0, 0), Vector{}.Clone()) {
		if !v.IsNil() || v.Len() != 0 || len(v.Bytes()) != 0 {
			t.Errorf("%v is not nil", v)
		}
		v.Clear()
		if n, err := v.Set(v); n != 0 || err != nil {
			t.Errorf("nil is set: %d, %v", n, err)
		}
	}
	for _, v := range append(Vectors([]float64{}), Float32([]float32{}), BF16([]uint16{}), F16([]uint16{}), Low16([]int16{}), Float32([]float32{}).Clone()) {
		if v.IsNil() || v.Len() != 0 {
			t.Errorf("%v is nil", v)
		}
	}
}

// Set converts between all formats of one kind as convert does, which is compared with a definition elsewhere, and copies float64.
func TestVectorSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(65, 66))
	const n = 5000 // more than are converted at a time
	for from := range formats {
		for to := range formats {
			v := newVector(format(from), n)
			if v.format == f64 {
				copy(v.Float64(), random[float64](rng, n))
			} else {
				v.fill(rng)
			}
			w := newVector(format(to), n)
			before := v.Clone()
			overflows, err := w.Set(v)
			if v.format != w.format && (v.format == f64 || v.format == low16 || w.format == f64 || w.format == low16) {
				var e *FormatError
				if want := (&FormatError{"to", w.Format(), v.Format() + " as from"}); !errors.As(err, &e) || !reflect.DeepEqual(e, want) {
					t.Errorf("%s to %s: %v", v.Format(), w.Format(), err)
				}
				wantSameVector(t, "to", w, newVector(format(to), n))
				continue
			}
			wantNoError(t, err)
			wantSameVector(t, "from", v, before)
			want := newVector(format(to), n)
			if wantOver := convert(want, v); overflows != wantOver || (v.format == f32 && w.format == f16) != (overflows > 0) && v.format != bf16 && v.format != mxfp8 {
				t.Errorf("%s to %s: %d overflows, want %d", v.Format(), w.Format(), overflows, wantOver)
			}
			if v.format == w.format {
				want = before
				if !slices.Equal(w.Bytes(), v.Bytes()) { // NaNs as well
					t.Errorf("%s is not copied", v.Format())
				}
			}
			wantSameVector(t, v.Format()+" to "+w.Format(), w, want)
		}
	}
	refuse(t, []refusal{
		{"length", func(x []float32) error { _, err := Float32(x[:8]).Set(Float32(x[8:17])); return err },
			&LengthError{"to", 8, 9}, "length of to is 8, must be 9"},
		{"overlap", func(x []float32) error { _, err := Float32(x[:8]).Set(Float32(x[6:14])); return err },
			&OverlapError{"to", "from", 2, nil, nil}, "to and from share 2 elements"},
		{"overlap of formats", func(x []float32) error {
			_, err := Vector{at: Float32(x[3:7]).at, n: 8, layout: layout{format: bf16}}.Set(Float32(x[6:14]))
			return err
		}, &OverlapError{"to", "from", 1, nil, nil}, "to and from share 1 elements"},
		{"itself", func(x []float32) error { _, err := Float32(x[:8]).Set(Float32(x[:8])); return err },
			&OverlapError{"to", "from", 8, nil, nil}, "share 8"},
	})
}

// Vectors are saved and read again, in binary and as text.
func TestVectorIsSaved(t *testing.T) {
	for _, v := range []Vector{{}, ordinary(bf16, 1, 5), ordinary(f16, 2, 3), ordinary(low16, 5, 4), ordinary(f32, 3, 7), Float64(lcg[float64](4, 2))} {
		b, err := v.MarshalBinary()
		wantNoError(t, err)
		text, err := json.Marshal(map[string]Vector{"exp_avg": v})
		wantNoError(t, err)
		var u Vector
		var m map[string]Vector
		wantNoError(t, u.UnmarshalBinary(b))
		wantNoError(t, json.Unmarshal(text, &m))
		for _, w := range []Vector{u, m["exp_avg"]} {
			if w.format != v.format || w.n != v.n || w.IsNil() != v.IsNil() || string(w.Bytes()) != string(v.Bytes()) {
				t.Errorf("%v becomes %v", v, w)
			}
		}
	}
	b, err := BF16([]uint16{0x0102}).MarshalBinary()
	wantNoError(t, err)
	if string(b) != "\x02\x02\x01" {
		t.Errorf("bf16 0x0102 is saved as % x", b)
	}
	for _, bad := range [][]byte{{}, {5}, {0, 1, 2}, {2, 1}, {4, 1}} {
		if err := new(Vector).UnmarshalBinary(bad); err == nil {
			t.Errorf("% x is read", bad)
		}
	}
	if err := new(Vector).UnmarshalText([]byte("*")); err == nil {
		t.Error("* is read")
	}
}

// What Split makes of numbers, by the definition that TestSplitAndJoin tests, Join makes numbers of, in pieces as well.
func TestVectorSplit(t *testing.T) {
	rng := rand.New(rand.NewPCG(67, 68))
	const n = 5000 // more than are cut at a time
	for _, f := range []format{f32, bf16, f16} {
		from := newVector(f, n)
		from.fill(rng)
		upper, low := newVector(bf16, n), newVector(low16, n)
		before := from.Clone()
		wantNoError(t, Split(upper, low, from))
		wantSameVector(t, "from", from, before)
		for i, x := range from.wide() {
			if u, l := splitBF16(x); u != upper.Bits()[i] || l != low.Bits()[i] {
				t.Fatalf("%s: %x is split into %x and %x, want %x and %x", f, x, upper.Bits()[i], low.Bits()[i], u, l)
			}
		}
		joined := newVector(f32, n)
		for _, border := range [][2]int{{0, 77}, {77, 78}, {78, n}, {n, n}} {
			cut := func(v Vector) Vector { return v.Slice(border[0], border[1]) }
			wantNoError(t, Join(cut(joined), cut(upper), cut(low)))
		}
		wantSame(t, "joined", joined.Float32(), from.wide())
	}
	half := func(x []float32) []uint16 { return unsafe.Slice((*uint16)(unsafe.Pointer(&x[0])), 2*len(x)) }
	split := func(u, l, x func(m []float32) Vector) func(m []float32) error {
		return func(m []float32) error {
			err := Split(u(m), l(m), x(m))
			if x(m).format == f32 {
				if joined := Join(x(m), u(m), l(m)); fmt.Sprint(joined) != strings.Replace(fmt.Sprint(err), "from", "to", 1) {
					t.Errorf("Join: %v, Split: %v", joined, err)
				}
			}
			return err
		}
	}
	at := func(lo, hi int) func([]float32) Vector { return func(m []float32) Vector { return Float32(m[lo:hi]) } }
	upper := func(lo, hi int) func([]float32) Vector {
		return func(m []float32) Vector { return BF16(half(m[lo:hi])) }
	}
	low := func(lo, hi int) func([]float32) Vector {
		return func(m []float32) Vector { return Low16(half(m[lo:hi])) }
	}
	refuse(t, []refusal{
		{"upper", split(low(0, 4), low(4, 8), at(8, 16)), &FormatError{"upper", "low16", "bf16"}, "format of upper is low16, must be bf16"},
		{"low", split(upper(0, 4), upper(4, 8), at(8, 16)), &FormatError{"low", "bf16", "low16"}, "format of low is bf16, must be low16"},
		{"from", split(upper(0, 4), low(4, 8), low(8, 12)), &FormatError{"from", "low16", "float32, bf16 or f16"}, "format of from is low16"},
		{"to", func(m []float32) error { return Join(upper(8, 12)(m), upper(0, 4)(m), low(4, 8)(m)) }, &FormatError{"to", "bf16", "float32"}, "to is bf16"},
		{"length of upper", split(upper(0, 3), low(4, 8), at(8, 16)), &LengthError{"upper", 6, 8}, "upper is 6, must be 8"},
		{"length of low", split(upper(0, 4), low(4, 7), at(8, 16)), &LengthError{"low", 6, 8}, "low is 6, must be 8"},
		{"overlap of halves", split(upper(0, 4), low(3, 7), at(8, 16)), &OverlapError{Arg: "upper", OtherArg: "low", Elements: 2}, "upper and low share 2"},
		{"overlap of upper", split(upper(7, 11), low(0, 4), at(8, 16)), &OverlapError{Arg: "upper", OtherArg: "from", Elements: 3}, "upper and from share 3"},
		{"overlap of low", split(upper(0, 4), low(13, 17), at(8, 16)), &OverlapError{Arg: "low", OtherArg: "from", Elements: 3}, "low and from share 3"},
	})
}
