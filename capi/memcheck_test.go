//go:build linux && cgo

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// memcheck runs a program of testdata under valgrind and returns what it prints.
func memcheck(t *testing.T, source string, flags ...string) string {
	t.Helper()
	long(t)
	need(t, "valgrind")
	program := forValgrind.compile(t, source, flags...)
	log := filepath.Join(t.TempDir(), "log")
	out, err := try("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=definite",
		"--errors-for-leak-kinds=definite", "--suppressions=testdata/valgrind.supp", "--log-file="+log, program)
	complaints, _ := os.ReadFile(log)
	if err != nil || len(complaints) > 0 {
		t.Fatalf("%v\n%s%s", err, out, complaints)
	}
	return out
}
