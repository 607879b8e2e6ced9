package pnm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// formatsOf are the formats of a tensor's vectors; out is f32 for no copy.
type formatsOf struct{ p, g, s, out format }

// copiesF16 tells whether kernels' copies in f16 are tested: Bochs, in which .ci/with-avx512 may run the tests, rounds them wrongly.
var copiesF16 = os.Getenv("PNM_TEST_NO_F16_COPIES") == ""

// allFormats are all combinations of formats that a rule can have.
func allFormats(r Rule) (all []formatsOf) {
	states := []format{f32, bf16, mxfp8}
	if len(forms[r.form()].Slots) == 0 {
		states = states[:1]
	}
	for _, s := range states {
		for _, g := range []format{f32, bf16, f16} {
			for _, x := range [][2]format{{f32, f32}, {f32, bf16}, {f32, f16}, {bf16, f32}, {low16, bf16}} {
				if x[1] == f16 && !copiesF16 {
					continue
				}
				all = append(all, formatsOf{x[0], g, s, x[1]})
			}
		}
	}
	return all
}

func (f formatsOf) String() string {
	return fmt.Sprintf("params %s, grads %s, state %s, copy %s", f.p, f.g, f.s, f.out)
}

// vector returns a vector of n elements, in memory that place chooses.
func vector(f format, n int, place func(bytes int) []byte) Vector {
	return Vector{n: n, layout: layout{format: f}}.in(place)
}

// in returns a vector like v in memory that place chooses, for elements and scales apart.
func (v Vector) in(place func(bytes int) []byte) Vector {
	v.at = unsafe.Pointer(unsafe.SliceData(place(v.n * v.size())))
	if v.format == mxfp8 {
		v.scales = unsafe.Pointer(unsafe.SliceData(place(v.blocks(v.n))))
	}
	return v
}

// stateOf returns a state of a rule without memory, with averages in bf16 where momenta are mxfp8, in rows if that is not 0.
func stateOf(r Rule, f format, n, row int) (state []Vector) {
	for _, role := range forms[r.form()].Roles {
		v := Vector{n: n, layout: layout{format: f}}
		switch {
		case f == mxfp8 && !isMomentum(role):
			v.format = bf16
		case f == mxfp8:
			v, _ = v.inRows(row)
		}
		state = append(state, v)
	}
	return state
}

// rowOf returns the length of rows that n elements may have, one of several; 0 is among them.
func rowOf(n int, which uint64) int {
	rows := []int{0}
	for _, row := range []int{1, 5, 7, 17, 27, 33, 63, 107, 147, 365, 1000, 1365, n} {
		if row > 0 && n%row == 0 {
			rows = append(rows, row)
		}
	}
	return rows[which%uint64(len(rows))]
}

// anywhere places memory at some multiple of two bytes.
func anywhere(rng *rand.Rand) func(int) []byte {
	return func(n int) []byte {
		words := make([]uint64, (n+64)/8+1)
		at := 2 * rng.IntN(32)
		return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))[at : at+n]
	}
}

// fill sets a vector to specials, arbitrary bits and ordinary numbers.
func (v Vector) fill(rng *rand.Rand) {
	x := random[float32](rng, v.n)
	if v.format == mxfp8 {
		v.pack(x, 0)
		for range v.n / 4 {
			v.Bytes()[rng.IntN(v.n)] = uint8(rng.Uint32())
			v.Scales()[rng.IntN(v.blocks(v.n))] = uint8(rng.Uint32())
		}
		return
	}
	narrow(v.at, v.format, 0, x, func(i int, x float32) uint16 {
		switch {
		case rng.IntN(3) == 0:
			return uint16(rng.Uint32())
		case v.format == f16:
			return narrowF16(x)
		}
		return narrowBF16(x)
	})
}

// mixedTensor returns a tensor of a rule at a step, filled if there is an rng.
func mixedTensor(rng *rand.Rand, r Rule, f formatsOf, step, n int, place func(bytes int) []byte) *tensor {
	t := &tensor{form: r.form(), step: step, p: vector(f.p, n, place), g: vector(f.g, n, place)}
	row := 0
	if rng != nil {
		row = rowOf(n, rng.Uint64())
	}
	for i, v := range stateOf(r, f.s, n, row) {
		t.s[i] = v.in(place)
	}
	if f.out != f32 {
		t.out = vector(f.out, n, place)
	}
	if rng == nil {
		return t
	}
	t.rounding = Rounding{rng.Uint64(), rng.Uint64(), []uint64{0, rng.Uint64(), nearNextKey(&t.s[0], n)}[rng.IntN(3)]}
	t.rounding.First -= t.rounding.First % uint64(t.s[0].step())
	for i := range t.vectors() {
		t.vector(i).fill(rng)
	}
	if f.p == f32 && f.out != f32 && rng.IntN(2) == 0 {
		t.follow = true
		for i, x := range t.p.Float32() {
			if rng.IntN(2) == 0 { // nobody has written to it
				t.out.Bits()[i] = map[format]func(float32) uint16{bf16: narrowBF16, f16: narrowF16}[f.out](x)
			}
		}
	}
	if f.out == f16 && rng.IntN(2) == 0 { // where f16 ends
		for i, x := range t.p.Float32() {
			t.p.Float32()[i] = float32(math.Copysign(65500+40*rng.Float64(), float64(x)))
		}
	}
	return t
}

// nearNextKey returns which element comes about n/2 before the first that draws by another key, in a tensor with a state like v.
func nearNextKey(v *Vector, n int) uint64 {
	row := uint64(max(1, v.row))
	padded := row
	if v.row > 0 {
		padded = (row + drawBlock - 1) &^ (drawBlock - 1)
	}
	return 2<<32/padded*row - uint64(n/2)
}

// clone returns a tensor with the same in memory of its own.
func (t *tensor) clone() *tensor {
	c := *t
	for i := range t.vectors() {
		v := c.vector(i)
		*v = v.Clone()
	}
	return &c
}

// wide is v as float32.
func (v Vector) wide() []float32 {
	x := make([]float32, v.n)
	convert(Float32(x), v)
	return x
}

// wantSameVector compares two vectors of a format; NaNs may differ.
func wantSameVector(t *testing.T, what string, got, want Vector) {
	t.Helper()
	switch {
	case got.format != want.format || got.n != want.n:
		t.Fatalf("%s: %d elements of %s, want %d of %s", what, got.n, got.format, want.n, want.format)
	case string(got.Scales()) != string(want.Scales()) || got.row != want.row:
		t.Fatalf("%s: scales % x, rows of %d, want % x, rows of %d", what, got.Scales(), got.row, want.Scales(), want.row)
	case string(got.Bytes()) == string(want.Bytes()):
	case want.format == f64:
		wantSame(t, what, got.Float64(), want.Float64())
	case want.format == low16:
		for i, b := range got.Bits() {
			if b != want.Bits()[i] {
				t.Fatalf("%s[%d] = %#x, want %#x", what, i, b, want.Bits()[i])
			}
		}
	default:
		wantSame(t, what, got.wide(), want.wide())
	}
}

// wantSameTensor compares everything that a step may touch.
func wantSameTensor(t *testing.T, what string, got, want *tensor) {
	t.Helper()
	for i := range want.vectors() {
		wantSameVector(t, what+": "+want.argument(i), *got.vector(i), *want.vector(i))
	}
}

// mixedLikeReference updates a tensor by the active tier and by the reference.
func mixedLikeReference(t *testing.T, rng *rand.Rand, r Rule, f formatsOf, step, n int, place func(bytes int) []byte) {
	t.Helper()
	got := mixedTensor(rng, r, f, step, n, place)
	o := Options{ClipValue: []float64{0, 1}[rng.IntN(2)], ZeroGrads: rng.IntN(2) == 0}
	r.scalars(step, &got.c64)
	wantNoError(t, got.round(got.form))
	got.apply(&o, []float64{1, 0.7, 1e30}[rng.IntN(3)])
	want := got.clone()
	over := got.updateFar(rng, o.ZeroGrads)
	tier := active
	active = generic
	wantOver := want.update(0, n, false, o.ZeroGrads, nil)
	active = tier
	what := fmt.Sprintf("%+v, %s, %d elements, step %d", r, f, n, step)
	wantSameTensor(t, what, got, want)
	if over != wantOver {
		t.Fatalf("%s: %d overflows, want %d", what, over, wantOver)
	}
}

// Every tier gives the bits of the reference for every rule and combination of formats, for all lengths up to three blocks.
func TestMixedTiersAgree(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(31, 32))
		for _, r := range sampleRules() {
			for _, f := range allFormats(r) {
				for n := range 3*mixedBlock + 1 {
					mixedLikeReference(t, rng, r, f, 1+n%5, n, anywhere(rng))
				}
				mixedLikeReference(t, rng, r, f, 2, blockLen+33, anywhere(rng))
			}
		}
	})
}

func newVector(f format, n int) Vector { return vector(f, n, anywhereZero) }

func anywhereZero(n int) []byte {
	words := make([]uint64, n/8+1)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n)
}

// ordinary returns a vector of ordinary numbers, as lcg makes them.
func ordinary(f format, seed uint64, n int) Vector {
	switch v := newVector(f, n); f {
	case f64:
		return Float64(lcg[float64](seed, n))
	case low16:
		if err := Split(newVector(bf16, n), v, Float32(lcg[float32](seed, n))); err != nil {
			panic(err)
		}
		return v
	}
	v := newVector(f, n)
	convert(v, Float32(lcg[float32](seed, n)))
	return v
}

// mixedRun returns a training of tensors of many sizes.
func mixedRun(r Rule, f formatsOf) *training {
	var params []Vector
	for i, n := range listSizes {
		params = append(params, ordinary(f.p, uint64(i), n))
	}
	return listOf(r, f, params...)
}

// grads returns the gradients of a step.
func (l *training) grads(f format, step int) (g []Vector) {
	for i, u := range l.Updates {
		g = append(g, ordinary(f, uint64(100*step+i), u.Params.n))
	}
	return g
}

// wantSameTraining compares what steps leave: all but the gradients.
func wantSameTraining(t *testing.T, what string, got, want *training) {
	t.Helper()
	for i, w := range want.Updates {
		g := got.Updates[i]
		if g.Step != w.Step {
			t.Fatalf("%s: step %d of tensor %d, want %d", what, g.Step, i, w.Step)
		}
		g.Grads = w.Grads
		wantSameList(t, what, []Update{g}, []Update{w})
	}
}

// vectorClones returns copies in other memory; nil stays nil.
func vectorClones(vectors []Vector) (copies []Vector) {
	for _, v := range vectors {
		copies = append(copies, v.Clone())
	}
	return copies
}

// someFormats are the formats that a user would choose.
var someFormats = []formatsOf{{f32, bf16, f32, f32}, {f32, f16, f32, f16}, {f32, f32, bf16, f32}, {f32, bf16, bf16, bf16}, {bf16, bf16, bf16, f32},
	{bf16, bf16, f32, f32}, {low16, bf16, f32, bf16}, {f32, bf16, mxfp8, f32}, {low16, bf16, mxfp8, bf16}, {bf16, f32, mxfp8, f32}}

// The same bits come from a list on any number of workers, from calls of UpdateAll, from parts in any order, and from owners of parts
// of tensors, with all that options do.
func TestMixedWaysAgree(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(33, 34))
		for i, r := range []Rule{NewAdaPNM(), NewPNM(0.1), SGD{LR: 0.1, Momentum: 0.9}, NewAdamW()} {
			for _, f := range someFormats {
				if active == generic && i > 0 && !*thorough {
					continue
				}
				what := fmt.Sprintf("%T, %s", r, f)
				o := Options{LossScale: 8, ClipValue: 0.05}
				with := func(p *Pool) Options { o := o; o.Pool = p; return o }
				single, three := newTestPool(t, 1), newTestPool(t, 3)
				want, many, parts, alone, owned := mixedRun(r, f), mixedRun(r, f), mixedRun(r, f), mixedRun(r, f), mixedRun(r, f)
				for step := 1; step <= 3; step++ {
					g := want.grads(f.g, step)
					report := want.next(t, with(single), g)
					for i := range many.Updates { // which moves
						u := &many.Updates[i]
						u.Params, u.State = u.Params.Clone(), vectorClones(u.State)
						if f.out != f32 {
							u.Copy = u.Copy.Clone()
						}
					}
					if other := many.next(t, with(three), g); report != other {
						t.Errorf("%s: reports %+v and %+v", what, report, other)
					}
					for i, g := range g {
						u := alone.Updates[i]
						u.Grads, u.Step = g, step
						_, err := updateVectors(o, u)
						wantNoError(t, err)
						borders := []int{0, u.border(rng.IntN(g.n + 1)), u.border(rng.IntN(g.n + 1)), g.n}
						slices.Sort(borders)
						parts.Updates[i].Step = step
						for _, k := range rng.Perm(3) {
							_, err := parts.StepPart(o, i, borders[k], g.Slice(borders[k], borders[k+1]))
							wantNoError(t, err)
						}
						for k := range 2 {
							_, err := updateVectors(o, slice(owned.Updates[i], g, step, u.border(g.n*k/2), u.border(g.n*(k+1)/2)))
							wantNoError(t, err)
						}
					}
				}
				for _, l := range []*training{parts, alone, owned} {
					count(l.Updates, Report{})
					for i := range l.Updates {
						l.Updates[i].Step = 4
					}
				}
				wantSameTraining(t, what+", 3 workers, moving", many, want)
				wantSameTraining(t, what+", parts", parts, want)
				wantSameTraining(t, what+", alone", alone, want)
				wantSameTraining(t, what+", owners", owned, want)
			}
		}
	})
}

// border is where the tensor may be cut, at or before element i.
func (u *Update) border(i int) int {
	if len(u.State) > 0 {
		i, _ = u.State[0].borders(i)
	}
	return i
}

// slice is the update of the elements lo … hi−1.
func slice(u Update, grads Vector, step, lo, hi int) Update {
	cut := func(v Vector) Vector { return v.Slice(min(lo, v.n), min(hi, v.n)) }
	u.Step, u.Params, u.Grads, u.Copy, u.State = step, cut(u.Params), cut(grads), cut(u.Copy), slices.Clone(u.State)
	for k := range u.State {
		u.State[k] = cut(u.State[k])
	}
	u.Rounding.First += uint64(lo)
	return u
}

// Where nothing is rounded, mixed precision is float32: gradients of 16 bits count as what they are, and a copy is what Set makes of
// the parameters.
func TestMixedIsFloat32(t *testing.T) {
	perTier(t, func(t *testing.T) {
		for _, r := range sampleRules() {
			for _, f := range []formatsOf{{f32, f32, f32, f32}, {f32, bf16, f32, f32}, {f32, f16, f32, bf16}, {f32, f32, f32, f16}} {
				if f.out == f16 && !copiesF16 {
					continue
				}
				mixed, plain := mixedRun(r, f), mixedRun(r, formatsOf{f32, f32, f32, f32})
				for step := 1; step <= 3; step++ {
					g := mixed.grads(f.g, step)
					var wide []Vector
					for _, v := range g {
						wide = append(wide, Float32(v.wide()))
					}
					report := mixed.next(t, Options{ClipNorm: 3, ZeroGrads: true}, g)
					want := plain.next(t, Options{ClipNorm: 3}, wide)
					want.Overflows = report.Overflows
					if report != want || report.GradNorm == 0 {
						t.Errorf("%s: report %+v, want %+v", f, report, want)
					}
					for i, v := range g {
						if strings.Trim(string(v.Bytes()), "\x00") != "" {
							t.Fatalf("%s: gradients %d are not zeroed", f, i)
						}
					}
				}
				for i := range plain.Updates {
					u := &plain.Updates[i]
					if f.out != f32 {
						u.Copy = newVector(f.out, u.Params.n)
						_, err := u.Copy.Set(u.Params)
						wantNoError(t, err)
					}
				}
				wantSameTraining(t, f.String(), mixed, plain)
			}
		}
	})
}

// The norm of 16 bits is that of the same numbers in float32, for any number of workers; a gradient that is not finite skips
// the step.
func TestMixedNorm(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		for _, f := range []format{f32, bf16, f16} {
			formats := formatsOf{f32, f, bf16, f16}
			l, before := mixedRun(NewAdaPNM(), formats), mixedRun(NewAdaPNM(), formats)
			g := l.grads(f, 1)
			var wide []Vector
			for _, v := range g {
				wide = append(wide, Float32(v.wide()))
			}
			pool := newTestPool(t, 3)
			want := normOf(newTestPool(t, 1), wide...)
			if got := normOf(pool, g...); got != want || want == 0 {
				t.Errorf("%s: the norm is %g, want %g", f, got, want)
			}
			inf := newVector(f, 1)
			convert(inf, Float32([]float32{float32(math.Inf(-1))}))
			copy(g[2].Slice(g[2].n-1, g[2].n).Bytes(), inf.Bytes())
			report := l.next(t, Options{SkipNonFinite: true, ZeroGrads: true, Pool: pool}, g)
			if !report.Skipped || !math.IsInf(report.GradNorm, 1) {
				t.Errorf("%s: %+v", f, report)
			}
			wantSameTraining(t, "skipped", l, before)
			if string(g[2].Bytes()) != strings.Repeat("\x00", len(g[2].Bytes())) {
				t.Errorf("%s: the gradients of a skipped step were not zeroed", f)
			}
		}
	})
}

// Finite parameters that f16 cannot hold are counted, on any number of workers; those that are infinite themselves are not.
func TestOverflows(t *testing.T) {
	sharing(t)
	perTier(t, func(t *testing.T) {
		const n = 3*blockLen + 5
		for _, workers := range []int{1, 4} {
			p, g, out := make([]float32, n), make([]float32, n), make([]uint16, n)
			for i := 0; i < n; i += 7 {
				p[i] = []float32{65519.99, 65520, -1e30, 3e38}[i/7%4]
				g[i] = []float32{0, 0, 0, -3e38}[i/7%4] // infinite itself after the step
			}
			want := (n+6)/7/4*2 + []int{0, 0, 1, 2}[(n+6)/7%4]
			pool := newTestPool(t, workers)
			l := List{Updates: []Update{{Rule: NewSGD(1), Step: 1, Params: Float32(p), Grads: Float32(g), Copy: F16(out)}}}
			report, err := l.Step(Options{Pool: pool})
			wantNoError(t, err)
			if report.Overflows != want || out[0] != 0x7bff || out[7] != 0x7c00 || out[14] != 0xfc00 || out[21] != 0x7c00 {
				t.Errorf("%d overflows, want %d; %x %x %x %x", report.Overflows, want, out[0], out[7], out[14], out[21])
			}
			l.Updates[0].Rule = NewSGD(0)
			report, err = l.Step(Options{Pool: pool})
			wantNoError(t, err)
			part, err := l.StepPart(Options{Pool: pool}, 0, 0, Float32(g[:n/2]))
			wantNoError(t, err)
			other, err := l.StepPart(Options{Pool: pool}, 0, n/2, Float32(g[n/2:]))
			wantNoError(t, err)
			if report.Overflows != want || part.Overflows+other.Overflows != want || part.Overflows == 0 || other.Overflows == 0 {
				t.Errorf("%d overflows, and %d and %d in parts, want %d", report.Overflows, part.Overflows, other.Overflows, want)
			}
		}
	})
}

// Split parameters, and those that follow their copy, are trained as float32 ones are, bit for bit; what others write to the bf16 or f16 is
// where the next step begins.
func TestMastersAreFloat32(t *testing.T) {
	const n = 3*blockLen + 5
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(51, 52))
		for _, r := range sampleRules() {
			for _, f := range []formatsOf{{low16, bf16, f32, bf16}, {f32, f16, f32, f16}, {f32, bf16, f32, bf16}} {
				if f.out == f16 && !copiesF16 {
					continue
				}
				want := newUpdate(r, formatsOf{f32, f.g, f32, f32}, ordinary(f32, 1, n), 1)
				got := want
				got.State = newUpdate(r, formatsOf{f32, f.g, f32, f32}, ordinary(f32, 1, n), 1).State
				got.Params, got.Copy, got.Follow = newVector(f.p, n), newVector(f.out, n), f.p == f32 || rng.IntN(2) == 0
				write := func(i int, x float32) { // as somebody who knows of the copy alone
					round, widen := narrowBF16, widenBF16
					if f.out == f16 {
						round, widen = narrowF16, widenF16
					}
					copied, p := &got.Copy.Bits()[i], &want.Params.Float32()[i]
					switch before := *copied; {
					case f.p == low16:
						*copied = round(x)
						*p = joinBF16(*copied, got.Params.Bits()[i])
					case before != round(x):
						*copied = round(x)
						*p = widen(*copied)
					}
				}
				for i, x := range ordinary(f32, 1, n).Float32() {
					write(i, x)
				}
				for step := 1; step <= 4; step++ {
					g := ordinary(f.g, uint64(10+step), n)
					for _, u := range []*Update{&got, &want} {
						u.Step, u.Grads = step, g
						_, err := updateVectors(Options{}, *u)
						wantNoError(t, err)
					}
					for i, x := range want.Params.Float32() {
						var have float32
						switch f.p {
						case low16:
							have = joinBF16(got.Copy.Bits()[i], got.Params.Bits()[i])
						default:
							have = got.Params.Float32()[i]
						}
						if !sameBits(have, x) {
							t.Fatalf("%+v, %s, step %d: element %d is %x, want %x", r, f, step, i, have, x)
						}
					}
					for i := rng.IntN(9); i < n; i += 1 + rng.IntN(17) {
						write(i, []float32{0, 1, float32(rng.NormFloat64())}[rng.IntN(3)])
					}
				}
			}
		}
	})
}

// A NaN rounds to no number: where the copy is one, parameters take it, whatever the NaN carries.
func TestNaNsFollow(t *testing.T) {
	nans := []uint32{0x7f800001, 0xff800001, 0x7f80ffff, 0x7fbfffff, 0x7fc00000, 0x7fffffff, 0xffffffff}
	copies := []uint16{0, 0x8000, 0x3f80, 0x7f80, 0xff80}
	perTier(t, func(t *testing.T) {
		for _, nan := range nans {
			for _, copied := range copies {
				p, out := make([]float32, mixedBlock), make([]uint16, mixedBlock)
				for i := range p {
					p[i], out[i] = math.Float32frombits(nan), copied
				}
				_, err := updateVectors(Options{}, Update{Rule: NewSGD(0), Step: 1, Params: Float32(p), Grads: newVector(f32, mixedBlock), Copy: BF16(out), Follow: true})
				wantNoError(t, err)
				for i, x := range p {
					if !sameBits(x, widenBF16(copied)) {
						t.Fatalf("element %d, %#x, is %x with the copy %#x", i, nan, x, copied)
					}
				}
			}
		}
	})
}

// Parameters that move by less than half a bf16 ulp keep moving at the right rate, and an average of squares without new gradients
// decays as it should; to the nearest, both would stand still.
func TestStochasticRoundingMoves(t *testing.T) {
	const n, steps = 1 << 14, 200
	perTier(t, func(t *testing.T) {
		p, g := newVector(bf16, n), newVector(bf16, n)
		one := make([]float32, n)
		for i := range one {
			one[i] = 1
		}
		convert(p, Float32(one))
		convert(g, Float32(one))
		lr := 1e-4 // an ulp below 1 is 2⁻⁸
		for step := 1; step <= steps; step++ {
			_, err := updateVectors(Options{}, Update{Rule: NewSGD(lr), Step: step, Params: p, Grads: g, Rounding: Rounding{Seed: 9}})
			wantNoError(t, err)
		}
		wantMean(t, "params", p.wide(), 1-lr*steps)

		r := NewAdaPNM()
		exp := make([]Vector, 4)
		for i := range exp {
			exp[i] = newVector(bf16, n)
		}
		convert(exp[2], Float32(one))
		for step := 1; step <= steps; step++ {
			_, err := updateVectors(Options{}, Update{Rule: r, Step: step, Params: newVector(f32, n), Grads: newVector(bf16, n), State: exp})
			wantNoError(t, err)
		}
		wantMean(t, "exp_avg_sq", exp[2].wide(), math.Pow(float64(float32(r.Beta2)), steps))
		if narrowBF16(float32(r.Beta2)) != 0x3f80 {
			t.Error("β2·1 is not 1 to the nearest: the test shows nothing")
		}
	})
}

// wantMean fails unless the mean is within five standard errors of what it should be, with a spread.
func wantMean(t *testing.T, what string, x []float32, want float64) {
	t.Helper()
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	mean := sum / float64(len(x))
	se := math.Sqrt((squares/float64(len(x)) - mean*mean) / float64(len(x)))
	if se == 0 || math.Abs(mean-want) > 5*se {
		t.Errorf("%s: the mean is %g ± %g, want %g", what, mean, se, want)
	}
}

// An element draws the same number wherever a call begins, also where the counter of 32 bits begins anew.
func TestRoundingFarOut(t *testing.T) {
	const n = 100
	perTier(t, func(t *testing.T) {
		for _, first := range []uint64{1<<32 - n/2, 1<<33 - n/2, 3<<33 - 1, 1<<63 - 7, math.MaxUint64 - n/2} {
			whole, g := ordinary(bf16, 1, n), ordinary(f32, 2, n)
			one := whole.Clone()
			u := Update{Rule: NewSGD(0.01), Step: 1, Params: whole, Grads: g, Rounding: Rounding{First: first}}
			_, err := updateVectors(Options{}, u)
			wantNoError(t, err)
			u.Params = one
			for i := range n {
				_, err := updateVectors(Options{}, slice(u, g, 1, i, i+1))
				wantNoError(t, err)
			}
			wantSame(t, fmt.Sprintf("params from %d on", first), whole.wide(), one.wide())
		}
	})
}

// The largest average so far never falls below the average, although both are rounded.
func TestLargestStaysLargest(t *testing.T) {
	const n = 1 << 12
	perTier(t, func(t *testing.T) {
		m := make([]Vector, 4)
		for i := range m {
			m[i] = newVector(bf16, n)
		}
		p := newVector(f32, n)
		for step := 1; step <= 30; step++ {
			_, err := updateVectors(Options{}, Update{Rule: NewAdaPNM(), Step: step, Params: p, Grads: ordinary(bf16, uint64(step), n), State: m})
			wantNoError(t, err)
			v, x := m[2].wide(), m[3].wide()
			for i := range v {
				if x[i] < v[i] {
					t.Fatalf("step %d: the largest average is %g, the average %g", step, x[i], v[i])
				}
			}
		}
	})
}

// Empty slices that lie in somebody's memory are no state.
func TestEmptyStateIsNone(t *testing.T) {
	perTier(t, func(t *testing.T) {
		for _, r := range sampleRules() {
			emptyStateIsNone[float32](t, r)
			emptyStateIsNone[float64](t, r)
		}
	})
}

func emptyStateIsNone[T Float](t *testing.T, r Rule) {
	t.Helper()
	const n = 21
	memory := lcg[T](9, 2*n)
	state := newState[T](r, n)
	for len(state) < maxSlots {
		state = append(state, memory[:0])
	}
	wantNoError(t, updateSlices(r, 1, lcg[T](1, n), lcg[T](2, n), state))
	wantSame(t, fmt.Sprintf("%T: memory behind an empty slice", r), memory, lcg[T](9, 2*n))
}

// What others write to a copy is what the next step begins from, whatever they write: where it is what the parameter rounds to, nothing
// changes.
func TestWhatOthersWrite(t *testing.T) {
	inf, nan, denormal, zero := float32(math.Inf(1)), float32(math.NaN()), float32(0x1p-140), float32(math.Copysign(0, -1))
	perTier(t, func(t *testing.T) {
		for _, f := range []formatsOf{{low16, f32, f32, bf16}, {f32, f32, f32, bf16}, {f32, f32, f32, f16}} {
			if f.out == f16 && !copiesF16 {
				continue
			}
			// The first three round to 1.
			before := []float32{1, 1 + 0x1p-20, 1 - 0x1p-20, denormal, -denormal, zero, inf, -inf, nan, 3e38, -1.5}
			for _, x := range []float32{0, zero, 1, -2, inf, -inf, nan, denormal, -denormal, 0x1p-20, 65504, -3e38} {
				n := len(before)
				u := Update{Rule: NewSGD(0), Step: 1, Params: newVector(f.p, n), Grads: newVector(f32, n), Copy: newVector(f.out, n), Follow: f.p == f32}
				written := newVector(f.out, n)
				convert(written, Float32(slices.Repeat([]float32{x}, n)))
				joined := make([]float32, n)
				if f.p == low16 {
					wantNoError(t, Split(u.Copy, u.Params, Float32(before)))
					wantNoError(t, Join(Float32(joined), written, u.Params))
				} else {
					convert(u.Params, Float32(before))
					convert(u.Copy, Float32(before))
				}
				was := u.Copy.Clone()
				convert(u.Copy, written)
				_, err := updateVectors(Options{}, u)
				wantNoError(t, err)
				for i, p := range before {
					copied, want := u.Copy.wide()[i], written.wide()[i]
					if infinite := want-want != 0 && want == want; !sameBits(copied, want) && !(infinite && joined[i] != joined[i]) {
						t.Errorf("%s: %x, of which others make %x, has the copy %x", f, p, x, copied)
					}
				}
				for i, p := range before {
					got, want := float32(0), written.wide()[i]
					switch {
					case f.p == low16:
						got, want = joinBF16(u.Copy.Bits()[i], u.Params.Bits()[i]), joined[i]
					case was.Bits()[i] == written.Bits()[i]:
						got, want = u.Params.Float32()[i], p
					default:
						got = u.Params.Float32()[i]
					}
					if !sameBits(got, want) {
						t.Errorf("%s: %x, of which others make %x, becomes %x, want %x", f, p, x, got, want)
					}
				}
			}
		}
	})
}

// Tensors without elements need no memory for their copies, either.
func TestEmptyCopies(t *testing.T) {
	none := []uint16(nil)
	_, err := UpdateAll(Options{}, []Update{
		{Rule: NewSGD(1), Step: 1, Params: Low16(none), Grads: BF16(none)},
		{Rule: NewSGD(1), Step: 1, Params: Low16(none), Grads: BF16(none), Copy: BF16(none)},
		{Rule: NewSGD(1), Step: 1, Params: Float32(nil), Grads: BF16(none), Copy: F16(none), Follow: true},
	})
	wantNoError(t, err)
}

// A step in mixed precision allocates nothing.
func TestMixedAllocatesNothing(t *testing.T) {
	sharing(t)
	pool := newTestPool(t, 2)
	for _, f := range someFormats {
		l := mixedRun(NewAdaPNM(), f)
		g := l.grads(f.g, 1)
		one := []Update{newUpdate(NewAdaPNM(), f, newVector(f.p, 100), 0)}
		one[0].Grads = newVector(f.g, 100)
		if n := testing.AllocsPerRun(20, func() {
			l.next(t, Options{ClipNorm: 1, ZeroGrads: true, Pool: pool}, g)
			if _, err := UpdateAll(Options{}, one); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %g allocations", f, n)
		}
	}
}

func TestMixedErrors(t *testing.T) {
	half := func(x []float32) Vector { return BF16(unsafe.Slice((*uint16)(unsafe.Pointer(&x[0])), 2*len(x))) }
	as := func(v Vector, f format) Vector { return Vector{at: v.at, n: v.n, layout: layout{format: f}} }
	at := func(x []float32, i int) Vector { return half(x[4*i : 4*i+4]) } // 8 elements of 16 bits
	wide := func() Vector { return Float64(make([]float64, 8)) }
	// The tensor is float32 with gradients and state of 16 bits, unless bad changes it.
	call := func(o Options, bad func(x []float32, u *Update)) func(x []float32) error {
		return func(x []float32) error {
			u := Update{Rule: NewAdaPNM(), Step: 1, Params: Float32(x[32:40]), Grads: at(x, 1), State: []Vector{at(x, 2), at(x, 3), at(x, 4), at(x, 5)}}
			bad(x, &u)
			_, err := updateVectors(o, u)
			l := List{Updates: []Update{u}}
			_, again := l.Step(o)
			wantSameError(t, "List", again, err)
			return err
		}
	}
	tensor := func(err error) error { return &TensorError{Tensor: 0, Err: err} }
	refuse(t, []refusal{
		{"f16 params", call(Options{}, func(x []float32, u *Update) { u.Params = as(at(x, 0), f16) }),
			tensor(&FormatError{"params", "f16", "float32, bf16 or low16"}), "tensor 0: the format of params is f16, must be float32, bf16 or low16"},
		{"f16 state", call(Options{}, func(x []float32, u *Update) { u.State[2] = as(at(x, 4), f16) }),
			tensor(&FormatError{"exp_avg_sq", "f16", "float32 or bf16"}), "exp_avg_sq is f16"},
		{"state of two formats", call(Options{}, func(x []float32, u *Update) { u.State[2] = Float32(x[40:48]) }),
			tensor(&FormatError{"exp_avg_sq", "float32", "bf16 like exp_avg"}), "bf16 like exp_avg"},
		{"the last buffer in another format", call(Options{}, func(x []float32, u *Update) {
			u.Grads, u.State = Float32(x[8:16]), []Vector{Float32(x[0:8]), Float32(x[16:24]), Float32(x[40:48]), at(x, 12)}
		}), tensor(&FormatError{"max_exp_avg_sq", "bf16", "float32 like exp_avg"}), "float32 like exp_avg"},
		{"copy of bf16", call(Options{}, func(x []float32, u *Update) { u.Params, u.Copy = at(x, 0), at(x, 6) }),
			tensor(&FormatError{"params", "bf16", "float32 or low16 to have a copy"}), "to have a copy"},
		{"copy in float32", call(Options{}, func(x []float32, u *Update) { u.Copy = Float32(x[40:48]) }),
			tensor(&FormatError{"copy", "float32", "bf16 or f16"}), "copy is float32"},
		{"low16 without copy", call(Options{}, func(x []float32, u *Update) { u.Params = as(at(x, 0), low16) }),
			tensor(&FormatError{"copy", "nil", "bf16, the upper halves of low16 params"}), "copy is nil, must be bf16, the upper halves"},
		{"low16 with an f16 copy", call(Options{}, func(x []float32, u *Update) { u.Params, u.Copy = as(at(x, 0), low16), as(at(x, 6), f16) }),
			tensor(&FormatError{"copy", "f16", "bf16, the upper halves of low16 params"}), "copy is f16"},
		{"low16 with a float64 copy", call(Options{}, func(x []float32, u *Update) { u.Params, u.Copy = as(at(x, 0), low16), wide() }),
			tensor(&FormatError{"copy", "float64", "bf16, the upper halves of low16 params"}), "copy is float64"},
		{"low16 with float64 state", call(Options{}, func(x []float32, u *Update) {
			u.Params, u.Copy, u.State[0] = as(at(x, 0), low16), at(x, 6), wide()
		}), tensor(&FormatError{"exp_avg", "float64", "float32, bf16 or mxfp8"}), "exp_avg is float64, must be float32, bf16 or mxfp8"},
		{"low16 gradient", call(Options{}, func(x []float32, u *Update) { u.Grads = as(at(x, 1), low16) }),
			tensor(&FormatError{"grads", "low16", "float32, bf16 or f16"}), "grads is low16"},
		{"low16 gradient of float64", call(Options{}, func(x []float32, u *Update) {
			*u = Update{Rule: NewSGD(1), Step: 1, Params: wide(), Grads: as(at(x, 1), low16)}
		}), tensor(&FormatError{"grads", "low16", "float64 like params"}), "grads is low16"},
		{"low16 state", call(Options{}, func(x []float32, u *Update) { u.State[2] = as(at(x, 4), low16) }),
			tensor(&FormatError{"exp_avg_sq", "low16", "float32 or bf16"}), "is low16, must be float32 or bf16"},
		{"low16 copy", call(Options{}, func(x []float32, u *Update) { u.Copy = as(at(x, 6), low16) }),
			tensor(&FormatError{"copy", "low16", "bf16 or f16"}), "copy is low16"},
		{"the halves overlap", call(Options{}, func(x []float32, u *Update) { u.Params, u.Copy = as(at(x, 0), low16), half(x[2:6]) }),
			tensor(&OverlapError{"params", "copy", 4, nil, nil}), "params and copy share 4 elements"},
		{"nothing to follow", call(Options{}, func(x []float32, u *Update) { u.Follow = true }),
			tensor(&FormatError{"copy", "nil", "bf16 or f16 for params to follow it"}), "copy is nil, must be bf16 or f16 for params to follow it"},
		{"float32 to follow", call(Options{}, func(x []float32, u *Update) { u.Copy, u.Follow = Float32(x[40:48]), true }),
			tensor(&FormatError{"copy", "float32", "bf16 or f16 for params to follow it"}), "copy is float32"},
		{"bf16 that follow", call(Options{}, func(x []float32, u *Update) { u.Params, u.Follow = at(x, 0), true }),
			tensor(&FormatError{"params", "bf16", "float32 or low16 to follow their copy"}), "params is bf16, must be float32 or low16 to follow"},
		{"float64 that follow", call(Options{}, func(x []float32, u *Update) {
			*u = Update{Rule: NewSGD(1), Step: 1, Params: wide(), Grads: wide(), Follow: true}
		}), tensor(&FormatError{"params", "float64", "float32 or low16 to follow their copy"}), "params is float64"},
		{"short copy", call(Options{}, func(x []float32, u *Update) { u.Copy = at(x, 6).cut(0, 7) }),
			tensor(&LengthError{"copy", 7, 8}), "length of copy is 7, must be 8"},
		{"short gradient", call(Options{}, func(x []float32, u *Update) { u.Grads = at(x, 1).cut(0, 3) }),
			tensor(&LengthError{"grads", 3, 8}), "length of grads is 3"},
		{"gradient in params", call(Options{}, func(x []float32, u *Update) { u.Grads = half(x[38:42]) }),
			tensor(&OverlapError{"params", "grads", 2, nil, nil}), "params and grads share 2 elements"},
		{"copy in state", call(Options{}, func(x []float32, u *Update) { u.Copy = half(x[11:15]) }),
			tensor(&OverlapError{"exp_avg", "copy", 2, nil, nil}), "exp_avg and copy share 2 elements"},
		{"copy in params", call(Options{}, func(x []float32, u *Update) { u.Copy = half(x[38:42]) }),
			tensor(&OverlapError{"params", "copy", 2, nil, nil}), "params and copy share 2 elements"},
		{"copy as gradient", call(Options{}, func(x []float32, u *Update) { u.Copy, u.Grads = at(x, 0), at(x, 0) }),
			tensor(&OverlapError{"copy", "grads", 8, nil, nil}), "copy and grads share 8"},
		{"copy as the parameters are", call(Options{}, func(x []float32, u *Update) {
			u.Rule, u.Grads, u.State, u.Copy = NewSGD(1), Float32(x[0:8]), nil, Float32(x[40:48])
		}), tensor(&FormatError{"copy", "float32", "bf16 or f16"}), "the format of copy is float32, must be bf16 or f16"},
		{"copy in float64", call(Options{}, func(x []float32, u *Update) {
			*u = Update{Rule: NewSGD(1), Step: 1, Params: wide(), Grads: wide(), Copy: wide()}
		}), tensor(&FormatError{"params", "float64", "float32 or low16 to have a copy"}), "params is float64"},
		{"float64 gradient", call(Options{}, func(x []float32, u *Update) { u.Grads = wide() }),
			tensor(&FormatError{"grads", "float64", "float32, bf16 or f16"}), "grads is float64"},
		{"float64 state", call(Options{}, func(x []float32, u *Update) { u.State[0] = wide() }),
			tensor(&FormatError{"exp_avg", "float64", "float32 like params, since one of the two is float64"}), "exp_avg is float64"},
		{"loss scale", call(Options{LossScale: 1e300}, func([]float32, *Update) {}),
			&ValueError{"Options", "LossScale", 1e300, "> 0 with an inverse that is a normal number of float32, or 0 for 1"}, "of float32"},
		{"LR", call(Options{}, func(x []float32, u *Update) { u.Rule, u.Params, u.State = NewSGD(1e39), at(x, 0), nil }),
			tensor(&ValueError{"SGD", "LR", 1e39, "small enough for its coefficient to be finite in float32"}), "LR leads to"},
	})
}
