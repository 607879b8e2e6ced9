package pnm

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// A Vector is its slice: elements, bytes and parts of it are the caller's memory.
func TestVectorIsItsSlice(t *testing.T) {
	x, y, b := lcg[float32](1, 9), lcg[float64](2, 9), []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9}
	h := slices.Clone(b)
	all := append(Vectors(x), append(Vectors(y), BF16(b), F16(h))...)
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
	if &all[0].Float32()[8] != &x[8] || &all[1].Float64()[8] != &y[8] || &all[2].Bits()[8] != &b[8] || &all[3].Bits()[8] != &h[8] {
		t.Error("the slices lie elsewhere")
	}
}

// A nil slice is nil however it is taken, and one without elements is not.
func TestNilVector(t *testing.T) {
	for _, v := range append(Vectors[float64](nil), Vector{}, Float32(nil), BF16[uint16](nil), F16[uint16](nil), Vector{}.Slice(0, 0), Vector{}.Clone()) {
		if !v.IsNil() || v.Len() != 0 || len(v.Bytes()) != 0 {
			t.Errorf("%v is not nil", v)
		}
		v.Clear()
		if n, err := v.Set(v); n != 0 || err != nil {
			t.Errorf("nil is set: %d, %v", n, err)
		}
	}
	for _, v := range append(Vectors([]float64{}), Float32([]float32{}), BF16([]uint16{}), F16([]uint16{}), Float32([]float32{}).Clone()) {
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
			if (v.format == f64) != (w.format == f64) {
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
			if wantOver := convert(want, v); overflows != wantOver || (v.format == f32 && w.format == f16) != (overflows > 0) && v.format != bf16 {
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
			_, err := Vector{Float32(x[3:7]).at, 8, bf16}.Set(Float32(x[6:14]))
			return err
		}, &OverlapError{"to", "from", 1, nil, nil}, "to and from share 1 elements"},
		{"itself", func(x []float32) error { _, err := Float32(x[:8]).Set(Float32(x[:8])); return err },
			&OverlapError{"to", "from", 8, nil, nil}, "share 8"},
	})
}

// Vectors are saved and read again, in binary and as text.
func TestVectorIsSaved(t *testing.T) {
	for _, v := range []Vector{{}, ordinary(bf16, 1, 5), ordinary(f16, 2, 3), ordinary(f32, 3, 7), Float64(lcg[float64](4, 2))} {
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
	for _, bad := range [][]byte{{}, {4}, {0, 1, 2}, {2, 1}} {
		if err := new(Vector).UnmarshalBinary(bad); err == nil {
			t.Errorf("% x is read", bad)
		}
	}
	if err := new(Vector).UnmarshalText([]byte("*")); err == nil {
		t.Error("* is read")
	}
}
