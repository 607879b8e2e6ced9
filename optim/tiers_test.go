package optim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/posneg/pnm"
)

// Where PNM_ISA names an implementation that is not there, nobody gets an optimizer; and a list of those that are.
func TestNoSuchTier(t *testing.T) {
	if os.Getenv("PNM_ISA") != "none" {
		out := inChild(t, "none", "^TestNoSuchTier$")
		if !strings.Contains(out, "tiers: generic") {
			t.Errorf("no tiers: %s", out)
		}
		return
	}
	o, err := New(groupOf(pnm.NewPNM(1), make([]float32, 8)))
	var e *pnm.ISAError
	if o != nil || !errors.As(err, &e) {
		t.Fatalf("%v", err)
	}
	fmt.Println("tiers:", strings.Join(e.Available, " "))
}

// The optimizer's bits are the engine's in every tier: what is done in this one, is done by a child in each of the others.
func TestEveryTier(t *testing.T) {
	if os.Getenv("PNM_ISA") != "" {
		return
	}
	_, tiers, _ := strings.Cut(inChild(t, "none", "^TestNoSuchTier$"), "tiers: ")
	tiers, _, _ = strings.Cut(tiers, "\n")
	for tier := range strings.FieldsSeq(tiers) {
		if tier == pnm.ISA() {
			continue
		}
		tests := []string{"TestOptimizerIsTheEngine", "TestPartsAreTheWhole", "TestWaysAgree", "TestFormatsAreFloat32", "TestOptionsAreDoneByHand", "TestOverflows", "TestNoiseReadings",
			"TestWorkersReadTheSameNoise"}
		if out := inChild(t, tier, "^("+strings.Join(tests, "|")+")$"); strings.Count(out, "\n--- PASS") != len(tests) {
			t.Errorf("%s: %s", tier, out)
		}
	}
}

// inChild runs tests in another process, whose implementation is pinned, and returns what it prints.
func inChild(t *testing.T, tier, tests string) string {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.v", "-test.run="+tests)
	child.Env = append(os.Environ(), "PNM_ISA="+tier)
	out, err := child.CombinedOutput()
	if errors.Is(err, syscall.ENOEXEC) || errors.Is(err, syscall.ENOENT) {
		t.Skipf("an emulator runs the tests, and the system cannot: %v", err)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", tier, err, out)
	}
	return "\n" + string(out)
}
