package main

import (
	"fmt"
	"strings"
	"testing"
)

// Both optimizers learn.
func TestExample(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"-epochs", "3", "-images", "200", "-test-images", "100"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"GoMLX's Adam", "AdaPNM"} {
		_, lines, ok := strings.Cut(out.String(), name+"\n")
		var losses [3]float64
		for i := range losses {
			var epoch int
			if _, err := fmt.Sscanf(lines, "epoch %d: loss %f", &epoch, &losses[i]); err != nil || epoch != i+1 {
				t.Fatalf("%v in\n%s", err, out.String())
			}
			_, lines, _ = strings.Cut(lines, "\n")
		}
		if !ok || !(losses[2] < 0.75*losses[0]) {
			t.Errorf("%s has the losses %v", name, losses)
		}
	}
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-epochs -3 extra":  "-epochs is -3, must be at least 1",
		"-epochs 0":         "-epochs is 0, must be at least 1",
		"-images 49":        "-images is 49, must be from 50 to 6000",
		"-images 6001":      "-images is 6001, must be from 50 to 6000",
		"-test-images 2001": "-test-images is 2001, must be from 1 to 2000",
		"extra":             `unexpected argument "extra"`,
	} {
		if err := run(strings.Fields(args), t.Output()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, must say %s", args, err, want)
		}
	}
}
