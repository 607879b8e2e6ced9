package main

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/limit"
)

type settings struct {
	mebi    int // 0 lets memory choose
	time    time.Duration
	machine string
}

// bytesEach is how many bytes all tensors have for each parameter.
const bytesEach = 43

// A trial is a step of a rule on a number of workers, and what it is measured against.
type trial struct {
	result
	step, limit func() error // limit is nil where there is none
	times       [2][]float64 // of both, in ns for each parameter
}

// measure takes the time of all steps and limits in turn, again and again.
func measure(s settings, w *os.File) ([]result, error) {
	if s.mebi < 0 || s.mebi > 1<<14 {
		return nil, fmt.Errorf("-mebi is %d, want 1 to %d, or 0 to have it chosen", s.mebi, 1<<14)
	}
	switch memory := available(); {
	case s.mebi == 0:
		s.mebi = fitting(memory)
	case bytesEach*int64(s.mebi)<<20 > memory:
		return nil, fmt.Errorf("-mebi %d takes %d MiB of memory, and %d are free", s.mebi, bytesEach*s.mebi, memory>>20)
	}
	trials, free, err := newTrials(s)
	if err != nil {
		return nil, err
	}
	defer free()
	if least := 8 * int64(s.mebi) << 20; least < int64(cpuid.CPU.Cache.L3) {
		fmt.Fprintf(w, "The smallest step touches %d MiB, and the largest cache has %d: some data will be in caches.\n",
			least>>20, cpuid.CPU.Cache.L3>>20)
	}

	bar := progressbar.NewOptions64(s.time.Milliseconds(),
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(term.IsTerminal(int(w.Fd()))),
		progressbar.OptionSetDescription(fmt.Sprintf("%d steps of %d Mi parameters", len(trials), s.mebi)),
		progressbar.OptionSetWidth(24),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
	start := time.Now()
	for round := -1; round < 3 || time.Since(start) < s.time; round++ { // the first one finds memory and caches as they never are again
		for i := range 2 * len(trials) {
			t := &trials[(i/2+max(round, 0))%len(trials)]
			if err := t.run((i+round+1)%2, round >= 0); err != nil {
				return nil, err
			}
			bar.Set64(min(time.Since(start), s.time).Milliseconds())
		}
	}
	bar.Finish()

	results := make([]result, len(trials))
	for i := range trials {
		results[i] = trials[i].median()
	}
	return results, nil
}

// run takes the time of the step, or of the limit if which is 1.
func (t *trial) run(which int, keep bool) error {
	call := [...]func() error{t.step, t.limit}[which]
	if call == nil {
		return nil
	}
	start := time.Now()
	if err := call(); err != nil {
		return err
	}
	if keep {
		t.times[which] = append(t.times[which], float64(time.Since(start).Nanoseconds())/float64(t.elements))
	}
	return nil
}

func (t *trial) median() result {
	r := t.result
	r.ns, r.limit, r.ofLimit = median(t.times[0]), math.NaN(), math.NaN()
	if t.limit != nil {
		ratios := make([]float64, len(t.times[0]))
		for i := range ratios {
			ratios[i] = t.times[1][i] / t.times[0][i]
		}
		r.limit, r.ofLimit = median(t.times[1]), median(ratios)
	}
	return r
}

func median(x []float64) float64 { return slices.Sorted(slices.Values(x))[len(x)/2] }

// newTrials makes all trials on the same memory: state is that of whoever has stepped last, but no number is one that training would not
// have. free gives the memory back.
func newTrials(s settings) (trials []trial, free func(), err error) {
	var arenas []*pnm.Arena
	var pools []*pnm.Pool
	release := func() {
		for _, a := range arenas {
			a.Close()
		}
		for _, p := range pools {
			p.Close()
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	n := s.mebi << 20
	keep := func(a *pnm.Arena, problem error) []pnm.Vector {
		if problem != nil {
			err = problem
			return make([]pnm.Vector, 4)
		}
		arenas = append(arenas, a)
		return a.Vectors()
	}
	state := map[string][]pnm.Vector{}
	for _, format := range []string{"float32", "bf16", "mxfp8"} {
		state[format] = keep(pnm.AllocState(pnm.NewAdaPNM(), format, []int{n}, nil))
	}
	wide, narrow := keep(pnm.Alloc("float32", n, n)), keep(pnm.Alloc("bf16", n, n))
	if err != nil {
		return nil, nil, err
	}
	for _, v := range [][]pnm.Vector{wide, narrow} {
		fill(v[0], 1)
		fill(v[1], 2)
	}

	counts := []int{1}
	if all := runtime.GOMAXPROCS(0); all > 1 {
		counts = append(counts, all)
	}
	for _, threads := range counts {
		pool, err := pnm.NewPool(threads)
		if err != nil {
			return nil, nil, err
		}
		pools = append(pools, pool)
		for _, rule := range []struct {
			name  string
			rule  pnm.Rule
			slots []int // of AdaPNM's state
		}{{"PNM", pnm.NewPNM(1e-3), []int{0, 1}}, {"AdaPNM", pnm.NewAdaPNM(), []int{0, 1, 2, 3}}, {"AdamW", pnm.NewAdamW(), []int{0, 2}}} {
			for _, f := range []struct {
				name          string
				params, grads pnm.Vector
				state         string
			}{
				{"float32", wide[0], wide[1], "float32"},
				{"bf16 gradients and state", wide[0], narrow[1], "bf16"},
				{"all bf16", narrow[0], narrow[1], "bf16"},
				{"bf16 gradients, mxfp8 momenta", wide[0], narrow[1], "mxfp8"},
			} {
				list := &pnm.List{Updates: []pnm.Update{{Rule: rule.rule, Step: 1, Params: f.params, Grads: f.grads}}}
				u := &list.Updates[0]
				for _, slot := range rule.slots {
					u.State = append(u.State, state[f.state][slot])
				}
				t := trial{result: result{machine: s.name(), software: software(), threads: threads, rule: rule.name, by: own, format: f.name,
					elements: n, bytes: moved(u)}}
				t.step = func() error {
					_, err := list.Step(pnm.Options{Pool: pool})
					u.Step++
					return err
				}
				pass, err := limit.Pass(list, pool)
				if err == nil {
					t.limit = func() error { pass(); return nil }
				} else if !errors.Is(err, errors.ErrUnsupported) {
					return nil, nil, err
				}
				trials = append(trials, t)
			}
		}
	}
	return trials, release, nil
}

// fill sets a vector to numbers like those of training.
func fill(v pnm.Vector, seed uint32) {
	wide := make([]float32, 1<<16)
	for i := range wide {
		seed = seed*1664525 + 1013904223
		wide[i] = float32(int32(seed)) / (1 << 31)
	}
	for lo := 0; lo < v.Len(); lo += len(wide) {
		part := v.Slice(lo, min(lo+len(wide), v.Len()))
		part.Set(pnm.Float32(wide[:part.Len()]))
	}
}

// moved is how many bytes a step reads and writes for each parameter.
func moved(u *pnm.Update) float64 {
	size := func(v pnm.Vector) float64 { return float64(len(v.Bytes())+len(v.Scales())) / float64(v.Len()) }
	bytes := 2*size(u.Params) + size(u.Grads)
	for i, v := range u.State {
		bytes += 2 * size(v)
		if name := u.Rule.State()[i]; strings.HasPrefix(name, "neg_") { // of two momenta one is written
			bytes -= size(v)
		}
	}
	return bytes
}

func (s *settings) name() string {
	if s.machine != "" {
		return s.machine
	}
	cpu := cpuid.CPU.BrandName
	if cpu == "" {
		cpu = runtime.GOARCH
	}
	return fmt.Sprintf("%s, %d CPUs, %s", strings.Join(strings.Fields(cpu), " "), runtime.NumCPU(), runtime.GOOS)
}

func software() string {
	version := "in development"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/posneg/pnm" && m.Replace == nil {
				version = m.Version
			}
		}
	}
	return fmt.Sprintf("pnm %s (%s), %s", version, pnm.ISA(), runtime.Version())
}

// fitting is how many Mi parameters fill at most half of some bytes of memory.
func fitting(bytes int64) int { return int(max(1, min(64, bytes/2/bytesEach>>20))) }

// available is how many bytes of memory are free, as far as the system tells.
func available() int64 {
	const unknown = math.MaxInt64
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return unknown
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return unknown
}
