package pnm

import (
	"fmt"
	"path/filepath"
	"testing"
)

// A run that is saved to a file and resumed at any step, odd or even, gives the bits of one that was not.
func TestCheckpointResume(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.safetensors")
	for _, r := range sampleRules() {
		for at := range 4 {
			first, second := newRun[float64](t, r, NewAdaPNM()), newRun[float64](t, r.withLR(7), NewAdaPNM())
			first.steps(t, 1, at)
			wantNoError(t, first.opt.Save(path, SaveOptions{Params: true}))
			second.steps(t, 1, 3) // something that must be replaced
			_, err := second.opt.Load(path, LoadOptions{Params: true})
			wantNoError(t, err)
			first.steps(t, at+1, 6)
			second.steps(t, at+1, 6)
			second.wantSame(t, fmt.Sprintf("%T saved at step %d", r, at), first)
		}
	}
}
