package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm/internal/equations"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// operands are formats for those of instructions that are not three vectors of the arrangement that sz selects. They print d, n,
// m or s, that arrangement, and the name of its elements.
var operands = map[string]string{
	"fsqrt":    "v%[1]d.%[4]s, v%[2]d.%[4]s",
	"dup_0":    "v%[1]d.%[4]s, v%[2]d.%[5]s[0]",
	"fcvtl":    "v%[1]d.2d, v%[2]d.2s",
	"fcvtl2":   "v%[1]d.2d, v%[2]d.4s",
	"fcvtl_h":  "v%[1]d.4s, v%[2]d.4h",
	"fcvtl2_h": "v%[1]d.4s, v%[2]d.8h",
	"fcvtn":    "v%[1]d.4h, v%[2]d.4s",
	"fcvtn2":   "v%[1]d.8h, v%[2]d.4s",
	"shll":     "v%[1]d.4s, v%[2]d.4h, #16",
	"shll2":    "v%[1]d.4s, v%[2]d.8h, #16",
	"addhn":    "v%[1]d.4h, v%[2]d.4s, v%[3]d.4s",
	"addhn2":   "v%[1]d.8h, v%[2]d.4s, v%[3]d.4s",
	"raddhn":   "v%[1]d.4h, v%[2]d.4s, v%[3]d.4s",
	"raddhn2":  "v%[1]d.8h, v%[2]d.4s, v%[3]d.4s",
	"shrn":     "v%[1]d.4h, v%[2]d.4s, #16",
	"shrn2":    "v%[1]d.8h, v%[2]d.4s, #16",
	"rshrn":    "v%[1]d.4h, v%[2]d.4s, #16",
	"rshrn2":   "v%[1]d.8h, v%[2]d.4s, #16",
	"uaddw":    "v%[1]d.4s, v%[2]d.4s, v%[3]d.4h",
	"uaddw2":   "v%[1]d.4s, v%[2]d.4s, v%[3]d.8h",
	"saddw":    "v%[1]d.4s, v%[2]d.4s, v%[3]d.4h",
	"saddw2":   "v%[1]d.4s, v%[2]d.4s, v%[3]d.8h",
	"sxtl":     "v%[1]d.4s, v%[2]d.4h",
	"sxtl2":    "v%[1]d.4s, v%[2]d.8h",
	"cmeq_h":   "v%[1]d.8h, v%[2]d.8h, v%[3]d.8h",
	"uzp1":     "v%[1]d.8h, v%[2]d.8h, v%[3]d.8h",
	"uzp2":     "v%[1]d.8h, v%[2]d.8h, v%[3]d.8h",
	"add":      "v%[1]d.4s, v%[2]d.4s, v%[3]d.4s",
	"sub":      "v%[1]d.4s, v%[2]d.4s, v%[3]d.4s",
	"mul":      "v%[1]d.4s, v%[2]d.4s, v%[3]d.4s",
	"facge":    "v%[1]d.4s, v%[2]d.4s, v%[3]d.4s",
	"eor":      "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"shl":      "v%[1]d.4s, v%[2]d.4s, #%[3]d",
	"ushr":     "v%[1]d.4s, v%[2]d.4s, #%[3]d",
	"cmge_0":   "v%[1]d.4s, v%[2]d.4s, #0",
	"addv":     "s%[1]d, v%[2]d.4s",
	"scvtf":    "v%[1]d.%[4]s, v%[2]d.%[4]s",
	"fcmgt_0":  "v%[1]d.%[4]s, v%[2]d.%[4]s, #0",
	"fcmlt_0":  "v%[1]d.%[4]s, v%[2]d.%[4]s, #0",
	"bif":      "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"fabs":     "v%[1]d.%[4]s, v%[2]d.%[4]s",
	"facgt":    "v%[1]d.4s, v%[2]d.4s, v%[3]d.4s",
	"umax":     "v%[1]d.4s, v%[2]d.4s, v%[3]d.4s",
	"umaxv":    "s%[1]d, v%[2]d.4s",
	"umax_h":   "v%[1]d.8h, v%[2]d.8h, v%[3]d.8h",
	"umaxv_h":  "h%[1]d, v%[2]d.8h",
	"umlal":    "v%[1]d.2d, v%[2]d.2s, v%[3]d.2s",
	"umlal2":   "v%[1]d.2d, v%[2]d.4s, v%[3]d.4s",
	"add_d":    "v%[1]d.2d, v%[2]d.2d, v%[3]d.2d",
	"and":      "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"orr":      "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"bit":      "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"add_h":    "v%[1]d.8h, v%[2]d.8h, v%[3]d.8h",
	"mul_h":    "v%[1]d.8h, v%[2]d.8h, v%[3]d.8h",
	"add_b":    "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"cmeq_b":   "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"shl_4b":   "v%[1]d.16b, v%[2]d.16b, #4",
	"sshr_4b":  "v%[1]d.16b, v%[2]d.16b, #4",
	"zip1_b":   "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"zip2_b":   "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"uzp2_b":   "v%[1]d.16b, v%[2]d.16b, v%[3]d.16b",
	"shrn_7b":  "v%[1]d.8b, v%[2]d.8h, #7",
	"shrn2_7b": "v%[1]d.16b, v%[2]d.8h, #7",
}

// Every macro that encodes an instruction encodes the one that its name claims, with the operands in Go's order: that is
// what the decoder of go tool objdump (golang.org/x/arch) sees in what the assembler makes of it, for every register and, if
// it shifts, by 1 to 31.
func TestEncodings(t *testing.T) {
	macro := regexp.MustCompile(`(?m)^#define V(\w+)\((m, n, d|s, n, d|n, d)\) +WORD .*$`)
	source := read(t, "update_arm64.s")
	macros := macro.FindAllStringSubmatch(source, -1)
	if n := strings.Count(source, "WORD "); n != len(macros) || n == 0 {
		t.Fatalf("%d words, %d macros that this test understands", n, len(macros))
	}
	for _, s := range []struct {
		size, sz        int
		vector, element string
	}{{4, 0, "4s", "s"}, {8, 1, "2d", "d"}} {
		var program strings.Builder
		fmt.Fprintf(&program, "#define size %d\n#define sz %d\n", s.size, s.sz)
		for _, m := range macros {
			fmt.Fprintln(&program, m[0])
		}
		fmt.Fprintln(&program, "TEXT ·encodings(SB), 4, $0-0")
		var want []string
		for _, mac := range macros {
			name := strings.ToLower(mac[1])
			for d := range 32 {
				n, m := (d+11)%32, (d+23)%32
				switch mac[2] {
				case "n, d":
					fmt.Fprintf(&program, "\tV%s(%d, %d)\n", mac[1], n, d)
				case "s, n, d":
					m = 1 + d%31
					fallthrough
				default:
					fmt.Fprintf(&program, "\tV%s(%d, %d, %d)\n", mac[1], m, n, d)
				}
				format, ok := operands[name]
				if !ok {
					format = "v%[1]d.%[4]s, v%[2]d.%[4]s, v%[3]d.%[4]s"
				}
				mnemonic, _, _ := strings.Cut(name, "_")
				want = append(want, mnemonic+" "+fmt.Sprintf(format, d, n, m, s.vector, s.element))
			}
		}
		file := filepath.Join(t.TempDir(), "encodings_arm64.s")
		if err := os.WriteFile(file, []byte(program.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		functions, err := disassemble(file)
		if err != nil {
			t.Fatal(err)
		}
		got := functions["encodings"]
		if len(got) != len(want) {
			t.Fatalf("%d words, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i].text != want[i] {
				t.Errorf("%s is %q, want %q", got[i].word, got[i].text, want[i])
			}
		}
	}
}

// The arm64 kernels consist of these instructions, none of which is fused or an estimate. Those of floating point work on
// vectors, and those on integers on these, too, or only on the registers that Go leaves to assembly. s3_3_c4_c4_0 is FPCR.
func TestInstructions(t *testing.T) {
	known := regexp.MustCompile(`^(f(add|sub|mul|div|sqrt|max|min|maxnm|minnm|abs|acge|acgt|cmeq|cmgt|cmlt)|fcvt[ln]2?|scvtf|dup|movi|shll2?|r?shrn2?|r?addhn2?|[su]addw2?|` +
		`sxtl2?|uzp[12]|zip[12]|addp?|sub|mul|umlal2?|and|orr|eor|bi[ft]|shl|[su]shr|umax|cm(ge|eq)) v|` +
		`^(addv s|umaxv [sh]|fmov s\d+, w|fmov w\d+, s|fmov d\d+, x|fcvt s\d+, d|mrs x\d+, s3_3_c4_c4_0$|msr s3_3_c4_c4_0, x)|` +
		`^(ldr|ldrb|ldp|ld1|str|strb|stp|st1|prfm|adrp|cbz|tbz|tbnz|b|b\.eq|b\.ne|b\.ge) |` +
		`^(add|adds|sub|subs|mov|movk|orr|tst|lsl|lsr|cmp|cset|csel) [wx]|^(ret|yield|isb( #15)?)$`)
	reserved := regexp.MustCompile(`\b[xw](18|27|28|29|30)\b`)
	frame := regexp.MustCompile(`^(str x30, \[sp,#-\d+\]!|stur x29, \[sp,#-8\]|(sub|add) (x29|sp), sp, #0x[0-9a-f]+)$`) // the assembler's
	functions, err := disassemble("../../update_arm64.s")
	if err != nil {
		t.Fatal(err)
	}
	stubs := regexp.MustCompile(`(?m)^func [^{\n]*$`).FindAllString(read(t, "update_arm64.go"), -1)
	if n := len(stubs); len(functions) != n || n == 0 {
		t.Errorf("%d functions, %d stubs", len(functions), n)
	}
	for name, code := range functions {
		for _, i := range code {
			if (!known.MatchString(i.text) || reserved.MatchString(i.text)) && !frame.MatchString(i.text) {
				t.Errorf("%s has %s: %q", name, i.word, i.text)
			}
		}
		if last := code[len(code)-1]; last.text != "ret" {
			t.Errorf("%s ends with %q", name, last.text)
		}
	}
}

// The macros that load arguments find each where its stub has it: vet, which checks that elsewhere, does not look into macros.
func TestArguments(t *testing.T) {
	source, stubs := read(t, "update_arm64.s"), read(t, "update_arm64.go")
	names := map[rune]string{'P': "p", 'G': "grad", 'M': "m", 'N': "n", 'V': "v", 'X': "x"}
	arguments := map[string]string{"MIXED": "c *float%d, count, ahead int"}
	loads := map[string]string{"MIXED": "c+0(FP), atC count+8(FP), left"}
	for _, f := range equations.Forms {
		streams := "PG" + strings.ToUpper(f.Roles)
		args, load, at := "c", "c+0(FP), atC", 8
		for _, s := range streams {
			args += ", " + names[s]
			load += fmt.Sprintf(" %s+%d(FP), at%c", names[s], at, s)
			at += 8
		}
		arguments[streams] = args + " *float%d, count, ahead int"
		loads[streams] = load + fmt.Sprintf(" count+%d(FP), left", at)
	}
	macros := regexp.MustCompile(`#define ARGUMENTS_(\w+) \\\n((?:.*\\\n)*.*\n)`).FindAllStringSubmatch(source, -1)
	for _, m := range macros {
		got := strings.Join(strings.Fields(strings.NewReplacer("\\", "", "MOVD", "").Replace(m[2])), " ")
		if got != loads[m[1]] || got == "" {
			t.Errorf("ARGUMENTS_%s loads %s, want %s", m[1], got, loads[m[1]])
		}
	}
	functions := regexp.MustCompile(`TEXT ·(\w+)\(SB\).*\n\tARGUMENTS_(\w+)\n`).FindAllStringSubmatch(source, -1)
	for _, f := range functions {
		bits := 32
		if strings.Contains(f[1], "F64") {
			bits = 64
		}
		if stub := fmt.Sprintf("func "+f[1]+"("+arguments[f[2]]+")\n", bits); !strings.Contains(stubs, stub) {
			t.Errorf("%s has the arguments %s, but no stub is %s", f[1], f[2], stub)
		}
	}
	if len(macros) != len(loads) || len(functions) < 3*len(equations.Forms) {
		t.Errorf("found %d macros of %d, %d functions", len(macros), len(loads), len(functions))
	}
}

// A limit kernel for arm64 loads and stores what its rule's does where decay is not coupled, in the same order.
func TestLimits(t *testing.T) {
	kernels, _, arm64, err := mainLoops("../..")
	if err != nil {
		t.Fatal(err)
	}
	moves := func(name string) (all []string) {
		for _, i := range arm64[name] {
			if accesses.MatchString(i) {
				all = append(all, i)
			}
		}
		return all
	}
	for _, f := range equations.Forms {
		if !slices.Contains(kernels, f.Kernel()) {
			t.Errorf("there is no kernel %s", f.Kernel())
		}
		rule, limit := moves(f.Kernel()+"F32NEON"), moves(f.Limit()+"F32NEON")
		if !slices.Equal(rule, limit) || len(limit) == 0 {
			t.Errorf("%s: the rule has %q, its limit %q", f.Kernel(), rule, limit)
		}
	}
}

// A loop that is not found is named.
func TestMissingLoop(t *testing.T) {
	for file, damage := range map[string]struct{ text, by, want string }{
		"update_amd64.s": {"TEXT ·adamF32AVX512(SB)", "TEXT ·eveF32AVX512(SB)", "adamF32AVX512 has no main loop"},
		"update_arm64.s": {"LOOP(ADAM)", "", "adamF64NEON has no main loop"},
	} {
		root := t.TempDir()
		for _, name := range []string{"update_amd64.s", "update_arm64.s"} {
			text := read(t, name)
			if name == file {
				if !strings.Contains(text, damage.text) {
					t.Fatalf("%s has no %s", name, damage.text)
				}
				text = strings.ReplaceAll(text, damage.text, damage.by)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, _, err := mainLoops(root); err == nil || !strings.Contains(err.Error(), damage.want) {
			t.Errorf("%v, want %s", err, damage.want)
		}
	}
}

// docs/performance.md has the table as it is now.
func TestTable(t *testing.T) {
	kernels, amd64, arm64, err := mainLoops("../..")
	if err != nil {
		t.Fatal(err)
	}
	want := table(kernels, amd64, arm64)
	if !strings.Contains(read(t, "docs/performance.md"), "\n"+want+"\n") {
		t.Errorf("docs/performance.md does not have:\n%s", want)
	}
}
