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
	"github.com/posneg/pnm/optim"
)

// A job is what to do.
type job struct {
	formats
	in, out      string
	first, steps int
	flat         bool
	late, expert string
	noise        bool
}

// formats are those of an optimizer.
type formats struct {
	params, copies, state string
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
	f.StringVar(&j.state, "state", "", "format of the state: that of the arithmetic, bf16 or mxfp8")
	f.IntVar(&j.first, "first", 0, "how many steps of the run have been done")
	f.IntVar(&j.steps, "steps", 1, "how many to do")
	f.BoolVar(&j.flat, "flat", false, "write all tensors with one dimension")
	f.StringVar(&j.late, "late", "", "name of a tensor that has no gradient in the first two steps of the run")
	f.StringVar(&j.expert, "expert", "", "name of a tensor that has a gradient in each third step only, from the first one on")
	f.BoolVar(&j.noise, "noise", false, "read the noise in every step, and print the averages and the last reading: of all, each group and each tensor")
	f.Parse(args)
	j.in, j.out = f.Arg(0), f.Arg(1)
	return j
}

func (j job) do() error {
	info, err := optim.ReadCheckpoint(j.in)
	if err != nil {
		return err
	}
	o, seen, shapes, err := build(info, j.formats)
	if err != nil {
		return err
	}
	defer o.Close()
	if _, err := o.Load(j.in, optim.LoadOptions{Shapes: shapes}); err != nil {
		return err
	}
	if j.noise {
		if err := o.ReadNoise(1, 0.75); err != nil {
			return err
		}
	}
	for s := j.first; s < j.first+j.steps; s++ {
		grads := make([]pnm.Vector, len(seen))
		for i, name := range o.Names() {
			if name == j.late && s < 2 || name == j.expert && s%3 != 0 {
				continue
			}
			if grads[i], err = gradient(seen[i]); err != nil {
				return err
			}
		}
		if _, err := o.Step(pnm.Options{}, grads); err != nil {
			return err
		}
	}
	if j.noise {
		if err := printNoise(o); err != nil {
			return err
		}
	}
	if j.flat {
		shapes = nil
	}
	return o.Save(j.out, optim.SaveOptions{Shapes: shapes, Metadata: info.Metadata})
}

func printNoise(o *optim.Optimizer) error {
	now, err := o.NoiseScale()
	if err != nil {
		return err
	}
	averages := o.NoiseAverages()
	all := append(append([]optim.NoiseEstimate{averages.Total}, averages.Groups...), averages.Tensors...)
	for i, n := range append(append([]pnm.Noise{now.Total}, now.Groups...), now.Tensors...) {
		e := all[i]
		fmt.Printf("%d %x %x %x %x %x %x %x\n", e.Readings, e.Signal, e.Variance, e.SignalError, e.VarianceError, e.ScaleError, n.Signal, n.Variance)
	}
	return nil
}

// build returns an optimizer that the checkpoint fits, and of each of its tensors what gradients are taken from and the shape.
func build(info optim.CheckpointInfo, f formats) (o *optim.Optimizer, seen []pnm.Vector, shapes [][]int, err error) {
	var groups []optim.Group
	for _, g := range info.Groups {
		group := optim.Group{Rule: g.Rule, State: f.state}
		for _, t := range g.Tensors {
			n := elements(t)
			params := vector(f.params, n)
			group.Names, group.Params, shapes = append(group.Names, t.Name), append(group.Params, params), append(shapes, t.Shape)
			if f.state == "mxfp8" {
				group.Rows = append(group.Rows, row(t))
			}
			if f.copies != "" {
				params = vector(f.copies, n)
				group.Copies = append(group.Copies, params)
			}
			seen = append(seen, params)
		}
		groups = append(groups, group)
	}
	o, err = optim.Config{Seed: 99}.New(groups...) // the seed of the file must win
	return o, seen, shapes, err
}

// gradient returns w − target, in the format of w.
func gradient(w pnm.Vector) (pnm.Vector, error) {
	g := vector(w.Format(), w.Len())
	if wide := w.Float64(); wide != nil {
		for i, x := range wide {
			g.Float64()[i] = x - target(i)
		}
		return g, nil
	}
	wide := make([]float32, w.Len())
	if _, err := pnm.Float32(wide).Set(w); err != nil {
		return g, err
	}
	for i := range wide {
		wide[i] -= float32(target(i))
	}
	_, err := g.Set(pnm.Float32(wide))
	return g, err
}

// target is exact in all formats.
func target(element int) float64 { return float64(element*7%11-5) / 4 }

func vector(format string, n int) pnm.Vector {
	switch format {
	case "float64":
		return pnm.Float64(make([]float64, n))
	case "bf16":
		return pnm.BF16(make([]uint16, n))
	case "f16":
		return pnm.F16(make([]uint16, n))
	}
	return pnm.Float32(make([]float32, n))
}

// row is that of the state if the file has it, or else what Python has for the shape.
func row(t optim.CheckpointTensor) int {
	if t.Row > 0 || len(t.Shape) == 0 || t.Shape[0] == 0 {
		return max(t.Row, 1)
	}
	return elements(t) / t.Shape[0]
}

func elements(t optim.CheckpointTensor) int {
	n := 1
	for _, k := range t.Shape {
		n *= k
	}
	return n
}
