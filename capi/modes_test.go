//go:build linux && cgo && (amd64 || arm64)

package main

import (
	"fmt"

	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// modes are those that a thread starts with, those that fast.c sets, and all that a host may have set.
var modes = map[string]struct {
	plain, fast string
	all         []string
}{
	"amd64": {"1f80", "9fc0", []string{"9fc0", "1fc0", "9f80", "3f80", "5f80", "7f80", "8040"}},
	"arm64": {"0", "1000000", []string{"1000000", "80000", "4000000", "2000000", "400000", "800000", "c00000"}},
}[runtime.GOARCH]

// The modes of the host's threads change no bit, and are as they were after loading and after each call: whichever is there first,
// the library or the modes, and however the library is linked.
func TestModes(t *testing.T) {
	need(t, "go", "gcc")
	dir := t.TempDir()
	run(t, "gcc", "-shared", "-fPIC", "-o", dir+"/libfast.so", "testdata/fast.c")
	goProgram := func(name string) string {
		run(t, "go", "build", "-o", filepath.Join(dir, name), "./testdata/gohost")
		return filepath.Join(dir, name)
	}
	want := hashOf(t, modes.plain, run(t, goProgram("plain")))
	same := func(what, started, out string) {
		t.Helper()
		if got := hashOf(t, started, out); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	library := shared.library(t)
	loader := filepath.Join(dir, "loader")
	run(t, "gcc", append(slices.Clone(gccFlags), "testdata/modes.c", "-o", loader, "-ldl")...)
	for _, mode := range modes.all {
		same(mode+", loaded late", modes.plain, run(t, loader, mode, library))
		same(mode+", loaded early", modes.plain, run(t, loader, mode, library, "first"))
	}
	other := []string{"-Wl,--no-as-needed", dir + "/libfast.so", "-Wl,-rpath," + dir}
	for name, b := range map[string]*build{"shared": shared, "static": static} {
		for where, flags := range map[string][]string{
			"behind another": append(slices.Clone(other), "-DLINKED"),
			"before another": append([]string{"-DLINKED", "--"}, other...),
			"with -Ofast":    {"-DLINKED", "-Ofast"},
		} {
			same(name+" "+where, modes.fast, run(t, b.compile(t, "modes.c", flags...), "linked"))
		}
	}

	t.Setenv("CGO_CFLAGS", "-O2 -DFAST")
	t.Setenv("CGO_LDFLAGS", "-L"+dir+" -lfast -Wl,-rpath,"+dir)
	same("Go with a C library", modes.fast, run(t, goProgram("fast")))
}

// hashOf returns the hash that a program prints behind the mode that it was started with.
func hashOf(t *testing.T, started, out string) (hash string) {
	t.Helper()
	var mode string
	if _, err := fmt.Sscan(out, &mode, &hash); err != nil || mode != started {
		t.Fatalf("the program prints %q, want mode %s and a hash", out, started)
	}
	return hash
}
