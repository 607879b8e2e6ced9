package fashionmnist

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestEmbedded(t *testing.T) {
	train, test, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if train.Len() != 6000 || test.Len() != 2000 {
		t.Errorf("%d and %d images", train.Len(), test.Len())
	}
	for _, s := range []Set{train, test} {
		if len(s.Images) != Pixels*s.Len() || slices.Min(s.Images) != 0 || slices.Max(s.Images) != 1 {
			t.Errorf("%d pixels from %g to %g", len(s.Images), slices.Min(s.Images), slices.Max(s.Images))
		}
	}
	// The first labels of the real set: an ankle boot, then T-shirts; an ankle boot, a pullover, trousers.
	if !slices.Equal(train.Labels[:5], []uint8{9, 0, 0, 3, 0}) || !slices.Equal(test.Labels[:5], []uint8{9, 2, 1, 1, 6}) {
		t.Errorf("labels begin with %v and %v", train.Labels[:5], test.Labels[:5])
	}
}

func TestStandardize(t *testing.T) {
	train, test, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	train, test = train.Head(300), test.Head(300)
	clean := slices.Clone(test.Images)
	Standardize(train, test)
	sum, squares, n := 0.0, 0.0, float64(len(train.Images))
	for _, x := range train.Images {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	if mean, variance := sum/n, squares/n; math.Abs(mean) > 1e-5 || math.Abs(variance-1) > 1e-5 {
		t.Errorf("mean %g, variance %g", mean, variance)
	}
	// White and black are the same in both sets.
	low, high := slices.Min(train.Images), slices.Max(train.Images)
	for i, x := range test.Images {
		if want := low + (high-low)*clean[i]; math.Abs(float64(x-want)) > 1e-5 {
			t.Fatalf("a test pixel of %g is now %g, must be %g", clean[i], x, want)
		}
	}
}

func idx(header []uint32, data ...byte) []byte {
	b, _ := binary.Append(nil, binary.BigEndian, header)
	return append(b, data...)
}

func zip(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

func TestReadIDX(t *testing.T) {
	good := idx([]uint32{0x0803, 2, 1, 2}, 1, 2, 3, 4)
	for _, b := range [][]byte{good, zip(good)} {
		if data, err := readIDX(bytes.NewReader(b), 1, 2); err != nil || !bytes.Equal(data, []byte{1, 2, 3, 4}) {
			t.Errorf("%v, %v", data, err)
		}
	}
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "header of 16 bytes: EOF"},
		{"short header", good[:15], "unexpected EOF"},
		{"short data", good[:19], "3 bytes follow the header, must be 4 for 2 items"},
		{"long data", append(slices.Clone(good), 5), "5 or more bytes follow the header, must be 4"},
		{"labels for images", idx([]uint32{0x0801, 2, 1, 2}, 1, 2, 3, 4), "magic number is 0x00000801, must be 0x00000803"},
		{"other size", idx([]uint32{0x0803, 2, 2, 1}, 1, 2, 3, 4), "dimension 1 of an item is 2, must be 1"},
		{"huge claim", idx([]uint32{0x0803, 0xffffffff, 1, 2}, 1, 2, 3, 4), "4 bytes follow the header, must be 8589934590"},
		{"broken gzip", zip(good)[:20], "EOF"},
	} {
		if _, err := readIDX(bytes.NewReader(c.file), 1, 2); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestLoadDir(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "must hold train-images-idx3-ubyte") {
		t.Errorf("an empty folder: %v", err)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	image := make([]byte, Pixels)
	image[3] = 51
	write("train-images-idx3-ubyte", idx([]uint32{0x0803, 1, 28, 28}, image...))
	write("train-labels-idx1-ubyte.gz", zip(idx([]uint32{0x0801, 1}, 7)))
	write("t10k-images-idx3-ubyte.gz", zip(idx([]uint32{0x0803, 1, 28, 28}, image...)))
	write("t10k-labels-idx1-ubyte", idx([]uint32{0x0801, 1}, 4))
	train, test, err := Load(dir)
	if err != nil || train.Images[3] != 0.2 || train.Labels[0] != 7 || test.Labels[0] != 4 {
		t.Errorf("%v, %v, %v", train.Labels, test.Labels, err)
	}
	write("t10k-labels-idx1-ubyte", idx([]uint32{0x0801, 1}, 10))
	if _, _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "label 0 is 10, must be below 10") {
		t.Errorf("a label of 10: %v", err)
	}
	write("t10k-labels-idx1-ubyte", idx([]uint32{0x0801, 2}, 1, 2))
	if _, _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "1 images, but 2 labels") {
		t.Errorf("labels without images: %v", err)
	}
}
