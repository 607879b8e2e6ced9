package optim

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/posneg/pnm"
)

// BenchmarkManyTensors is what a tensor of 8 elements costs among others: in a whole step, in a step in two parts, and in building
// the optimizer, where each has a group of its own. It should not depend on how many they are.
func BenchmarkManyTensors(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		var groups []Group
		grads := make([]pnm.Vector, n)
		byName := make(map[string]pnm.Vector)
		for i := range grads {
			grads[i] = newVector("float32", 8)
			byName[fmt.Sprint(i)] = grads[i]
			groups = append(groups, groupOf(pnm.NewPNM(1), make([]float32, 8)))
		}
		run := func(call string, do func() error) {
			b.Run(fmt.Sprintf("call=%s/tensors=%d", call, n), func(b *testing.B) {
				for b.Loop() {
					if err := do(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/tensor")
			})
		}
		o := optimizerOf(b, groups...)
		run("Step", func() error { _, err := o.Step(pnm.Options{}, grads); return err })
		run("StepNamed", func() error { _, err := o.StepNamed(pnm.Options{}, byName); return err })
		run("StepPart", func() error {
			for i, g := range grads {
				step := o.Steps(i) + 1
				for lo := 0; lo < 8; lo += 4 {
					if err := partOf(o, pnm.Options{}, Part{i, step, lo, g.Slice(lo, lo+4)}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		run("SetLR", func() error { return o.SetLR(1) })
		run("SetRule", func() error {
			for i := range groups {
				if err := o.SetRule(i, pnm.NewPNM(1)); err != nil {
					return err
				}
			}
			return nil
		})
		run("New", func() error { _, err := New(groups...); return err })
		run("AddGroup", func() error {
			o, err := New()
			for i := 0; i < n && err == nil; i++ {
				err = o.AddGroup(groups[i])
			}
			return err
		})
	}
}

// BenchmarkReadNoise is what reading the noise at each step adds to a step of a network with the tensors of GPT-2 small, 124 million
// parameters. Divide it by the steps between readings. Steps with and without reading alternate; the ratios' median counts.
func BenchmarkReadNoise(b *testing.B) {
	lengths := []int{50257 * 768, 1024 * 768, 768, 768}
	for range 12 {
		lengths = append(lengths, 768, 768, 768*2304, 2304, 768*768, 768, 768, 768, 768*3072, 3072, 3072*768, 768)
	}
	some := lcg[float32](1, 1<<16)
	for _, r := range []pnm.Rule{pnm.NewPNM(0), with(pnm.NewAdaPNM(), "lr", 0.0)} {
		for _, state := range []string{float32Format, "bf16", mxfp8Format} {
			b.Run(fmt.Sprintf("rule=%s/state=%s", r.Name(), state), func(b *testing.B) {
				arena, err := pnm.Alloc(float32Format, slices.Repeat(lengths, 2)...)
				if err != nil {
					b.Fatal(err)
				}
				defer arena.Close()
				params, grads := arena.Vectors()[:len(lengths)], arena.Vectors()[len(lengths):]
				for _, g := range grads {
					for g := g.Float32(); len(g) > 0; g = g[min(len(g), len(some)):] {
						copy(g, some)
					}
				}
				o := optimizerOf(b, Group{Rule: r, Params: params, State: state})
				step := func(every int) float64 {
					wantNoError(b, o.ReadNoise(every, 0))
					start := time.Now()
					_, err := o.Step(pnm.Options{}, grads)
					wantNoError(b, err)
					return time.Since(start).Seconds()
				}
				step(1)
				var ratios []float64
				for b.Loop() {
					plain := step(0)
					ratios = append(ratios, step(1)/plain-1)
				}
				slices.Sort(ratios)
				b.ReportMetric(100*ratios[len(ratios)/2], "%/reading")
			})
		}
	}
}
