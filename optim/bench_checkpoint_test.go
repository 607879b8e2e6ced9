package optim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/posneg/pnm"
)

// benchCheckpoint measures what a checkpoint with parameters takes, in turn with a plain file of the same bytes.
func benchCheckpoint(b *testing.B, run func(opt *Optimizer, path string) error, plain func(path string, bytes []byte) error) {
	const n = 16 << 20 / 5 // parameters; with AdaPNM's four buffers, 64 MiB where all is float32
	for _, state := range []string{"float32", "bf16", mxfp8Format} {
		b.Run(fmt.Sprintf("rule=AdaPNM/state=%s", state), func(b *testing.B) {
			opt := optimizerOf(b, Group{Rule: pnm.NewAdaPNM(), Params: pnm.Vectors(lcg[float32](1, n)), State: state})
			wantNoError(b, stepOf(opt, lcg[float32](2, n)))
			path := filepath.Join(b.TempDir(), "run")
			wantNoError(b, opt.Save(path, SaveOptions{}))
			bytes, err := os.ReadFile(path)
			wantNoError(b, err)
			wantNoError(b, os.WriteFile(path+"2", bytes, 0o666))
			var ours, theirs []float64
			timed := func(times *[]float64, f func() error) {
				start := time.Now()
				wantNoError(b, f())
				*times = append(*times, time.Since(start).Seconds())
			}
			for b.Loop() {
				timed(&ours, func() error { return run(opt, path) })
				timed(&theirs, func() error { return plain(path+"2", bytes) })
			}
			b.ReportMetric(median(ours)*1e9, "ns/op")
			b.ReportMetric(float64(len(bytes))/median(ours)/1e6, "MB/s")
			b.ReportMetric(median(theirs)/median(ours), "of-plain")
		})
	}
}

// BenchmarkFingerprintOfRun compares with a step.
func BenchmarkFingerprintOfRun(b *testing.B) {
	const n = 16 << 20
	g := lcg[float32](2, n)
	for _, f := range []formatsOf{{p: "float32", s: "float32"}, {p: "float32", s: "bf16"}, {p: "float32", s: mxfp8Format}, {p: low16Format, s: "bf16", out: "bf16"}} {
		b.Run(fmt.Sprintf("rule=AdaPNM/params=%s/state=%s", f.p, f.s), func(b *testing.B) {
			group := Group{Rule: pnm.NewAdaPNM(), Params: []pnm.Vector{ordinary(f.p, 1, n)}, State: f.s}
			if f.out != "" {
				group.Copies = []pnm.Vector{ordinary(f.out, 1, n)}
			}
			opt := optimizerOf(b, group)
			var ours, steps []float64
			for b.Loop() {
				start := time.Now()
				wantNoError(b, stepOf(opt, g))
				middle := time.Now()
				fingerprintOfRun(b, opt)
				steps, ours = append(steps, middle.Sub(start).Seconds()), append(ours, time.Since(middle).Seconds())
			}
			b.ReportMetric(median(ours)*1e9, "ns/op")
			b.ReportMetric(median(ours)/median(steps), "of-step")
		})
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// BenchmarkSave compares with writing as much from memory, and synchronizing it.
func BenchmarkSave(b *testing.B) {
	save := func(opt *Optimizer, path string) error { return opt.Save(path, SaveOptions{}) }
	benchCheckpoint(b, save, func(path string, bytes []byte) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(bytes); err != nil {
			return err
		}
		return f.Sync()
	})
}

// BenchmarkLoad compares with reading as much into memory that is there; the files are in the system's cache.
func BenchmarkLoad(b *testing.B) {
	load := func(opt *Optimizer, path string) error {
		_, err := opt.Load(path, LoadOptions{})
		return err
	}
	benchCheckpoint(b, load, func(path string, bytes []byte) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.ReadAt(bytes, 0)
		return err
	})
}

// BenchmarkCheckpointTensors measures what each tensor costs, however small it is: it must not depend on how many there are.
func BenchmarkCheckpointTensors(b *testing.B) {
	for _, tensors := range []int{100, 1_000, 10_000} {
		params := make([][]float32, tensors)
		for i := range params {
			params[i] = make([]float32, 4)
		}
		opt := optimizerOf(b, groupOf(pnm.NewAdaPNM(), params...))
		path := filepath.Join(b.TempDir(), "run")
		wantNoError(b, opt.Save(path, SaveOptions{}))
		for _, c := range []struct {
			what string
			do   func() error
		}{
			{"Save", func() error { return opt.Save(path, SaveOptions{}) }},
			{"Load", func() error { _, err := opt.Load(path, LoadOptions{}); return err }},
		} {
			b.Run(fmt.Sprintf("call=%s/tensors=%d", c.what, tensors), func(b *testing.B) {
				for b.Loop() {
					wantNoError(b, c.do())
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(tensors), "µs/tensor")
			})
		}
	}
}
