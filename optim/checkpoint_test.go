package optim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/safetensors"
)

type bytesBuffer = bytes.Buffer

// loadFrom is Load from memory.
func loadFrom(o *Optimizer, file []byte, l LoadOptions) error {
	_, err := o.LoadFrom(bytes.NewReader(file), int64(len(file)), l)
	return err
}

// saved returns a checkpoint.
func saved(t testing.TB, o *Optimizer, s SaveOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	wantNoError(t, o.SaveTo(&b, s))
	return b.Bytes()
}

// snapshot is all that a checkpoint can change of an optimizer.
func snapshot(o *Optimizer) string {
	b := fmt.Appendf(nil, "closed: %v, groups: %#v, open: %d", o.closed, o.groups, o.parts.open)
	for i, u := range o.list.Updates {
		b = fmt.Appendf(b, "\n%d: rule %#v, step %d, %v:", i, u.Rule, u.Step, u.Rounding)
		for _, v := range append([]pnm.Vector{u.Params, u.Grads, u.Copy}, u.State...) {
			b = fmt.Appendf(b, " %x %x", v.Bytes(), v.Scales())
		}
	}
	return string(b)
}

func testResume[T pnm.Float](t *testing.T) {
	for _, r := range sampleRules() {
		for at := range 4 {
			for _, params := range []bool{true, false} {
				first, second := newDuo[T](t, r, pnm.NewAdaPNM()), newDuo[T](t, with(r, "lr", 7.0), pnm.NewAdaPNM())
				first.steps(t, 1, at)
				file := saved(t, first.opt, SaveOptions{StateOnly: !params})
				second.steps(t, 1, 3) // something that must be replaced
				if !params {
					for i, p := range first.params {
						copy(second.params[i], p)
					}
				}
				wantNoError(t, loadFrom(second.opt, file, LoadOptions{StateOnly: !params}))
				first.steps(t, at+1, 6)
				second.steps(t, at+1, 6)
				second.wantSame(t, fmt.Sprintf("%T saved at step %d, with parameters: %v", r, at, params), first)
			}
		}
	}
}

// A run that is saved to a file and resumed at any step, odd or even, gives the bits of one that was not.
func TestCheckpointResume(t *testing.T) {
	t.Run("float32", testResume[float32])
	t.Run("float64", testResume[float64])
}

// So does one of several formats, with the same random numbers, and copies made anew.
func TestCheckpointResumeOfFormats(t *testing.T) {
	sizes := []int{5, 0, 33, 1, 70, 16}
	const end = 4
	for _, r := range sampleRules() {
		for _, f := range someFormats {
			first, second := newRun(t, r, f, Config{Seed: 3}, sizes), newRun(t, with(r, "lr", 7.0), f, Config{Seed: 4}, sizes)
			var files [1 + end][]byte
			for step := 1; step <= end; step++ {
				first.step(t, step)
				files[step] = saved(t, first.opt, SaveOptions{})
			}
			for at := 2; at <= end; at++ {
				second.step(t, 1) // something that must be replaced
				wantNoError(t, loadFrom(second.opt, files[at], LoadOptions{}))
				for step := at + 1; step <= end; step++ {
					second.step(t, step)
				}
				wantSameRun(t, fmt.Sprintf("%T, %s, saved at step %d", r, f, at), second, first)
			}
		}
	}
}

// State and parameters in another format, or in other rows, are converted as SetState and Set do.
func TestCheckpointConverts(t *testing.T) {
	rng := rand.New(rand.NewPCG(73, 74))
	sizes := []int{5, 0, 33, 1, 70, 4095, mostConverted, mostConverted + 1, 55 * 600, 2*mostConverted + 33}
	flat := func(int) int { return 0 }
	ones := func(int) int { return 1 }
	long := func(n int) int { return n }
	files := []struct {
		formatsOf
		row func(n int) int
	}{
		{formatsOf{"float32", "float32", "float32", ""}, flat},
		{formatsOf{"bf16", "float32", "bf16", ""}, flat},
		{formatsOf{"float32", "float32", "mxfp8", ""}, flat},
		{formatsOf{"bf16", "float32", "mxfp8", ""}, ones},
		{formatsOf{"float32", "float32", "mxfp8", ""}, rowOf},
		{formatsOf{"bf16", "float32", "mxfp8", ""}, long},
	}
	for i, from := range files {
		a := newRunOf(t, pnm.NewAdaPNM(), from.formatsOf, Config{}, sizes, from.row)
		a.step(t, 1)
		file := saved(t, a.opt, SaveOptions{})
		for k, to := range files {
			if i == k {
				continue
			}
			b, c := newRunOf(t, pnm.NewAdaPNM(), to.formatsOf, Config{}, sizes, to.row), newRunOf(t, pnm.NewAdaPNM(), to.formatsOf, Config{}, sizes, to.row)
			wantNoError(t, c.opt.SetState(stateOf(t, a.opt)))
			for i, p := range a.params {
				set(c.params[i], p)
			}
			for _, file := range [][]byte{file, shuffled(t, rng, file)} {
				wantNoError(t, loadFrom(b.opt, file, LoadOptions{}))
				wantSameRun(t, fmt.Sprintf("%d into %d", i, k), b, c)
				wantNoError(t, b.opt.SetState(make([]TensorState, len(sizes)))) // which must be replaced
			}
		}
	}
}

// A file is the same, byte by byte, of split parameters, or those that follow a copy, as of float32 ones, and has what others wrote to the
// copy. Each loads into the other, and goes on with the same bits.
func TestCheckpointOfMasters(t *testing.T) {
	sizes := []int{5, 0, 33, 1, 70, blockSize/8 + 3}
	rng := rand.New(rand.NewPCG(71, 72))
	for _, f := range []formatsOf{{"low16", "bf16", "float32", "bf16"}, {"low16", "f16", "bf16", "bf16"}, {"float32", "bf16", "float32", "bf16"},
		{"float32", "bf16", "bf16", "f16"}} {
		for _, r := range sampleRules() {
			plain := func() *run { return newRun(t, r, formatsOf{"float32", f.g, f.s, ""}, Config{Seed: 3}, sizes) }
			masters := func() *run {
				m := newRun(t, r, f, Config{Seed: 3}, sizes)
				for i, n := range sizes {
					if f.p == low16Format {
						splitInto(m.copies[i], m.params[i], ordinary("float32", uint64(i), n))
					}
				}
				return m
			}
			a, b := masters(), plain()
			step := func(what string, a, b *run, step int) {
				t.Helper()
				a.step(t, step)
				b.step(t, step)
				wantSameFile(t, fmt.Sprintf("%+v, %s, %s", r, f, what), a, b)
			}
			step("one step", a, b, 1)
			step("two steps", a, b, 2)
			for i := 4; i < len(sizes); i++ { // those that follow
				for k := rng.IntN(9); k < sizes[i]; k += 1 + rng.IntN(200) {
					low, p, copied := a.params[i].Slice(k, k+1), b.params[i].Slice(k, k+1), a.copies[i].Slice(k, k+1)
					before := copied.Clone()
					set(copied, pnm.Float32([]float32{float32(rng.NormFloat64())}))
					switch {
					case f.p == low16Format:
						set(p, joinedOf(low, copied))
					case copied.Bits()[0] != before.Bits()[0]:
						set(p, copied)
					}
				}
			}
			wantSameFile(t, fmt.Sprintf("%+v, %s, written", r, f), a, b)
			step("three steps", a, b, 3)

			c, d := masters(), plain()
			c.step(t, 1) // something that must be replaced
			d.step(t, 1)
			wantNoError(t, loadFrom(c.opt, saved(t, b.opt, SaveOptions{}), LoadOptions{}))
			wantNoError(t, loadFrom(d.opt, saved(t, a.opt, SaveOptions{}), LoadOptions{}))
			wantSameRun(t, f.String(), c, a)
			wantSameRun(t, f.String(), d, b)
			step("loaded", c, d, 4)
		}
	}
}

// wantSameFile compares what two runs save.
func wantSameFile(t *testing.T, what string, got, want *run) {
	t.Helper()
	if !bytes.Equal(saved(t, got.opt, SaveOptions{}), saved(t, want.opt, SaveOptions{})) {
		t.Fatalf("%s: the files differ", what)
	}
}

// Parameters in bf16 are exact where they are split; float64 is not converted, and the halves are as they were.
func TestCheckpointIsSplit(t *testing.T) {
	sizes := []int{5, 0, 33, 1, blockSize + 1}
	split := formatsOf{"low16", "bf16", "float32", "bf16"}
	a, b := newRun(t, pnm.NewPNM(1), formatsOf{"bf16", "bf16", "float32", ""}, Config{}, sizes), newRun(t, pnm.NewPNM(1), split, Config{}, sizes)
	a.step(t, 1)
	wantNoError(t, loadFrom(b.opt, saved(t, a.opt, SaveOptions{}), LoadOptions{}))
	for i, p := range a.params {
		wantSameVector(t, "upper halves", b.copies[i], p)
		if !isZero(b.params[i]) {
			t.Errorf("tensor %d has lower halves", i)
		}
	}

	w := newRun(t, pnm.NewPNM(1), formatsOf{"float64", "float64", "float64", ""}, Config{}, sizes)
	before := snapshot(b.opt)
	err := loadFrom(b.opt, saved(t, w.opt, SaveOptions{}), LoadOptions{})
	if err == nil || !strings.Contains(err.Error(), `"state.0.pos_momentum" is float64, the optimizer has float32: float64 is not converted`) {
		t.Error(err)
	}
	header, data := unsummed(saved(t, newRun(t, pnm.NewSGD(1), formatsOf{"float64", "float64", "float64", ""}, Config{}, sizes).opt, SaveOptions{}))
	c := newRun(t, pnm.NewSGD(1), split, Config{}, sizes)
	err = loadFrom(c.opt, withHeader(header, data), LoadOptions{})
	if err == nil || !strings.Contains(err.Error(), `"params.0" is float64, the optimizer has low16: float64 is not converted`) {
		t.Error(err)
	}
	if snapshot(b.opt) != before {
		t.Error("the optimizer has changed")
	}
}

// A file without parameters leaves both halves as they are.
func TestStateOnlyOfSplit(t *testing.T) {
	f, sizes := formatsOf{"low16", "bf16", "float32", "bf16"}, []int{5, 0, 33, 1, 70}
	a, b := newRun(t, pnm.NewAdaPNM(), f, Config{}, sizes), newRun(t, pnm.NewAdaPNM(), f, Config{}, sizes)
	a.step(t, 1)
	wantNoError(t, loadFrom(b.opt, saved(t, a.opt, SaveOptions{StateOnly: true}), LoadOptions{StateOnly: true}))
	wantSameState(t, "state", b.opt, a.opt)
	for i, n := range sizes {
		wantSameVector(t, "lower halves", b.params[i], ordinary(f.p, uint64(i), n))
		wantSameVector(t, "upper halves", b.copies[i], ordinary(f.out, uint64(i), n))
	}
}

// Tensors are found by their names, whatever their order and their groups.
func TestCheckpointNames(t *testing.T) {
	p, q := [][]float32{lcg[float32](1, 3), lcg[float32](2, 4), lcg[float32](3, 5)}, [][]float32{make([]float32, 5), make([]float32, 3), make([]float32, 4)}
	rule := pnm.NewAdaPNM()
	other := with(rule, "lr", 1.0)
	named := func(r pnm.Rule, names []string, params ...[]float32) Group {
		return Group{Rule: r, Params: pnm.Vectors(params...), Names: names}
	}
	a := optimizerOf(t, named(rule, []string{"x.y", "ä"}, p[:2]...), named(rule, []string{"2"}, p[2]))
	b := optimizerOf(t, named(other, []string{"2"}, q[0]), named(other, []string{"x.y"}, q[1]), Group{Rule: pnm.NewPNM(1)}, named(rule, []string{"ä"}, q[2]))
	for range 3 {
		wantNoError(t, stepOf(a, lcg[float32](4, 3), nil, lcg[float32](5, 5)))
	}
	wantNoError(t, stepOf(a, nil, lcg[float32](6, 4), nil))
	wantNoError(t, loadFrom(b, saved(t, a, SaveOptions{}), LoadOptions{}))
	x, y := describe(stateOf(t, a)), describe(stateOf(t, b))
	for i, k := range []int{1, 2, 0} {
		wantSame(t, "params", q[k], p[i])
		if y[k] != x[i] {
			t.Errorf("tensor %d is %v, want %v", i, y[k], x[i])
		}
	}
	for g, want := range []pnm.Rule{rule, rule, pnm.NewPNM(1), rule} {
		if b.Rule(g) != want {
			t.Errorf("rule %d is %v", g, b.Rule(g))
		}
	}
}

// With KeepRules hyperparameters and random numbers are the optimizer's; by default they are the file's.
func TestKeepRules(t *testing.T) {
	f := formatsOf{"bf16", "bf16", "bf16", ""}
	sizes := []int{5, 0, 33, 1, 70, 16}
	a := newRun(t, pnm.NewAdaPNM(), f, Config{Seed: 3}, sizes)
	wantNoError(t, a.opt.SetGroupLR(1, 0.5)) // the groups differ
	a.step(t, 1)
	file := saved(t, a.opt, SaveOptions{StateOnly: true})
	nine := with(pnm.NewAdaPNM(), "lr", 9.0)
	for _, keep := range []bool{true, false} {
		b := newRun(t, nine, f, Config{Seed: 4}, sizes)
		wantNoError(t, loadFrom(b.opt, file, LoadOptions{StateOnly: true, KeepRules: keep}))
		want, seed := [2]pnm.Rule{a.opt.Rule(0), a.opt.Rule(1)}, uint64(3)
		if keep {
			want, seed = [2]pnm.Rule{nine, nine}, 4
		}
		if got := [2]pnm.Rule{b.opt.Rule(0), b.opt.Rule(1)}; got != want {
			t.Errorf("the rules are %v", got)
		}
		for i, u := range b.opt.list.Updates {
			if u.Rounding != (pnm.Rounding{Seed: seed, Tensor: uint64(i)}) || u.Step != 2 {
				t.Errorf("tensor %d draws %v at step %d", i, u.Rounding, u.Step)
			}
		}
	}
	// In one group there cannot be two rules, but there may be if they are not to be taken.
	one := optimizerOf(t, Group{Rule: pnm.NewAdaPNM(), Params: a.params, State: "bf16"})
	wantNoError(t, loadFrom(one, file, LoadOptions{StateOnly: true, KeepRules: true}))
}

// A file whose tensor begins within a block, or a row, of the optimizer's mxfp8 state is refused: no step could follow.
func TestLoadBetweenBorders(t *testing.T) {
	part := func(state string, row int, first uint64) *Optimizer {
		return optimizerOf(t, Group{Rule: pnm.NewLion(), Params: []pnm.Vector{newVector("bf16", 60)}, Names: []string{"a"}, State: state,
			Rows: []int{row}, Rounding: []pnm.Rounding{{First: first}}})
	}
	file := saved(t, part("bf16", 0, 5), SaveOptions{})
	for row, legal := range map[int]string{0: "blocks of exp_avg, which is mxfp8: 0 or 32", 10: "rows of 10 of exp_avg, which is mxfp8: 0 or 10", 5: ""} {
		o := part(mxfp8Format, row, 0)
		before := snapshot(o)
		err := loadFrom(o, file, LoadOptions{})
		if legal == "" {
			wantNoError(t, err)
		} else {
			var at *pnm.TensorError
			want := &pnm.ValueError{Of: "Rounding", Field: "First", Value: 5, Legal: "between " + legal}
			if !errors.As(err, &at) || at.Name != "a" || !reflect.DeepEqual(at.Err, want) {
				t.Errorf("rows of %d: %v, want %v", row, err, want)
			}
			if snapshot(o) != before {
				t.Errorf("rows of %d: the optimizer has changed", row)
			}
			wantNoError(t, loadFrom(o, file, LoadOptions{KeepRules: true}))
		}
		_, err = o.Step(pnm.Options{}, []pnm.Vector{newVector("bf16", 60)})
		wantNoError(t, err)
	}
}

// A rule with the same state takes the place of another one, as by SetRule; a step's parts no longer count.
func TestLoadOverUsed(t *testing.T) {
	a := newDuo[float32](t, pnm.SGD{LR: 0.1, Momentum: 0.8, Nesterov: true}, pnm.NewPNM(1))
	b := newDuo[float32](t, pnm.SGD{LR: 0.1, Momentum: 0.9}, pnm.NewPNM(1))
	a.steps(t, 1, 3)
	wantNoError(t, partOf(b.opt, pnm.Options{}, Part{0, 1, 0, newVector("float32", 8)}))
	if err := b.opt.Save(filepath.Join(t.TempDir(), "x"), SaveOptions{}); !errors.As(err, new(*PartError)) {
		t.Errorf("saved in the middle of a step: %v", err)
	}
	wantNoError(t, loadFrom(b.opt, saved(t, a.opt, SaveOptions{}), LoadOptions{}))
	a.steps(t, 4, 6)
	b.steps(t, 4, 6)
	b.wantSame(t, "resumed", a)
}

// Every hyperparameter of a rule comes back from a file, where the betas are a list.
func TestRulesInFiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(51, 52))
	for _, sample := range sampleRules() {
		for range 20 {
			r := sample
			for name, value := range sample.Hyperparameters() {
				if x, ok := value.(float64); ok && x != 0 && x != 1 {
					r = with(r, name, x*(0.5+0.5*rng.Float64()))
				}
			}
			groups, _, err := parseGroups(`[{` + string(appendRule(nil, r)) + `,"tensors":[]}]`)
			wantNoError(t, err)
			if groups[0].Rule != r {
				t.Errorf("%#v comes back as %#v", r, groups[0].Rule)
			}
		}
	}
	for want, r := range map[string]pnm.Rule{
		`"rule":"PNM","lr":0.5,"betas":[0.9,1],"weight_decay":0,"decoupled":true,"maximize":false`:                                                         pnm.NewPNM(0.5),
		`"rule":"AdaPNM","lr":0.001,"betas":[0.9,0.999,1],"eps":1e-8,"weight_decay":0,"amsgrad":true,"decoupled":true,"maximize":false,"exact_bias":false`: pnm.NewAdaPNM(),
		`"rule":"SGD","lr":0.5,"momentum":0,"dampening":0,"weight_decay":0,"decoupled":false,"nesterov":false,"maximize":false`:                            pnm.NewSGD(0.5),
		`"rule":"Adam","lr":0.001,"betas":[0.9,0.999],"eps":1e-8,"weight_decay":0,"amsgrad":false,"decoupled":false,"maximize":false`:                      pnm.NewAdam(),
	} {
		if got := string(appendRule(nil, r)); got != want {
			t.Errorf("a file has\n%s, want\n%s", got, want)
		}
	}
}

// A subject is what the tests of bad files load them into. Its file is good.
type subject struct {
	*Optimizer
	file []byte
	load LoadOptions
	save SaveOptions
}

func newSubject(t testing.TB) *subject {
	t.Helper()
	return newSubjectOf(t, "a", "b", "c")
}

// newSubjectOf has other names.
func newSubjectOf(t testing.TB, names ...string) *subject {
	t.Helper()
	opt := Config{Seed: 5}.of(t,
		Group{Rule: pnm.NewAdaPNM(), Params: []pnm.Vector{ordinary(float32Format, 1, 4), ordinary(low16Format, 2, 2)}, Names: names[:2],
			State: "bf16", Copies: []pnm.Vector{newVector("f16", 4), ordinary("bf16", 2, 2)}},
		Group{Rule: pnm.SGD{LR: 1, Momentum: 0.5}, Params: []pnm.Vector{newVector("bf16", 3)}, Names: names[2:], State: mxfp8Format, Rows: []int{3}})
	shapes := [][]int{{2, 2}, nil, {3}}
	s := &subject{Optimizer: opt, load: LoadOptions{Shapes: shapes}, save: SaveOptions{Shapes: shapes, Metadata: map[string]string{"epoch": "3"}}}
	step := func() { wantNoError(t, stepOf(opt, lcg[float32](3, 4), lcg[float32](4, 2), lcg[float32](5, 3))) }
	step()
	step()
	s.file = saved(t, opt, s.save)
	step() // so that loading the file changes all
	return s
}

// otherwise returns a file of tensors with the same names as a subject's, but of another rule or format.
func otherwise(t testing.TB, groups ...Group) []byte {
	t.Helper()
	i := 0
	for g := range groups {
		for range groups[g].Params {
			groups[g].Names = append(groups[g].Names, []string{"a", "b", "c", "d"}[i])
			i++
		}
	}
	return saved(t, optimizerOf(t, groups...), SaveOptions{})
}

// edited returns a file with another header, and no checksum of it.
func edited(t testing.TB, file []byte, from, to string) []byte {
	t.Helper()
	header, data := unsummed(file)
	if strings.Count(header, from) == 0 {
		t.Fatalf("%s is not in %s", from, header)
	}
	return withHeader(strings.Replace(header, from, to, 1), data)
}

// unsummed returns the header of a file, without its checksum, and the data.
func unsummed(file []byte) (header string, data []byte) {
	n := 8 + binary.LittleEndian.Uint64(file)
	return headerSumIn.ReplaceAllString(string(file[8:n]), `"posneg.checkpoint":"1"`), file[n:]
}

var (
	headerSumIn = regexp.MustCompile(`"posneg.checkpoint":"1 [0-9a-f]{8}"`)
	dataSumsIn  = regexp.MustCompile(`,\\"crc32\\":\{[^}]*\}`)
)

func withHeader(header string, data []byte) []byte {
	return slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), []byte(header), data)
}

// wantRefused loads a bad file from a path, which changes nothing. What is wanted of a tensor names it first.
func (s *subject) wantRefused(t *testing.T, path, what string, file []byte, want string) {
	t.Helper()
	before := snapshot(s.Optimizer)
	tensor, problem, named := strings.Cut(strings.TrimPrefix(want, `tensor "`), `": `)
	if named = named && strings.HasPrefix(want, "tensor "); named {
		want = fmt.Sprintf("(%q): %s", tensor, problem)
	}
	wantNoError(t, os.WriteFile(path, file, 0o666))
	_, err := s.Load(path, s.load)
	if err == nil || !strings.HasPrefix(err.Error(), "optim: checkpoint "+path+": ") || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
	if e := (*pnm.TensorError)(nil); named && (!errors.As(err, &e) || e.Name != tensor) {
		t.Errorf("%s: %v is not of tensor %s", what, err, tensor)
	}
	if snapshot(s.Optimizer) != before {
		t.Fatalf("%s: the optimizer has changed", what)
	}
}

// Whatever is wrong with a file gives an error that says so, and nothing has changed.
func TestBadCheckpoints(t *testing.T) {
	s := newSubject(t)
	path := filepath.Join(t.TempDir(), "bad.safetensors")
	bad := func(what string, file []byte, want string) {
		t.Helper()
		s.wantRefused(t, path, what, file, want)
	}
	for _, c := range []struct{ from, to, want string }{
		{`"posneg.checkpoint":"1"`, `"posneg.checkpoint":"2"`, `written by a newer version: its posneg.checkpoint is "2", and this version reads 1`},
		{`"posneg.checkpoint"`, `"checkpoint"`, `metadata lacks posneg.checkpoint`},
		{`"posneg.groups"`, `"groups"`, `posneg.groups`},
		{`"[{`, `"x[{`, `metadata posneg.groups: at byte`},
		{`]}]"`, `]}] []"`, `something follows`},
		{`\"rule\":\"AdaPNM\"`, `\"rule\":\"Tiger\"`, `group 0: unknown rule "Tiger"`},
		{`\"rule\":\"AdaPNM\"`, `\"rule\":\"Adam\"`, `group 0: Adam: "betas": at byte 46: it has more than 2 numbers`},
		{`\"rule\":\"AdaPNM\",`, ``, `group 0: it must have a rule and tensors`},
		{`\"rule\":\"AdaPNM\"`, `\"rule\":1`, `group 0: at byte 10: a number instead of a string`},
		{`\"rule\":\"AdaPNM\"`, `\"rule\":\"AdaPNM\",\"rule\":\"AdaPNM\"`, `"rule" occurs twice`},
		{`\"lr\":0.001,`, ``, `group 0: AdaPNM lacks "lr"`},
		{`\"eps\":1e-8`, `\"eps\":-1`, `group 0: AdaPNM.Eps is -1, must be finite and ≥ 0`},
		{`\"lr\":0.001`, `\"lr\":1e400`, `AdaPNM: "lr": at byte 28: "1e400" is too large for float64`},
		{`\"lr\":0.001`, `\"lr\":1e300`, `group 0: AdaPNM.LR leads to 8.944`},
		{`\"lr\":0.001`, `\"lr\":\"0.001\"`, `AdaPNM: "lr": at byte 30: a string instead of a number`},
		{`\"lr\":0.001`, `\"lr\":NaN`, `at byte`},
		{`\"lr\":0.001`, `\"lr\":0.001,\"lr\":0.001`, `"lr" occurs twice`},
		{`\"lr\":0.001`, `\"lr\":0.001,\"foo\":1`, `AdaPNM has no "foo", only lr, betas, eps, weight_decay, amsgrad, decoupled, maximize, exact_bias`},
		{`\"betas\":[0.9,0.999,1]`, `\"betas\":[0.9,0.999]`, `it has 2 numbers, must have 3`},
		{`\"betas\":[0.9,0.999,1]`, `\"betas\":[0.9,1,1]`, `AdaPNM.Beta2 is 1`},
		{`\"betas\":[0.9,0.999,1]`, `\"betas\":[0.9,[],1]`, `an array instead of a number`},
		{`\"amsgrad\":true`, `\"amsgrad\":1`, `"amsgrad": at byte`},
		{`\"amsgrad\":true`, `\"amsgrad\":false`, `"state.a.max_exp_avg_sq" belongs to no tensor`},
		{`\"nesterov\":false`, `\"nesterov\":true,\"dampening\":1`, `"dampening" occurs twice`},
		{`\"momentum\":0.5`, `\"momentum\":0`, `"state.c.momentum_buffer" belongs to no tensor`},
		{`\"eps\":1e-8`, `\"eps\":1e-60`, `group 0: AdaPNM.Eps is 1e-60, must be 0, or large enough`},
		{`,{\"name\":\"b\"`, `]},{\"rule\":\"AdaPNM\",\"lr\":0.5,\"betas\":[0.9,0.999,1],\"eps\":1e-8,\"weight_decay\":0,\"amsgrad\":true,\"decoupled\":true,\"maximize\":false,\"exact_bias\":false,\"tensors\":[{\"name\":\"b\"`,
			`tensor "b": in the file its rule is pnm.AdaPNM{LR:0.5`},
		{`\"tensors\":[{\"name\":\"a\"`, `\"tensors\":{},\"x\":[{\"name\":\"a\"`, `an object instead of an array`},
		{`\"tensors\":[{\"name\":\"a\"`, `\"x\":[{\"name\":\"a\"`, `it must have a rule and tensors`},
		{`\"step\":2`, `\"step\":-1`, `"-1" instead of an integer from 0 to`},
		{`\"step\":2`, `\"step\":2.0`, `"2.0" instead of an integer`},
		{`\"step\":2`, `\"step\":9223372036854775807`, `"9223372036854775807" instead of an integer`},
		{`\"step\":2`, `\"step\":2,\"step\":2`, `"step" occurs twice`},
		{`\"step\":2`, `\"steps\":2`, `unknown "steps", a tensor has name, step, rounding and crc32`},
		{`,\"step\":2`, ``, `a tensor must have a name and a step`},
		{`\"name\":\"a\",`, ``, `a tensor must have a name and a step`},
		{`\"name\":\"a\"`, `\"name\":\"\"`, `a tensor must have a name and a step`},
		{`\"name\":\"a\"`, `\"name\":\"b\"`, `tensor "b": two tensors have this name`},
		{`\"name\":\"a\"`, `\"name\":\"x\"`, `tensor "x": exp_avg is missing, the state of the rule is exp_avg, neg_exp_avg`},
		{`\"rounding\":[5,0,0]`, `\"rounding\":[5,0]`, `rounding has 2 numbers, must have 3`},
		{`\"rounding\":[5,0,0]`, `\"rounding\":[5,0,0,0]`, `rounding has more than 3 numbers`},
		{`\"rounding\":[5,0,0]`, `\"rounding\":[5,0,-1]`, `"-1" instead of an integer from 0 to 18446744073709551615`},
		{`\"rounding\":[5,0,0]`, `\"rounding\":[5,0,0],\"rounding\":[5,0,0]`, `"rounding" occurs twice`},
		{`"state.a.exp_avg"`, `"state.a.exp_avk"`, `tensor "a": exp_avg is missing`},
		{`"state.a.max_exp_avg_sq"`, `"state.a.MAX_exp_avg_sq"`, `tensor "a": max_exp_avg_sq is missing`},
		{`"params.c"`, `"params.C"`, `"params.C" belongs to no tensor`},
		{`"BF16","shape":[3]`, `"F16","shape":[3]`, `tensor "c": "params.c" is F16, must be one of F32, F64, BF16`},
		{`"F32","shape":[2]`, `"BF16","shape":[4]`, `tensor "b": "state.b.exp_avg" has shape [2], others of its tensor have [4]`},
		{`"F32","shape":[2]`, `"F64","shape":[1]`, `tensor "b": "state.b.exp_avg" has shape [2], others of its tensor have [1]`},
		{`"BF16","shape":[2,2]`, `"BF16","shape":[4,1]`, `others of its tensor have`},
		{`"F32","shape":[2,2]`, `"F32","shape":[2,1,2]`, `others of its tensor have`},
	} {
		bad(c.to, edited(t, s.file, c.from, c.to), c.want)
	}
	each := 17
	if *thorough {
		each = 1
	}
	for n := 0; n < len(s.file); n += each {
		bad(fmt.Sprintf("%d bytes", n), s.file[:n], path)
	}
	bad("step 0", edited(t, edited(t, s.file, `\"step\":2`, `\"step\":0`), `"state.a.exp_avg"`, `"state.a.exp_avk"`), `tensor "a": exp_avg is missing`)
	bad("a byte more", append(slices.Clone(s.file), 0), "bytes")

	header, data := unsummed(s.file)
	bad("reshaped", withHeader(strings.ReplaceAll(header, `"shape":[2,2]`, `"shape":[4,1]`), data), `tensor "a": "state.a.exp_avg" has shape [4 1], must have [2 2]`)
	bad("no parameters", saved(t, s.Optimizer, SaveOptions{StateOnly: true}), `tensor "a": the file does not have its parameters`)
	bad("other names", newSubjectOf(t, "x", "0", "y").file, `tensor "a": it is not in the file, which has "x", "0", "y"`)
	bad("names change places", newSubjectOf(t, "b", "a", "c").file, `tensor "a": "state.a.exp_avg" has 2 elements, must have 4`)
	z := func(n int) []float64 { return make([]float64, n) }
	ada, momentum := pnm.NewAdaPNM(), pnm.SGD{LR: 1, Momentum: 1}
	bad("float64", otherwise(t, groupOf(ada, z(4), z(2)), groupOf(momentum, z(3))), `tensor "a": "state.a.exp_avg" is float64, the optimizer has bf16: float64 is not converted`)
	bad("one more", otherwise(t, groupOf(ada, z(4), z(2)), groupOf(momentum, z(3)), groupOf(pnm.NewPNM(1), z(0))), `tensor "d": it is in the file, but the optimizer has no tensor`)
	names := func(names ...string) *Optimizer {
		a, b := groupOf(ada, z(4), z(2)), groupOf(momentum, z(3), z(1))
		a.Names, b.Names = names[:2], names[2:]
		return optimizerOf(t, a, b)
	}
	if err := loadFrom(names("a", "b", "c", "d"), saved(t, names("a", "b", "c", "x"), SaveOptions{}), LoadOptions{}); err == nil || !strings.Contains(err.Error(), `which has "a", "b", "c" and 1 others`) {
		t.Error(err)
	}
	wide := groupOf(ada, z(4), z(2))
	wide.Names = []string{"a", "b"}
	other := groupOf(momentum, z(3))
	other.Names = []string{"c"}
	if err := loadFrom(optimizerOf(t, wide, other), s.file, LoadOptions{StateOnly: true}); err == nil || !strings.Contains(err.Error(), `"state.a.exp_avg" is bf16, the optimizer has float64`) {
		t.Errorf("into float64: %v", err)
	}
	wantNoError(t, s.SetRule(1, momentum))
	before := snapshot(s.Optimizer)
	f := func(n int) []float32 { return make([]float32, n) }
	bad("another rule", otherwise(t, groupOf(ada, f(4), f(2), f(3))), `tensor "c": in the file its rule is AdaPNM with state exp_avg`)

	wantNoError(t, os.Remove(path))
	if _, err := s.Load(path, s.load); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "optim: checkpoint "+path+": ") {
		t.Error(err)
	}
	if _, err := s.Load(filepath.Dir(path), s.load); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	wantNoError(t, loadFrom(s.Optimizer, s.file, s.load))
	if snapshot(s.Optimizer) == before {
		t.Error("the good file changes nothing")
	}
}

// The scales of mxfp8 are as many as its blocks, or rows of blocks, and nothing else has any.
func TestBadScales(t *testing.T) {
	s := newSubject(t)
	path := filepath.Join(t.TempDir(), "bad.safetensors")
	const momentum = "state.c.momentum_buffer"
	scaled := func(dtype string, shape ...int) stored {
		n := countOf(shape)
		if dtype == "F32" {
			n *= 4
		}
		return stored{momentum, dtype, shape, make([]byte, n)}
	}
	named := func(x stored, name string) stored { x.name = name; return x }
	scales := func(shape ...int) stored { return named(scaled("F8_E8M0", shape...), momentum+".scales") }
	elements := scaled("F8_E4M3", 3)
	const shaped = `tensor "c": "state.c.momentum_buffer.scales" has shape %v, must have one of 3 elements: [blocks of 32], or [rows, blocks of 32 in each]`
	for _, c := range []struct {
		with []stored // instead of those of the same names
		want string
	}{
		{[]stored{elements}, `tensor "c": "state.c.momentum_buffer.scales" is missing, the scales of "state.c.momentum_buffer"`},
		{[]stored{scales(1)}, `tensor "c": momentum_buffer is missing`},
		{[]stored{elements, scales(2)}, fmt.Sprintf(shaped, "[2]")},
		{[]stored{elements, scales(0)}, fmt.Sprintf(shaped, "[0]")},
		{[]stored{elements, scales(3)}, fmt.Sprintf(shaped, "[3]")},
		{[]stored{elements, scales(1, 2)}, fmt.Sprintf(shaped, "[1 2]")},
		{[]stored{elements, scales(2, 1)}, fmt.Sprintf(shaped, "[2 1]")},
		{[]stored{elements, scales(0, 1)}, fmt.Sprintf(shaped, "[0 1]")},
		{[]stored{elements, scales(6, 0)}, fmt.Sprintf(shaped, "[6 0]")},
		{[]stored{elements, scales(1, 1, 1)}, fmt.Sprintf(shaped, "[1 1 1]")},
		{[]stored{elements, scales()}, fmt.Sprintf(shaped, "[]")},
		{[]stored{elements, named(scaled("U8", 1, 1), momentum+".scales")}, `tensor "c": "state.c.momentum_buffer.scales" is U8, must be one of F8_E8M0`},
		{[]stored{scaled("F32", 3), scales(1)}, `tensor "c": "state.c.momentum_buffer.scales" is there, but "state.c.momentum_buffer" is F32, which has no scales`},
		{[]stored{scaled("F8_E8M0", 3), scales(1)}, `tensor "c": "state.c.momentum_buffer" is F8_E8M0, must be one of F32, F64, BF16, F8_E4M3`},
		{[]stored{scaled("F8_E5M2", 3), scales(1)}, `tensor "c": "state.c.momentum_buffer" is F8_E5M2, must be one of`},
		{[]stored{elements, named(scales(1), momentum+".scale")}, `tensor "c": "state.c.momentum_buffer.scales" is missing`},
		{[]stored{elements, scales(1), named(scales(1), "state.c.scales")}, `"state.c.scales" belongs to no tensor`},
		{[]stored{elements, scales(1), named(scales(1), momentum+".scales.scales")}, `"state.c.momentum_buffer.scales.scales" belongs to no tensor`},
		{[]stored{elements, scales(1), named(scales(1), "state.a.exp_avg.scales")}, `tensor "a": "state.a.exp_avg.scales" is there, but "state.a.exp_avg" is BF16`},
		{[]stored{elements, scales(1), named(scales(1), "params.c.scales")}, `"params.c.scales" belongs to no tensor`},
		{[]stored{elements, scales(1), named(elements, "params.c")}, `tensor "c": "params.c" is F8_E4M3, must be one of F32, F64, BF16`},
		{[]stored{elements, scales(1), named(scaled("F8_E4M3", 4), "state.a.exp_avg"), named(scales(1), "state.a.exp_avg.scales"),
			named(scaled("F8_E4M3", 4), "state.a.neg_exp_avg"), named(scales(2, 1), "state.a.neg_exp_avg.scales")},
			`tensor "a": "state.a.neg_exp_avg" has rows of 2, "state.a.exp_avg" has rows of 0`},
	} {
		file := rebuilt(t, s.file, func(tensors []stored) []stored {
			return append(slices.DeleteFunc(tensors, func(x stored) bool {
				return strings.HasPrefix(x.name, momentum) || slices.ContainsFunc(c.with, func(y stored) bool { return x.name == y.name })
			}), c.with...)
		})
		header, data := unsummed(file)
		s.wantRefused(t, path, fmt.Sprintf("%+v", c.with), withHeader(header, data), c.want)
	}
	header, _ := unsummed(s.file)
	sum := regexp.MustCompile(`,\\"momentum_buffer\.scales\\":\d+`).FindString(header)
	s.wantRefused(t, path, "no checksum of scales", edited(t, s.file, sum, ""), `tensor "c": "state.c.momentum_buffer.scales" has no checksum, but others of its tensor have one`)
	s.wantRefused(t, path, "a checksum of scales that are not there", edited(t, s.file, `{\"params\"`, `{\"exp_avg.scales\":1,\"params\"`), `tensor "a": it has checksums of parts that are not in the file`)
}

// What files may have, too.
func TestGoodCheckpoints(t *testing.T) {
	s := newSubject(t)
	header, data := unsummed(s.file)
	flat := withHeader(strings.ReplaceAll(header, `"shape":[2,2]`, `"shape":[4]`), data)
	none := withHeader(dataSumsIn.ReplaceAllString(header, ""), data)
	other := edited(t, s.file, `\"tensors\":`, `\"other\":{\"lr\":1,\"deep\":[[{}]]},\"tensors\":`)
	for what, file := range map[string][]byte{"flat": flat, "no checksums": none, "what else Python has": other, "integers as floats": edited(t, s.file, `\"lr\":1,`, `\"lr\":1.0,`)} {
		wantNoError(t, loadFrom(s.Optimizer, s.file, s.load))
		want := snapshot(s.Optimizer)
		wantNoError(t, stepOf(s.Optimizer, make([]float32, 4), nil, make([]float32, 3)))
		wantNoError(t, loadFrom(s.Optimizer, file, s.load))
		if snapshot(s.Optimizer) != want {
			t.Errorf("%s: another state", what)
		}
	}

	info, err := ReadCheckpointFrom(bytes.NewReader(other), int64(len(other)))
	if want := `{"lr":1,"deep":[[{}]]}`; err != nil || info.Groups[0].Other != want || info.Groups[1].Other != "" {
		t.Errorf("what else Python has is %q and %q, want %q (%v)", info.Groups[0].Other, info.Groups[1].Other, want, err)
	}

	// Rows of whole blocks lie as if there were none.
	mx := optimizerOf(t, Group{Rule: pnm.SGD{LR: 1, Momentum: 0.5}, Params: pnm.Vectors(make([]float32, 128)), State: mxfp8Format, Rows: []int{64}})
	wantNoError(t, stepOf(mx, lcg[float32](1, 128)))
	want := snapshot(mx)
	inRows := edited(t, saved(t, mx, SaveOptions{}), `"shape":[4]`, `"shape":[2,2]`)
	wantNoError(t, stepOf(mx, lcg[float32](2, 128)))
	info, err = ReadCheckpointFrom(bytes.NewReader(inRows), int64(len(inRows)))
	wantNoError(t, err)
	wantNoError(t, loadFrom(mx, inRows, LoadOptions{}))
	if row := info.Groups[0].Tensors[0].Row; row != 0 {
		t.Errorf("rows of %d", row)
	}
	if snapshot(mx) != want {
		t.Error("rows of whole blocks: another state")
	}

	// A tensor of step 0 may have no state: it is zero.
	header = strings.ReplaceAll(header[:strings.Index(header, `,"params.a"`)]+"}", `\"step\":2`, `\"step\":0`)
	header = dataSumsIn.ReplaceAllString(header, "")
	l := s.load
	l.StateOnly = true
	wantNoError(t, loadFrom(s.Optimizer, withHeader(header, nil), l))
	for i, u := range s.list.Updates {
		for _, v := range u.State {
			if u.Step != 1 || !isZero(v) {
				t.Errorf("tensor %d: step %d, %x", i, u.Step, v.Bytes())
			}
		}
	}
}

// A flipped bit, wherever it is, is found, and nothing has changed; unless the caller asks for what is left.
func TestDamage(t *testing.T) {
	s := newSubject(t)
	before := snapshot(s.Optimizer)
	data := 8 + int(binary.LittleEndian.Uint64(s.file))
	file := slices.Clone(s.file)
	for i := range file {
		for bit := range 8 {
			file[i] ^= 1 << bit
			if err := loadFrom(s.Optimizer, file, s.load); err == nil || i >= data && !errors.Is(err, ErrChecksum) || i >= data && !strings.Contains(err.Error(), `"state.`) && !strings.Contains(err.Error(), `"params.`) {
				t.Fatalf("bit %d of byte %d (%q): %v", bit, i, s.file[max(0, i-20):min(i+20, data)], err)
			}
			file[i] ^= 1 << bit
		}
	}
	if snapshot(s.Optimizer) != before {
		t.Error("the optimizer has changed")
	}
	file[len(file)-1] ^= 1
	l := s.load
	l.Unverified = true
	wantNoError(t, loadFrom(s.Optimizer, file, l))
	file = []byte(strings.Replace(string(s.file), `\"lr\":0.001`, `\"lr\":0.002`, 1))
	if err := loadFrom(s.Optimizer, file, s.load); !errors.Is(err, ErrChecksum) {
		t.Errorf("another learning rate: %v", err)
	}
	wantNoError(t, loadFrom(s.Optimizer, file, l))
}

// Neither side's parameters, nor its names, are left out without a word.
func TestNothingIsLeftOutSilently(t *testing.T) {
	build := func(names []string) (*Optimizer, [][]float32) {
		p := [][]float32{{1, 2}, {3, 4}}
		return optimizerOf(t, Group{Rule: pnm.NewPNM(1), Params: pnm.Vectors(p...), Names: names}), p
	}
	load := func(file []byte, names []string, l LoadOptions) ([][]float32, error) {
		o, p := build(names)
		clear(p[0])
		clear(p[1])
		return p, loadFrom(o, file, l)
	}
	ab := []string{"a", "b"}
	file := func(names []string, s SaveOptions) ([]byte, [][]float32) {
		o, p := build(names)
		wantNoError(t, stepOf(o, []float32{1, 1}, []float32{2, 2}))
		return saved(t, o, s), p
	}
	numbers, p := file(nil, SaveOptions{})
	names, _ := file(ab, SaveOptions{})
	state, _ := file(nil, SaveOptions{StateOnly: true})
	for _, c := range []struct {
		what  string
		file  []byte
		names []string
		load  LoadOptions
		want  [][]float32
	}{
		{"all", numbers, nil, LoadOptions{}, p},
		{"named", names, ab, LoadOptions{}, p},
		{"by name", names, []string{"b", "a"}, LoadOptions{}, [][]float32{p[1], p[0]}},
		{"state of all", numbers, nil, LoadOptions{StateOnly: true}, [][]float32{{0, 0}, {0, 0}}},
		{"state of state", state, nil, LoadOptions{StateOnly: true}, [][]float32{{0, 0}, {0, 0}}},
		{"all of state", state, nil, LoadOptions{}, nil},
		{"names into numbers", names, nil, LoadOptions{}, nil},
		{"numbers into names", numbers, ab, LoadOptions{}, nil},
		{"one other name", names, []string{"a", "c"}, LoadOptions{}, nil},
	} {
		switch got, err := load(c.file, c.names, c.load); {
		case (err == nil) != (c.want != nil):
			t.Errorf("%s: %v", c.what, err)
		case err == nil && !reflect.DeepEqual(got, c.want):
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// What could not be loaded is not saved.
func TestSaveOfTooManySteps(t *testing.T) {
	s := newSubject(t)
	s.list.Updates[1].Step = math.MaxInt // one less has been done
	wantNoError(t, loadFrom(s.Optimizer, saved(t, s.Optimizer, SaveOptions{}), s.load))
	if s.list.Updates[1].Step != math.MaxInt {
		t.Errorf("step %d", s.list.Updates[1].Step)
	}
	s.list.Updates[1].Step++
	path := filepath.Join(t.TempDir(), "run")
	if err := s.Save(path, SaveOptions{}); err == nil || !strings.Contains(err.Error(), `tensor 1 ("b"): it has done more than`) {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it was written")
	}
}

// Paths are a convenience over writers and readers.
func TestSaveTo(t *testing.T) {
	s := newSubject(t)
	path := filepath.Join(t.TempDir(), "run")
	wantNoError(t, s.Save(path, s.save))
	if file, err := os.ReadFile(path); err != nil || !bytes.Equal(file, saved(t, s.Optimizer, s.save)) {
		t.Errorf("Save and SaveTo differ (%v)", err)
	}
	loaded := newSubject(t)
	_, err := loaded.Load(path, s.load)
	wantNoError(t, err)
	if snapshot(loaded.Optimizer) != snapshot(s.Optimizer) {
		t.Error("Load gives something else than was saved")
	}
	a, err := ReadCheckpoint(path)
	wantNoError(t, err)
	if b, err := ReadCheckpointFrom(bytes.NewReader(s.file), int64(len(s.file))); err != nil || !reflect.DeepEqual(a.Groups[0].Rule, b.Groups[0].Rule) {
		t.Errorf("%v (%v)", b, err)
	}
	for _, after := range []int{0, 10, 1500} {
		if err := s.SaveTo(&fullDisk{after}, s.save); !errors.Is(err, errDisk) || err.Error() != "optim: checkpoint: "+errDisk.Error() {
			t.Error(err)
		}
	}
	for _, size := range []int64{-1, 0, int64(len(s.file)) - 1, int64(len(s.file)) + 1} {
		if _, err := s.LoadFrom(bytes.NewReader(s.file), size, s.load); err == nil || !strings.HasPrefix(err.Error(), "optim: checkpoint: ") {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

// A fullDisk takes some bytes.
type fullDisk struct{ left int }

func (w *fullDisk) Write(b []byte) (int, error) {
	n := min(w.left, len(b))
	if w.left -= n; n < len(b) {
		return n, errDisk
	}
	return n, nil
}

// Vectors of all lengths around a block, in files whose vectors lie in any order and at any offset.
func TestCheckpointPieces(t *testing.T) {
	sizes := []int{3, 0, blockSize/4 - 1, 1, blockSize / 4, blockSize / 2, 5, blockSize/4 + 1, 2, blockSize/8 - 1, blockSize / 8, blockSize/8 + 1}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, f := range []formatsOf{{"float32", "float32", "float32", ""}, {"float64", "float64", "float64", ""}, {"bf16", "float32", "bf16", ""}, {"bf16", "bf16", "float32", ""},
		{"low16", "bf16", "float32", "bf16"}, {"float32", "bf16", "float32", "f16"}, {"float32", "bf16", "mxfp8", ""}} {
		ada := func(f formatsOf) *run { return newRun(t, pnm.NewAdaPNM(), f, Config{}, sizes) }
		a, b, c := ada(f), ada(f), ada(f)
		a.step(t, 1)
		file := saved(t, a.opt, SaveOptions{})
		wantNoError(t, loadFrom(b.opt, file, LoadOptions{}))
		wantSameRun(t, f.String(), b, a)
		wantNoError(t, loadFrom(c.opt, shuffled(t, rng, file), LoadOptions{}))
		wantSameRun(t, f.String()+", shuffled", c, a)
		if f.s == "bf16" { // into other formats, by way of blocks
			wide := f
			wide.s = "float32"
			b, c := ada(wide), ada(wide)
			wantNoError(t, loadFrom(b.opt, file, LoadOptions{}))
			wantNoError(t, loadFrom(c.opt, shuffled(t, rng, file), LoadOptions{}))
			wantSameRun(t, "widened", c, b)
		}
	}
}

// shuffled returns a file with the same tensors in another order, and a header of an odd length.
func shuffled(t testing.TB, rng *rand.Rand, file []byte) []byte {
	t.Helper()
	return rebuilt(t, file, func(tensors []stored) []stored {
		rng.Shuffle(len(tensors), func(i, j int) { tensors[i], tensors[j] = tensors[j], tensors[i] })
		return tensors
	})
}

// A stored is a tensor in a file.
type stored struct {
	name, dtype string
	shape       []int
	data        []byte
}

// rebuilt returns a file of the same metadata with other tensors.
func rebuilt(t testing.TB, file []byte, change func(tensors []stored) []stored) []byte {
	t.Helper()
	h, err := safetensors.ReadHeader(bytes.NewReader(file), int64(len(file)))
	wantNoError(t, err)
	var tensors []stored
	for _, x := range h.Tensors {
		tensors = append(tensors, stored{x.Name, x.DType, x.Shape, file[x.Begin:x.End]})
	}
	meta, err := json.Marshal(h.Metadata)
	wantNoError(t, err)
	header := fmt.Appendf(nil, `{"__metadata__":%s`, meta)
	var data []byte
	for _, x := range change(tensors) {
		shape, _ := json.Marshal(append([]int{}, x.shape...))
		header = fmt.Appendf(header, `,%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, x.name, x.dtype, shape, len(data), len(data)+len(x.data))
		data = append(data, x.data...)
	}
	header = append(header, '}')
	if len(header)%2 == 0 {
		header = append(header, ' ')
	}
	return withHeader(string(header), data)
}

func TestReadCheckpoint(t *testing.T) {
	s := newSubject(t)
	path := filepath.Join(t.TempDir(), "run")
	wantNoError(t, os.WriteFile(path, s.file, 0o666))
	got, err := ReadCheckpoint(path)
	wantNoError(t, err)
	adaPNM := map[string]string{"exp_avg": "bf16", "neg_exp_avg": "bf16", "exp_avg_sq": "bf16", "max_exp_avg_sq": "bf16"}
	want := CheckpointInfo{
		Groups: []CheckpointGroup{
			{pnm.NewAdaPNM(), []CheckpointTensor{{"a", 2, []int{2, 2}, adaPNM, 0, "float32", &pnm.Rounding{Seed: 5, Tensor: 0}}, {"b", 2, []int{2}, adaPNM, 0, "float32", &pnm.Rounding{Seed: 5, Tensor: 1}}}, ""},
			{pnm.SGD{LR: 1, Momentum: 0.5}, []CheckpointTensor{{"c", 2, []int{3}, map[string]string{"momentum_buffer": "mxfp8"}, 3, "bf16", &pnm.Rounding{Seed: 5, Tensor: 2}}}, ""},
		},
		Metadata:    map[string]string{"epoch": "3"},
		Writer:      writer(),
		Fingerprint: new(pnm.Fingerprint),
	}
	*want.Fingerprint = ofContent(t, s.file)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !strings.HasPrefix(got.Writer, "github.com/posneg/pnm ") || !strings.Contains(got.Writer, runtime.Version()) {
		t.Error(got.Writer)
	}
	loaded, err := s.Load(path, s.load)
	wantNoError(t, err)
	if !reflect.DeepEqual(loaded, want) {
		t.Errorf("Load returns %+v", loaded)
	}

	empty := optimizerOf(t, Group{Rule: pnm.NewSGD(1)}, groupOf(pnm.NewSGD(2), []float32{1}))
	wantNoError(t, empty.Save(path, SaveOptions{}))
	got, err = ReadCheckpoint(path)
	wantNoError(t, err)
	want = CheckpointInfo{[]CheckpointGroup{{Rule: pnm.NewSGD(1)}, {pnm.NewSGD(2), []CheckpointTensor{{"0", 0, []int{1}, map[string]string{}, 0, "float32", nil}}, ""}}, map[string]string{}, writer(), new(pnm.Fingerprint)}
	*want.Fingerprint = fingerprintOfRun(t, empty)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := ReadCheckpoint(path + "x"); !errors.Is(err, fs.ErrNotExist) || err.Error() != "optim: checkpoint "+path+"x: "+fs.ErrNotExist.Error() && runtime.GOOS == "linux" && !strings.HasSuffix(err.Error(), "x: no such file or directory") {
		t.Error(err)
	}
}

// Arguments that cannot be are errors, and no file comes to be.
func TestSaveErrors(t *testing.T) {
	s := newSubject(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "run")
	for _, c := range []struct {
		o    SaveOptions
		want string
	}{
		{SaveOptions{Shapes: [][]int{nil}}, "pnm: length of shapes is 1, must be 3"},
		{SaveOptions{Shapes: [][]int{nil, {3}, nil}}, "pnm: tensor 1 (\"b\"): length of shape [3] is 3, must be 2"},
		{SaveOptions{Shapes: [][]int{nil, {-1, -2}, nil}}, "pnm: tensor 1 (\"b\"): length of shape [-1 -2] is -1, must be 2"},
		{SaveOptions{Shapes: [][]int{nil, {}, nil}}, "pnm: tensor 1 (\"b\"): length of shape [] is 1, must be 2"},
		{SaveOptions{Metadata: map[string]string{"posneg.x": ""}}, `metadata "posneg.x": keys that begin with posneg. are reserved`},
		{SaveOptions{Metadata: map[string]string{"x": "\xff"}}, `metadata "x" is not valid UTF-8`},
	} {
		err := s.Save(path, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
		if c.o.Metadata == nil {
			if _, again := s.Load(path, LoadOptions{Shapes: c.o.Shapes}); again == nil || again.Error() != err.Error() {
				t.Errorf("Load: %v, want %v", again, err)
			}
		}
	}
	if err := s.Save(filepath.Join(dir, "no", "run"), SaveOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	s.Close()
	if err := s.Save(path, SaveOptions{}); err != ErrClosed {
		t.Error(err)
	}
	if _, err := s.Load(path, LoadOptions{}); err != ErrClosed {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// A brokenReader reads nothing behind some byte.
type brokenReader struct {
	io.ReaderAt
	from int64
	err  error
}

var errDisk = errors.New("the disk is broken")

func (r brokenReader) ReadAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > r.from {
		return 0, r.err
	}
	return r.ReaderAt.ReadAt(b, at)
}

// Where the numbers of a file that was found good cannot be read, no step uses what there is. A reader that does not say so, against
// io.ReaderAt's rules, is found out.
func TestReadingFails(t *testing.T) {
	n := len(newSubject(t).file)
	for _, lost := range []int{1, 30} {
		for fault, want := range map[error]error{errDisk: errDisk, io.EOF: io.ErrUnexpectedEOF, nil: io.ErrNoProgress} {
			s := newSubject(t)
			l := s.load
			l.Unverified = true // else the first pass finds it
			if _, err := s.LoadFrom(brokenReader{bytes.NewReader(s.file), int64(n - lost), fault}, int64(n), l); !errors.Is(err, want) {
				t.Error(err)
			}
			if err := stepOf[float32](s.Optimizer, nil, nil, nil); err != ErrClosed {
				t.Errorf("a step after it: %v", err)
			}
		}
	}
}

// Save and Load need no memory for copies.
func TestCheckpointAllocates(t *testing.T) {
	const n = 2 << 20
	path := filepath.Join(t.TempDir(), "run")
	params := pnm.Vectors(make([]float32, n), make([]float32, 3))
	halves, followed := Group{Params: []pnm.Vector{newVector("low16", n)}}, Group{Params: pnm.Vectors(make([]float32, n)), Follow: true}
	halves.Copies, followed.Copies = []pnm.Vector{newVector("bf16", n)}, []pnm.Vector{newVector("f16", n)}
	for i, g := range []Group{{Params: params}, {Params: params, State: "bf16"}, halves, followed,
		{Params: params, State: mxfp8Format}, {Params: params, State: mxfp8Format, Rows: []int{1, 3}}} {
		narrow := i == 1 || i == 5 // it converts
		g.Rule = pnm.NewAdaPNM()
		opt := optimizerOf(t, g)
		bytes := allocation(func() {
			if !narrow {
				wantNoError(t, opt.Save(path, SaveOptions{}))
			}
			fingerprint, err := opt.Fingerprint()
			wantNoError(t, err)
			_, err = opt.Load(path, LoadOptions{Fingerprint: &fingerprint})
			wantNoError(t, err)
		})
		if t.Logf("%d bytes", bytes); bytes > 3*4*blockSize { // four blocks at most, of Save and of Load
			t.Errorf("%d bytes allocated for %d of state", bytes, 4*4*n)
		}
	}
}

// What is refused takes no memory that its length does not explain.
func TestHostileGroupsAllocate(t *testing.T) {
	const most = 1 << 18
	for _, c := range []struct{ begin, repeat string }{
		{`[{`, `"%d":1,`},
		{`[{"other":{`, `"%d":1,`},
		{`[{"tensors":[`, `{"name":"%d","step":0},`},
		{`[{"tensors":[{"rounding":[`, `1,`},
		{`[{"betas":[`, `1,`},
	} {
		groups := []byte(c.begin)
		for i := 0; len(groups) < most; i++ {
			groups = append(groups, strings.ReplaceAll(c.repeat, "%d", fmt.Sprint(i))...)
		}
		text := fmt.Appendf(nil, `{"__metadata__":{"posneg.checkpoint":"1","posneg.groups":%q}}`, groups)
		file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
		bytes := allocation(func() { ReadCheckpointFrom(bytes.NewReader(file), int64(len(file))) })
		t.Logf("%s%s…: %d bytes for each of the file", c.begin, c.repeat, bytes/uint64(len(file)))
		if bytes > 32*uint64(len(file)) { // also what had to be moved as it grew
			t.Errorf("%s%s…: %d bytes for each of the file", c.begin, c.repeat, bytes/uint64(len(file)))
		}
	}
}

func allocation(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Any file is loaded or leaves everything as it was; what was loaded can be saved, and loaded again. The header has some bytes replaced.
func FuzzLoad(f *testing.F) {
	s := newSubject(f)
	add := func(file []byte, at uint16, cut uint8, text string) {
		header, data := unsummed(file)
		f.Add(header, data, false, at, cut, text)
		f.Add(header, data, true, at, cut, text)
	}
	add(s.file, 0, 0, "")
	header, data := unsummed(s.file)
	for _, from := range []string{`"F8_E8M0`, `"F8_E4M3`, `.scales`, `[1,1]`, `\"AdaPNM`, `\"lr`, `0.001`, `0.9`, `true`, `\"step\"`, `2}`, `\"rounding`, `\"name`, `"state`, `"BF16`, `"shape`, `[2,2]`, `[0,`} {
		at := uint16(strings.Index(header, from))
		for _, text := range []string{"", "0", "[]", "null", `\"SGD\"`, "1e300", "-1"} {
			add(s.file, at, uint8(len(from)), text)
		}
	}
	header = dataSumsIn.ReplaceAllString(header, "")
	add(withHeader(header, data), 0, 0, "")
	add(withHeader(strings.NewReplacer(`"params.a"`, `"params.x"`, `\"step\":2`, `\"step\":0`, `[2,2]`, `[4]`).Replace(header), data), 0, 0, "")
	f.Fuzz(func(t *testing.T, header string, data []byte, keep bool, at uint16, cut uint8, text string) {
		from := min(int(at), len(header))
		s := newSubject(t)
		before := snapshot(s.Optimizer)
		file := withHeader(header[:from]+text+header[min(from+int(cut), len(header)):], data)
		l := s.load
		l.KeepRules = keep
		asked := l
		asked.Fingerprint = &pnm.Fingerprint{1, 2}
		refused := loadFrom(s.Optimizer, file, asked)
		var err error
		if bytes := allocation(func() { err = loadFrom(s.Optimizer, file, l) }); bytes > 1<<20+200*uint64(len(file)) {
			t.Errorf("%d bytes allocated for %d", bytes, len(file))
		}
		after := snapshot(s.Optimizer)
		if refused == nil || (err == nil) != errors.Is(refused, ErrFingerprint) {
			t.Fatalf("%v, and with another fingerprint %v", err, refused)
		}
		if err != nil {
			if after != before {
				t.Fatalf("%v, and the optimizer has changed", err)
			}
			return
		}
		again := newSubject(t)
		wantNoError(t, loadFrom(again.Optimizer, saved(t, s.Optimizer, SaveOptions{}), l))
		if snapshot(again.Optimizer) != after {
			t.Errorf("loaded as\n%s, saved, and loaded as\n%s", after, snapshot(again.Optimizer))
		}
		wantNoError(t, stepOf(s.Optimizer, make([]float32, 4), nil, make([]float32, 3)))
	})
}
