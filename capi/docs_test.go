//go:build linux && cgo

package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm"
)

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

// The commands of docs/c.md install the library, and build its program in all ways; release/try-archives runs those of its download. The
// C program of docs/trainers.md works, too; the tests of the Python package run that page's others.
func TestDocs(t *testing.T) {
	need(t, "go", "cc", "make", "pkg-config", "cmake")
	blocks := blocksOf(t, "../docs/c.md")
	if len(blocks["sh"]) != 4 || len(blocks["c"]) != 6 || len(blocks["cmake"]) != 1 {
		t.Fatalf("the page has other blocks: %q", blocks)
	}
	if n := strings.Count(blocks["sh"][0], "pnm-"+version(t)+"-linux-amd64"); n != 4 || !strings.Contains(blocks["sh"][0], "/download/v"+version(t)+"/") {
		t.Errorf("the download is not of version %s:\n%s", version(t), blocks["sh"][0])
	}
	prefix, dir := t.TempDir(), t.TempDir()
	t.Setenv("prefix", prefix)
	t.Setenv("BUILD", t.TempDir())
	t.Setenv("PKG_CONFIG_PATH", prefix+"/lib/pkgconfig")
	t.Setenv("CMAKE_PREFIX_PATH", prefix)
	t.Setenv("LD_LIBRARY_PATH", prefix+"/lib")
	script := func(in, text string) string {
		t.Helper()
		return run(t, "sh", "-euc", "cd "+in+"\n"+text)
	}

	script("..", blocks["sh"][1])
	write(t, dir+"/fit.c", blocks["c"][0])
	write(t, dir+"/CMakeLists.txt", blocks["cmake"][0])
	for _, text := range blocks["sh"][2:] {
		if out := script(dir, text); !strings.Contains(out, "y = 2.00x + 1.00, with ") {
			t.Errorf("%s\nprints %s", text, out)
		}
	}
	write(t, dir+"/noise.c", "#include <pnm.h>\n#include <stdio.h>\nenum { TENSORS = 2, N = 5000 };\nstatic float m[TENSORS][4][N];\n"+
		"static float uniform(void) {\nstatic uint32_t x = 1;\nreturn (float)(x = x * 1664525 + 1013904223) / 4294967296.0f;\n}\n"+
		"int main(void) {\npnm_rule rule = pnm_rule_pnm(0);\npnm_options options = {0};\npnm_update updates[TENSORS] = {0};\n"+
		"double signal = 0, variance = 0;\nfor (int64_t step = 1; step <= 1000; step++) {\nfor (int i = 0; i < TENSORS; i++) {\n"+
		"pnm_vector v[4];\nfor (int k = 0; k < 4; k++)\nv[k] = (pnm_vector){.data = m[i][k], .length = N};\n"+
		"for (int k = 0; k < N; k++) /* the mean is 1, the variance 12 */\nm[i][1][k] = 1 + 12 * (uniform() - 0.5f);\n"+
		"updates[i] = (pnm_update){.rule = &rule, .step = step, .params = v[0], .grads = pnm_as_const(v[1]), .state = {v[2], v[3]}};\n}\n"+
		blocks["c"][1]+"}\nprintf(\"%.0f\", variance / signal);\nreturn 0;\n}\n")
	if out := script(dir, "cc noise.c -o noise $(pkg-config --cflags --libs pnm) && ./noise"); out != "12" {
		t.Errorf("noise of variance 12 and gradients of 1 have a noise scale of %s", out)
	}
	write(t, dir+"/alloc.c", "#include <pnm.h>\n#include <stdio.h>\nint main(void) {\nint64_t n = 1000000;\n"+blocks["c"][2]+"return v[3].data != NULL;\n}\n")
	script(dir, "cc alloc.c -o alloc $(pkg-config --cflags --libs pnm) && ./alloc")
	write(t, dir+"/masters.c", "#include <pnm.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"+
		"enum { n = 3 };\nstatic uint16_t your_model[n] = {0x3f80, 0x3f80, 0x3f80}, grads[n] = {0x3f80, 0x3f80, 0x3f80};\nstatic float m[n], v[n];\n"+
		"int main(void) {\npnm_rule rule = pnm_rule_adam();\n"+blocks["c"][3]+
		"for (update.step = 1; update.step <= 100; update.step++) /* each by less than half of a bfloat16's last place */\n"+
		"if (pnm_update_one(NULL, &update, NULL) != PNM_OK)\nreturn puts(pnm_last_error());\n"+
		"float x;\nuint32_t b = ((uint32_t)weights[2] << 16) + (uint32_t)(int32_t)low[2];\nmemcpy(&x, &b, sizeof x);\nprintf(\"%.4f\", x);\nreturn 0;\n}\n")
	if out := script(dir, "cc masters.c -o masters $(pkg-config --cflags --libs pnm) && ./masters"); out != "0.9000" {
		t.Errorf("100 steps of 0.001 from 1 lead to %s", out)
	}
	write(t, dir+"/mxfp8.c", "#include <pnm.h>\n#include <stdio.h>\nint main(void) {\n"+blocks["c"][4]+
		"static float p[ROWS * ROW], g[ROWS * ROW];\nfor (int i = 0; i < ROWS * ROW; i++)\ng[i] = 1;\n"+
		"pnm_rule rule = pnm_rule_adam();\npnm_update update = {.rule = &rule, .step = 1, .params = {.data = p, .length = ROWS * ROW},\n"+
		".grads = {.data = g, .length = ROWS * ROW}, .state = {state[0], state[1]}};\n"+
		"if (pnm_update_one(NULL, &update, NULL) != PNM_OK)\nreturn puts(pnm_last_error());\n"+
		"printf(\"%.3f, %d in the last block\", p[ROWS * ROW - 1], scales[2 * ROWS - 1]);\nreturn 0;\n}\n")
	if out := script(dir, "cc mxfp8.c -o mxfp8 $(pkg-config --cflags --libs pnm) && ./mxfp8"); out != "-0.001, 115 in the last block" {
		t.Errorf("a step with momenta in mxfp8 ends with %s", out)
	}
	write(t, dir+"/fingerprint.c", "#include <pnm.h>\n#include <inttypes.h>\n#include <stdio.h>\nint main(void) {\nenum { n = 2 };\n"+
		"static float weight[n] = {1, 2}, momentum[n] = {3, 4};\n"+blocks["c"][5]+"return status != PNM_OK;\n}\n")
	want := must(pnm.SumFingerprint(nil,
		pnm.Portion{Name: "params.fc.weight", Vector: pnm.Float32([]float32{1, 2})},
		pnm.Portion{Name: "state.fc.weight.momentum_buffer", Vector: pnm.Float32([]float32{3, 4})}))
	want.Add(must(pnm.BytesFingerprint("step.fc.weight", "", 0, []byte{1000 & 255, 1000 >> 8, 7: 0})))
	if out := script(dir, "cc fingerprint.c -o fingerprint $(pkg-config --cflags --libs pnm) && ./fingerprint"); out != want.String()+"\n" {
		t.Errorf("the fingerprint is %s, Go has %v", out, want)
	}
	trainers := blocksOf(t, "../docs/trainers.md")
	write(t, dir+"/plane.c", trainers["c"][0])
	printed := strings.SplitAfter(trainers[""][0], "\n")
	if out := script(dir, trainers["sh"][0]); out != printed[2] {
		t.Errorf("plane.c prints %q, docs/trainers.md says %q", out, printed[2])
	}

	library := prefix + "/lib/libpnm.so"
	run(t, hostProgram(t), "unchanged", library) // what is stripped, too
	if got, want := symbols(t, library, "-D"), functions(t); !slices.Equal(got, want) {
		t.Errorf("the shared library has the symbols %s, want %s", got, want)
	}
	soname := fmt.Sprintf("[libpnm.so.%d]", abiVersion())
	if out := run(t, "readelf", "-d", dir+"/fit", dir+"/build/fit"); strings.Count(out, soname) != 2 {
		t.Errorf("the programs need something else than %s:\n%s", soname, out)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// What make installs may be staged, split over folders, and moved; and each of the libraries may be alone.
func TestInstall(t *testing.T) {
	long(t)
	need(t, "go", "cc", "make", "pkg-config", "cmake")
	build, stage, dir := t.TempDir(), t.TempDir(), t.TempDir()
	make := func(goal string) {
		t.Helper()
		run(t, "make", "BUILD="+build, "DESTDIR="+stage, "PREFIX=/opt/pnm", "LIBDIR=/opt/pnm/lib/here", "INCLUDEDIR=/opt/pnm/include/pnm-1", goal)
	}
	cmake := func(target string, more string) (string, error) {
		folder := t.TempDir()
		write(t, folder+"/CMakeLists.txt", "cmake_minimum_required(VERSION 3.16)\nproject(fit C)\n"+
			"find_package(pnm "+version(t)+" REQUIRED "+more+")\nadd_executable(fit "+dir+"/fit.c)\ntarget_link_libraries(fit "+target+")\n")
		if out, err := try("cmake", "-S", folder, "-B", folder+"/build"); err != nil {
			return out, err
		}
		run(t, "cmake", "--build", folder+"/build")
		return folder + "/build/fit", nil
	}
	fits := func(program string) {
		t.Helper()
		if out := run(t, program); !strings.Contains(out, "y = 2.00x + 1.00, with ") {
			t.Errorf("%s prints %s", program, out)
		}
	}
	write(t, dir+"/fit.c", blocksOf(t, "../docs/c.md")["c"][0])

	make("install-static")
	moved := dir + "/moved"
	if err := os.Rename(stage+"/opt/pnm", moved); err != nil {
		t.Fatal(err)
	}
	library := moved + "/lib/here/libpnm.a"
	if got, want := symbols(t, library), functions(t); !slices.Equal(got, want) {
		t.Errorf("the static library has the symbols %s, want %s", got, want)
	}
	run(t, "gcc", append(slices.Clone(gccFlags), "-std=c11", "-DINSTALLED", "testdata/static.c", library, "-o", dir+"/static")...)
	run(t, dir+"/static")
	t.Setenv("PKG_CONFIG_PATH", moved+"/lib/here/pkgconfig")
	t.Setenv("pnm_DIR", moved+"/lib/here/cmake/pnm")
	flags := strings.Fields(run(t, "pkg-config", "--static", "--cflags", "--libs", "pnm"))
	if !slices.Contains(flags, "-pthread") {
		t.Errorf("pkg-config --static says %q", flags)
	}
	run(t, "cc", append([]string{dir + "/fit.c", "-o", dir + "/fit"}, flags...)...)
	fits(dir + "/fit")
	if out := strings.TrimSpace(run(t, "pkg-config", "--modversion", "pnm")); out != version(t) {
		t.Errorf("pnm.pc has version %s, want %s", out, version(t))
	}
	program, err := cmake("pnm::static", "COMPONENTS static")
	if err != nil {
		t.Fatalf("%v\n%s", err, program)
	}
	fits(program)
	if out, err := cmake("pnm::pnm", "COMPONENTS pnm"); err == nil || !strings.Contains(out, "the component pnm is not installed") {
		t.Errorf("%v\n%s", err, out)
	}

	if err := os.RemoveAll(moved); err != nil {
		t.Fatal(err)
	}
	make("install-shared")
	if err := os.Rename(stage+"/opt/pnm", moved); err != nil {
		t.Fatal(err)
	}
	if program, err = cmake("pnm::pnm", ""); err != nil {
		t.Fatalf("%v\n%s", err, program)
	}
	fits(program)
	if out, err := cmake("pnm::static", "COMPONENTS static"); err == nil || !strings.Contains(out, "the component static is not installed") {
		t.Errorf("%v\n%s", err, out)
	}

	make("install")
	make("uninstall")
	left := run(t, "find", stage, "-type", "f", "-o", "-type", "l")
	if left != "" {
		t.Errorf("uninstall leaves %s", left)
	}
}

// version is that of pnm.h.
func version(t *testing.T) string {
	t.Helper()
	header, err := os.ReadFile("pnm.h")
	if err != nil {
		t.Fatal(err)
	}
	var numbers []string
	for _, m := range regexp.MustCompile(`(?m)^#define PNM_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$`).FindAllSubmatch(header, -1) {
		numbers = append(numbers, string(m[1]))
	}
	if len(numbers) != 3 {
		t.Fatalf("pnm.h has the numbers %s", numbers)
	}
	return strings.Join(numbers, ".")
}

// CHANGELOG.md begins with the release that the header names, and links each of them; docs/c.md downloads that release.
func TestVersions(t *testing.T) {
	text, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	releases := regexp.MustCompile(`(?m)^## \[(.+)\] - \d{4}-\d\d-\d\d$`).FindAllStringSubmatch(string(text), -1)
	if len(releases) == 0 || releases[0][1] != version(t) {
		t.Errorf("the releases %q do not begin with %s", releases, version(t))
	}
	for _, release := range releases {
		if link := "\n[" + release[1] + "]: https://github.com/posneg/pnm/releases/tag/v" + release[1] + "\n"; strings.Count(string(text), link) != 1 {
			t.Errorf("there is not one%s", link)
		}
	}
	page, err := os.ReadFile("../docs/c.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, number := range regexp.MustCompile(`(?:/v|pnm-)(\d+\.\d+\.\d+)`).FindAllSubmatch(page, -1) {
		if string(number[1]) != version(t) {
			t.Errorf("docs/c.md has %s", number[0])
		}
	}
}
