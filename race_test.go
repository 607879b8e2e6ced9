//go:build race

package pnm

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// Two goroutines that update overlapping ranges are a data race, and so are two that write overlapping copies, and one that takes
// the norm of what another updates. The
// race detector must see both in every tier. It ends the program, so that the race runs in a child.
func TestRaceIsSeen(t *testing.T) {
	if what := os.Getenv("PNM_TEST_RACE"); what != "" {
		x, copies := make([]float32, 400), BF16(make([]uint16, 150))
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				if what == "copy" {
					half := func() Vector { return BF16(make([]uint16, 100)) }
					o := MixedOptions{Copy: copies.cut(50*i, 50*i+100)}
					_, err := UpdatePNMMixed(o, NewPNM(1), 1, Float32(make([]float32, 100)), half(), half(), half())
					wantNoError(t, err)
					return
				}
				if what == "norm" && i == 1 {
					GradNorm(nil, x[50:150])
					return
				}
				UpdatePNM(NewPNM(1), 1, x[50*i:50*i+100], x[200:300][:100], make([]float32, 100), make([]float32, 100))
			})
		}
		wg.Wait()
		return
	}
	for i := range 3 * len(tiers()) {
		tier, what := tiers()[i/3], []string{"update", "norm", "copy"}[i%3]
		child := exec.Command(os.Args[0], "-test.run=^TestRaceIsSeen$")
		child.Env = append(os.Environ(), "PNM_TEST_RACE="+what, "PNM_TEST_REQUIRE=", "PNM_ISA="+string(tier))
		out, err := child.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "DATA RACE") {
			t.Errorf("%s, %s: the race was not seen (%v): %s", tier, what, err, out)
		}
	}
}
