// Resume is the Go half of the tests of runs that move between Go and Python. It loads a checkpoint, performs steps of its
// optimizer, and writes another:
//
//	resume [flags] in.safetensors out.safetensors
//
// Gradients are w − target, one operation of the format that w is in, with targets as test_go.py has them.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/posneg/pnm"
)

// A job is what to do.
type job struct {
	formats
	in, out      string
	first, steps int
	flat         bool
	late         string
}

// formats are those of an optimizer.
type formats struct {
	params, copies string
	bf16State      bool
}

func main() {
	if err := parse(os.Args[1:]).do(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parse(args []string) job {
	var j job
	f := flag.NewFlagSet("resume", flag.ExitOnError)
	f.StringVar(&j.params, "params", "float32", "format of the parameters: float32, float64 or bf16")
	f.StringVar(&j.copies, "copies", "", "format of copies of float32 parameters, from which gradients are then taken: bf16 or f16")
	f.BoolVar(&j.bf16State, "bf16-state", false, "keep the state in bf16")
	f.IntVar(&j.first, "first", 0, "how many steps of the run have been done")
	f.IntVar(&j.steps, "steps", 1, "how many to do")
	f.BoolVar(&j.flat, "flat", false, "write all tensors with one dimension")
	f.StringVar(&j.late, "late", "", "name of a tensor that has no gradient in the first two steps of the run")
	f.Parse(args)
	j.in, j.out = f.Arg(0), f.Arg(1)
	return j
}

// An optimizer is one of any type.
type optimizer interface {
	Load(path string, l pnm.LoadOptions) (pnm.CheckpointInfo, error)
	Save(path string, s pnm.SaveOptions) error
}

func (j job) do() error {
	info, err := pnm.ReadCheckpoint(j.in)
	if err != nil {
		return err
	}
	var names []string
	var shapes [][]int
	for _, g := range info.Groups {
		for _, t := range g.Tensors {
			names, shapes = append(names, t.Name), append(shapes, t.Shape)
		}
	}
	var o optimizer
	var step func(due []bool) error
	switch j.formats {
	case formats{params: "float32"}:
		o, step, err = plain[float32](info)
	case formats{params: "float64"}:
		o, step, err = plain[float64](info)
	default:
		o, step, err = mixed(info, j.formats)
	}
	if err != nil {
		return err
	}
	if _, err := o.Load(j.in, pnm.LoadOptions{Names: names, Shapes: shapes}); err != nil {
		return err
	}
	due := make([]bool, len(names))
	for s := j.first; s < j.first+j.steps; s++ {
		for i, name := range names {
			due[i] = name != j.late || s >= 2
		}
		if err := step(due); err != nil {
			return err
		}
	}
	if j.flat {
		shapes = nil
	}
	return o.Save(j.out, pnm.SaveOptions{Names: names, Shapes: shapes, Metadata: info.Metadata})
}

// plain returns the optimizer that the checkpoint fits, and what performs a step of those tensors that are due.
func plain[T pnm.Float](info pnm.CheckpointInfo) (optimizer, func([]bool) error, error) {
	var groups []pnm.Group[T]
	var all [][]T
	for _, g := range info.Groups {
		group := pnm.Group[T]{Rule: g.Rule}
		for _, t := range g.Tensors {
			group.Params = append(group.Params, make([]T, elements(t)))
		}
		groups, all = append(groups, group), append(all, group.Params...)
	}
	o, err := pnm.NewOptimizer(groups...)
	return o, func(due []bool) error {
		grads := make([][]T, len(all))
		for i, p := range all {
			if !due[i] {
				continue
			}
			grads[i] = make([]T, len(p))
			for j, w := range p {
				grads[i][j] = w - T(target(j))
			}
		}
		return o.Step(grads)
	}, err
}

// mixed is plain in mixed precision.
func mixed(info pnm.CheckpointInfo, f formats) (optimizer, func([]bool) error, error) {
	var groups []pnm.MixedGroup
	var seen []pnm.Vector // what gradients are taken from
	for _, g := range info.Groups {
		group := pnm.MixedGroup{Rule: g.Rule, BF16State: f.bf16State}
		for _, t := range g.Tensors {
			n := elements(t)
			group.Params = append(group.Params, vector(f.params, n))
			if f.copies != "" {
				group.Copies = append(group.Copies, vector(f.copies, n))
			}
		}
		if groups = append(groups, group); f.copies != "" {
			seen = append(seen, group.Copies...)
		} else {
			seen = append(seen, group.Params...)
		}
	}
	o, err := pnm.NewMixedOptimizer(pnm.Config{Seed: 99}, groups...) // the seed of the file must win
	return o, func(due []bool) error {
		grads := make([]pnm.Vector, len(seen))
		for i, w := range seen {
			if !due[i] {
				continue
			}
			wide := make([]float32, w.Len())
			if _, err := pnm.Convert(pnm.Float32(wide), w); err != nil {
				return err
			}
			for j := range wide {
				wide[j] -= float32(target(j))
			}
			grads[i] = vector(w.Format(), w.Len())
			if _, err := pnm.Convert(grads[i], pnm.Float32(wide)); err != nil {
				return err
			}
		}
		return o.Step(grads)
	}, err
}

// target is exact in all formats.
func target(element int) float64 { return float64(element*7%11-5) / 4 }

func vector(format string, n int) pnm.Vector {
	switch format {
	case "bf16":
		return pnm.BF16(make([]uint16, n))
	case "f16":
		return pnm.F16(make([]uint16, n))
	}
	return pnm.Float32(make([]float32, n))
}

func elements(t pnm.CheckpointTensor) int {
	n := 1
	for _, k := range t.Shape {
		n *= k
	}
	return n
}
