package pnm

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// mx returns zeros in mxfp8.
func mx(n, row int) Vector {
	v, err := Vector{n: n, layout: layout{format: mxfp8}}.inRows(row)
	if err != nil {
		panic(err)
	}
	return v.in(anywhereZero)
}

// A Vector of mxfp8 is its elements and its scales, those of the blocks that the rows have.
func TestMXFP8(t *testing.T) {
	for _, c := range []struct{ n, row, stored, scales int }{
		{0, 0, 0, 0}, {0, 5, 5, 0}, {1, 0, 0, 1}, {32, 0, 0, 1}, {33, 0, 0, 2}, {100, 0, 0, 4}, {96, 32, 0, 3}, {128, 64, 0, 4},
		{5, 1, 1, 5}, {14, 7, 7, 2}, {66, 33, 33, 4}, {33, 33, 33, 2}, {3000, 1000, 1000, 96}, {441, 147, 147, 15},
	} {
		elements, scales := make([]uint8, c.n), make([]uint8, c.scales)
		v, err := MXFP8(elements, scales, c.row)
		wantNoError(t, err)
		if v.Len() != c.n || v.Row() != c.stored || v.Format() != "mxfp8" || len(v.Bytes()) != c.n || len(v.Scales()) != c.scales || v.IsNil() {
			t.Errorf("%d elements in rows of %d are %+v", c.n, c.row, v)
		}
		if c.n > 0 && (&v.Bytes()[0] != &elements[0] || &v.Scales()[c.scales-1] != &scales[c.scales-1]) {
			t.Errorf("%d elements in rows of %d lie elsewhere", c.n, c.row)
		}
		for _, wrong := range []int{c.scales - 1, c.scales + 1} {
			if wrong < 0 {
				continue
			}
			_, err := MXFP8(elements, make([]uint8, wrong), c.row)
			if want := (&LengthError{"scales", wrong, c.scales}); !reflect.DeepEqual(err, want) {
				t.Errorf("%d elements in rows of %d, %d scales: %v, want %v", c.n, c.row, wrong, err, want)
			}
		}
		text, err := json.Marshal(v)
		wantNoError(t, err)
		rng := rand.New(rand.NewPCG(uint64(c.n), uint64(c.row)))
		if c.n > 0 {
			v.fill(rng)
			text, err = json.Marshal(v)
			wantNoError(t, err)
		}
		var read Vector
		wantNoError(t, json.Unmarshal(text, &read))
		clone := v.Clone()
		if read.IsNil() != (c.n == 0) {
			t.Errorf("%v is read as %v", v, read)
		}
		for _, w := range []Vector{read, clone} {
			wantSameVector(t, "saved or cloned", w, v)
			if string(w.Bytes()) != string(v.Bytes()) {
				t.Errorf("%d elements in rows of %d: NaNs changed", c.n, c.row)
			}
		}
		clone.Clear()
		if strings.Trim(string(clone.Bytes())+string(clone.Scales()), "\x00") != "" {
			t.Errorf("%d elements in rows of %d are not cleared", c.n, c.row)
		}
	}
	for _, c := range []struct {
		n, row int
		legal  string
	}{{4, -1, "in [0, 2³²)"}, {4, 3, "a divisor of the number of elements, 4"}, {33, 32, "a divisor of the number of elements, 33"}} {
		_, err := MXFP8(make([]uint8, c.n), make([]uint8, 1), c.row)
		if want := (&ValueError{"MXFP8", "row", float64(c.row), c.legal}); !reflect.DeepEqual(err, want) {
			t.Errorf("%d elements in rows of %d: %v, want %v", c.n, c.row, err, want)
		}
	}
	for _, bad := range []string{"\x05", "\x05\x00\x00\x00", "\x05\x00\x00\x00\x00x", "\x05\x01\x00\x00\x00xxx", "\x05\x02\x00\x00\x00xx", "\x05\x20\x00\x00\x00" + strings.Repeat("x", 33),
		"\x05\x00\x00\x00\x00" + strings.Repeat("x", 34), "\x05\xff\xff\xff\xffxx"} {
		if err := new(Vector).UnmarshalBinary([]byte(bad)); err == nil {
			t.Errorf("% x is read", bad)
		}
	}
	memory := make([]uint8, 65)
	if _, err := MXFP8(memory[:64], memory[63:], 0); !reflect.DeepEqual(err, &OverlapError{Arg: "elements", OtherArg: "scales", Elements: 1}) {
		t.Errorf("scales within the elements: %v", err)
	}
}

// A Vector of mxfp8 is cut between blocks, or rows, and nowhere else.
func TestMXFP8IsCutAtBorders(t *testing.T) {
	for _, c := range []struct{ n, row, step int }{{100, 0, 32}, {96, 32, 32}, {128, 64, 32}, {5, 1, 1}, {70, 7, 7}, {99, 33, 33}, {33, 33, 33}} {
		v := mx(c.n, c.row)
		rng := rand.New(rand.NewPCG(1, uint64(c.n)))
		v.fill(rng)
		for lo := range c.n + 1 {
			hi := lo + rng.IntN(c.n-lo+1)
			bad := -1
			for _, i := range []int{hi, lo} {
				if i%c.step != 0 && i != c.n {
					bad = i
				}
			}
			func() {
				defer func() {
					got := recover()
					if bad < 0 && got == nil {
						return
					}
					below := bad - bad%c.step
					want := fmt.Sprintf("it can be cut at %d and %d, but not at %d", below, min(below+c.step, c.n), bad)
					if bad < 0 || !strings.Contains(fmt.Sprint(got), want) {
						t.Errorf("%d elements in rows of %d, cut at %d and %d: %v, want %s", c.n, c.row, lo, hi, got, want)
					}
				}()
				wantSame(t, "a part", v.Slice(lo, hi).wide(), v.wide()[lo:hi])
			}()
		}
	}
}

// Set packs to the nearest numbers that a block can have, of two the even one, unpacks exactly, and moves between rows.
func TestSetMXFP8(t *testing.T) {
	rng := rand.New(rand.NewPCG(81, 82))
	const n = 27 * 33 * 32
	for _, row := range []int{0, 1, 11, 27, 33, n / 2} {
		x := random[float32](rng, n)
		for i := range n / 2 {
			x[i] = float32(rng.NormFloat64() * math.Exp2(float64(rng.IntN(12))))
		}
		v := mx(n, row)
		_, err := v.Set(Float32(x))
		wantNoError(t, err)
		back := v.wide()
		for lo := 0; lo < n; {
			_, end := v.block(lo)
			most := 0.0
			for _, x := range x[lo:end] {
				if x-x == 0 {
					most = max(most, math.Abs(float64(x)))
				}
			}
			scale := math.Exp2(float64(int(v.Scales()[v.blocks(lo)]) - 127))
			if most > 448*scale || scale > 0x1p-127 && most <= 448*scale/2 {
				t.Fatalf("elements %d to %d have the scale %g, the largest is %g", lo, end, scale, most)
			}
			for i := lo; i < end; i++ {
				y := math.Abs(float64(x[i])) / scale
				ulp := math.Exp2(math.Floor(math.Log2(max(y, 0x1p-6))) - 3)
				want := float32(math.Copysign(math.RoundToEven(y/ulp)*ulp*scale, float64(x[i])))
				if x[i]-x[i] != 0 {
					want = float32(math.NaN())
				}
				if !sameBits(back[i], want) {
					t.Fatalf("rows of %d: element %d, %x at scale %g, is packed to %x, want %x", row, i, x[i], scale, back[i], want)
				}
			}
			lo = end
		}
		for _, other := range []int{0, 1, 33, n} {
			w := mx(n, other)
			_, err := w.Set(v)
			wantNoError(t, err)
			again := mx(n, other)
			_, err = again.Set(Float32(back))
			wantNoError(t, err)
			if w.row != v.row {
				wantSameVector(t, "other rows", w, again)
			}
		}
	}
	a, b := mx(64, 0), mx(64, 0)
	b.scales = a.at
	var e *OverlapError
	if _, err := b.Set(a); !errors.As(err, &e) || e.Arg != "to scales" || e.OtherArg != "from" || e.Elements != 2 {
		t.Errorf("scales in elements: %v", err)
	}
	b.scales = a.scales
	if _, err := a.Set(b); !errors.As(err, &e) || e.Arg != "to scales" || e.OtherArg != "from scales" || e.Elements != 2 {
		t.Errorf("the same scales: %v", err)
	}
}

// State in mxfp8 has momenta in mxfp8, with their rows, and averages of squares in bf16.
func TestAllocMXFP8(t *testing.T) {
	a, err := AllocState(NewAdaPNM(), "mxfp8", []int{66, 64, 5}, []int{33, 32, 0})
	wantNoError(t, err)
	defer a.Close()
	for i, v := range a.Vectors() {
		format, row := "mxfp8", []int{33, 0, 0}[i/4]
		if i%4 >= 2 {
			format, row = "bf16", 0
		}
		if v.Format() != format || v.Row() != row || v.Len() != []int{66, 64, 5}[i/4] {
			t.Errorf("vector %d is %s, %d elements in rows of %d", i, v.Format(), v.Len(), v.Row())
		}
	}
	flat, err := Alloc("mxfp8", 3*mebi*4, 33)
	wantNoError(t, err)
	defer flat.Close()
	for i, v := range flat.Vectors() {
		if want := []int{3 * mebi * 4 / 32, 2}[i]; len(v.Scales()) != want {
			t.Errorf("vector %d has %d scales, want %d", i, len(v.Scales()), want)
		}
		for _, b := range [][]byte{v.Bytes(), v.Scales()} {
			for k := range b {
				if b[k] != 0 {
					t.Fatal("not zero, or somebody else's")
				}
				b[k] = 1
			}
		}
	}
	for _, c := range []struct {
		lengths, rows []int
		want          error
	}{
		{[]int{4, 4}, []int{1}, &LengthError{"rows", 1, 2}},
		{[]int{4, 4}, []int{1, 3}, &TensorError{Tensor: 1, Err: &ValueError{"MXFP8", "row", 3, "a divisor of the number of elements, 4"}}},
		{[]int{4, -4}, []int{-1, 3}, &TensorError{Tensor: 0, Err: &ValueError{"MXFP8", "row", -1, "in [0, 2³²)"}}},
	} {
		for _, format := range []string{"mxfp8", "bf16"} {
			if _, err := AllocState(NewPNM(1), format, c.lengths, c.rows); !reflect.DeepEqual(err, c.want) {
				t.Errorf("%v in rows of %v: %v, want %v", c.lengths, c.rows, err, c.want)
			}
		}
	}
}

// A tensor in rows has the same bits in whatever parts its rows are updated, by owners of parts and by any number of workers, also where
// the numbers drawn begin anew.
func TestMXFP8IsIndependentOfCuts(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(83, 84))
		for i, row := range []int{0, 1, 2, 7, 27, 31, 33, 63, 147, 1000, 5000, 20001} {
			r := []Rule{NewAdaPNM(), NewPNM(0.1), SGD{LR: 0.1, Momentum: 0.9}, NewAdamW(), NewLion()}[i%5]
			for _, first := range []uint64{0, nearNextKey(&Vector{layout: layout{row: uint32(row)}}, 2000)} {
				n := max(row, 1) * (20001/max(row, 1) + 1)
				if active == generic {
					n = max(row, 1) * (2000/max(row, 1) + 1)
				}
				whole := Update{Rule: r, Params: ordinary(bf16, 1, n), Rounding: Rounding{Seed: 3}}
				for _, v := range stateOf(r, mxfp8, n, row) {
					whole.State = append(whole.State, v.in(anywhereZero))
				}
				step := uint64(1)
				if len(whole.State) > 0 {
					step = uint64(whole.State[0].step())
				}
				whole.Rounding.First = first - first%step
				many, owned := whole, whole
				many.Params, many.State = whole.Params.Clone(), vectorClones(whole.State)
				owned.Params, owned.State = whole.Params.Clone(), vectorClones(whole.State)
				for step := 1; step <= 3; step++ {
					g := ordinary(bf16, uint64(step), n)
					whole.Step, whole.Grads, many.Step, many.Grads = step, g, step, g
					_, err := updateVectors(Options{Pool: newTestPool(t, 1)}, whole)
					wantNoError(t, err)
					_, err = updateVectors(Options{Pool: newTestPool(t, 3)}, many)
					wantNoError(t, err)
					borders := []int{0, n}
					for range 8 {
						borders = append(borders, owned.border(rng.IntN(n)))
					}
					slices.Sort(borders)
					for k := range borders[1:] {
						_, err := updateVectors(Options{}, slice(owned, g, step, borders[k], borders[k+1]))
						wantNoError(t, err)
					}
				}
				owned.Step, owned.Grads = whole.Step, whole.Grads
				what := fmt.Sprintf("%T, rows of %d from %d on", r, row, whole.Rounding.First)
				wantSameList(t, what+", workers", []Update{many}, []Update{whole})
				wantSameList(t, what+", owners", []Update{owned}, []Update{whole})
			}
		}
	})
}

// Blocks begin anew at each row: each row has the bits of a tensor of its own, but for the numbers drawn.
func TestRowsAreApart(t *testing.T) {
	const row, rows = 33, 5
	perTier(t, func(t *testing.T) {
		r := NewLion()
		u := Update{Rule: r, Step: 1, Params: ordinary(f32, 1, row*rows), Grads: ordinary(f32, 2, row*rows), State: []Vector{mx(row*rows, row)}}
		alone := u
		alone.State = []Vector{u.State[0].Clone()}
		_, err := updateVectors(Options{}, u)
		wantNoError(t, err)
		for k := range rows {
			one := slice(alone, alone.Grads, 1, k*row, (k+1)*row)
			one.Params = one.Params.Clone()
			padded := mx(64, 0)
			one.Params, one.Grads = newVector(f32, 64), newVector(f32, 64)
			copy(one.Params.Float32(), ordinary(f32, 1, row*rows).Float32()[k*row:(k+1)*row])
			copy(one.Grads.Float32(), alone.Grads.Float32()[k*row:(k+1)*row])
			one.State, one.Rounding.First = []Vector{padded}, uint64(64*k)
			_, err := updateVectors(Options{}, one)
			wantNoError(t, err)
			wantSame(t, "a padded row", padded.wide()[:row], u.State[0].Slice(k*row, (k+1)*row).wide())
		}
	})
}

func TestMXFP8Errors(t *testing.T) {
	bytesOf := func(x []float32) []byte { return Float32(x).Bytes() }
	at := func(x []float32, i, row int) Vector { // 16 elements with their scales
		b := bytesOf(x[16*i : 16*i+16])
		v, _ := Vector{n: 16, layout: layout{format: mxfp8}}.inRows(row)
		v, err := MXFP8(b[:16], b[32:32+v.blocks(16)], row)
		if err != nil {
			panic(err)
		}
		return v
	}
	half := func(x []float32, i int) Vector {
		return Vector{at: Float32(x[16*i:]).at, n: 16, layout: layout{format: bf16}}
	}
	call := func(bad func(x []float32, u *Update)) func(x []float32) error {
		return func([]float32) error {
			x := lcg[float32](8, 160)
			u := Update{Rule: NewAdaPNM(), Step: 1, Params: Float32(x[96:112]), Grads: half(x, 7), State: []Vector{at(x, 1, 4), at(x, 2, 4), half(x, 3), half(x, 4)}}
			bad(x, &u)
			_, err := updateVectors(Options{}, u)
			l := List{Updates: []Update{u}}
			_, again := l.Step(Options{})
			wantSameError(t, "List", again, err)
			wantSame(t, "memory", x, lcg[float32](8, 160))
			return err
		}
	}
	part := func(row, lo, n int) func(x []float32) error {
		return func([]float32) error {
			l := List{Updates: []Update{{Rule: NewPNM(1), Step: 1, Params: newVector(f32, 99), State: []Vector{mx(99, row), mx(99, row)}}}}
			_, err := l.StepPart(Options{}, 0, lo, newVector(f32, n))
			return err
		}
	}
	tensor := func(err error) error { return &TensorError{Tensor: 0, Err: err} }
	refuse(t, []refusal{
		{"params", call(func(x []float32, u *Update) { u.Params = at(x, 0, 0) }),
			tensor(&FormatError{"params", "mxfp8", "float32, bf16 or low16"}), "params is mxfp8"},
		{"grads", call(func(x []float32, u *Update) { u.Grads = at(x, 0, 0) }),
			tensor(&FormatError{"grads", "mxfp8", "float32, bf16 or f16"}), "grads is mxfp8"},
		{"copy", call(func(x []float32, u *Update) { u.Copy = at(x, 0, 0) }),
			tensor(&FormatError{"copy", "mxfp8", "bf16 or f16"}), "copy is mxfp8"},
		{"averages", call(func(x []float32, u *Update) { u.State[2] = at(x, 0, 0) }),
			tensor(&FormatError{"exp_avg_sq", "mxfp8", "bf16 where exp_avg is mxfp8"}), "exp_avg_sq is mxfp8, must be bf16 where"},
		{"float32 averages", call(func(x []float32, u *Update) { u.State[3] = Float32(x[0:16]) }),
			tensor(&FormatError{"max_exp_avg_sq", "float32", "bf16 where exp_avg is mxfp8"}), "is float32, must be bf16 where"},
		{"an average alone", call(func(x []float32, u *Update) { u.State = []Vector{half(x, 0), half(x, 1), at(x, 2, 0), half(x, 3)} }),
			tensor(&FormatError{"exp_avg_sq", "mxfp8", "float32 or bf16"}), "exp_avg_sq is mxfp8, must be float32 or bf16"},
		{"one momentum", call(func(x []float32, u *Update) { u.State[1] = half(x, 2) }),
			tensor(&FormatError{"neg_exp_avg", "bf16", "mxfp8 like exp_avg"}), "mxfp8 like exp_avg"},
		{"rows", call(func(x []float32, u *Update) { u.State[1] = at(x, 2, 8) }),
			tensor(&ValueError{"neg_exp_avg", "Row", 8, "4 like that of exp_avg"}), "neg_exp_avg.Row is 8, must be 4"},
		{"float64", call(func(x []float32, u *Update) {
			u.Params, u.Grads = Float64(make([]float64, 16)), Float64(make([]float64, 16))
		}), tensor(&FormatError{"exp_avg", "mxfp8", "float64 like params, since one of the two is float64"}), "exp_avg is mxfp8, must be float64"},
		{"scales in elements", call(func(x []float32, u *Update) { u.State[1].scales = u.State[0].at }),
			tensor(&OverlapError{"exp_avg", "neg_exp_avg scales", 4, nil, nil}), "exp_avg and neg_exp_avg scales share 4"},
		{"scales in their own elements", call(func(x []float32, u *Update) { u.State[1].scales = u.State[1].at }),
			tensor(&OverlapError{"neg_exp_avg", "neg_exp_avg scales", 4, nil, nil}), "share 4"},
		{"the same scales", call(func(x []float32, u *Update) { u.State[1].scales = u.State[0].scales }),
			tensor(&OverlapError{"exp_avg scales", "neg_exp_avg scales", 4, nil, nil}), "exp_avg scales and neg_exp_avg scales"},
		{"gradient in scales", call(func(x []float32, u *Update) { u.Grads.at = u.State[0].scales }),
			tensor(&OverlapError{"exp_avg scales", "grads", 2, nil, nil}), "exp_avg scales and grads share 2"},
		{"first", call(func(x []float32, u *Update) { u.Rounding.First = 1<<40 + 3 }),
			tensor(&ValueError{"Rounding", "First", 1<<40 + 3, "between rows of 4 of exp_avg, which is mxfp8: 1099511627776 or 1099511627780"}), "First is"},
		{"first of a flat one", call(func(x []float32, u *Update) {
			u.State[0], u.State[1], u.Rounding.First = at(x, 1, 0), at(x, 2, 0), 48
		}), tensor(&ValueError{"Rounding", "First", 48, "between blocks of exp_avg, which is mxfp8: 32 or 64"}), "First is 48, must be between blocks"},
		{"lo", part(33, 32, 1), tensor(&ValueError{"StepPart", "lo", 32, "between rows of 33 of pos_momentum, which is mxfp8: 0 or 33"}), "0 or 33"},
		{"lo of a flat one", part(0, 97, 1), tensor(&ValueError{"StepPart", "lo", 97, "between blocks of pos_momentum, which is mxfp8: 96 or 99"}), "96 or 99"},
		{"end", part(33, 33, 32), tensor(&ValueError{"StepPart", "lo + length of grads", 65, "between rows of 33 of pos_momentum, which is mxfp8: 33 or 66"}), "33 or 66"},
		{"end of a flat one", part(0, 64, 1), tensor(&ValueError{"StepPart", "lo + length of grads", 65, "between blocks of pos_momentum, which is mxfp8: 64 or 96"}), "64 or 96"},
	})
	for _, legal := range []func([]float32) error{part(0, 64, 35), part(33, 33, 66), part(33, 99, 0), part(1, 5, 7)} {
		wantNoError(t, legal(nil))
	}
	empty := Update{Rule: NewPNM(1), Step: 1, Params: newVector(f32, 0), Grads: newVector(f32, 0), State: []Vector{mx(0, 5), mx(0, 5)}, Rounding: Rounding{First: 7}}
	_, err := updateVectors(Options{}, empty)
	wantNoError(t, err)
}

// A list refuses what a new one would, also of a tensor that it knows, and skips.
func TestListKnowsNotWhereATensorBegins(t *testing.T) {
	l := List{Updates: []Update{{Rule: NewLion(), Params: newVector(f32, 66), State: []Vector{mx(66, 33)}, Skip: true}}}
	wantNoError(t, l.Check(0))
	l.Updates[0].Rounding.First = 32
	want := (&List{Updates: l.Updates}).Check(0)
	if want == nil {
		t.Fatal("a new list refuses nothing")
	}
	wantSameError(t, "Check", l.Check(0), want)
	_, err := l.Step(Options{})
	wantSameError(t, "Step", err, want)
	l.Updates[0].Rounding.First = 33
	wantNoError(t, l.Check(0))
}
