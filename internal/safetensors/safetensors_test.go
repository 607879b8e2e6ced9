package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/posneg/pnm/internal/allocated"
)

// file returns a file of a header and so many bytes of data.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func read(b []byte) (*Header, error) { return ReadHeader(bytes.NewReader(b), int64(len(b))) }

// hostile are files, and what is wrong with them; strict are those that the official implementation takes.
var hostile = []struct {
	file   []byte
	want   string
	strict bool
}{
	{nil, "it has 0 bytes", false},
	{[]byte("1234567"), "it has 7 bytes", false},
	{binary.LittleEndian.AppendUint64(nil, 100_000_001), "its header would have 100000001 bytes, must have at most 100000000", false},
	{append(binary.LittleEndian.AppendUint64(nil, 1<<63), "{}"...), "must have at most", false},
	{append(binary.LittleEndian.AppendUint64(nil, 1<<64-1), "{}"...), "must have at most", false},
	{append(binary.LittleEndian.AppendUint64(nil, 1<<64-8), "{}"...), "must have at most", false},
	{append(binary.LittleEndian.AppendUint64(nil, 3), "{}"...), "its header would have 3 bytes, but only 2 are there", false},
	{file("", 0), "must begin with {", false},
	{file(" {}", 0), "must begin with {", true},
	{file("[]", 0), "must begin with {", false},
	{file("\xef\xbb\xbf{}", 0), "must begin with {", false},
	{file("{", 0), "at byte 1", false},
	{file("{}}", 0), "at byte 2: something other than spaces", false},
	{file("{}{}", 0), "at byte 2: something other than spaces", false},
	{file("{} \x00", 0), "at byte 3: something other than spaces", false},
	{file("{}\n", 0), "at byte 2: something other than spaces", true},
	{file("{}", 1), "the data has 1 bytes, but the tensors end at 0", false},
	{file("{\"\xff\":{}}", 0), "invalid UTF-8", false},
	{file(`{"a":1}`, 0), `tensor "a": at byte 6: a number instead of an object`, false},
	{file(`{"a":null}`, 0), `tensor "a"`, false},
	{file(`{"a":[["F32",[],[0,4]]]}`, 4), `tensor "a"`, false},
	{file(`{"a":["F32",[],[0,4]]}`, 4), `tensor "a"`, true},
	{file(`{"a":{}}`, 0), `tensor "a": it must have dtype, shape and two data_offsets`, false},
	{file(`{"a":{"dtype":"F32","shape":[1]}}`, 4), "must have", false},
	{file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), "must have", false},
	{file(`{"a":{"shape":[1],"data_offsets":[0,4]}}`, 4), "must have", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}`, 4), "must have", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}`, 4), "more than two", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":0}}`, 4), `unknown "x"`, true},
	{file(`{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), `"dtype" occurs twice`, false},
	{file(`{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}`, 4), `"shape" occurs twice`, false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_\u006fffsets":[0,4]}}`, 4), `"data_offsets" occurs twice`, false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), `"a" occurs twice`, true},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), `"a" occurs twice`, false},
	{file(`{"__metadata__":{},"__metadata__":{}}`, 0), `"__metadata__" occurs twice`, false},
	{file(`{"__metadata__":{"a":"","a":""}}`, 0), `"a" occurs twice`, true},
	{file(`{"__metadata__":{"a":1}}`, 0), "a number instead of a string", false},
	{file(`{"__metadata__":{"a":{"b":""}}}`, 0), "an object instead of a string", false},
	{file(`{"__metadata__":[]}`, 0), "an array instead of an object", false},
	{file(`{"__metadata__":null}`, 0), "null instead of an object", true},
	{file(`{"__metadata__":{"a":"\ud800"}}`, 0), "half a surrogate pair", false},
	{file(`{"\udc00":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), "half a surrogate pair", false},
	{file("{\"__metadata__\":{\"a\":\"\n\"}}", 0), "invalid character", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}`, 4), "the end of an object instead of a name", false},
	{file(`{"a":{"dtype":"F32","shape":[1,],"data_offsets":[0,4]}}`, 4), "the end of an array instead of an integer", false},
	{file(`{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}`, 4), "at byte", false},
	{file(`{'a':{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), "invalid character", false},
	{file(`{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}`, 4), `unknown dtype "f32"`, false},
	{file(`{"a":{"dtype":"","shape":[1],"data_offsets":[0,4]}}`, 4), `unknown dtype ""`, false},
	{file(`{"a":{"dtype":4,"shape":[1],"data_offsets":[0,4]}}`, 4), "a number instead of a string", false},
	{file(`{"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}}`, 4), "a number instead of an array", false},
	{file(`{"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}}`, 4), "an array instead of an integer", false},
	{file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), `"-1" instead of an integer`, false},
	{file(`{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}`, 4), `"1.0" instead of an integer`, false},
	{file(`{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}`, 4), `"1e0" instead of an integer`, false},
	{file(`{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}`, 4), "a string instead of an integer", false},
	{file(`{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}`, 4), "instead of an integer", false},
	{file(`{"a":{"dtype":"F32","shape":[1`+strings.Repeat(",1", 64)+`],"data_offsets":[0,4]}}`, 4), "more than 64 dimensions", true},
	{file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 4), `tensor "a": its data_offsets [0, 4] hold 4 bytes, but F32 of shape [2] are 8`, false},
	{file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,4]}}`, 4), "hold 4 bytes", false},
	{file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,8]}}`, 8), "hold 8 bytes", false},
	{file(`{"a":{"dtype":"F32","shape":[1073741824,1073741824,1073741824],"data_offsets":[0,4]}}`, 4), "too many bits", false},
	{file(`{"a":{"dtype":"F32","shape":[1073741824,1073741824,16,0],"data_offsets":[0,0]}}`, 0), "too many bits", false},
	{file(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 1), "12 bits, which are not whole bytes", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 4), "run backwards", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 4), `"-4" instead of an integer`, false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775807,9223372036854775808]}}`, 4), "instead of an integer", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), `tensor "a": its data begins at 4, and bytes from 0 on belong to no tensor`, false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 3), "its data ends at 4, but the file has only 3 bytes of data", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 5), "the data has 5 bytes, but the tensors end at 4", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), "where another tensor's is, which ends at 4", false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}}`, 7), `tensor "b": its data begins at 3`, false},
	{file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}}`, 9), "bytes from 4 on belong to no tensor", false},
	{file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"c":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}}`, 4), `tensor "c": its data begins at 2`, false},
}

func TestHostileHeaders(t *testing.T) {
	for _, c := range hostile {
		_, err := read(c.file)
		if err == nil || c.want == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200q gives %v, want %s", c.file, err, c.want)
		}
	}
}

// samples has a tensor of each dtype.
func samples() (tensors []Tensor) {
	shapes := [][]int{{}, {3}, {2, 0, 5}, {2, 3}, {1, 1, 1, 7}}
	for i, dtype := range slices.Sorted(maps.Keys(bitsOf)) {
		for k, shape := range shapes {
			if bitsOf[dtype] < 8 {
				shape = append([]int{4}, shape...)
			}
			tensors = append(tensors, Tensor{Name: fmt.Sprintf("%d.%d \"<&> ä😀\u2028", i, k), DType: dtype, Shape: shape})
		}
	}
	return tensors
}

// data is that of a tensor.
func data(t *Tensor) []byte {
	size, err := sizeOf(t.DType, t.Shape)
	if err != nil {
		panic(err)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i + len(t.Name) + 7*len(t.Shape))
	}
	return b
}

func write(meta map[string]string, tensors []Tensor) ([]byte, error) {
	var b bytes.Buffer
	err := Write(&b, meta, tensors, func(w io.Writer, i int) error {
		_, err := w.Write(data(&tensors[i]))
		return err
	})
	return b.Bytes(), err
}

// What is written is read again, and aligned.
func TestWrite(t *testing.T) {
	meta := map[string]string{"": "", "a": "b\x00\n\"", "ä": "<😀>"}
	for _, tensors := range [][]Tensor{nil, samples()} {
		b, err := write(meta, tensors)
		if err != nil {
			t.Fatal(err)
		}
		h, err := read(b)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(h.Metadata, meta) || len(h.Tensors) != len(tensors) {
			t.Fatalf("%v, %d tensors", h.Metadata, len(h.Tensors))
		}
		for _, got := range h.Tensors {
			i := slices.IndexFunc(tensors, func(want Tensor) bool { return want.Name == got.Name })
			if want := tensors[i]; got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(b[got.Begin:got.End], data(&want)) {
				t.Errorf("%+v, want %+v", got, want)
			}
			if size := int64(bitsOf[got.DType] / 8); size > 0 && got.Begin%size != 0 {
				t.Errorf("%s begins at %d", got.DType, got.Begin)
			}
		}
		if again, _ := write(meta, tensors); !bytes.Equal(again, b) {
			t.Error("the same tensors gave another file")
		}
	}
}

func TestWriteErrors(t *testing.T) {
	one := func(name, dtype string, shape ...int) []Tensor {
		return []Tensor{{Name: name, DType: dtype, Shape: shape}}
	}
	var large []Tensor
	for i := range 33 {
		large = append(large, one(fmt.Sprint(i), "U8", 1<<29, 1<<29)...)
	}
	for _, c := range []struct {
		meta    map[string]string
		tensors []Tensor
		want    string
	}{
		{nil, append(one("a", "F32"), one("a", "F64")...), `"a" cannot have this name`},
		{nil, one("__metadata__", "F32"), `"__metadata__" cannot have this name`},
		{nil, one("\xff", "F32", 1), "not valid UTF-8"},
		{map[string]string{"\xff": ""}, nil, "not valid UTF-8"},
		{map[string]string{"a": "\xff"}, nil, `"a" is not valid UTF-8`},
		{map[string]string{"a": strings.Repeat("x", mostHeader)}, nil, "must have at most 100000000"},
		{nil, one("a", "X"), `unknown dtype "X"`},
		{nil, one("a", "F4", 1), "not whole bytes"},
		{nil, one("a", "F32", 1<<31-1, 1<<31-1, 1<<31-1), "too many bits"},
		{nil, large, `"31": the data would have more than 9223372036854775807 bytes`},
	} {
		var b bytes.Buffer
		err := Write(&b, c.meta, c.tensors, func(io.Writer, int) error { t.Error("data was asked for"); return nil })
		if err == nil || !strings.Contains(err.Error(), c.want) || b.Len() > 0 {
			t.Errorf("%v, want %s; %d bytes written", err, c.want, b.Len())
		}
	}
	for _, bytes := range []int{0, 3, 5} {
		err := Write(io.Discard, nil, one("a", "F32"), func(w io.Writer, _ int) error { _, err := w.Write(make([]byte, bytes)); return err })
		if want := fmt.Sprintf(`tensor "a": %d bytes were written, must be 4`, bytes); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	broken := errors.New("broken")
	if err := Write(io.Discard, nil, one("a", "F32"), func(io.Writer, int) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// A reader that fails, or ends before its time, is an error that can be told.
func TestReadErrors(t *testing.T) {
	b := file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4)
	for n := range len(b) - 4 {
		if _, err := ReadHeader(bytes.NewReader(b[:n]), int64(len(b))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("of %d bytes %d are there: %v", len(b), n, err)
		}
	}
}

// readAllocates returns how many bytes are allocated by reading a file, as allocated.Bytes does.
func readAllocates(limit uint64, b []byte, size int64) uint64 {
	return allocated.Bytes(limit, func() { ReadHeader(bytes.NewReader(b), size) })
}

// Memory is allocated for what is there, not for what the file says is there.
func TestReadAllocates(t *testing.T) {
	for _, n := range []uint64{mostHeader, 1 << 40, 1 << 63} {
		const limit = 4096
		if bytes := readAllocates(limit, binary.LittleEndian.AppendUint64(nil, n), 8); bytes > limit {
			t.Errorf("%d bytes allocated for a header of %d that is not there", bytes, n)
		}
	}
	const (
		most  = 1 << 20
		limit = 24 * most // up to 12, what had to be moved as it grew included
	)
	for _, c := range []struct{ begin, repeat, end string }{
		{`{"a":{"dtype":"F32","data_offsets":[0,0],"shape":[`, `1,`, ``},
		{`{"a":{"dtype":"F32","shape":[0],"data_offsets":[`, `0,`, ``},
		{`{"a":`, `[`, ``},
		{`{"a":`, `{"dtype":`, ``},
		{`{"`, `x`, ``},
		{`{"`, `\u1234`, `":1}`},
		{`{"a":{"dtype":"`, `x`, `"}}`},
		{`{"a":{"dtype":"F32","shape":[`, `1`, `]}}`},
		{`{"__metadata__":{`, `"%d":"",`, ``},
		{`{`, `"%d":{"dtype":"F4","shape":[0],"data_offsets":[0,0]},`, ``},
	} {
		var b strings.Builder
		b.WriteString(c.begin)
		for i := 0; b.Len() < most; i++ {
			b.WriteString(strings.Replace(c.repeat, "%d", fmt.Sprint(i), 1))
		}
		b.WriteString(c.end)
		bytes := readAllocates(limit, file(b.String(), 0), int64(8+b.Len()))
		t.Logf("%s%s…: %d bytes for each of the header", c.begin, c.repeat, bytes/most)
		if bytes > limit {
			t.Errorf("%s%s…: %d bytes for each of the header", c.begin, c.repeat, bytes/most)
		}
	}
}

// Whatever is read tiles the file, and is the same when it is written and read again.
func FuzzRead(f *testing.F) {
	for _, c := range hostile {
		f.Add(c.file)
	}
	b, err := write(map[string]string{"a": "b"}, samples())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		limit := 1<<16 + 100*uint64(len(b))
		if used := readAllocates(limit, b, int64(len(b))); used > limit {
			t.Errorf("%d bytes allocated for %d", used, len(b))
		}
		h, err := read(b)
		if err != nil {
			return
		}
		end := 8 + int64(binary.LittleEndian.Uint64(b))
		for _, x := range h.Tensors {
			if x.Begin != end || x.End < x.Begin || x.End > int64(len(b)) {
				t.Fatalf("%+v begins at %d", x, end)
			}
			end = x.End
		}
		if end != int64(len(b)) {
			t.Fatalf("the tensors end at %d of %d", end, len(b))
		}
		again, err := write(h.Metadata, h.Tensors)
		if err != nil {
			t.Fatal(err)
		}
		g, err := read(again)
		if err != nil {
			t.Fatal(err)
		}
		inOrder := func(h *Header) (tensors []Tensor) {
			for _, x := range h.Tensors {
				tensors = append(tensors, Tensor{x.Name, x.DType, x.Shape, 0, x.End - x.Begin})
			}
			slices.SortFunc(tensors, func(a, b Tensor) int { return strings.Compare(a.Name, b.Name) })
			return tensors
		}
		if !maps.Equal(g.Metadata, h.Metadata) || !reflect.DeepEqual(inOrder(g), inOrder(h)) {
			t.Errorf("%+v was written and read as %+v", h, g)
		}
	})
}
