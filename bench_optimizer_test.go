package pnm

import (
	"fmt"
	"testing"
)

// BenchmarkManyTensors is what a tensor of 8 elements costs among others: in a whole step, in a step in two parts, and in building
// the optimizer, where each has a group of its own. It should not depend on how many they are.
func BenchmarkManyTensors(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		var groups []Group[float32]
		grads := make([][]float32, n)
		for i := range grads {
			grads[i] = make([]float32, 8)
			groups = append(groups, Group[float32]{NewPNM(1), [][]float32{make([]float32, 8)}})
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
		o, err := NewOptimizer(groups...)
		if err != nil {
			b.Fatal(err)
		}
		run("Step", func() error { return o.Step(grads) })
		run("StepPart", func() error {
			for i, g := range grads {
				step := o.Steps(i) + 1
				for lo := 0; lo < 8; lo += 4 {
					if err := o.StepPart(Options{}, Part[float32]{i, step, lo, g[lo : lo+4]}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		run("SetLR", func() error { return o.SetLR(1) })
		run("SetRule", func() error {
			for i := range groups {
				if err := o.SetRule(i, NewPNM(1)); err != nil {
					return err
				}
			}
			return nil
		})
		run("NewOptimizer", func() error { _, err := NewOptimizer(groups...); return err })
		run("AddGroup", func() error {
			o, err := NewOptimizer[float32]()
			for i := 0; i < n && err == nil; i++ {
				err = o.AddGroup(groups[i])
			}
			return err
		})
	}
}
