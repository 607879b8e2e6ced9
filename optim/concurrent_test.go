package optim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/posneg/pnm"
)

// A callee is an optimizer after one step, and a call of each of its methods. A call returns what is to be compared.
type callee struct {
	opt    *Optimizer
	params []pnm.Vector
	file   string // what Save writes
	calls  map[string]func() []any
}

// outcome is all that calls have left behind.
func (s *callee) outcome(t *testing.T, returned ...[]any) string {
	t.Helper()
	for _, values := range returned {
		for i, v := range values {
			if err, ok := v.(error); ok {
				values[i] = err.Error()
			}
		}
	}
	text, err := json.Marshal(returned)
	wantNoError(t, err)
	for _, p := range s.params {
		text = fmt.Appendf(text, "\n%x", p.Bytes())
	}
	file, _ := os.ReadFile(s.file)
	return fmt.Sprintf("%s\n%s\n%x", text, snapshot(s.opt), file)
}

const calleeLen = 100

// newCallee saves to a file, and can load another one.
func newCallee(t *testing.T, file, other string) *callee {
	s := &callee{file: file}
	for i, n := range []int{calleeLen, calleeLen, 8} {
		s.params = append(s.params, ordinary("bf16", uint64(i), n))
	}
	g := ordinary("f16", 5, calleeLen)
	o := optimizerOf(t, Group{Rule: pnm.NewPNM(0.5), Params: s.params[:1], State: "bf16"})
	_, err := o.Step(pnm.Options{}, []pnm.Vector{g})
	wantNoError(t, err)
	s.opt = o
	saved, _ := os.ReadFile(other)
	report := func(r pnm.Report, err error) []any { return []any{r, err} }
	s.calls = map[string]func() []any{
		"Step":          func() []any { return report(o.Step(pnm.Options{ClipNorm: 1}, []pnm.Vector{g})) },
		"StepNamed":     func() []any { return report(o.StepNamed(pnm.Options{}, map[string]pnm.Vector{"0": g})) },
		"StepPart":      func() []any { return report(o.StepPart(pnm.Options{}, Part{0, 2, 7, g.Slice(7, g.Len())})) },
		"State":         func() []any { s, err := o.State(); return []any{s, err} },
		"SetState":      func() []any { return []any{o.SetState(make([]TensorState, 1))} },
		"SetParams":     func() []any { return []any{o.SetParams(s.params[1:2], nil)} },
		"AddGroup":      func() []any { return []any{o.AddGroup(Group{Rule: pnm.NewSGD(1), Params: s.params[2:]})} },
		"Tensors":       func() []any { return []any{o.Tensors()} },
		"Groups":        func() []any { return []any{o.Groups()} },
		"Names":         func() []any { return []any{o.Names()} },
		"Steps":         func() []any { return []any{o.Steps(0)} },
		"SetSteps":      func() []any { return []any{o.SetSteps(0, 5)} },
		"Rule":          func() []any { return []any{o.Rule(0)} },
		"SetRule":       func() []any { return []any{o.SetRule(0, pnm.NewPNM(0.25))} },
		"LR":            func() []any { return []any{o.LR(0)} },
		"ReadNoise":     func() []any { return []any{o.ReadNoise(1, 0)} },
		"NoiseScale":    func() []any { r, err := o.NoiseScale(); return []any{fmt.Sprintf("%x", r), err} },
		"NoiseAverages": func() []any { return []any{fmt.Sprintf("%x", o.NoiseAverages())} },
		"SetLR":         func() []any { return []any{o.SetLR(0.125)} },
		"SetGroupLR":    func() []any { return []any{o.SetGroupLR(0, 0.125)} },
		"Save":          func() []any { return []any{o.Save(s.file, SaveOptions{})} },
		"Load":          func() []any { info, err := o.Load(other, LoadOptions{}); return []any{info.Groups, err} },
		"SaveTo": func() []any {
			var b bytes.Buffer
			err := o.SaveTo(&b, SaveOptions{})
			return []any{b.Bytes(), err}
		},
		"LoadFrom": func() []any {
			info, err := o.LoadFrom(bytes.NewReader(saved), int64(len(saved)), LoadOptions{})
			return []any{info.Groups, err}
		},
		"Fingerprint": func() []any { f, err := o.Fingerprint(); return []any{f, err} },
		"Close":       func() []any { o.Close(); return nil },
	}
	return s
}

// Any two calls at the same time leave what one after the other does, in one of the two orders, or what one alone does, if the other
// was told that the optimizer is busy.
func TestCallsAtTheSameTime(t *testing.T) {
	dir := t.TempDir()
	other := newCallee(t, filepath.Join(dir, "other"), "")
	other.calls["Step"]()
	other.calls["Save"]()
	built := 0
	fresh := func() *callee {
		built++
		return newCallee(t, filepath.Join(dir, fmt.Sprint(built)), other.file)
	}
	methods := slices.Sorted(maps.Keys(other.calls))
	for i := range reflect.TypeOf(other.opt).NumMethod() {
		if m := reflect.TypeOf(other.opt).Method(i).Name; !slices.Contains(methods, m) {
			t.Errorf("there is no call of %s", m)
		}
	}
	for i, a := range methods {
		for _, b := range methods[i:] {
			var orders [2]string
			first := fresh()
			x := first.calls[a]()
			orders[0] = first.outcome(t, x, first.calls[b]())
			second := fresh()
			x = second.calls[b]()
			orders[1] = second.outcome(t, second.calls[a](), x)
			atOnce, alone := fresh(), fresh()
			var returned [2][]any
			var wg sync.WaitGroup
			for i, m := range []string{a, b} {
				wg.Go(func() { returned[i] = atOnce.calls[m]() })
			}
			wg.Wait()
			refused := [...]bool{isBusy(returned[0]), isBusy(returned[1])}
			got := atOnce.outcome(t, returned[:]...)
			switch {
			case refused[0]:
				if want := alone.outcome(t, returned[0], alone.calls[b]()); got != want {
					t.Errorf("%s, with %s refused, leaves\n%.2000s\nand alone\n%.2000s", b, a, got, want)
				}
			case refused[1]:
				if want := alone.outcome(t, alone.calls[a](), returned[1]); got != want {
					t.Errorf("%s, with %s refused, leaves\n%.2000s\nand alone\n%.2000s", a, b, got, want)
				}
			case !slices.Contains(orders[:], got):
				t.Errorf("%s and %s at the same time leave\n%.2000s\nand one after the other\n%.2000s\nor\n%.2000s",
					a, b, got, orders[0], orders[1])
			}
		}
	}
}

// isBusy reports whether a call was refused.
func isBusy(returned []any) bool {
	for _, v := range returned {
		if err, ok := v.(error); ok && errors.Is(err, pnm.ErrBusy) {
			return true
		}
	}
	return false
}

// Within a call of the optimizer, by its caller's writer or reader, every other one is refused, but for those that read beside a Save.
func TestBusy(t *testing.T) {
	p, g := make([]float32, 8), make([]float32, 8)
	o := optimizerOf(t, groupOf(pnm.NewPNM(1), p))
	changes := map[string]func() error{
		"Step":       func() error { return stepOf(o, g) },
		"StepPart":   func() error { return partOf(o, pnm.Options{}, Part{0, 1, 0, pnm.Float32(g)}) },
		"SetState":   func() error { return o.SetState(make([]TensorState, 1)) },
		"SetParams":  func() error { return o.SetParams(pnm.Vectors(g), nil) },
		"SetRule":    func() error { return o.SetRule(0, pnm.NewPNM(2)) },
		"SetLR":      func() error { return o.SetLR(2) },
		"SetGroupLR": func() error { return o.SetGroupLR(0, 2) },
		"SetSteps":   func() error { return o.SetSteps(0, 2) },
		"StepNamed":  func() error { _, err := o.StepNamed(pnm.Options{}, nil); return err },
		"AddGroup":   func() error { return o.AddGroup(groupOf(pnm.NewSGD(1), g)) },
		"ReadNoise":  func() error { return o.ReadNoise(1, 0) },
		"LoadFrom":   func() error { _, err := o.LoadFrom(nil, 0, LoadOptions{}); return err },
	}
	reads := map[string]func() error{
		"State":       func() error { _, err := o.State(); return err },
		"NoiseScale":  func() error { _, err := o.NoiseScale(); return err },
		"SaveTo":      func() error { return o.SaveTo(io.Discard, SaveOptions{}) },
		"Fingerprint": func() error { _, err := o.Fingerprint(); return err },
	}
	var file bytes.Buffer
	calls := 0
	wantNoError(t, o.SaveTo(writerFunc(func(b []byte) (int, error) {
		calls++
		for name, call := range changes {
			if err := call(); !errors.Is(err, pnm.ErrBusy) {
				t.Errorf("%s during SaveTo: %v", name, err)
			}
		}
		for name, call := range reads {
			if err := call(); err != nil {
				t.Errorf("%s during SaveTo: %v", name, err)
			}
		}
		if o.Steps(0) != 0 || o.Tensors() != 1 || o.Groups() != 1 || o.Rule(0) != pnm.Rule(pnm.NewPNM(1)) || o.LR(0) != 1 || o.Names()[0] != "0" ||
			o.NoiseAverages().Total.Readings != 0 {
			t.Error("what is told during SaveTo is wrong")
		}
		return file.Write(b)
	}), SaveOptions{}))
	_, err := o.LoadFrom(readerFunc(func(b []byte, at int64) (int, error) {
		calls++
		for name, call := range changes {
			if err := call(); !errors.Is(err, pnm.ErrBusy) {
				t.Errorf("%s during LoadFrom: %v", name, err)
			}
		}
		for name, call := range reads {
			if err := call(); !errors.Is(err, pnm.ErrBusy) {
				t.Errorf("%s during LoadFrom: %v", name, err)
			}
		}
		return bytes.NewReader(file.Bytes()).ReadAt(b, at)
	}), int64(file.Len()), LoadOptions{})
	wantNoError(t, err)
	if calls < 2 {
		t.Errorf("%d calls of writer and reader", calls)
	}
	wantNoError(t, stepOf(o, g))
}

// A call within one that Close waits for is refused, and not left waiting for Close.
func TestBusyWithClose(t *testing.T) {
	o, err := New(groupOf(pnm.NewPNM(1), make([]float32, 8)))
	wantNoError(t, err)
	var closing sync.WaitGroup
	wantNoError(t, o.SaveTo(writerFunc(func(b []byte) (int, error) {
		closing.Go(o.Close)
		for {
			if _, err := o.State(); errors.Is(err, pnm.ErrBusy) {
				return len(b), nil
			}
			runtime.Gosched()
		}
	}), SaveOptions{}))
	closing.Wait()
	if _, err := o.State(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

type readerFunc func([]byte, int64) (int, error)

func (f readerFunc) ReadAt(b []byte, at int64) (int, error) { return f(b, at) }

// Two goroutines that step one optimizer lose no step without being told.
func TestStepsAtTheSameTime(t *testing.T) {
	p, g := make([]float32, 1<<16), make([]float32, 1<<16)
	o := optimizerOf(t, groupOf(pnm.NewAdaPNM(), p))
	var done atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 50 {
				switch err := stepOf(o, g); {
				case err == nil:
					done.Add(1)
				case !errors.Is(err, pnm.ErrBusy):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if int64(o.Steps(0)) != done.Load() {
		t.Errorf("%d steps were done, %d counted", done.Load(), o.Steps(0))
	}
}

// Parts of a step may come from several goroutines.
func TestPartsAtTheSameTime(t *testing.T) {
	const n, parts = 64 * 20, 64
	p, q, g := lcg[float32](1, n), lcg[float32](1, n), lcg[float32](2, n)
	whole, inParts := optimizerOf(t, groupOf(pnm.NewAdaPNM(), p)), optimizerOf(t, groupOf(pnm.NewAdaPNM(), q))
	for step := 1; step <= 3; step++ {
		wantNoError(t, stepOf(whole, g))
		var wg sync.WaitGroup
		for i := range parts {
			lo, hi := i*n/parts, (i+1)*n/parts
			wg.Go(func() {
				if err := partOf(inParts, pnm.Options{}, Part{0, step, lo, pnm.Float32(g[lo:hi])}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if inParts.Steps(0) != step {
			t.Fatalf("after step %d: %d", step, inParts.Steps(0))
		}
	}
	wantSame(t, "params", q, p)
}

// Close waits for the steps that run; whoever comes later is told. Otherwise there would be a fault, on memory that is gone.
func TestCloseDuringSteps(t *testing.T) {
	for range 5 {
		p, g := make([]float32, 1<<18), make([]float32, 1<<18)
		o := optimizerOf(t, groupOf(pnm.NewAdaPNM(), p))
		var wg sync.WaitGroup
		running := make(chan struct{}, 2)
		for range 2 {
			wg.Go(func() {
				for err := error(nil); err == nil || errors.Is(err, pnm.ErrBusy); {
					if err = stepOf(o, g); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, pnm.ErrBusy) {
						t.Error(err)
					}
					select {
					case running <- struct{}{}:
					default:
					}
				}
			})
		}
		<-running
		o.Close()
		wg.Wait()
	}
}

type panicking struct{}

func (panicking) Write([]byte) (int, error) { panic("a writer") }

// A caller's writer may panic within a call; the next call need not wait for ever.
func TestPanicEndsTheCall(t *testing.T) {
	o := optimizerOf(t, groupOf(pnm.NewPNM(1), make([]float32, 8)))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		o.SaveTo(panicking{}, SaveOptions{})
	}()
	wantNoError(t, stepOf(o, make([]float32, 8)))
	o.Close()
}

// A caller's reader may panic, too: the caller can recover, and the optimizer is as it was, or closed.
func TestPanicOfAReader(t *testing.T) {
	const n = blockSize / 2 // two parts of each vector
	var file bytes.Buffer
	saved := optimizerOf(t, groupOf(pnm.NewAdaPNM(), make([]float32, n)))
	wantNoError(t, saved.SaveTo(&file, SaveOptions{}))
	closed := 0
	for last := int64(1); ; last++ {
		p, g := lcg[float32](1, n), make([]float32, n)
		o := optimizerOf(t, groupOf(pnm.NewAdaPNM(), p))
		var reads atomic.Int64
		reader := readerFunc(func(b []byte, at int64) (int, error) {
			if reads.Add(1) == last {
				panic("a reader")
			}
			return bytes.NewReader(file.Bytes()).ReadAt(b, at)
		})
		panicked := func() (panicked bool) {
			defer func() { panicked = recover() != nil }()
			_, err := o.LoadFrom(reader, int64(file.Len()), LoadOptions{})
			wantNoError(t, err)
			return
		}()
		if !panicked {
			break
		}
		switch err := stepOf(o, g); {
		case errors.Is(err, ErrClosed):
			closed++
		case err != nil:
			t.Fatal(err)
		default:
			want := lcg[float32](1, n)
			wantSame(t, "params", p, want) // a step without gradient from the state of step 0
		}
		o.Close()
	}
	if closed == 0 {
		t.Error("no panic came while the state was written")
	}
}

// Closing what is not there does nothing: so a deferred Close needs no condition.
func TestCloseNil(t *testing.T) { (*Optimizer)(nil).Close() }
