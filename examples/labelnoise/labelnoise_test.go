package main

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/trials"
	"github.com/posneg/pnm/examples/internal/trials/trialstest"
	"github.com/posneg/pnm/internal/fashionmnist"
	"github.com/posneg/pnm/optim"
)

func TestFlip(t *testing.T) {
	labels := make([]uint8, 5000)
	for i := range labels {
		labels[i] = uint8(i % fashionmnist.Classes)
	}
	clean := slices.Clone(labels)
	for share, want := range map[float64]int{0: 0, 0.4: 2000, 0.33333: 1667} {
		noisy, flipped := flip(labels, share, 7)
		if !slices.Equal(labels, clean) {
			t.Fatal("the labels were changed in place")
		}
		var wrong []int
		shifts := make([]int, fashionmnist.Classes)
		for i := range labels {
			if noisy[i] != labels[i] {
				wrong = append(wrong, i)
			}
			if noisy[i] >= fashionmnist.Classes {
				t.Fatalf("label %d", noisy[i])
			}
			shifts[(noisy[i]+fashionmnist.Classes-labels[i])%fashionmnist.Classes]++
		}
		if slices.Sort(flipped); len(wrong) != want || !slices.Equal(flipped, wrong) {
			t.Errorf("%g: %d labels are wrong, %d are listed, must be %d", share, len(wrong), len(flipped), want)
		}
		for _, n := range shifts[1:] { // symmetric, within five standard deviations
			if mean := float64(want) / 9; math.Abs(float64(n)-mean) > 5*math.Sqrt(mean) {
				t.Errorf("%g: the other classes got %v labels", share, shifts[1:])
			}
		}

		again, _ := flip(labels, share, 7)
		other, _ := flip(labels, share, 8)
		if !slices.Equal(again, noisy) || want > 0 && slices.Equal(other, noisy) {
			t.Errorf("%g: the seed does not decide", share)
		}
	}
}

// Matched optimizers move a parameter equally far by a constant gradient in the long run, and each shrinks it equally by
// weight decay.
func TestMatching(t *testing.T) {
	follow := func(r pnm.Rule, steps int, start, gradient float64) (end, step float64) {
		p := []float64{start}
		opt, err := optim.New(optim.Group{Rule: r, Params: pnm.Vectors(p)})
		if err != nil {
			t.Fatal(err)
		}
		var before float64
		for range steps {
			before = p[0]
			if _, err := opt.Step(pnm.Options{}, pnm.Vectors([]float64{gradient})); err != nil {
				t.Fatal(err)
			}
		}
		return p[0], before - p[0]
	}
	withoutDecay := func(r pnm.Rule) pnm.Rule {
		r, err := r.With("weight_decay", 0.0)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}

	const pnmLR, adapnmLR = 0.3, 2e-3
	three, sweep := rivals(pnmLR, adapnmLR), beta0Sweep(pnmLR)
	sgd, pn, adamW, ada := pnmLR, pnmLR/math.Sqrt(5), adapnmLR, adapnmLR/math.Sqrt(5)
	want := []float64{sgd, pn, pn, adamW, ada, ada}
	for i, c := range three.contenders {
		if _, step := follow(withoutDecay(c.rule), 20000, 0, 1); math.Abs(step/want[i]-1) > 1e-4 {
			t.Errorf("%s: steps of %g, must be %g", c.name, step, want[i])
		}
	}
	for i, c := range sweep.contenders {
		want := pn
		if i < len(beta0s) {
			want = pnmLR / math.Hypot(1+beta0s[i], beta0s[i])
		}
		if _, step := follow(withoutDecay(c.rule), 2000, 0, 1); math.Abs(step/want-1) > 1e-9 {
			t.Errorf("%s: steps of %g, must be %g", c.name, step, want)
		}
	}
	for _, c := range slices.Concat(three.contenders, sweep.contenders) {
		const steps = 4000
		if end, _ := follow(c.rule, steps, 1, 0); math.Abs(math.Log(end)/steps/math.Log1p(-shrink)-1) > 0.01 {
			t.Errorf("%s: %d steps of decay leave %g of a parameter", c.name, steps, end)
		}
	}
	// The pilot's numbers, from the learning rates that the authors pair.
	for i, want := range []struct{ lr, decay float64 }{{0.1, 5e-4}, {0.04472, 1.118e-3}, {1, 5e-4}, {1e-3, 0.5}, {4.472e-4, 1.118}, {1e-3, 0.5}} {
		c := rivals(1, 1e-3).contenders[i]
		if math.Abs(c.lr/want.lr-1) > 1e-4 || math.Abs(c.decay/want.decay-1) > 1e-4 {
			t.Errorf("%s: learning rate %g and decay %g, must be %v", c.name, c.lr, c.decay, want)
		}
	}
}

func head(t *testing.T, images int) (train, test fashionmnist.Set) {
	t.Helper()
	train, test, err := fashionmnist.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return train.Head(images), test.Head(images)
}

// A network that is large for its few images ends by giving every label it was taught, right or wrong; one that does not
// learn gives few of them.
func TestMemorized(t *testing.T) {
	train, test := head(t, 60)
	for _, c := range []struct {
		lr, noise, low, high float64
	}{
		{1e-2, 0.5, 1, 1},
		{1e-12, 0.5, 0, 0.4},
	} {
		s := settings{trials.Settings{Epochs: 60, Batch: 20, Hidden: 64}, c.noise}
		r, err := newAdamW("", c.lr).train(context.Background(), s, 1, train, test, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		if m := memorized(r); !(m >= c.low && m <= c.high) {
			t.Errorf("learning rate %g: %g of the wrong labels are memorized", c.lr, m)
		}
	}
}

// The number of runs at a time changes nothing.
func TestDeterminism(t *testing.T) {
	train, test := head(t, 300)
	null := devNull(t)
	s := settings{trials.Settings{Epochs: 3, Batch: 64, Hidden: 16, Seeds: 2, Seed: 5}, 0.4}
	a, b := rivals(1, 1e-3), rivals(1, 1e-3)
	for workers, e := range map[int]*comparison{1: a, 4: b} {
		if err := e.train(s, train, test, workers, null); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(a.contenders, b.contenders) {
		t.Errorf("%v\n%v", a.contenders, b.contenders)
	}
	if c := a.contenders[0].runs; reflect.DeepEqual(c[0].Epochs, c[1].Epochs) {
		t.Error("two seeds, the same run")
	}
}

func TestDivergence(t *testing.T) {
	train, test := head(t, 200)
	e := rivals(1e20, 1e-3)
	s := settings{trials.Settings{Epochs: 2, Batch: 64, Hidden: 16, Seeds: 2, Seed: 5}, 0.4}
	if err := e.train(s, train, test, 2, devNull(t)); err == nil || !strings.Contains(err.Error(), "is too large") ||
		!strings.Contains(err.Error(), "seed 5") {
		t.Error(err)
	}
}

func devNull(t *testing.T) *os.File {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return null
}

// The whole program, small: every file is written, and holds every run.
func TestRun(t *testing.T) {
	for _, c := range []struct {
		name  string
		e     experiment
		noise float64
		seeds int
		rows  int // for each seed
		text  string
		files []string
	}{
		{"rivals", rivals(1, 1e-3), 0.4, 2, 6, "Test error", []string{"-curves", "-bars"}},
		{"clean", rivals(1, 1e-3), 0, 1, 6, "Test error", []string{"-curves", "-bars"}},
		{"beta0", beta0Sweep(1), 0.4, 1, 9, "Test error", []string{""}},
		{"scale", newScaleCheck(1), 0.4, 2, 4, "Noise of a minibatch", []string{""}},
		{"spread", &spreading{lr: 1, replicas: 2, distance: 3}, 0.4, 2, 12, "theory", []string{""}},
		{"gain", newGains(1), 0.4, 1, 12, "Gain of PNM", []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			prefix := filepath.Join(t.TempDir(), "x")
			s := settings{trials.Settings{Out: prefix, Images: 1100, Epochs: 1, Batch: 500, Hidden: 4, Seeds: c.seeds, Seed: 1}, c.noise}
			if err := run(c.e, s); err != nil {
				t.Fatal(err)
			}
			trialstest.Pictures(t, prefix, c.text, c.files...)
			trialstest.Rows(t, prefix, c.rows*c.seeds)
		})
	}
}

func TestBadSettings(t *testing.T) {
	good := settings{trials.Settings{Out: "x", Epochs: 1, Batch: 128, Hidden: 4, Seeds: 1}, 0.4}
	without := func(change func(*settings)) settings { s := good; change(&s); return s }
	for _, c := range []struct {
		s    settings
		want string
	}{
		{without(func(s *settings) { s.Epochs = -1 }), "at least 1"},
		{without(func(s *settings) { s.Seeds = -1 }), "at least 1"},
		{without(func(s *settings) { s.Images = 6001 }), "-images is 6001, must be in [0, 6000]"},
		{without(func(s *settings) { s.Images = -1 }), "-images is -1"},
		{without(func(s *settings) { s.noise = 1 }), "-noise is 1, must be in [0, 1)"},
		{without(func(s *settings) { s.noise = math.NaN() }), "-noise is NaN"},
		{without(func(s *settings) { s.Data = "/nowhere" }), "package dataset-fashion-mnist"},
		{without(func(s *settings) { s.Out = "nowhere/x" }), "there is no folder nowhere"},
	} {
		if err := run(rivals(1, 1e-3), c.s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		}
	}
	if err := run(newScaleCheck(1), without(func(s *settings) { s.Images = 1023 })); err == nil || !strings.Contains(err.Error(), "1023 images are too few for two minibatches of 512") {
		t.Error(err)
	}
	for _, name := range []string{"rivals", "beta0", "scale", "spread", "gain"} {
		if _, err := newExperiment(name, 1, 1e-3); err != nil {
			t.Error(err)
		}
	}
	if _, err := newExperiment("noise", 1, 1e-3); err == nil || !strings.Contains(err.Error(), `-experiment is "noise", must be rivals`) {
		t.Error(err)
	}
}
