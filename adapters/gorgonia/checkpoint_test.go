package pnmgorgonia

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
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
	solver := func(n *net, lr float64) *Solver[T] {
		s, err := NewSolverFor[T](n.model, byName)
		if err == nil {
			err = s.SetLR(lr, 1)
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
		options := pnm.SaveOptions{Metadata: map[string]string{"epoch": "3"}}
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
		info, err := s.Load(path, pnm.LoadOptions{})
		if at == 4 {
			info, err = s.LoadFrom(bytes.NewReader(stream.Bytes()), int64(stream.Len()), pnm.LoadOptions{})
		}
		if err != nil || info.Metadata["epoch"] != "3" {
			t.Fatal(info, err)
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

// A checkpoint has the nodes' names and shapes, or others in the model's order, and is refused where it does not fit.
func TestCheckpointNames(t *testing.T) {
	dir := t.TempDir()
	n := newNet[float32](t, 5, true)
	s, err := NewSolverFor[float32](n.model, func(n gorgonia.ValueGrad) pnm.Rule {
		if strings.HasPrefix(n.(gorgonia.Namer).Name(), "b") {
			return pnm.NewSGD(1)
		}
		return pnm.NewSGD(2) // the optimizer has conv, w1, w2, b1, b2
	})
	if err != nil {
		t.Fatal(err)
	}
	shapes := func(file string, o pnm.SaveOptions) map[string][]int {
		t.Helper()
		if err := s.Save(filepath.Join(dir, file), o); err != nil {
			t.Fatal(err)
		}
		info, err := pnm.ReadCheckpoint(filepath.Join(dir, file))
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
	names := []string{"A", "B", "C", "D", "E"}
	own := shapes("own", pnm.SaveOptions{})
	given := shapes("given", pnm.SaveOptions{Names: names})
	var flat [][]int
	for i, node := range n.nodes {
		flat = append(flat, []int{node.Shape().TotalSize()})
		if !slices.Equal(own[node.Name()], node.Shape()) || !slices.Equal(given[names[i]], node.Shape()) {
			t.Errorf("%s has shapes %v and %v, must be %v", node.Name(), own[node.Name()], given[names[i]], node.Shape())
		}
	}
	for i, shape := range shapes("flat", pnm.SaveOptions{Names: names, Shapes: flat}) {
		if want := flat[slices.Index(names, i)]; !slices.Equal(shape, want) {
			t.Errorf("%s has shape %v, must be %v", i, shape, want)
		}
	}
	if _, err := s.Load(filepath.Join(dir, "given"), pnm.LoadOptions{Names: names}); err != nil {
		t.Error(err)
	}
	expect(t, "other names", `"conv"`, func() error { _, err := s.Load(filepath.Join(dir, "given"), pnm.LoadOptions{}); return err })
	expect(t, "too few names", "names is 2, must be 5", func() error { return s.Save(filepath.Join(dir, "x"), pnm.SaveOptions{Names: []string{"A", "B"}}) })

	twins := []gorgonia.ValueGrad{&fake{"w", dense(1.0), nil, nil}, &fake{"w", dense(1.0), nil, nil}}
	expect(t, "two nodes of one name", `"w"`, func() error {
		return mustSolver[float64](t, pnm.NewSGD(1), twins).Save(filepath.Join(dir, "x"), pnm.SaveOptions{})
	})
	wide := newNet[float64](t, 5, true)
	plain := filepath.Join(dir, "plain")
	if err := mustSolver[float32](t, pnm.NewSGD(1), n.model).Save(plain, pnm.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(t, "float64", "float64", func() error {
		_, err := mustSolver[float64](t, pnm.NewSGD(1), wide.model).Load(plain, pnm.LoadOptions{})
		return err
	})
	expect(t, "no file", "nowhere", func() error { _, err := s.Load(filepath.Join(dir, "nowhere"), pnm.LoadOptions{}); return err })
}
