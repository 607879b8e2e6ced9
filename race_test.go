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
// the norm, the noise or the fingerprint of what another updates. The race detector must see them in every tier. It ends the program, so that the race runs in a child.
func TestRaceIsSeen(t *testing.T) {
	if what := os.Getenv("PNM_TEST_RACE"); what != "" {
		x, copies := make([]float32, 400), BF16(make([]uint16, 150))
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				if what == "halves" {
					l := List{Updates: []Update{{Rule: NewSGD(1), Step: 1, Params: Low16(make([]uint16, 100)),
						Grads: BF16(make([]uint16, 100)), Copy: copies.Slice(50*i, 50*i+100)}}}
					_, err := l.Step(Options{})
					wantNoError(t, err)
					return
				}
				if what == "copy" {
					l := List{Updates: []Update{{Rule: NewSGD(1), Step: 1, Params: Float32(make([]float32, 100)),
						Grads: BF16(make([]uint16, 100)), Copy: copies.Slice(50*i, 50*i+100)}}}
					_, err := l.Step(Options{}) // UpdateAll might get the list that the other call has put back, which orders the two
					wantNoError(t, err)
					return
				}
				if what == "norm" && i == 1 {
					SumSquares(nil, Float32(x[50:150]))
					return
				}
				if what == "fingerprint" && i == 1 {
					_, err := SumFingerprint(nil, Portion{Vector: Float32(x[50:150])})
					wantNoError(t, err)
					return
				}
				if what == "noise" && i == 1 {
					_, err := SumNoise(nil, []Update{{Rule: NewPNM(1), Step: 2, State: Vectors(make([]float32, 100), x[50:150])}})
					wantNoError(t, err)
					return
				}
				UpdatePNM(NewPNM(1), 1, x[50*i:50*i+100], x[200:300][:100], make([]float32, 100), make([]float32, 100))
			})
		}
		wg.Wait()
		return
	}
	for i := range 6 * len(tiers()) {
		tier, what := tiers()[i/6], []string{"update", "norm", "noise", "fingerprint", "copy", "halves"}[i%6]
		child := exec.Command(os.Args[0], "-test.run=^TestRaceIsSeen$")
		child.Env = append(os.Environ(), "PNM_TEST_RACE="+what, "PNM_TEST_REQUIRE=", "PNM_ISA="+string(tier))
		out, err := child.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "DATA RACE") {
			t.Errorf("%s, %s: the race was not seen (%v): %s", tier, what, err, out)
		}
	}
}
