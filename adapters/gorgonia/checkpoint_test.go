package pnmgorgonia

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// A run that continues from a checkpoint in a new graph, with a new solver, gives the bits of one that was not interrupted,
// whatever the parity of the step.
func TestResume(t *testing.T) {
	t.Run("float32", testResume[float32])
	t.Run("float64", testResume[float64])
}

func testResume[T pnm.Float](t *testing.T) {
	const steps = 8
	noDecay := pnm.NewAdaPNM()
	decay := noDecay
	decay.WeightDecay = 0.1
	byName := func(n gorgonia.ValueGrad) pnm.Rule {
		if strings.HasPrefix(n.(gorgonia.Namer).Name(), "b") {
			return noDecay
		}
		return decay
	}
	solver := func(n *net, lr float64) *Solver {
		s, err := NewSolverFor(n.model, byName)
		if err == nil {
			err = s.SetGroupLR(1, lr)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	whole := newNet[T](t, 5, true)
	want := train[T](t, whole, solver(whole, 0.01), steps)
	for _, at := range []int{0, 1, 4, 5} {
		path := filepath.Join(t.TempDir(), "run.safetensors")
		before := newNet[T](t, 5, true)
		s := solver(before, 0.01)
		got := train[T](t, before, s, at)
		move[T](t, before) // what is saved are the values that the nodes have now
		saved, err := s.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		options := optim.SaveOptions{Metadata: map[string]string{"epoch": "3"}}
		if err := s.Save(path, options); err != nil {
			t.Fatal(err)
		}
		var stream bytes.Buffer
		if err := s.SaveTo(&stream, options); err != nil {
			t.Fatal(err)
		}
		if file, err := os.ReadFile(path); err != nil || !bytes.Equal(file, stream.Bytes()) {
			t.Errorf("Save and SaveTo differ (%v)", err)
		}

		after := newNet[T](t, 6, true) // other weights
		after.rng, after.blank = before.rng, before.blank
		s = solver(after, 1e-9)
		move[T](t, after)
		memory := values[T](t, after.model)
		info, err := s.Load(path, optim.LoadOptions{Fingerprint: &saved})
		if at == 4 {
			info, err = s.LoadFrom(bytes.NewReader(stream.Bytes()), int64(stream.Len()), optim.LoadOptions{})
		}
		if err != nil || info.Metadata["epoch"] != "3" {
			t.Fatal(info, err)
		}
		if f, err := s.Fingerprint(); err != nil || f != saved || info.Fingerprint == nil || *info.Fingerprint != saved {
			t.Errorf("resumed at step %d the fingerprint is %v, saved %v, in the file %v (%v)", at, f, saved, info.Fingerprint, err)
		}
		got = append(got, train[T](t, after, s, steps-at)...)
		if !slices.Equal(got, want) {
			t.Errorf("resumed at step %d the losses are %v, must be %v", at, got, want)
		}
		if !equal(memory, values[T](t, whole.model)) {
			t.Errorf("resumed at step %d the values differ", at)
		}
	}
}

// move binds a copy of its value to each node, and clears the old one.
func move[T pnm.Float](t *testing.T, n *net) {
	for i, x := range values[T](t, n.model) {
		if err := gorgonia.Let(n.nodes[i], n.nodes[i].Value().(*tensor.Dense).Clone()); err != nil {
			t.Fatal(err)
		}
		clear(x)
	}
}

// A checkpoint has the nodes' names and shapes, or other shapes in the model's order, and is refused where it does not fit.
func TestCheckpointNames(t *testing.T) {
	dir := t.TempDir()
	n := newNet[float32](t, 5, true)
	s, err := NewSolverFor(n.model, func(n gorgonia.ValueGrad) pnm.Rule {
		if strings.HasPrefix(n.(gorgonia.Namer).Name(), "b") {
			return pnm.NewSGD(1)
		}
		return pnm.NewSGD(2) // the optimizer has conv, w1, w2, b1, b2
	})
	if err != nil {
		t.Fatal(err)
	}
	shapes := func(file string, o optim.SaveOptions) map[string][]int {
		t.Helper()
		if err := s.Save(filepath.Join(dir, file), o); err != nil {
			t.Fatal(err)
		}
		info, err := optim.ReadCheckpoint(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		all := make(map[string][]int)
		for _, g := range info.Groups {
			for _, c := range g.Tensors {
				all[c.Name] = c.Shape
			}
		}
		return all
	}
	var flat [][]int
	for _, node := range n.nodes {
		flat = append(flat, []int{node.Shape().TotalSize()})
	}
	own, given := shapes("own", optim.SaveOptions{}), shapes("flat", optim.SaveOptions{Shapes: flat})
	for i, node := range n.nodes {
		if !slices.Equal(own[node.Name()], node.Shape()) || !slices.Equal(given[node.Name()], flat[i]) {
			t.Errorf("%s has shapes %v and %v, must be %v and %v", node.Name(), own[node.Name()], given[node.Name()], node.Shape(), flat[i])
		}
	}
	load := func(s *Solver, file string) func() error {
		return func() error { _, err := s.Load(filepath.Join(dir, file), optim.LoadOptions{}); return err }
	}
	if err := load(s, "flat")(); err != nil { // one dimension fits every shape
		t.Error(err)
	}
	expect(t, "too few shapes", "shapes is 2, must be 5", func() error {
		return s.Save(filepath.Join(dir, "x"), optim.SaveOptions{Shapes: flat[:2]})
	})

	other := mustSolver(t, pnm.NewSGD(1), []gorgonia.ValueGrad{&fake{"elsewhere", dense[float32](1), nil, nil}})
	if err := other.Save(filepath.Join(dir, "other"), optim.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(t, "other names", `"conv"`, load(s, "other"))
	expect(t, "two nodes of one name", `tensor 1 ("w"): tensor 0 has the same name, "w"`, func() error {
		_, err := NewSolver(pnm.NewSGD(1), []gorgonia.ValueGrad{&fake{"w", dense(1.0), nil, nil}, &fake{"w", dense(1.0), nil, nil}})
		return err
	})
	wide := newNet[float64](t, 5, true)
	if err := mustSolver(t, pnm.NewSGD(1), n.model).Save(filepath.Join(dir, "plain"), optim.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(t, "float64", "float64", load(mustSolver(t, pnm.NewSGD(1), wide.model), "plain"))
	expect(t, "no file", "nowhere", load(s, "nowhere"))
}
