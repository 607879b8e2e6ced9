package main

import (
	"image/png"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/fashionmnist"
)

func small(t *testing.T) (train, test fashionmnist.Set) {
	t.Helper()
	train, test, err := fashionmnist.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return train.Head(1000), test.Head(500)
}

// Both rules learn, and the same seed gives the same numbers, whatever the number of cores.
func TestTraining(t *testing.T) {
	train, test := small(t)
	s := settings{epochs: 4, batch: 60, hidden: 32, seed: 3} // 60 does not divide 1,000
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var curves []curve
	for _, o := range []optimizer{{"PNM", pnm.NewPNM(0.3), pnm.NewPNM(0.3), 0.3}, {"AdaPNM", pnm.NewAdaPNM(), pnm.NewAdaPNM(), 1e-3}} {
		c, err := trainWith(o, s, train, test, null)
		if err != nil {
			t.Fatal(err)
		}
		first, last := c.epochs[0], c.epochs[s.epochs-1]
		if !(last.trainLoss < 0.8*first.trainLoss) || !(last.testError < 0.5) {
			t.Errorf("%s: the loss goes from %g to %g, the test error is %g", o.name, first.trainLoss, last.trainLoss, last.testError)
		}

		cores := runtime.GOMAXPROCS(1)
		again, err := trainWith(o, s, train, test, null)
		runtime.GOMAXPROCS(cores)
		if err != nil || !reflect.DeepEqual(again.epochs, c.epochs) {
			t.Errorf("%s: once %v, then %v (%v)", o.name, c.epochs, again.epochs, err)
		}
		curves = append(curves, c)
	}

	for _, f := range formats {
		file := filepath.Join(t.TempDir(), "curves."+f)
		if err := drawCurves(curves, file); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil || len(b) < 1000 {
			t.Errorf("%s has %d bytes: %v", file, len(b), err)
		}
		if f == "png" {
			if _, err := png.Decode(strings.NewReader(string(b))); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestDivergence(t *testing.T) {
	train, test := small(t)
	_, err := trainWith(optimizer{"PNM", pnm.NewPNM(1e20), pnm.NewPNM(1e20), 1e20}, settings{2, 100, 16, 1}, train, test, os.Stderr)
	if err == nil || !strings.Contains(err.Error(), "learning rate 1e+20 is too large") {
		t.Error(err)
	}
}

func TestBadSettings(t *testing.T) {
	good := settings{epochs: 1, batch: 1, hidden: 1}
	for _, c := range []struct {
		s         settings
		data, out string
		want      string
	}{
		{settings{}, "", "a.png", "at least 1"},
		{good, "", "a.gif", "must end in .png, .svg, .pdf"},
		{good, "/nowhere", "a.png", "must hold train-images-idx3-ubyte"},
	} {
		if err := run(c.s, c.data, c.out, 0.5, 1e-3); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		}
	}
}
