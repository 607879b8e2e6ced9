// Package trialstest checks what experiments write.
package trialstest

import (
	"encoding/csv"
	"image/png"
	"os"
	"strings"
	"testing"
)

// Pictures checks that prefix+name is there as .svg, in which text stands, and as .png, for each name.
func Pictures(t *testing.T, prefix, text string, names ...string) {
	t.Helper()
	for _, name := range names {
		svg, err := os.ReadFile(prefix + name + ".svg")
		if err != nil || !strings.Contains(string(svg), text) {
			t.Errorf("%s.svg has %d bytes: %v", name, len(svg), err)
		}
		picture, err := os.Open(prefix + name + ".png")
		if err != nil {
			t.Fatal(err)
		}
		defer picture.Close()
		if _, err := png.Decode(picture); err != nil {
			t.Errorf("%s.png: %v", name, err)
		}
	}
}

// Rows checks that prefix.csv has a heading and as many rows as given.
func Rows(t *testing.T, prefix string, rows int) {
	t.Helper()
	f, err := os.Open(prefix + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil || len(lines) != 1+rows {
		t.Errorf("%d lines, must be %d: %v", len(lines), 1+rows, err)
	}
}
