//go:build linux && cgo

package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// These programs of testdata check themselves.
func TestPrograms(t *testing.T) {
	for _, source := range []string{"errors.c", "memory.c", "layout.c", "threads.c", "fork.c"} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			run(t, shared.compile(t, source, "-std=c11"))
		})
	}
	t.Run("layout.c as C++", func(t *testing.T) { run(t, shared.compile(t, "layout.c", "-x", "c++", "-std=c++17")) })
}

func TestStatic(t *testing.T) {
	long(t)
	run(t, static.compile(t, "static.c", "-std=c11"))
	run(t, static.compile(t, "static.c", "-std=c11", "-Wl,--whole-archive", "--", "-Wl,--no-whole-archive"))
	run(t, static.compile(t, "fork.c", "-std=c11"))
}

// Go has no memory refused under valgrind: what it tells memcheck of a collection, which that begins, contradicts itself.
func TestProgramsMemcheck(t *testing.T) {
	for _, source := range []string{"errors.c", "memory.c", "threads.c"} {
		t.Run(source, func(t *testing.T) { memcheck(t, source, "-DNO_COLLECTIONS") })
	}
}

// Neither the C half has warnings nor the header, for any C or C++. (cgo's own C has, so that they are no errors in a build.)
func TestWarnings(t *testing.T) {
	need(t, "gcc", "g++")
	run(t, "gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only", "pnm.c", "host_unix.c", "aftergo_unix.c", "goruntime_unix.c", "segments_linux.c")
	for _, flags := range [][]string{
		{"-x", "c", "-std=c99"}, {"-x", "c", "-std=c2x"}, {"-x", "c++", "-std=c++98", "-Wno-long-long"}, {"-x", "c++", "-std=c++20"},
	} {
		run(t, "gcc", append(flags, "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", "pnm.h")...)
	}
}

// Windows wants to be told where functions come from.
func TestExportMacro(t *testing.T) {
	need(t, "gcc")
	for flags, want := range map[string]string{
		"":                          `__attribute__((visibility("default"))) `,
		"-D_WIN32":                  "__declspec(dllimport) ",
		"-D_WIN32 -DPNM_BUILD":      "__declspec(dllexport) ",
		"-D_WIN32 -DPNM_STATIC":     "",
		"-DPNM_API=__attribute__()": "__attribute__() ",
	} {
		text := run(t, "gcc", append(strings.Fields(flags), "-E", "-P", "pnm.h")...)
		if !regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(want+"const char *pnm_version(void);") + `$`).MatchString(text) {
			t.Errorf("with %q, pnm.h does not have %q:\n%s", flags, want, text)
		}
	}
}

// functions returns those of pnm.h.
func functions(t *testing.T) []string {
	t.Helper()
	header, err := os.ReadFile("pnm.h")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^PNM_API [^(]*\b(pnm_\w+)\(`).FindAllSubmatch(header, -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	if len(names) < 20 || !slices.Contains(names, "pnm_update_all") {
		t.Fatalf("pnm.h has the functions %s", names)
	}
	return names
}

// symbols returns the names that a library defines, sorted: for programs that are linked with it or, with "-D", load it.
func symbols(t *testing.T, library string, flags ...string) (names []string) {
	t.Helper()
	need(t, "nm")
	for _, line := range strings.Split(run(t, "nm", append(flags, "-g", "--defined-only", library)...), "\n") {
		if f := strings.Fields(line); len(f) == 3 {
			names = append(names, f[2])
		}
	}
	slices.Sort(names)
	return names
}

// The library shows all functions. It also shows names of cgo's own, which only the Makefile hides: see TestInstall.
func TestSymbols(t *testing.T) {
	own := slices.DeleteFunc(symbols(t, shared.library(t), "-D"), func(name string) bool { return !strings.HasPrefix(name, "pnm") })
	if want := functions(t); !slices.Equal(own, want) {
		t.Errorf("got  %s\nwant %s", own, want)
	}
}

// All names of the C half begin with pnm: a program with the static library may use any other, but for Go's own.
func TestStaticSymbols(t *testing.T) {
	long(t)
	known := regexp.MustCompile(`^(pnm_|pnmgo_|_cgo|x_cgo|x_crosscall|crosscall|fatalf$)`)
	for _, name := range symbols(t, static.library(t)) {
		if !known.MatchString(name) {
			t.Errorf("the static library has the symbol %s", name)
		}
	}
}

// Loading changes nothing of the process: see testdata/host.c.
func TestHost(t *testing.T) {
	for _, what := range []string{"unchanged", "stacks", "signals-before", "signals-after", "profile"} {
		t.Run(what, func(t *testing.T) {
			if what == "profile" {
				long(t)
			}
			t.Parallel()
			run(t, hostProgram(t), what, shared.library(t))
		})
	}
	t.Run("bad-pointer", func(t *testing.T) {
		t.Parallel()
		out, err := try(hostProgram(t), "bad-pointer", shared.library(t))
		if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 42 {
			t.Errorf("%v, want exit status 42, of the host's handler\n%s", err, out)
		}
	})
	for what, want := range map[string]syscall.Signal{"crash": syscall.SIGSEGV, "pipe": syscall.SIGPIPE} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			out, err := try(hostProgram(t), what, shared.library(t))
			e, ok := err.(*exec.ExitError)
			if !ok || e.Sys().(syscall.WaitStatus).Signal() != want {
				t.Errorf("%v, want %v\n%s", err, want, out)
			}
		})
	}
}

// On macOS, a plain go build runs the library's constructors in another order.
func TestLateConstructors(t *testing.T) {
	need(t, "gcc")
	out := t.TempDir() + "/late"
	run(t, "gcc", append(slices.Clone(gccFlags), "testdata/late.c", "-o", out)...)
	run(t, out)
}

// hostProgram is not linked with the library: it loads it.
func hostProgram(t *testing.T) string {
	t.Helper()
	need(t, "gcc")
	out := t.TempDir() + "/host"
	run(t, "gcc", append(slices.Clone(gccFlags), "-std=c11", "testdata/host.c", "-o", out, "-ldl")...)
	return out
}

// Loading takes less than 50 ms, the best of some times, and an idle library no CPU.
func TestLoad(t *testing.T) {
	program, library := hostProgram(t), shared.library(t)
	best, cpu := 1e9, 1e9
	for range 3 {
		var loaded, ready, idle float64
		out := run(t, program, "idle", library)
		if _, err := fmt.Sscanf(out, "loaded in %g ms, ready after %g ms\nan idle second took %g ms", &loaded, &ready, &idle); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log(strings.TrimSpace(out))
		best, cpu = min(best, ready), min(cpu, idle)
		if best < 50 && cpu < 10 {
			return
		}
	}
	t.Errorf("ready after %v ms, want < 50 ms; idle second %v ms of CPU, want < 10 ms", best, cpu)
}

func TestPython(t *testing.T) {
	need(t, "python3")
	run(t, "python3", "testdata/signals.py", shared.library(t))
}
