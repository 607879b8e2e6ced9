//go:build linux && cgo

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const version = "0.1.0"

// blocksOf returns the blocks of code of a page, by their language.
func blocksOf(t *testing.T, page string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for _, m := range regexp.MustCompile("(?s)```(\\w*)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	return blocks
}

// What docs/c.md says, works: its commands install the library and build its program in both ways. So does the C program of
// docs/trainers.md; the tests of the Python package run the others.
func TestDocs(t *testing.T) {
	need(t, "go", "cc", "pkg-config", "cmake")
	blocks := blocksOf(t, "../docs/c.md")
	if len(blocks["sh"]) != 3 || len(blocks["c"]) != 1 || len(blocks["cmake"]) != 1 {
		t.Fatalf("the page has other blocks: %q", blocks)
	}
	prefix, dir := t.TempDir(), t.TempDir()
	t.Setenv("prefix", prefix)
	t.Setenv("PKG_CONFIG_PATH", prefix+"/lib/pkgconfig")
	t.Setenv("LD_LIBRARY_PATH", prefix+"/lib")
	script := func(in, text string) string {
		t.Helper()
		return run(t, "sh", "-euc", "cd "+in+"\n"+text)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}

	script("..", blocks["sh"][0])
	write("fit.c", blocks["c"][0])
	write("CMakeLists.txt", blocks["cmake"][0])
	for _, text := range blocks["sh"][1:] {
		if out := script(dir, text); !strings.Contains(out, "y = 2.00x + 1.00, with ") {
			t.Errorf("%s\nprints %s", text, out)
		}
	}
	trainers := blocksOf(t, "../docs/trainers.md")
	write("plane.c", trainers["c"][0])
	printed := strings.SplitAfter(trainers[""][0], "\n")
	if out := script(dir, trainers["sh"][0]); out != printed[2] {
		t.Errorf("plane.c prints %q, docs/trainers.md says %q", out, printed[2])
	}

	library := prefix + "/lib/libpnm.so"
	run(t, hostProgram(t), "unchanged", library) // what is stripped, too
	if got, want := symbols(t, library, "-D"), functions(t); !slices.Equal(got, want) {
		t.Errorf("the library has the symbols %s, want %s", got, want)
	}
	if out := run(t, "pkg-config", "--modversion", "pnm"); strings.TrimSpace(out) != version {
		t.Errorf("pnm.pc has version %s, want %s", out, version)
	}
	soname := fmt.Sprintf("[libpnm.so.%d]", abiVersion())
	if out := run(t, "readelf", "-d", dir+"/fit", dir+"/build/fit"); strings.Count(out, soname) != 2 {
		t.Errorf("the programs need something else than %s:\n%s", soname, out)
	}
}
