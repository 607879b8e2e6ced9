// Inspect counts the instructions of the kernels' main loops: `go run ./internal/inspect` in the repository's root prints
// the table of docs/performance.md. With -loop it prints one loop of an arm64 kernel instead, for llvm-mca.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	log.SetFlags(0)
	name := flag.String("loop", "", "print the main loop of this `kernel`, such as adapnmF32NEON")
	flag.Parse()
	kernels, amd64, arm64, err := mainLoops(".")
	if err != nil {
		log.Fatal(err)
	}
	if *name == "" {
		fmt.Print(table(kernels, amd64, arm64))
		return
	}
	code, ok := arm64[*name]
	if !ok {
		log.Fatalf("there is no arm64 kernel %s", *name)
	}
	fmt.Printf("loop:\n\t%s\n", strings.Join(code, "\n\t"))
}

// mainLoops returns the names of all kernels except yardsticks and noise, without type and instruction set; and, by the kernel's full name, the
// instructions of its main loop without prefetches and coupled decay.
func mainLoops(root string) (kernels []string, amd64, arm64 map[string][]string, err error) {
	text, err := os.ReadFile(filepath.Join(root, "update_amd64.s"))
	if err != nil {
		return nil, nil, nil, err
	}
	for _, f := range regexp.MustCompile(`\nTEXT ·(\w+)F64AVX2\(`).FindAllStringSubmatch(string(text), -1) { // limits are float32
		if f[1] != "divider" && f[1] != "noise" { // float32 noise has a kernel for mixed formats
			kernels = append(kernels, f[1])
		}
	}
	code, err := disassemble(filepath.Join(root, "update_arm64.s"))
	if err != nil {
		return nil, nil, nil, err
	}
	amd64, arm64 = amd64Loops(string(text)), arm64Loops(code)
	return kernels, amd64, arm64, errors.Join(missing(kernels, amd64, "AVX2", "AVX512"), missing(kernels, arm64, "NEON"))
}

// missing names the kernels whose main loop was not found.
func missing(kernels []string, loops map[string][]string, isas ...string) error {
	var all []error
	for _, kernel := range kernels {
		for _, t := range types {
			for _, isa := range isas {
				if name := kernel + t + isa; len(loops[name]) == 0 {
					all = append(all, fmt.Errorf("%s has no main loop, or there is no such function", name))
				}
			}
		}
	}
	return errors.Join(all...)
}

// types are the element types of the kernels whose loops are counted.
var types = []string{"F32", "F64"}

// amd64Loops reads the source, which has one instruction on a line, since objdump does not know AVX-512. The loop of a rule begins and
// ends at the label enter; so does that of a sum, with the prefetch before it. Code that a rule jumps over is for coupled decay.
func amd64Loops(source string) map[string][]string {
	loops := map[string][]string{}
	instruction := regexp.MustCompile(`(?m)^\t([A-Z].*)$`)
	loop := regexp.MustCompile(`(?s)^(\w+).*?\n(?:pass|line):\n(.*?)\n(?:\t// prefetch\n.*?\n)?enter:(\n.*?J(?:GE +pass|NE +line)\n)`)
	skipped := regexp.MustCompile(`(?s)(\n\tJZ +\w+\n).*?\n\w+:\n`)
	for text := range strings.SplitSeq(source, "\nTEXT ·") {
		if f := loop.FindStringSubmatch(text); f != nil {
			code := skipped.ReplaceAllString(f[2], "$1") + f[3]
			for _, line := range instruction.FindAllStringSubmatch(code, -1) {
				loops[f[1]] = append(loops[f[1]], line[1])
			}
		}
	}
	return loops
}

// An instruction is a machine word of arm64, and its text in GNU syntax.
type instruction struct {
	at   uint64
	word string
	text string
}

// disassemble assembles a file for arm64 and decodes the result, by function.
func disassemble(file string) (map[string][]instruction, error) {
	object, err := os.CreateTemp("", "*.o")
	if err != nil {
		return nil, err
	}
	object.Close()
	defer os.Remove(object.Name())
	root, err := goCommand("env", "GOROOT")
	if err != nil {
		return nil, err
	}
	include := filepath.Join(strings.TrimSpace(root), "pkg", "include")
	if _, err := goCommand("tool", "asm", "-I", include, "-p", "pnm", "-o", object.Name(), file); err != nil {
		return nil, err
	}
	listing, err := goCommand("tool", "objdump", "-gnu", object.Name())
	if err != nil {
		return nil, err
	}
	functions, name := map[string][]instruction{}, ""
	line := regexp.MustCompile(`^\s+\S+\s+0x([0-9a-f]+)\s+([0-9a-f]{8})\s+.*?(?:// (.*?))?\s*$`)
	for l := range strings.Lines(listing) {
		if f, ok := strings.CutPrefix(l, "TEXT pnm."); ok {
			name, _, _ = strings.Cut(f, "(SB)")
		} else if i := line.FindStringSubmatch(l); i != nil && i[2] != "00000000" { // which fills the space between functions
			at, _ := strconv.ParseUint(i[1], 16, 64)
			functions[name] = append(functions[name], instruction{at, i[2], i[3]})
		}
	}
	return functions, nil
}

func goCommand(args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOARCH=arm64", "GOFLAGS=")
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, problem.String())
	}
	return string(out), nil
}

// arm64Loops finds the first loop without prefetches of each function. Code that it jumps over if x25 is 0 is for coupled decay.
func arm64Loops(functions map[string][]instruction) map[string][]string {
	loops := map[string][]string{}
	back := regexp.MustCompile(`^(b\.\w+) \.\+0x(f+[0-9a-f]+)$`)
	over := regexp.MustCompile(`^cbz x25, \.\+(0x[0-9a-f]+)$`)
	for name, code := range functions {
		for end, i := range code {
			branch := back.FindStringSubmatch(i.text)
			if branch == nil {
				continue
			}
			offset, _ := strconv.ParseUint(branch[2], 16, 64) // as a two's complement
			var loop []string
			for at := end - int(-offset/4); at < end; at++ {
				loop = append(loop, code[at].text)
				if skip := over.FindStringSubmatch(code[at].text); skip != nil {
					bytes, _ := strconv.ParseInt(skip[1], 0, 0)
					at += int(bytes)/4 - 1
				}
			}
			if !slices.ContainsFunc(loop, func(i string) bool { return strings.HasPrefix(i, "prfm") }) {
				loops[name] = append(loop, branch[1]+" loop")
				break
			}
		}
	}
	return loops
}

// accesses are instructions that load or store: on amd64 those with an address, except LEAQ; on arm64 by name.
var accesses = regexp.MustCompile(`^[^L].*\(|^(ld|st)`)

// elements is the number of elements that a loop takes in a pass: the loop subtracts it from the number of those left. The loops for sums
// on amd64 compare addresses instead.
func elements(loop []string) int {
	const lanes = 32
	subtract := regexp.MustCompile(`^(?:SUBQ +\$|subs x\d+, x\d+, #)(0x[0-9a-f]+)`)
	for _, i := range loop {
		if s := subtract.FindStringSubmatch(i); s != nil {
			n, _ := strconv.ParseInt(s[1], 0, 0)
			return int(n)
		}
	}
	return lanes
}

// table counts instructions per element, and among them those that load or store.
func table(kernels []string, amd64, arm64 map[string][]string) string {
	var b strings.Builder
	b.WriteString("| kernel | AVX2 | AVX-512 | NEON |\n| --- | --- | --- | --- |\n")
	for _, kernel := range kernels {
		for _, t := range types {
			fmt.Fprintf(&b, "| `%s%s` |", kernel, t)
			for _, isa := range []string{"AVX2", "AVX512", "NEON"} {
				code := append(amd64[kernel+t+isa], arm64[kernel+t+isa]...)
				moves := 0
				for _, i := range code {
					if accesses.MatchString(i) {
						moves++
					}
				}
				n := float64(elements(code))
				fmt.Fprintf(&b, " %.2f, %.2f |", float64(len(code))/n, float64(moves)/n)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
