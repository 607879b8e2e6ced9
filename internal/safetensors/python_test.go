package safetensors

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The official implementation, the package safetensors 0.8 of the Python that PNM_TEST_PYTHON names, gets one file a line, in base64. It
// answers with what it wrote when it wrote what it had read, or with null where it refused to read.
const official = `
import base64, ctypes, json, sys
from safetensors import TensorSpec, deserialize, serialize
names = {"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
	"F4": "float4_e2m1fn_x2", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool", "U": "uint", "I": "int", "F": "float"}
def name(dtype):
	return names.get(dtype) or names[dtype[0]] + dtype[1:]
for line in sys.stdin:
	file = base64.b64decode(line)
	try:
		tensors = deserialize(file)
	except Exception as e:
		print(json.dumps(None))
		continue
	n = int.from_bytes(file[:8], "little")
	meta = json.loads(file[8:8+n]).get("__metadata__")
	data = {k: ctypes.create_string_buffer(bytes(t["data"]), max(1, len(t["data"]))) for k, t in tensors}
	specs = {k: TensorSpec(dtype=name(t["dtype"]), shape=t["shape"], data_ptr=ctypes.addressof(data[k]), data_len=len(t["data"])) for k, t in tensors}
	print(json.dumps(base64.b64encode(serialize(specs, meta)).decode()))
`

// runOfficial returns a file for each one, or nil.
func runOfficial(t *testing.T, files [][]byte) (answers [][]byte) {
	t.Helper()
	python := os.Getenv("PNM_TEST_PYTHON")
	if python == "" {
		t.Skip("PNM_TEST_PYTHON is not set")
	}
	var in strings.Builder
	for _, file := range files {
		in.WriteString(base64.StdEncoding.EncodeToString(file) + "\n")
	}
	c := exec.Command(python, "-c", official)
	c.Stdin, c.Stderr = strings.NewReader(in.String()), os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(out))
	for range files {
		var answer []byte
		if err := d.Decode(&answer); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, answer)
	}
	return answers
}

// What it refuses is refused here, too; and not much else.
func TestOfficialRefuses(t *testing.T) {
	var files [][]byte
	for _, c := range hostile {
		files = append(files, c.file)
	}
	for i, answer := range runOfficial(t, files) {
		if c := hostile[i]; (answer != nil) != c.strict {
			t.Errorf("%.200q: the official implementation takes it: %v", c.file, answer != nil)
		}
	}
}

// Each reads what the other one writes.
func TestOfficialReads(t *testing.T) {
	tensors := slices.DeleteFunc(samples(), func(x Tensor) bool { return bitsOf[x.DType] < 8 }) // which it counts by bytes
	file, err := write(map[string]string{"": "", "a": "b\x00\n\"", "ä": "<😀>"}, tensors)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	answer := runOfficial(t, [][]byte{file})[0]
	theirs, err := read(answer)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(ours.Metadata, theirs.Metadata) || len(ours.Tensors) != len(theirs.Tensors) {
		t.Fatalf("%v, %d tensors", theirs.Metadata, len(theirs.Tensors))
	}
	for _, want := range ours.Tensors {
		i := slices.IndexFunc(theirs.Tensors, func(x Tensor) bool { return x.Name == want.Name })
		if got := theirs.Tensors[i]; got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(answer[got.Begin:got.End], file[want.Begin:want.End]) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
