package equations

import (
	"fmt"
	"strings"
	"testing"
)

// Each row fits the types and the loops of the engine, and no two forms share a name.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for i, f := range Forms {
		if f.Rule == "" || seen[f.Constant()] {
			t.Errorf("row %d has the name %q, which is empty or another one's", i, f.Constant())
		}
		seen[f.Constant()] = true
		if len(f.Roles) != len(f.Slots) {
			t.Errorf("%s has the roles %q of %q", f.Constant(), f.Roles, f.Slots)
		}
		rest := AllRoles
		for _, role := range f.Roles {
			k := strings.IndexRune(rest, role)
			if k < 0 {
				t.Fatalf("%s has the roles %q: each must be one of %s, in that order", f.Constant(), f.Roles, AllRoles)
			}
			rest = rest[k+1:]
		}
		if f.Starts && !f.Has("m") || f.Has("n") && !f.Has("m") || f.Has("x") && !f.Has("v") {
			t.Errorf("%s has the roles %q, one of which needs another", f.Constant(), f.Roles)
		}
	}
}

func TestNames(t *testing.T) {
	f := Forms[AdaPNMAMSGrad]
	if got, want := fmt.Sprint(f.Constant(), f.Kernel(), f.Streams(), f.Writes()), "AdaPNMAMSGrad"+"adapnmAMSGrad"+"[p grad m n v x] [p m v x]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := fmt.Sprint(Forms[SGD].Streams(), Forms[SGD].Writes()), "[p grad] [p]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
