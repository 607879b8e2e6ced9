package optim

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posneg/pnm"
)

var thorough = flag.Bool("thorough", false, "run the variants of tests that take long")

// lcg returns n numbers: multiples of 2⁻²³ in [−1, 1).
func lcg[T pnm.Float](seed uint64, n int) []T {
	out := make([]T, n)
	for i := range out {
		seed = seed*6364136223846793005 + 1442695040888963407
		out[i] = T(float64(seed>>40)/(1<<23) - 1)
	}
	return out
}

// normOf is the norm of gradients, by themselves.
func normOf(grads ...pnm.Vector) float64 {
	s := pnm.SumSquares(nil, grads...)
	return s.Norm()
}

// with returns a rule with hyperparameters changed: a name, a value, a name, ….
func with(r pnm.Rule, pairs ...any) pnm.Rule {
	for i := 0; i < len(pairs); i += 2 {
		var err error
		if r, err = r.With(pairs[i].(string), pairs[i+1]); err != nil {
			panic(err)
		}
	}
	return r
}

// sampleRules has each rule of the engine as its constructor makes it, and with each of its options turned around.
func sampleRules() (all []pnm.Rule) {
	for _, r := range pnm.Rules() {
		all = append(all, with(r, "lr", 0.1))
		for name, value := range r.Hyperparameters() {
			on, ok := value.(bool)
			if !ok {
				continue
			}
			turned := with(r, "lr", 0.3, "weight_decay", 0.02, name, !on)
			if momentum, err := turned.With("momentum", 0.9); err == nil {
				turned = momentum
			}
			all = append(all, turned)
		}
	}
	return all
}

// newState returns the zero state of a tensor.
func newState[T pnm.Float](r pnm.Rule, n int) [][]T {
	s := make([][]T, len(r.State()))
	for i := range s {
		s[i] = make([]T, n)
	}
	return s
}

// updateAlone is a step of one tensor by the engine.
func updateAlone[T pnm.Float](o pnm.Options, r pnm.Rule, step int, p, g []T, state [][]T) (pnm.Report, error) {
	u := pnm.Update{Rule: r, Step: step, Params: pnm.Vectors(p)[0], Grads: pnm.Vectors(g)[0], State: pnm.Vectors(state...)}
	return pnm.UpdateAll(o, []pnm.Update{u})
}

// groupOf is a group of slices.
func groupOf[T pnm.Float](r pnm.Rule, params ...[]T) Group {
	return Group{Rule: r, Params: pnm.Vectors(params...)}
}

// optimizerOf returns an optimizer that the test closes in the end.
func optimizerOf(t testing.TB, groups ...Group) *Optimizer {
	t.Helper()
	return Config{}.of(t, groups...)
}

func (c Config) of(t testing.TB, groups ...Group) *Optimizer {
	t.Helper()
	o, err := c.New(groups...)
	wantNoError(t, err)
	t.Cleanup(o.Close)
	return o
}

// stepOf performs a step without options.
func stepOf[T pnm.Float](o *Optimizer, grads ...[]T) error {
	_, err := o.Step(pnm.Options{}, pnm.Vectors(grads...))
	return err
}

// partOf performs a part of a step, without the report.
func partOf(o *Optimizer, opts pnm.Options, p Part) error {
	_, err := o.StepPart(opts, p)
	return err
}

func newTestPool(t testing.TB, workers int) *pnm.Pool {
	t.Helper()
	p, err := pnm.NewPool(workers)
	wantNoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// littleEndian appends s as little-endian IEEE-754 bytes.
func littleEndian[T pnm.Float](b []byte, s []T) []byte {
	b, err := binary.Append(b, binary.LittleEndian, s)
	if err != nil {
		panic(err)
	}
	return b
}

// sameBits reports whether a and b are the same number, bit for bit, or both NaN.
func sameBits[T pnm.Float](a, b T) bool {
	return a == b && math.Signbit(float64(a)) == math.Signbit(float64(b)) || a != a && b != b
}

// wantSame fails the test at the first element that differs.
func wantSame[T pnm.Float](t *testing.T, what string, got, want []T) {
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

// wantSameVector is wantSame for vectors, which must have one format.
func wantSameVector(t *testing.T, what string, got, want pnm.Vector) {
	t.Helper()
	switch {
	case got.Format() != want.Format():
		t.Fatalf("%s is %s, want %s", what, got.Format(), want.Format())
	case got.Len() == want.Len() && got.Row() == want.Row() && string(got.Bytes()) == string(want.Bytes()) && string(got.Scales()) == string(want.Scales()):
	case isWide(want):
		wantSame(t, what, got.Float64(), want.Float64())
	case want.Format() == low16Format:
		t.Fatalf("%s: % x, want % x", what, got.Bytes(), want.Bytes())
	case got.Row() != want.Row():
		t.Fatalf("%s has rows of %d, want %d", what, got.Row(), want.Row())
	default:
		wantSame(t, what, wide(got), wide(want))
	}
}

// wantSameState compares the states of two optimizers.
func wantSameState(t *testing.T, what string, got, want *Optimizer) {
	t.Helper()
	a, b := stateOf(t, got), stateOf(t, want)
	for i := range b {
		if a[i].Step != b[i].Step {
			t.Fatalf("%s: tensor %d has made %d steps, want %d", what, i, a[i].Step, b[i].Step)
		}
		for name, v := range b[i].Buffers {
			wantSameVector(t, fmt.Sprintf("%s: %s of tensor %d", what, name, i), a[i].Buffers[name], v)
		}
	}
}

func stateOf(t *testing.T, o *Optimizer) []TensorState {
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

func clones[T pnm.Float](x [][]T) (c [][]T) {
	for _, s := range x {
		c = append(c, slices.Clone(s))
	}
	return c
}

// vectorClones returns copies in other memory; nil stays nil.
func vectorClones(vectors []pnm.Vector) (copies []pnm.Vector) {
	for _, v := range vectors {
		if !v.IsNil() {
			v = v.Clone()
		}
		copies = append(copies, v)
	}
	return copies
}

// newVector returns n zeros.
func newVector(format string, n int) pnm.Vector {
	switch format {
	case "float32":
		return pnm.Float32(make([]float32, n))
	case "float64":
		return pnm.Float64(make([]float64, n))
	case "bf16":
		return pnm.BF16(make([]uint16, n))
	case "f16":
		return pnm.F16(make([]uint16, n))
	case low16Format:
		return pnm.Low16(make([]uint16, n))
	case mxfp8Format:
		return newMX(n, 0)
	}
	panic(format)
}

// newMX returns n zeros in rows.
func newMX(n, row int) pnm.Vector {
	a, err := pnm.AllocState(pnm.NewPNM(1), mxfp8Format, []int{n}, []int{row})
	if err != nil {
		panic(err)
	}
	return a.Vectors()[0].Clone()
}

// rowOf returns a row for n elements: of all kinds, and none for some.
func rowOf(n int) int {
	for _, row := range []int{39, 107, 55, 35, 33, 17, 5} {
		if n > 0 && n%row == 0 {
			return row
		}
	}
	return []int{n, 0, 1}[n%3]
}

// ordinary returns a vector of ordinary numbers, as lcg makes them.
func ordinary(format string, seed uint64, n int) pnm.Vector {
	v := newVector(format, n)
	x := pnm.Float32(lcg[float32](seed, n))
	if format == low16Format {
		splitInto(newVector("bf16", n), v, x)
	} else {
		set(v, x)
	}
	return v
}

// splitInto is pnm.Split for vectors that are known to fit.
func splitInto(upper, low, from pnm.Vector) {
	if err := pnm.Split(upper, low, from); err != nil {
		panic(err)
	}
}

// joinedOf returns the numbers whose lower and upper halves these are.
func joinedOf(low, upper pnm.Vector) pnm.Vector {
	v := newVector(float32Format, low.Len())
	if err := pnm.Join(v, upper, low); err != nil {
		panic(err)
	}
	return v
}

// wide is a vector as float32.
func wide(v pnm.Vector) []float32 {
	x := make([]float32, v.Len())
	set(pnm.Float32(x), v)
	return x
}

// isZero reports whether all bits of a vector are 0.
func isZero(v pnm.Vector) bool {
	return strings.Trim(string(v.Bytes())+string(v.Scales()), "\x00") == ""
}

// formatsOf are the formats of a tensor's vectors; out is "" for no copy.
type formatsOf struct{ p, g, s, out string }

// row is that of rowOf, if it matters.
func (f formatsOf) row(n int) int {
	if f.s == mxfp8Format {
		return rowOf(n)
	}
	return 0
}

// rowsFor has a row for each vector.
func rowsFor(params []pnm.Vector, row func(n int) int) (rows []int) {
	for _, p := range params {
		rows = append(rows, row(p.Len()))
	}
	return rows
}

// border returns what the places are multiples of where a tensor of n elements may be cut, with such a row.
func (f formatsOf) border(n int) int {
	switch row := f.row(n); {
	case f.s != mxfp8Format:
		return 1
	case row%mxBlock > 0:
		return row
	}
	return mxBlock
}

func (f formatsOf) String() string {
	return fmt.Sprintf("params %s, grads %s, state %s, copy %s", f.p, f.g, f.s, f.out)
}

// someFormats are the formats that a user would choose.
var someFormats = []formatsOf{
	{"float32", "bf16", "float32", ""}, {"float32", "f16", "float32", "f16"}, {"float32", "float32", "bf16", ""},
	{"float32", "bf16", "bf16", "bf16"}, {"bf16", "bf16", "bf16", ""}, {"bf16", "bf16", "float32", ""}, {"low16", "bf16", "float32", "bf16"},
	{"float32", "bf16", "mxfp8", ""}, {"bf16", "bf16", "mxfp8", ""}, {"low16", "bf16", "mxfp8", "bf16"},
}

// listSizes are lengths of many kinds. A step of all tensors is shared by several workers; in a tier of its own, see TestEveryTier,
// it need not be.
var listSizes = []int{5, 0, 4096, 1, 3*4096 + 17, 4095, 64, 150_001, 4097}

func init() {
	if os.Getenv("PNM_ISA") != "" {
		listSizes[7] = 9*4096 + 1
	}
}

// A run is a few tensors that are trained by an optimizer.
type run struct {
	opt            *Optimizer
	params, copies []pnm.Vector
	f              formatsOf
}

// newRun has the tensors in two groups of one rule, of which the second one follows copies.
func newRun(t *testing.T, r pnm.Rule, f formatsOf, c Config, sizes []int) *run {
	t.Helper()
	return newRunOf(t, r, f, c, sizes, f.row)
}

// newRunOf has other rows.
func newRunOf(t *testing.T, r pnm.Rule, f formatsOf, c Config, sizes []int, row func(n int) int) *run {
	t.Helper()
	m := &run{f: f}
	for i, n := range sizes {
		m.params = append(m.params, f.params(uint64(i), n))
		if f.out != "" {
			m.copies = append(m.copies, ordinary(f.out, uint64(i), n))
		}
	}
	var groups []Group
	for _, at := range [][2]int{{0, 4}, {4, len(m.params)}} {
		g := Group{Rule: r, Params: m.params[at[0]:at[1]], State: f.s, Rows: rowsFor(m.params[at[0]:at[1]], row)}
		if m.copies != nil {
			g.Copies, g.Follow = m.copies[at[0]:at[1]], at[0] > 0
		}
		groups = append(groups, g)
	}
	m.opt = c.of(t, groups...)
	return m
}

func (f formatsOf) params(seed uint64, n int) pnm.Vector {
	if f.p == float64Format {
		return pnm.Float64(lcg[float64](seed, n))
	}
	return ordinary(f.p, seed, n)
}

func (m *run) grads(step int) []pnm.Vector {
	g := make([]pnm.Vector, len(m.params))
	for i, p := range m.params {
		if seed := uint64(100*step + i); m.f.g == float64Format {
			g[i] = pnm.Float64(lcg[float64](seed, p.Len()))
		} else {
			g[i] = ordinary(m.f.g, seed, p.Len())
		}
	}
	return g
}

// step performs a step without options.
func (m *run) step(t *testing.T, step int) {
	t.Helper()
	_, err := m.opt.Step(pnm.Options{}, m.grads(step))
	wantNoError(t, err)
}

// wantSameRun compares parameters, copies and state.
func wantSameRun(t *testing.T, what string, got, want *run) {
	t.Helper()
	for i := range want.params {
		wantSameVector(t, fmt.Sprintf("%s: params %d", what, i), got.params[i], want.params[i])
		if want.copies != nil {
			wantSameVector(t, fmt.Sprintf("%s: copy %d", what, i), got.copies[i], want.copies[i])
		}
	}
	wantSameState(t, what, got.opt, want.opt)
	if x, y := fingerprintOfRun(t, got.opt), fingerprintOfRun(t, want.opt); x != y {
		t.Fatalf("%s: the fingerprint is %v, want %v", what, x, y)
	}
}

// eventually fails the test unless the condition comes true after some garbage collections.
func eventually(t *testing.T, otherwise string, condition func() bool) {
	t.Helper()
	for range 1000 {
		if runtime.GC(); condition() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal(otherwise)
}
