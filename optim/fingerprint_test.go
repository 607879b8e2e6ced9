package optim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/safetensors"
)

func fingerprintOfRun(t testing.TB, o *Optimizer) pnm.Fingerprint {
	t.Helper()
	f, err := o.Fingerprint()
	wantNoError(t, err)
	return f
}

// recorded is the fingerprint that a file says it has, after checking that its content does.
func recorded(t testing.TB, file []byte) pnm.Fingerprint {
	t.Helper()
	info, err := ReadCheckpointFrom(bytes.NewReader(file), int64(len(file)))
	wantNoError(t, err)
	if info.Fingerprint == nil {
		t.Fatal("the file has no fingerprint")
	}
	if got := ofContent(t, file); got != *info.Fingerprint {
		t.Fatalf("the file says %v, and its content has %v", info.Fingerprint, got)
	}
	return *info.Fingerprint
}

// ofContent computes the fingerprint of a file from its tensors, one after the other, and from the counts in its metadata.
func ofContent(t testing.TB, file []byte) (sum pnm.Fingerprint) {
	t.Helper()
	h, err := safetensors.ReadHeader(bytes.NewReader(file), int64(len(file)))
	wantNoError(t, err)
	info, err := ReadCheckpointFrom(bytes.NewReader(file), int64(len(file)))
	wantNoError(t, err)
	formats := map[string]string{"F32": "float32", "F64": "float64", "BF16": "bf16", "F8_E4M3": "mxfp8", "F8_E8M0": ""}
	for _, g := range info.Groups {
		for _, tensor := range g.Tensors {
			first := uint64(0)
			if tensor.Rounding != nil {
				first = tensor.Rounding.First
			}
			if first == 0 {
				sum.Add(bytesOf(t, "step."+tensor.Name, "", 0, binary.LittleEndian.AppendUint64(nil, uint64(tensor.Step))))
			}
			names := []string{"params." + tensor.Name}
			for slot := range tensor.Buffers {
				names = append(names, "state."+tensor.Name+"."+slot, "state."+tensor.Name+"."+slot+".scales")
			}
			for _, x := range h.Tensors {
				if !slices.Contains(names, x.Name) {
					continue
				}
				from := first
				if x.DType == "F8_E8M0" {
					row := uint64(mxBlock)
					if tensor.Row > 0 {
						row = uint64(tensor.Row)
					}
					from = first / row * ((row + 31) / 32)
				}
				sum.Add(bytesOf(t, x.Name, formats[x.DType], from, file[x.Begin:x.End]))
			}
		}
	}
	return sum
}

func bytesOf(t testing.TB, name, format string, first uint64, b []byte) pnm.Fingerprint {
	t.Helper()
	f, err := pnm.BytesFingerprint(name, format, first, b)
	wantNoError(t, err)
	return f
}

// The fingerprint of an optimizer is that of the file it saves, and a resumed run has it, too.
func TestFingerprintOfFile(t *testing.T) {
	formats := append([]formatsOf{{"float64", "float64", "float64", ""}, {"low16", "bf16", "bf16", "bf16"}}, someFormats...)
	for k, f := range formats {
		sizes := []int{5, 0, 33, 1, 70, 16}
		if k < 3 { // pieces
			sizes[4] = blockSize/4 + 3
		}
		for _, r := range []pnm.Rule{pnm.NewAdaPNM(), sampleRules()[k%len(sampleRules())]} {
			a, b := newRun(t, r, f, Config{Seed: 3}, sizes), newRun(t, r, f, Config{Seed: 3}, sizes)
			seen := map[pnm.Fingerprint]int{}
			for step := range 4 {
				what := fmt.Sprintf("%T, %s, step %d", r, f, step)
				got := fingerprintOfRun(t, a.opt)
				if before, ok := seen[got]; ok {
					t.Fatalf("%s: the fingerprint of step %d", what, before)
				}
				seen[got] = step
				file := saved(t, a.opt, SaveOptions{})
				if want := recorded(t, file); got != want {
					t.Fatalf("%s: %v, in the file %v", what, got, want)
				}
				wantNoError(t, loadFrom(b.opt, file, LoadOptions{Fingerprint: &got}))
				if other := fingerprintOfRun(t, b.opt); other != got {
					t.Fatalf("%s: %v, loaded %v", what, got, other)
				}
				stateOnly := saved(t, a.opt, SaveOptions{StateOnly: true})
				if of := recorded(t, stateOnly); of == got {
					t.Fatalf("%s: the parameters do not count", what)
				}
				a.step(t, step+1)
			}
		}
	}
}

// Split masters, and those that follow copies, have the fingerprint of float32 parameters, whatever others write to the copies.
func TestFingerprintOfMasters(t *testing.T) {
	sizes := []int{5, 0, 33, 1, 70, blockSize + 3}
	split, plain := formatsOf{"low16", "bf16", "float32", "bf16"}, formatsOf{"float32", "bf16", "float32", ""}
	a, b := newRun(t, pnm.NewAdaPNM(), split, Config{}, sizes), newRun(t, pnm.NewAdaPNM(), plain, Config{}, sizes)
	c := newRun(t, pnm.NewAdaPNM(), formatsOf{"float32", "bf16", "float32", "bf16"}, Config{}, sizes)
	compare := func(what string) {
		t.Helper()
		x, y, z := fingerprintOfRun(t, a.opt), fingerprintOfRun(t, b.opt), fingerprintOfRun(t, c.opt)
		if x != y || z != y {
			t.Fatalf("%s: %v split, %v following, %v float32", what, x, z, y)
		}
	}
	for i, n := range sizes {
		splitInto(a.copies[i], a.params[i], ordinary("float32", uint64(i), n))
	}
	compare("at first")
	for step := 1; step <= 3; step++ {
		for _, m := range []*run{a, b, c} {
			m.step(t, step)
		}
		compare(fmt.Sprintf("after step %d", step))
	}
	written := pnm.BF16([]uint16{0x4049})
	for _, m := range []*run{a, c} {
		set(m.copies[4].Slice(7, 8), written)
	}
	set(b.params[4].Slice(7, 8), joinedOf(a.params[4].Slice(7, 8), written))
	if x, y := fingerprintOfRun(t, a.opt), fingerprintOfRun(t, b.opt); x != y {
		t.Errorf("written: %v split, %v float32", x, y)
	}
	set(b.params[4].Slice(7, 8), written)
	if x, y := fingerprintOfRun(t, c.opt), fingerprintOfRun(t, b.opt); x != y {
		t.Errorf("written: %v following, %v float32", x, y)
	}
}

// Any number of workers gives the same fingerprint.
func TestFingerprintOfAnyNumberOfWorkers(t *testing.T) {
	for _, f := range []formatsOf{{"float32", "bf16", "float32", ""}, {"low16", "bf16", "bf16", "bf16"}, {"float32", "bf16", "mxfp8", "f16"}} {
		var want pnm.Fingerprint
		for workers := 1; workers <= 4; workers++ {
			m := newRun(t, pnm.NewAdaPNM(), f, Config{Pool: newTestPool(t, workers)}, []int{5, 300_001, 33, 1, 70_000, 0})
			m.step(t, 1)
			if got := fingerprintOfRun(t, m.opt); workers == 1 {
				want = got
			} else if got != want {
				t.Errorf("%s: %v with %d workers, %v with one", f, got, workers, want)
			}
		}
	}
}

// The fingerprints of optimizers that own parts of tensors add up to that of the whole, and so do those of their files.
func TestFingerprintOfParts(t *testing.T) {
	const n = 6 * 640
	for k, c := range []struct {
		formatsOf
		row int
		at  []int // the parts' borders
	}{
		{formatsOf{"float32", "float32", "float32", ""}, 0, []int{0, 7, 7, 1025, n}},
		{formatsOf{"float64", "float64", "float64", ""}, 0, []int{0, 511, 513, n}},
		{formatsOf{"bf16", "bf16", "bf16", ""}, 0, []int{0, 1, 2049, n}},
		{formatsOf{"low16", "bf16", "bf16", "bf16"}, 0, []int{0, 3, 1000, n}},
		{formatsOf{"bf16", "bf16", "mxfp8", ""}, 0, []int{0, 32, 96, n}},
		{formatsOf{"float32", "bf16", "mxfp8", ""}, 5, []int{0, 5, 55, n}},
		{formatsOf{"float32", "bf16", "mxfp8", ""}, 40, []int{0, 40, 2000, n}},
		{formatsOf{"float32", "bf16", "mxfp8", ""}, 64, []int{0, 64, 192, n}},
	} {
		for _, r := range []pnm.Rule{pnm.NewAdaPNM(), sampleRules()[k]} {
			p, g, out := c.params(1, n), c.params(2, n), pnm.Vector{}
			if c.p != float64Format {
				g = ordinary(c.g, 2, n)
			}
			if c.out != "" {
				out = ordinary(c.out, 1, n)
			}
			part := func(lo, hi int) *Optimizer {
				group := Group{Rule: r, Params: []pnm.Vector{p.Slice(lo, hi).Clone()}, Names: []string{"w"}, State: c.s, Rows: []int{c.row},
					Rounding: []pnm.Rounding{{Seed: 3, Tensor: 4, First: uint64(lo)}}}
				if c.out != "" {
					group.Copies = []pnm.Vector{out.Slice(lo, hi).Clone()}
				}
				o := optimizerOf(t, group)
				for range 3 {
					_, err := o.Step(pnm.Options{}, []pnm.Vector{g.Slice(lo, hi)})
					wantNoError(t, err)
				}
				return o
			}
			want := fingerprintOfRun(t, part(0, n))
			var sum, ofFiles pnm.Fingerprint
			for i, hi := range c.at[1:] {
				o := part(c.at[i], hi)
				f, file := fingerprintOfRun(t, o), saved(t, o, SaveOptions{})
				sum.Add(f)
				ofFiles.Add(recorded(t, file))
				fresh := optimizerOf(t, Group{Rule: r, Params: []pnm.Vector{newVector(c.p, hi-c.at[i])}, Names: []string{"w"}, State: c.s, Rows: []int{c.row},
					Copies: copiesOf(c.out, hi-c.at[i])})
				wantNoError(t, loadFrom(fresh, file, LoadOptions{Fingerprint: &f}))
				if got := fingerprintOfRun(t, fresh); got != f {
					t.Errorf("%s, rows of %d, %T: part %d is %v, loaded %v", c, c.row, r, i, f, got)
				}
			}
			if sum != want || ofFiles != want {
				t.Errorf("%s, rows of %d, %T: the whole is %v, its parts %v, their files %v", c, c.row, r, want, sum, ofFiles)
			}
		}
	}
}

// A part may begin behind any memory.
func TestFingerprintOfFarParts(t *testing.T) {
	for _, first := range []uint64{1 << 31, 1<<62 + 64, math.MaxUint64 - 63} {
		for _, state := range []string{"float32", mxfp8Format} {
			o := optimizerOf(t, Group{Rule: pnm.NewAdaPNM(), Params: pnm.Vectors(lcg[float32](1, 100)), State: state, Rounding: []pnm.Rounding{{First: first}}})
			wantNoError(t, stepOf(o, lcg[float32](2, 100)))
			f, file := fingerprintOfRun(t, o), saved(t, o, SaveOptions{})
			if got := recorded(t, file); got != f {
				t.Errorf("%d, %s: %v, in the file %v", first, state, f, got)
			}
			wantNoError(t, loadFrom(o, file, LoadOptions{Fingerprint: &f}))
		}
	}
}

func copiesOf(format string, n int) []pnm.Vector {
	if format == "" {
		return nil
	}
	return []pnm.Vector{newVector(format, n)}
}

// Each bit of parameters, state, scales and counts of steps changes the fingerprint.
func TestFingerprintOfEachBit(t *testing.T) {
	for _, f := range []formatsOf{{"float64", "float64", "float64", ""}, {"float32", "bf16", "mxfp8", "bf16"}, {"low16", "bf16", "bf16", "bf16"},
		{"bf16", "bf16", "float32", ""}} {
		m := newRun(t, pnm.NewAdaPNM(), f, Config{}, []int{3, 0, 1, 2, 5})
		m.step(t, 1)
		m.step(t, 2)
		want := fingerprintOfRun(t, m.opt)
		for i := range m.opt.list.Updates {
			u := &m.opt.list.Updates[i]
			changed := func(what string, at int) {
				t.Helper()
				if fingerprintOfRun(t, m.opt) == want {
					t.Fatalf("%s: bit %d of %s of tensor %d does not count", f, at, what, i)
				}
			}
			memory := map[string][]byte{"the parameters": u.Params.Bytes()}
			if !followed(u).IsNil() {
				memory["the copy"] = u.Copy.Bytes()
			}
			for k, slot := range u.Rule.State() {
				memory[slot], memory[slot+" scales"] = u.State[k].Bytes(), u.State[k].Scales()
			}
			for what, b := range memory {
				for at := range 8 * len(b) {
					b[at/8] ^= 1 << (at % 8)
					changed(what, at)
					b[at/8] ^= 1 << (at % 8)
				}
			}
			for at := range 31 {
				u.Step ^= 1 << at
				changed("the count", at)
				u.Step ^= 1 << at
			}
		}
		if got := fingerprintOfRun(t, m.opt); got != want {
			t.Errorf("%s: %v, before %v", f, got, want)
		}
	}
}

// A run has the same fingerprint on every machine.
func TestFingerprintIsKnown(t *testing.T) {
	s := newSubject(t)
	for what, c := range map[string]struct {
		got  pnm.Fingerprint
		want string
	}{
		"the run":                     {fingerprintOfRun(t, s.Optimizer), "e84b374ba94d5339380de2475b7ba3dd"},
		"its file of the step before": {recorded(t, s.file), "f0abd7b556b6b5d49b4450a6169ca94c"},
		"its state":                   {recorded(t, saved(t, s.Optimizer, SaveOptions{StateOnly: true})), "2add1eaf62bc67ba6b6ade6fac31b3b3"},
	} {
		if c.got.String() != c.want {
			t.Errorf("%s has %v, want %s", what, c.got, c.want)
		}
	}
}

// NaNs are one number; zeros are two.
func TestFingerprintOfNaN(t *testing.T) {
	of := func(bits uint32) pnm.Fingerprint {
		return fingerprintOfRun(t, optimizerOf(t, groupOf(pnm.NewPNM(1), []float32{1, math.Float32frombits(bits)})))
	}
	if of(0x7fc00000) != of(0xffc00000) || of(0x7fc00000) != of(0x7f800001) {
		t.Error("NaNs differ")
	}
	if of(0) == of(1<<31) || of(0x7f800000) == of(0x7fc00000) {
		t.Error("numbers are the same")
	}
}

// Tensors, and what they are to a run, do not change places unnoticed; rules and seeds do not count.
func TestFingerprintTellsRunsApart(t *testing.T) {
	build := func(seed uint64, r pnm.Rule, names ...string) *Optimizer {
		o := Config{Seed: seed}.of(t, Group{Rule: r, Params: pnm.Vectors(lcg[float32](1, 4), lcg[float32](2, 4)), Names: names})
		wantNoError(t, stepOf(o, lcg[float32](3, 4), lcg[float32](4, 4)))
		return o
	}
	a := build(1, pnm.NewPNM(1), "a", "b")
	want := fingerprintOfRun(t, a)
	if got := fingerprintOfRun(t, build(1, pnm.NewPNM(1), "b", "a")); got == want {
		t.Error("tensors in each other's place")
	}
	wantNoError(t, a.SetRule(0, pnm.NewPNM(0.25)))
	if got := fingerprintOfRun(t, a); got != want {
		t.Errorf("%v with another rule, %v", got, want)
	}
	s := a.list.Updates[0].State
	s[0], s[1] = s[1], s[0]
	if got := fingerprintOfRun(t, a); got == want {
		t.Error("momenta in each other's place")
	}
	s[0], s[1] = s[1], s[0]
	wantNoError(t, a.SetSteps(0, 2))
	wantNoError(t, a.SetSteps(1, 0))
	if got := fingerprintOfRun(t, a); got == want {
		t.Error("other counts with the same sum")
	}
	if got := fingerprintOfRun(t, optimizerOf(t)); got != (pnm.Fingerprint{}) {
		t.Errorf("%v without tensors", got)
	}
}

func TestFingerprintErrors(t *testing.T) {
	o := optimizerOf(t, groupOf(pnm.NewPNM(1), make([]float32, 8)))
	wantNoError(t, partOf(o, pnm.Options{}, Part{0, 1, 0, newVector("float32", 3)}))
	if _, err := o.Fingerprint(); !errors.As(err, new(*PartError)) {
		t.Errorf("in the middle of a step: %v", err)
	}
	o.Close()
	if _, err := o.Fingerprint(); err != ErrClosed {
		t.Error(err)
	}
}

// Load refuses a file of another run, and leaves everything as it was; it looks at the content, not at what the file says.
func TestLoadOfFingerprint(t *testing.T) {
	s := newSubject(t)
	want := recorded(t, s.file)
	before := snapshot(s.Optimizer)
	l := s.load
	l.Fingerprint = &want
	refused := func(what string, file []byte, l LoadOptions, sentinel error, text string) {
		t.Helper()
		err := loadFrom(s.Optimizer, file, l)
		if !errors.Is(err, sentinel) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
		if snapshot(s.Optimizer) != before {
			t.Fatalf("%s: the optimizer has changed", what)
		}
	}
	other := saved(t, s.Optimizer, s.save) // one step later
	text := fmt.Sprintf("optim: checkpoint: the fingerprint differs: it is %v, must be %v", recorded(t, other), want)
	refused("another step", other, l, ErrFingerprint, text)
	count := edited(t, s.file, `\"step\":2`, `\"step\":4`)
	refused("another count", count, l, ErrFingerprint, "")
	header, data := unsummed(s.file)
	header = dataSumsIn.ReplaceAllString(header, "")
	for _, unverified := range []bool{false, true} {
		for _, stateOnly := range []bool{false, true} {
			l.Unverified, l.StateOnly = unverified, stateOnly
			for at := range data { // a file without checksums
				data := slices.Clone(data)
				data[at] ^= 1
				refused(fmt.Sprintf("byte %d", at), withHeader(header, data), l, ErrFingerprint, "")
			}
		}
	}
	l = s.load
	l.Fingerprint = &want
	file := slices.Clone(s.file)
	file[len(file)-1] ^= 1
	refused("a damaged file", file, l, ErrChecksum, "")

	for what, file := range map[string][]byte{
		"the file": s.file, "without a fingerprint": edited(t, s.file, `"posneg.fingerprint":"`+want.String()+`",`, ""),
		"with another one": edited(t, s.file, want.String(), strings.Repeat("0", 32)),
	} {
		wantNoError(t, stepOf(s.Optimizer, make([]float32, 4), nil, make([]float32, 3)))
		wantNoError(t, loadFrom(s.Optimizer, file, l))
		if got := fingerprintOfRun(t, s.Optimizer); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	l.StateOnly = true // the file has the parameters, and they count
	wantNoError(t, loadFrom(s.Optimizer, s.file, l))
	for _, text := range []string{"", want.String()[1:], want.String() + "0", strings.Repeat("g", 32)} {
		file := edited(t, s.file, want.String(), text)
		if _, err := ReadCheckpointFrom(bytes.NewReader(file), int64(len(file))); err == nil || !strings.Contains(err.Error(), "metadata posneg.fingerprint: ") {
			t.Errorf("fingerprint %q: %v", text, err)
		}
	}
}
