// Package safetensors reads and writes headers of files in the format safetensors (https://github.com/huggingface/safetensors):
// eight bytes, the header's length in little-endian order; the header, a JSON object; the tensors' data. It is own code since
// the one Go module for the format has no releases, and takes headers that name a tensor twice.
package safetensors

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/posneg/pnm/internal/strictjson"
)

// A Tensor is a tensor of a file.
type Tensor struct {
	Name  string
	DType string // "F32", …
	Shape []int

	Begin, End int64 // its data is the bytes Begin … End−1 of the file, row-major and little-endian
}

// A Header is the header of a file.
type Header struct {
	Metadata map[string]string
	Tensors  []Tensor // in the order of their data
}

const (
	mostHeader = 100_000_000 // bytes; the limit of the format
	mostDims   = 64          // as in NumPy and PyTorch
	metadata   = "__metadata__"
	alignment  = 8 // of the data, the largest of all elements
)

// bitsOf are the sizes of the elements.
var bitsOf = map[string]uint64{
	"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
	"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
	"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}

// ReadHeader reads the header of a file of size bytes. It checks that every byte of the data belongs to exactly one tensor, of that
// size. It needs a small multiple of the header's memory, and only if the file really has such a header.
func ReadHeader(r io.ReaderAt, size int64) (*Header, error) {
	var length [8]byte
	if size < int64(len(length)) {
		return nil, fmt.Errorf("it has %d bytes: it is not a safetensors file", size)
	}
	if err := ReadFull(r, length[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > mostHeader {
		return nil, fmt.Errorf("its header would have %d bytes, must have at most %d: it is not a safetensors file", n, mostHeader)
	}
	if int64(n) > size-int64(len(length)) {
		return nil, fmt.Errorf("its header would have %d bytes, but only %d are there: it is cut short, or not a safetensors file",
			n, size-int64(len(length)))
	}
	text := make([]byte, n)
	if err := ReadFull(r, text, int64(len(length))); err != nil {
		return nil, err
	}
	h, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("its header: %w", err)
	}
	if err := h.place(int64(len(length))+int64(n), size); err != nil {
		return nil, err
	}
	return h, nil
}

// ReadFull reads all of b from an offset.
func ReadFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case err == nil: // against io.ReaderAt's rules; the rest of b would have old bytes
		return fmt.Errorf("%d bytes of %d are read at %d: %w", n, len(b), offset, io.ErrNoProgress)
	case err == io.EOF:
		return fmt.Errorf("it ends after %d bytes of %d at %d: %w", n, len(b), offset, io.ErrUnexpectedEOF)
	}
	return err
}

// parse reads the JSON of a header.
func parse(text string) (*Header, error) {
	if len(text) == 0 || text[0] != '{' {
		return nil, fmt.Errorf("it must begin with {")
	}
	d, err := strictjson.New(text)
	if err != nil {
		return nil, err
	}
	h := &Header{Metadata: make(map[string]string)}
	err = d.Object(func(name string) error {
		if name == metadata {
			known := func(key string) bool { _, ok := h.Metadata[key]; return ok }
			return d.NewMembers(known, func(key string) (err error) {
				h.Metadata[key], err = d.String()
				return err
			})
		}
		t, err := parseTensor(d)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", strictjson.Quote(name), err)
		}
		t.Name = name
		h.Tensors = append(h.Tensors, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if rest := strings.TrimLeft(d.Text(), " "); rest != "" {
		return nil, fmt.Errorf("at byte %d: something other than spaces follows the object", len(text)-len(rest))
	}
	return h, nil
}

func parseTensor(d *strictjson.Decoder) (t Tensor, err error) {
	var offsets [2]int64
	found := 0
	err = d.Object(func(key string) error {
		switch key {
		case "dtype":
			if t.DType, err = d.String(); err == nil && bitsOf[t.DType] == 0 {
				err = d.Errorf("unknown dtype %s", strictjson.Quote(t.DType))
			}
			return err
		case "shape":
			t.Shape = []int{}
			return d.Array(func() error {
				n, err := d.Uint(math.MaxInt)
				if t.Shape = append(t.Shape, int(n)); len(t.Shape) > mostDims {
					return d.Errorf("it has more than %d dimensions", mostDims)
				}
				return err
			})
		case "data_offsets":
			return d.Array(func() error {
				if found == len(offsets) {
					return d.Errorf("it has more than two data_offsets")
				}
				n, err := d.Uint(math.MaxInt64)
				offsets[found] = int64(n)
				found++
				return err
			})
		}
		return d.Errorf("unknown %s, a tensor has dtype, shape and data_offsets", strictjson.Quote(key))
	})
	switch {
	case err != nil:
		return t, err
	case t.DType == "" || t.Shape == nil || found != 2:
		return t, fmt.Errorf("it must have dtype, shape and two data_offsets")
	}
	t.Begin, t.End = offsets[0], offsets[1]
	return t, nil
}

// place sorts the tensors by their data, checks that they fill the data of the file, the bytes begin … size−1, and adds begin to their
// offsets.
func (h *Header) place(begin, size int64) error {
	slices.SortFunc(h.Tensors, func(a, b Tensor) int { return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End)) })
	end := int64(0)
	for i := range h.Tensors {
		t := &h.Tensors[i]
		fail := func(format string, args ...any) error {
			return fmt.Errorf("tensor %s: %w", strictjson.Quote(t.Name), fmt.Errorf(format, args...))
		}
		bytes, err := sizeOf(t.DType, t.Shape)
		switch {
		case err != nil:
			return fail("%w", err)
		case t.End < t.Begin:
			return fail("its data_offsets [%d, %d] run backwards", t.Begin, t.End)
		case t.Begin < end:
			return fail("its data begins at %d, where another tensor's is, which ends at %d", t.Begin, end)
		case t.Begin > end:
			return fail("its data begins at %d, and bytes from %d on belong to no tensor", t.Begin, end)
		case t.End > size-begin:
			return fail("its data ends at %d, but the file has only %d bytes of data: it is cut short", t.End, size-begin)
		case t.End-t.Begin != bytes:
			return fail("its data_offsets [%d, %d] hold %d bytes, but %s of shape %v are %d", t.Begin, t.End, t.End-t.Begin, t.DType, t.Shape, bytes)
		}
		end = t.End
		t.Begin += begin
		t.End += begin
	}
	if end != size-begin {
		return fmt.Errorf("the data has %d bytes, but the tensors end at %d", size-begin, end)
	}
	return nil
}

// sizeOf returns the size of a tensor's data in bytes.
func sizeOf(dtype string, shape []int) (int64, error) {
	n := bitsOf[dtype]
	overflow := uint64(0)
	for _, k := range shape {
		var high uint64
		high, n = bits.Mul64(n, uint64(k))
		overflow |= high
	}
	switch {
	case overflow != 0:
		return 0, fmt.Errorf("%s of shape %v has too many bits to count", dtype, shape)
	case n%8 != 0:
		return 0, fmt.Errorf("%s of shape %v has %d bits, which are not whole bytes", dtype, shape, n)
	}
	return int64(n / 8), nil
}

// Write writes a file of tensors with a name, a dtype and a shape; it ignores Begin and End. The function writes all data of
// tensors[i]. The tensors with the largest elements come first, so that all data is aligned.
func Write(w io.Writer, meta map[string]string, tensors []Tensor, data func(w io.Writer, i int) error) error {
	order := make([]int, len(tensors))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(bitsOf[tensors[b].DType], bitsOf[tensors[a].DType]) })
	header, sizes, err := header(meta, tensors, order)
	if err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	for k, i := range order {
		c := counter{w, 0}
		if err := data(&c, i); err != nil {
			return err
		}
		if c.written != sizes[k] {
			return fmt.Errorf("tensor %s: %d bytes were written, must be %d", strictjson.Quote(tensors[i].Name), c.written, sizes[k])
		}
	}
	return nil
}

// header returns the beginning of a file, up to the data, and the size of each tensor in bytes, both in the given order.
func header(meta map[string]string, tensors []Tensor, order []int) (b []byte, sizes []int64, err error) {
	b = append(make([]byte, 8, 8+160*len(tensors)), '{')
	quote := func(text string) error {
		j, err := json.Marshal(text)
		b = append(b, j...)
		if err == nil && !utf8.ValidString(text) {
			err = fmt.Errorf("%s is not valid UTF-8", strictjson.Quote(text))
		}
		return err
	}
	comma := func() {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
	}
	if len(meta) > 0 {
		b = append(b, `"__metadata__":{`...)
		for _, key := range slices.Sorted(maps.Keys(meta)) {
			comma()
			err := quote(key)
			b = append(b, ':')
			if err == nil {
				err = quote(meta[key])
			}
			if err != nil {
				return nil, nil, fmt.Errorf("metadata %s is not valid UTF-8", strictjson.Quote(key))
			}
		}
		b = append(b, '}')
	}
	names := make(map[string]bool, 1+len(tensors))
	names[metadata] = true
	end := int64(0)
	for _, i := range order {
		t := &tensors[i]
		if names[t.Name] {
			return nil, nil, fmt.Errorf("tensor %s cannot have this name: another entry of the header has it", strictjson.Quote(t.Name))
		}
		names[t.Name] = true
		if bitsOf[t.DType] == 0 {
			return nil, nil, fmt.Errorf("tensor %s: unknown dtype %s", strictjson.Quote(t.Name), strictjson.Quote(t.DType))
		}
		size, err := sizeOf(t.DType, t.Shape)
		if err == nil && size > math.MaxInt64-end {
			err = fmt.Errorf("the data would have more than %d bytes", int64(math.MaxInt64))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", strictjson.Quote(t.Name), err)
		}
		comma()
		if err := quote(t.Name); err != nil {
			return nil, nil, err
		}
		b = append(append(append(b, `:{"dtype":"`...), t.DType...), `","shape":[`...)
		for k, n := range t.Shape {
			if k > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(n), 10)
		}
		b = append(strconv.AppendInt(append(b, `],"data_offsets":[`...), end, 10), ',')
		b = append(strconv.AppendInt(b, end+size, 10), "]}"...)
		sizes, end = append(sizes, size), end+size
	}
	b = append(b, '}')
	for len(b)%alignment != 0 {
		b = append(b, ' ')
	}
	if n := len(b) - 8; n > mostHeader {
		return nil, nil, fmt.Errorf("the header would have %d bytes, must have at most %d", n, mostHeader)
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return b, sizes, nil
}

// A counter counts the bytes that are written.
type counter struct {
	w       io.Writer
	written int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.written += int64(n)
	return n, err
}
