//go:build linux && cgo

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var thorough = flag.Bool("thorough", false, "run the variants of tests that take long")

// required is set where no test may be skipped.
var required = os.Getenv("PNM_TEST_C") != ""

// work is where the tests build.
var work string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if work, err = os.MkdirTemp("", "pnm-capi-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(work)
	os.Exit(code)
}

// need skips a test on a machine that lacks a program, unless it is required; and with -short, which tests this process alone.
func need(t testing.TB, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs other programs")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if required {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// long skips a test that takes long.
func long(t testing.TB) {
	t.Helper()
	if !*thorough && !required {
		t.Skip("needs -thorough or PNM_TEST_C=1")
	}
}

// run runs a command and returns what it prints. It fails the test if the command fails.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return out
}

func try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // grandchildren may hold the output
	err := cmd.Run()
	return out.String(), err
}

// A build is a way to build the library, once.
type build struct {
	name string
	args []string
	once sync.Once
	out  string
	err  error
}

var (
	shared = &build{name: "shared/libpnm.so", args: []string{"-buildmode=c-shared"}}
	// forValgrind tells memcheck what Go does with memory, and lacks debugging data that older valgrinds cannot read.
	forValgrind = &build{name: "valgrind/libpnm.so", args: []string{"-buildmode=c-shared", "-tags=valgrind", "-ldflags=-w"}}
	static      = &build{name: "static/libpnm.a", args: []string{"-buildmode=c-archive"}}
)

// library returns the path of the library.
func (b *build) library(t testing.TB) string {
	t.Helper()
	need(t, "go", "gcc")
	path := filepath.Join(work, b.name)
	b.once.Do(func() { b.out, b.err = try("go", append(append([]string{"build", "-o", path}, b.args...), ".")...) })
	if b.err != nil {
		t.Fatalf("go build: %v\n%s", b.err, b.out)
	}
	return path
}

// gccFlags make every warning an error, and keep a compiler from fusing products and sums.
var gccFlags = []string{"-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-g", "-O1", "-ffp-contract=off", "-pthread", "-I."}

// compile compiles a program of testdata against the library and returns the path of the program. Flags behind a "--" come behind
// the library.
func (b *build) compile(t testing.TB, source string, flags ...string) string {
	t.Helper()
	library := b.library(t)
	var behind []string
	if i := slices.Index(flags, "--"); i >= 0 {
		flags, behind = flags[:i], flags[i+1:]
	}
	out := filepath.Join(t.TempDir(), "program")
	args := append(slices.Clone(gccFlags), flags...)
	args = append(args, filepath.Join("testdata", source), "-o", out, "-x", "none")
	args = append(args, library, "-Wl,-rpath,"+filepath.Dir(library))
	run(t, "gcc", append(args, behind...)...)
	return out
}
