//go:build linux && cgo

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// Where the library would not work, or would be empty, there is none.
func TestUnsupported(t *testing.T) {
	need(t, "env", "go", "musl-gcc")
	for _, c := range []struct{ env, mode, want string }{
		{"CGO_ENABLED=0", "c-shared", "build constraints exclude all Go files"},
		{"CGO_ENABLED=0", "c-archive", "build constraints exclude all Go files"},
		{"CC=musl-gcc", "c-shared", "needs Linux with glibc"},
		{"CC=musl-gcc", "c-archive", "needs Linux with glibc"},
	} {
		out, err := try("env", c.env, "go", "build", "-buildmode="+c.mode, "-o", filepath.Join(t.TempDir(), "library"), ".")
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s, %s: %v\n%s", c.env, c.mode, err, out)
		}
	}
}
