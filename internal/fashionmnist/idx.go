package fashionmnist

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
)

// readIDX reads a list of items from an IDX file of unsigned bytes, which may be gzip-compressed. The format is that of
// http://yann.lecun.com/exdb/mnist: two zeros, the element type, the number of dimensions, the dimensions as big-endian
// 32-bit numbers, the elements.
//
// What the header claims is believed only as far as the data goes: memory grows with what is read.
func readIDX(r io.Reader, item ...int) ([]byte, error) {
	b := bufio.NewReader(r)
	if magic, _ := b.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, err
		}
		b = bufio.NewReader(z)
	}
	header := make([]uint32, 2+len(item))
	if err := binary.Read(b, binary.BigEndian, header); err != nil {
		return nil, fmt.Errorf("header of %d bytes: %w", 4*len(header), err)
	}
	const unsignedByte = 0x08
	if want := uint32(unsignedByte<<8 | 1 + len(item)); header[0] != want {
		return nil, fmt.Errorf("magic number is %#08x, must be %#08x: unsigned bytes in %d dimensions", header[0], want, 1+len(item))
	}
	size := int64(header[1])
	for i, want := range item {
		if header[2+i] != uint32(want) {
			return nil, fmt.Errorf("dimension %d of an item is %d, must be %d", i+1, header[2+i], want)
		}
		size *= int64(want)
	}
	data, err := io.ReadAll(io.LimitReader(b, size+1)) // one more, to see that there is no more
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != size {
		more := ""
		if int64(len(data)) > size {
			more = " or more"
		}
		return nil, fmt.Errorf("%d%s bytes follow the header, must be %d for %d items", len(data), more, size, header[1])
	}
	return data, nil
}
