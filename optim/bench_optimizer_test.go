package optim

import (
	"fmt"
	"testing"

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
