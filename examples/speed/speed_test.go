package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/posneg/pnm"
)

func measured(t *testing.T) []result {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	results, err := measure(settings{mebi: 1, time: time.Nanosecond, machine: "a <machine>"}, null)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// Each rule is measured in each format on each number of workers, beside its limit, and moves the bytes that docs/performance.md names.
func TestMeasure(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	results := measured(t)
	if len(results) != 24 {
		t.Fatalf("there are %d results", len(results))
	}
	bytes := map[string]float64{"PNM float32": 24, "AdaPNM float32": 40, "AdamW float32": 28, "AdaPNM bf16 gradients and state": 24,
		"PNM all bf16": 12, "AdaPNM bf16 gradients, mxfp8 momenta": 21.09375}
	for _, r := range results {
		if want, ok := bytes[r.rule+" "+r.format]; ok && math.Abs(r.bytes-want) > 1e-9 {
			t.Errorf("%s, %s: %g bytes, want %g", r.rule, r.format, r.bytes, want)
		}
		if limited := pnm.ISA() != "generic"; !(r.ns > 0) || (r.limit > 0) != limited || (r.ofLimit > 0) != limited {
			t.Errorf("%+v", r)
		}
	}
	if p := panels(results); len(p) != 2 || p[0][0].threads != 1 || p[1][11].threads != 2 {
		t.Errorf("the panels are %v", p)
	}
}

var samples = []result{
	{"a <machine>", "pnm", 1, "PNM", own, "float32", 64 << 20, 24, 2, 1, 0.5},
	{"a <machine>", "pnm", 1, "AdamW", "torch fused", "float32", 64 << 20, 28, 4, 1.5, 0.375},
	{"a <machine>", "pnm", 2, "PNM", own, "float32", 64 << 20, 24, 1, math.NaN(), math.NaN()},
	{"a <machine>", "pnm", 2, "AdamW", "torch fused", "float32", 64 << 20, 28, 3, 1, 0.3333},
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	if err := writeCSV(&b, samples); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	got, err := readCSV(&b)
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	writeCSV(&again, got) // NaNs differ from themselves
	if again.String() != text || !reflect.DeepEqual(got[:2], samples[:2]) {
		t.Errorf("read %+v\nof %s", got, text)
	}
	for _, bad := range []struct{ from, to string }{
		{"of_limit", "of"}, {",2.0000,", ",-2,"}, {",2.0000,", ",,"}, {",2.0000,", ",NaN,"}, {",2.0000,", ","},
		{text[strings.Index(text, "\n"):], ""}, {"pnm,2,", "pnm,3,"},
	} {
		if _, err := readCSV(strings.NewReader(strings.Replace(text, bad.from, bad.to, 1))); err == nil {
			t.Errorf("with %q for %q it is read", bad.to, bad.from)
		}
	}
}

// The bar of the longest step fills the width, and the others are shorter, as their steps are; a line stands at the limit.
func TestChart(t *testing.T) {
	for want, r := range map[string]*result{
		"████████┃███████": {ns: 4, limit: 2},
		"████    ┃":        {ns: 1, limit: 2},
		"██▌":              {ns: 0.63, limit: math.NaN()},
	} {
		if got := bar(r, 16, 4); got != want {
			t.Errorf("%+v: %q, want %q", *r, got, want)
		}
	}
	var b bytes.Buffer
	if err := chart(&b, samples, 90); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, "█") && utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > 90 {
			t.Errorf("longer than 90: %q", line)
		}
	}
	b.Reset()
	if err := table(&b, samples); err != nil || !strings.Contains(b.String(), "28.00  4.00  7.0   38 %") {
		t.Errorf("%v: %s", err, b.String())
	}
}

// The picture is well-formed, says where it was measured, and has a bar for each result and a line for each limit.
func TestDraw(t *testing.T) {
	var b bytes.Buffer
	if err := draw(&b, samples); err != nil {
		t.Fatal(err)
	}
	text, fills := "", map[string]int{}
	for d := xml.NewDecoder(&b); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.CharData:
			text += string(token)
		case xml.StartElement:
			for _, a := range token.Attr {
				if token.Name.Local == "rect" && a.Name.Local == "fill" {
					fills[a.Value]++
				}
			}
		}
	}
	if want := map[string]int{ownColor: 2, otherColor: 5, limitColor: 4}; !reflect.DeepEqual(fills, want) { // with the legend's, two of each broken one
		t.Errorf("rectangles %v, want %v", fills, want)
	}
	for _, want := range []string{"a <machine>", "torch fused, float32", "1 thread", "2 threads", "4.00"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
}

// Results of others alone are drawn, too.
func TestDrawOthers(t *testing.T) {
	var b bytes.Buffer
	if err := draw(&b, []result{samples[1]}); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Error(text)
	}
}

// What cannot be done is said before anything is measured.
func TestRefused(t *testing.T) {
	bad := []settings{{mebi: -1}, {mebi: 1<<14 + 1}}
	if most := available() >> 20 / bytesEach; most < 1<<14 {
		bad = append(bad, settings{mebi: int(most) + int(most)/2 + 1}) // more may be free by now
	}
	for _, s := range bad {
		if _, err := measure(s, nil); err == nil || !strings.Contains(err.Error(), "-mebi") {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if err := run(settings{mebi: 1 << 13}, "", "", "no such file"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	file := filepath.Join(t.TempDir(), "a.svg")
	if err := run(settings{mebi: -1}, file, file, ""); err == nil || !strings.Contains(err.Error(), "-mebi") {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Errorf("nothing was measured, and there is %s", file)
	}
	for _, folder := range []string{"no folder/a.svg", t.TempDir()} {
		if err := run(settings{mebi: -1}, folder, "", ""); err == nil || strings.Contains(err.Error(), "-mebi") {
			t.Errorf("to %s: %v", folder, err)
		}
	}
	for bytes, want := range map[int64]int{0: 1, 1 << 30: 11, 1 << 40: 64} {
		if got := fitting(bytes); got != want {
			t.Errorf("%d bytes: %d Mi parameters, want %d", bytes, got, want)
		}
	}
}

// The picture of the README is drawn from the numbers beside it.
func TestPublished(t *testing.T) {
	results, err := load("../../docs/speed.csv")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../../docs/speed.svg")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := draw(&b, results); err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Error("docs/speed.svg is not drawn from docs/speed.csv: go run -C examples ./speed -from ../docs/speed.csv -svg ../docs/speed.svg")
	}
}
