package optim

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/safetensors"
	"github.com/posneg/pnm/internal/strictjson"
)

// blockSize is how many bytes are copied, written or summed in one piece. The garbage collector waits for such a piece, and a
// processor's cache holds it.
const blockSize = 128 << 10

// ioBlocks are memory for elements on their way from or to a file, one block for each goroutine.
type ioBlocks [][]byte

func newBlocks() ioBlocks {
	b := make(ioBlocks, min(runtime.GOMAXPROCS(0), 4)) // more are not faster than memory
	for i := range b {
		words := make([]uint64, blockSize/8) // aligned for every format
		b[i] = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), blockSize)
	}
	return b
}

// each calls do for 0 … n−1, on several goroutines, and returns an error of one of them. It panics if one does: a caller's reader may,
// and its caller recover.
func (b ioBlocks) each(n int, do func(i int, block []byte) error) error {
	var next atomic.Int64
	errs := make([]error, min(len(b), n))
	panics := make([]any, len(errs))
	var all sync.WaitGroup
	work := func(k int) {
		defer func() {
			if panics[k] = recover(); panics[k] != nil {
				next.Store(int64(n))
			}
		}()
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			if err := do(i, b[k]); err != nil {
				errs[k] = err
				next.Store(int64(n))
			}
		}
	}
	for k := 1; k < len(errs); k++ {
		all.Go(func() { work(k) })
	}
	if n > 0 {
		work(0)
	}
	all.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p)
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pieces calls use with the elements of a vector in little-endian order, piece by piece; by way of a block where the machine's order
// is another.
func pieces(v pnm.Vector, block []byte, use func(b []byte) error) error {
	for b := range slices.Chunk(v.Bytes(), blockSize) {
		if bigEndian {
			b = block[:copy(block, b)]
			formatOf(v).swap(b)
		}
		if err := use(b); err != nil {
			return err
		}
	}
	return nil
}

func writeVector(w io.Writer, v pnm.Vector, block []byte) error {
	return pieces(v, block, func(b []byte) error {
		_, err := w.Write(b)
		return err
	})
}

// checksums returns those of vectors.
func checksums(vectors []pnm.Vector, b ioBlocks) []uint32 {
	sums := make([]uint32, len(vectors))
	b.each(len(vectors), func(i int, block []byte) error {
		return pieces(vectors[i], block, func(b []byte) error {
			sums[i] = crc32.Update(sums[i], crc32.IEEETable, b)
			return nil
		})
	})
	return sums
}

// A read is a vector that is to be read from a file.
type read struct {
	to   pnm.Vector
	from *blob
}

func (x read) size() int64 { return x.from.n * int64(x.from.format.size) }

// A part is reads that lie side by side in a file and fit into a block together, or one that does not.
type part []read

// partsOf sorts reads by their place in the file, and cuts them into parts.
func partsOf(reads []read) (parts []part) {
	slices.SortFunc(reads, func(a, b read) int {
		return cmp.Or(cmp.Compare(a.from.at, b.from.at), cmp.Compare(a.size(), b.size()))
	})
	for lo, hi := 0, 0; lo < len(reads); lo = hi {
		first := reads[lo].from.at
		end := first
		for ; hi < len(reads); hi++ {
			x := reads[hi]
			aligned := (x.from.at-first)%int64(x.from.format.size) == 0
			if hi > lo && (x.from.at != end || !aligned || end+x.size()-first > blockSize) {
				break
			}
			end += x.size()
		}
		parts = append(parts, reads[lo:hi])
	}
	return parts
}

// pieces calls use with the data of each read, by way of a block: with the whole of it, or of a large one piece by piece, from
// element lo on.
func (p part) pieces(r io.ReaderAt, block []byte, use func(i, lo int, data []byte)) error {
	first, last := p[0].from.at, p[len(p)-1]
	end := last.from.at + last.size()
	for at := first; at < end; at += blockSize {
		b := block[:min(blockSize, end-at)]
		if err := safetensors.ReadFull(r, b, at); err != nil {
			return fmt.Errorf("%s: %w", strictjson.Quote(p[0].from.name), err)
		}
		if len(p) == 1 {
			use(0, int(at-first)/p[0].from.format.size, b)
			continue
		}
		for i, x := range p {
			begin := x.from.at - first
			use(i, 0, b[begin:begin+x.size()])
		}
	}
	return nil
}

// verify compares the checksums.
func (p part) verify(r io.ReaderAt, block []byte) error {
	sums := make([]uint32, len(p))
	err := p.pieces(r, block, func(i, _ int, data []byte) { sums[i] = crc32.Update(sums[i], crc32.IEEETable, data) })
	if err != nil {
		return err
	}
	for i, x := range p {
		if x.from.sum != nil && x.from.sum.value != sums[i] {
			return fmt.Errorf("%s: %w", strictjson.Quote(x.from.name), ErrChecksum)
		}
	}
	return nil
}

// load reads the elements; by way of a block where the formats differ.
func (p part) load(r io.ReaderAt, block []byte) error {
	if x := p[0]; len(p) == 1 && x.from.format == formatOf(x.to) {
		at := x.from.at
		for b := range slices.Chunk(x.to.Bytes(), blockSize) {
			if err := safetensors.ReadFull(r, b, at); err != nil {
				return fmt.Errorf("%s: %w", strictjson.Quote(x.from.name), err)
			}
			x.from.format.swap(b)
			at += int64(len(b))
		}
		return nil
	}
	return p.pieces(r, block, func(i, lo int, data []byte) {
		f := p[i].from.format
		f.swap(data)
		v := f.vector(data)
		set(p[i].to.Slice(lo, lo+v.Len()), v)
	})
}
