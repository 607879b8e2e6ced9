package pnm

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
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// A callee is an optimizer after one step, and a call of each of its methods. A call returns what is to be compared.
type callee struct {
	opt    any // an *Optimizer or a *MixedOptimizer
	engine *optimizer
	params []Vector
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
		text = fmt.Appendf(text, "\n%x", p.bytes())
	}
	file, _ := os.ReadFile(s.file)
	return fmt.Sprintf("%s\n%s\n%x", text, s.engine.snapshot(), file)
}

// common adds the calls of the methods that have one signature.
func (s *callee) common(other string) {
	o := s.opt.(interface {
		Tensors() int
		Groups() int
		Steps(int) int
		Rule(int) Rule
		SetRule(int, Rule) error
		SetLR(float64, ...int) error
		Save(string, SaveOptions) error
		SaveTo(io.Writer, SaveOptions) error
		Load(string, LoadOptions) (CheckpointInfo, error)
		LoadFrom(io.ReaderAt, int64, LoadOptions) (CheckpointInfo, error)
		Close()
	})
	file, _ := os.ReadFile(other)
	maps.Copy(s.calls, map[string]func() []any{
		"Tensors": func() []any { return []any{o.Tensors()} },
		"Groups":  func() []any { return []any{o.Groups()} },
		"Steps":   func() []any { return []any{o.Steps(0)} },
		"Rule":    func() []any { return []any{o.Rule(0)} },
		"SetRule": func() []any { return []any{o.SetRule(0, NewPNM(0.25))} },
		"SetLR":   func() []any { return []any{o.SetLR(0.125)} },
		"Save":    func() []any { return []any{o.Save(s.file, SaveOptions{})} },
		"Load":    func() []any { info, err := o.Load(other, LoadOptions{}); return []any{info.Groups, err} },
		"SaveTo": func() []any {
			var b bytes.Buffer
			err := o.SaveTo(&b, SaveOptions{})
			return []any{b.Bytes(), err}
		},
		"LoadFrom": func() []any {
			info, err := o.LoadFrom(bytes.NewReader(file), int64(len(file)), LoadOptions{})
			return []any{info.Groups, err}
		},
		"Close": func() []any { o.Close(); return nil },
	})
}

const calleeLen = blockLen + 5 // so that two workers share a step

func newTypedCallee(t *testing.T, c Config, dir, other string) *callee {
	p, g := lcg[float32](1, calleeLen), lcg[float32](2, calleeLen)
	o, err := NewOptimizerWith(c, Group[float32]{NewPNM(0.5), [][]float32{p}})
	wantNoError(t, err)
	wantNoError(t, o.Step([][]float32{g}))
	later, late := lcg[float32](3, calleeLen), lcg[float32](4, 8)
	s := &callee{opt: o, engine: &o.optimizer, file: filepath.Join(dir, "saved")}
	s.params = []Vector{Float32(p), Float32(later), Float32(late)}
	s.calls = map[string]func() []any{
		"Step":      func() []any { return []any{o.Step([][]float32{g})} },
		"StepWith":  func() []any { r, err := o.StepWith(Options{ClipNorm: 1}, [][]float32{g}); return []any{r, err} },
		"StepPart":  func() []any { return []any{o.StepPart(Options{}, Part[float32]{0, 2, 7, g[7:]})} },
		"State":     func() []any { s, err := o.State(); return []any{s, err} },
		"SetState":  func() []any { return []any{o.SetState(make([]TensorState[float32], 1))} },
		"SetParams": func() []any { return []any{o.SetParams([][]float32{later})} },
		"AddGroup":  func() []any { return []any{o.AddGroup(Group[float32]{NewSGD(1), [][]float32{late}})} },
	}
	s.common(other)
	return s
}

func newMixedCallee(t *testing.T, c Config, dir, other string) *callee {
	s := &callee{file: filepath.Join(dir, "saved")}
	for i, n := range []int{calleeLen, calleeLen, 8} {
		s.params = append(s.params, ordinary(bf16, uint64(i), n))
	}
	g := ordinary(f16, 5, calleeLen)
	o, err := NewMixedOptimizer(c, MixedGroup{Rule: NewPNM(0.5), Params: s.params[:1], BF16State: true})
	wantNoError(t, err)
	wantNoError(t, o.Step([]Vector{g}))
	s.opt, s.engine = o, &o.optimizer
	s.calls = map[string]func() []any{
		"Step":     func() []any { return []any{o.Step([]Vector{g})} },
		"StepWith": func() []any { r, err := o.StepWith(Options{ClipNorm: 1}, []Vector{g}); return []any{r, err} },
		"StepPart": func() []any {
			r, err := o.StepPart(Options{}, MixedPart{0, 2, 7, g.cut(7, g.n)})
			return []any{r, err}
		},
		"State":     func() []any { s, err := o.State(); return []any{s, err} },
		"SetState":  func() []any { return []any{o.SetState(make([]MixedTensorState, 1))} },
		"SetParams": func() []any { return []any{o.SetParams(s.params[1:2], nil)} },
		"AddGroup":  func() []any { return []any{o.AddGroup(MixedGroup{Rule: NewSGD(1), Params: s.params[2:]})} },
	}
	s.common(other)
	return s
}

// Any two calls at the same time leave what one after the other does, in one of the two orders, or what one alone does, if the other
// was told that the optimizer is busy.
func TestCallsAtTheSameTime(t *testing.T) {
	sharing(t)
	c := Config{Pool: newTestPool(t, PoolConfig{Workers: 2})}
	for _, newCallee := range []func(*testing.T, Config, string, string) *callee{newTypedCallee, newMixedCallee} {
		other := newCallee(t, c, t.TempDir(), "")
		other.calls["Step"]()
		other.calls["Save"]()
		fresh := func() *callee { return newCallee(t, c, t.TempDir(), other.file) }
		methods := slices.Sorted(maps.Keys(other.calls))
		for i := range reflect.TypeOf(other.opt).NumMethod() {
			if m := reflect.TypeOf(other.opt).Method(i).Name; !slices.Contains(methods, m) {
				t.Errorf("there is no call of %T.%s", other.opt, m)
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
						t.Errorf("%T: %s, with %s refused, leaves\n%.2000s\nand alone\n%.2000s", atOnce.opt, b, a, got, want)
					}
				case refused[1]:
					if want := alone.outcome(t, alone.calls[a](), returned[1]); got != want {
						t.Errorf("%T: %s, with %s refused, leaves\n%.2000s\nand alone\n%.2000s", atOnce.opt, a, b, got, want)
					}
				case !slices.Contains(orders[:], got):
					t.Errorf("%T: %s and %s at the same time leave\n%.2000s\nand one after the other\n%.2000s\nor\n%.2000s",
						atOnce.opt, a, b, got, orders[0], orders[1])
				}
			}
		}
	}
}

// isBusy reports whether a call was refused.
func isBusy(returned []any) bool {
	for _, v := range returned {
		if err, ok := v.(error); ok && errors.Is(err, ErrBusy) {
			return true
		}
	}
	return false
}

// Within a call of the optimizer, by its caller's writer or reader, every other one is refused, but for those that read beside a Save.
func TestBusy(t *testing.T) {
	p, g := make([]float32, 8), make([]float32, 8)
	o, err := NewOptimizer(Group[float32]{NewPNM(1), [][]float32{p}})
	wantNoError(t, err)
	defer o.Close()
	changes := map[string]func() error{
		"Step":      func() error { return o.Step([][]float32{g}) },
		"StepPart":  func() error { return o.StepPart(Options{}, Part[float32]{0, 1, 0, g}) },
		"SetState":  func() error { return o.SetState(make([]TensorState[float32], 1)) },
		"SetParams": func() error { return o.SetParams([][]float32{g}) },
		"SetRule":   func() error { return o.SetRule(0, NewPNM(2)) },
		"SetLR":     func() error { return o.SetLR(2) },
		"AddGroup":  func() error { return o.AddGroup(Group[float32]{NewSGD(1), [][]float32{g}}) },
		"LoadFrom":  func() error { _, err := o.LoadFrom(nil, 0, LoadOptions{}); return err },
	}
	reads := map[string]func() error{
		"State":  func() error { _, err := o.State(); return err },
		"SaveTo": func() error { return o.SaveTo(io.Discard, SaveOptions{}) },
	}
	var file bytes.Buffer
	calls := 0
	wantNoError(t, o.SaveTo(writerFunc(func(b []byte) (int, error) {
		calls++
		for name, call := range changes {
			if err := call(); !errors.Is(err, ErrBusy) {
				t.Errorf("%s during SaveTo: %v", name, err)
			}
		}
		for name, call := range reads {
			if err := call(); err != nil {
				t.Errorf("%s during SaveTo: %v", name, err)
			}
		}
		if o.Steps(0) != 0 || o.Tensors() != 1 || o.Groups() != 1 || o.Rule(0) != Rule(NewPNM(1)) {
			t.Error("what is told during SaveTo is wrong")
		}
		return file.Write(b)
	}), SaveOptions{}))
	_, err = o.LoadFrom(readerFunc(func(b []byte, at int64) (int, error) {
		calls++
		for name, call := range changes {
			if err := call(); !errors.Is(err, ErrBusy) {
				t.Errorf("%s during LoadFrom: %v", name, err)
			}
		}
		for name, call := range reads {
			if err := call(); !errors.Is(err, ErrBusy) {
				t.Errorf("%s during LoadFrom: %v", name, err)
			}
		}
		return bytes.NewReader(file.Bytes()).ReadAt(b, at)
	}), int64(file.Len()), LoadOptions{})
	wantNoError(t, err)
	if calls < 2 {
		t.Errorf("%d calls of writer and reader", calls)
	}
	wantNoError(t, o.Step([][]float32{g}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

type readerFunc func([]byte, int64) (int, error)

func (f readerFunc) ReadAt(b []byte, at int64) (int, error) { return f(b, at) }

// Two goroutines that step one optimizer lose no step without being told.
func TestStepsAtTheSameTime(t *testing.T) {
	p, g := make([]float32, 1<<16), make([]float32, 1<<16)
	o, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{p}})
	wantNoError(t, err)
	defer o.Close()
	var done atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 50 {
				switch err := o.Step([][]float32{g}); {
				case err == nil:
					done.Add(1)
				case !errors.Is(err, ErrBusy):
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
	whole, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{p}})
	wantNoError(t, err)
	inParts, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{q}})
	wantNoError(t, err)
	for step := 1; step <= 3; step++ {
		wantNoError(t, whole.Step([][]float32{g}))
		var wg sync.WaitGroup
		for i := range parts {
			lo, hi := i*n/parts, (i+1)*n/parts
			wg.Go(func() {
				if err := inParts.StepPart(Options{}, Part[float32]{0, step, lo, g[lo:hi]}); err != nil {
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
		p, g := make([]float32, mebi), make([]float32, mebi)
		o, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{p}})
		wantNoError(t, err)
		var wg sync.WaitGroup
		running := make(chan struct{}, 2)
		for range 2 {
			wg.Go(func() {
				for err := error(nil); err == nil || errors.Is(err, ErrBusy); {
					if err = o.Step([][]float32{g}); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrBusy) {
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
	o, err := NewOptimizer(Group[float32]{NewPNM(1), [][]float32{make([]float32, 8)}})
	wantNoError(t, err)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		o.SaveTo(panicking{}, SaveOptions{})
	}()
	wantNoError(t, o.Step([][]float32{make([]float32, 8)}))
	o.Close()
}

// A caller's reader may panic, too: the caller can recover, and the optimizer is as it was, or closed.
func TestPanicOfAReader(t *testing.T) {
	const n = blockSize / 2 // two parts of each vector
	var file bytes.Buffer
	saved, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{make([]float32, n)}})
	wantNoError(t, err)
	defer saved.Close()
	wantNoError(t, saved.SaveTo(&file, SaveOptions{}))
	closed := 0
	for last := int64(1); ; last++ {
		p, g := lcg[float32](1, n), make([]float32, n)
		o, err := NewOptimizer(Group[float32]{NewAdaPNM(), [][]float32{p}})
		wantNoError(t, err)
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
		switch err := o.Step([][]float32{g}); {
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
func TestCloseNil(t *testing.T) {
	(*Optimizer[float32])(nil).Close()
	(*Optimizer[float64])(nil).Close()
	(*MixedOptimizer)(nil).Close()
}
