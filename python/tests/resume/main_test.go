package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/posneg/pnm/internal/safetensors"
	"github.com/posneg/pnm/optim"
)

// TestFilesOfPython continues from files that Python wrote after three steps, and must end with all that it wrote after five.
func TestFilesOfPython(t *testing.T) {
	for name, f := range map[string]formats{
		"pnm-float32":   {params: "float32"},
		"sgd-float64":   {params: "float64"},
		"adapnm-bf16":   {params: "bf16", state: "bf16"},
		"adamw-masters": {params: "float32", copies: "f16"},
		"adapnm-mxfp8":  {params: "bf16", state: "mxfp8"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name)
			j := job{formats: f, in: file + "-3.safetensors", out: filepath.Join(t.TempDir(), "out"), first: 3, steps: 2}
			if err := j.do(); err != nil {
				t.Fatal(err)
			}
			got, gotData := read(t, j.out)
			want, wantData := read(t, file+"-5.safetensors")
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the header is %+v, Python's is %+v", got, want)
			}
			if !reflect.DeepEqual(gotData, wantData) {
				t.Error("the bits are not Python's")
			}
		})
	}
}

// read returns what a checkpoint holds, but for who wrote it.
func read(t *testing.T, path string) (optim.CheckpointInfo, map[string][]byte) {
	t.Helper()
	info, err := optim.ReadCheckpoint(path)
	if err != nil {
		t.Fatal(err)
	}
	info.Writer = ""
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	header, err := safetensors.ReadHeader(file, stat.Size())
	if err != nil {
		t.Fatal(err)
	}
	data := make(map[string][]byte)
	for _, s := range header.Tensors {
		data[s.Name] = make([]byte, s.End-s.Begin)
		if err := safetensors.ReadFull(file, data[s.Name], s.Begin); err != nil {
			t.Fatal(err)
		}
	}
	return info, data
}
