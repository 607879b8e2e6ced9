package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// output runs the example with tiny settings, and returns its progress: a line for each epoch.
func output(t *testing.T, change func(*settings)) string {
	t.Helper()
	s := settings{epochs: 3, batch: 60, images: 200, testImages: 100, seed: 3, lr: 3e-3, adapnmLR: 6e-3} // 60 divides neither 200 nor 100
	change(&s)
	file, err := os.Create(filepath.Join(t.TempDir(), "progress"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := run(s, file); err != nil {
		t.Fatal(err)
	}
	progress, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(progress)
}

// Both solvers learn, and a run that is saved and resumed prints what one does that was not.
func TestExample(t *testing.T) {
	checkpoint := filepath.Join(t.TempDir(), "run.safetensors")
	whole := output(t, func(s *settings) { s.save = checkpoint })
	losses := make(map[string][]float64)
	for line := range strings.Lines(whole) {
		var loss float64
		name, status, _ := strings.Cut(line, " by ")
		if _, err := fmt.Sscanf(status[strings.Index(status, "loss"):], "loss %f", &loss); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		losses[name] = append(losses[name], loss)
	}
	for _, name := range []string{"AdaPNM", "Adam"} {
		if l := losses[name]; len(l) != 3 || !(l[2] < 0.6*l[0]) {
			t.Errorf("%s has the losses %v:\n%s", name, l, whole)
		}
	}
	first, err := os.ReadFile(checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	output(t, func(s *settings) { s.epochs, s.save = 1, checkpoint })
	rest := output(t, func(s *settings) { s.resume, s.save = checkpoint, checkpoint })
	if !strings.HasPrefix(rest, "AdaPNM by pnm    epoch  2") || !strings.Contains(whole, rest) {
		t.Errorf("after a pause:\n%swithout:\n%s", rest, whole)
	}
	if second, err := os.ReadFile(checkpoint); err != nil || !bytes.Equal(first, second) {
		t.Errorf("the checkpoint after a pause is another (%v)", err)
	}
}

func TestBadSettings(t *testing.T) {
	good := settings{epochs: 1, batch: 50, images: 50, testImages: 50, adapnmLR: 1e-3}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("no checkpoint"), 0o666); err != nil {
		t.Fatal(err)
	}
	ofAnother := filepath.Join(t.TempDir(), "other")
	output(t, func(s *settings) { s.epochs, s.save = 1, ofAnother })
	for _, c := range []struct {
		change func(*settings)
		want   string
	}{
		{func(s *settings) { s.epochs = 0 }, "-epochs is 0"},
		{func(s *settings) { s.images = 49 }, "-images is 49, must be from -batch to 6000"},
		{func(s *settings) { s.testImages = 2001 }, "-test-images is 2001, must be from 1 to 2000"},
		{func(s *settings) { s.adapnmLR = 1 }, "-adapnm-lr 1, both must be in [0, 0.1]"},
		{func(s *settings) { s.resume = garbage }, "-resume: "},
		{func(s *settings) { s.resume = ofAnother }, "is of a run with -seed 3; this one has 0"},
		{func(s *settings) { s.resume, s.seed, s.batch, s.images = ofAnother, 3, 60, 200 }, "has 1 epochs behind it: -epochs must be larger"},
		{func(s *settings) { s.save = filepath.Join(garbage, "x") }, "-save: "},
		{func(s *settings) { s.lr = math.NaN() }, "-lr is NaN and -adapnm-lr 0.001, both must be in [0, 0.1]"},
	} {
		s := good
		c.change(&s)
		if err := run(s, os.Stderr); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", s, err, c.want)
		}
	}
}
