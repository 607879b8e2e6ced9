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

// blockSize is the number of bytes that are copied, written or summed in one piece. The garbage collector waits for a piece, and
// the cache of a processor holds it.
const blockSize = 128 << 10

// ioBlocks are buffers between memory and a file, one for each goroutine.
type ioBlocks [][]byte

func newBlocks() ioBlocks {
	b := make(ioBlocks, min(runtime.GOMAXPROCS(0), 4)) // four goroutines reach the memory's speed
	for i := range b {
		words := make([]uint64, blockSize/8) // aligned for every format
		b[i] = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), blockSize)
	}
	return b
}

// each calls do for 0 … n−1 on several goroutines, and returns one of their errors. If do panics, each panics on the caller's goroutine: a
// caller's reader may panic, and the caller may recover.
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

// A source is the content of a tensor in a file: bytes in memory, or parameters joined with their copy.
type source struct {
	name      string  // in the file
	first     uint64  // the number of the first element in the whole tensor
	format    *format // in the file
	bytes     []byte
	v, copied pnm.Vector // used instead of bytes if copied is not nil
}

// sourceOf returns the source of a vector's elements.
func sourceOf(name string, first uint64, v pnm.Vector) source {
	return source{name: name, first: first, format: formatOf(v), bytes: v.Bytes()}
}

// paramsOf returns the parameters of a tensor as its next step will read them.
func paramsOf(tensor string, u *pnm.Update) source {
	name, first := paramsName+tensor, u.Rounding.First
	if half := followed(u); !half.IsNil() {
		return source{name: name, first: first, format: &formats[0], v: u.Params, copied: half}
	}
	return sourceOf(name, first, u.Params)
}

// followed returns the copy if the next step takes over what others write to it, or else nil.
func followed(u *pnm.Update) pnm.Vector {
	if u.Follow || u.Params.Format() == low16Format {
		return u.Copy
	}
	return pnm.Vector{}
}

// pieces calls use with the elements in little-endian order, piece by piece. If memory does not have them so, it uses the block.
func (s source) pieces(block []byte, use func(b []byte) error) error {
	if !s.copied.IsNil() {
		return s.joinedPieces(block, use)
	}
	for b := range slices.Chunk(s.bytes, blockSize) {
		if bigEndian {
			b = block[:copy(block, b)]
			s.format.swap(b)
		}
		if err := use(b); err != nil {
			return err
		}
	}
	return nil
}

// joinedPieces is pieces for parameters with a copy.
func (s source) joinedPieces(block []byte, use func(b []byte) error) error {
	const most = blockSize / 16 // elements; after them the block has room for as many in float32 and in 16 bits
	for lo := 0; lo < s.v.Len(); lo += most {
		hi := min(lo+most, s.v.Len())
		v, copied := s.v.Slice(lo, hi), s.copied.Slice(lo, hi)
		b := block[:4*v.Len()]
		to := formats[0].vector(b)
		if v.Format() == low16Format {
			if err := pnm.Join(to, copied, v); err != nil {
				panic(err)
			}
		} else {
			set(to, v)
			follow(to, copied, block[4*most:])
		}
		formats[0].swap(b)
		if err := use(b); err != nil {
			return err
		}
	}
	return nil
}

// follow gives float32 parameters that do not round to their copy the copy's value, as a step does.
func follow(params, copied pnm.Vector, scratch []byte) {
	n := params.Len()
	wide, bits := elementsOf[float32](scratch[:4*n]), elementsOf[uint16](scratch[4*n:6*n])
	rounded := pnm.BF16(bits)
	if copied.Format() == "f16" {
		rounded = pnm.F16(bits)
	}
	set(rounded, params)
	set(pnm.Float32(wide), copied)
	to := params.Float32()
	for i, written := range copied.Bits() {
		if bits[i] != written {
			to[i] = wide[i]
		}
	}
}

func (s source) write(w io.Writer, block []byte) error {
	return s.pieces(block, func(b []byte) error {
		_, err := w.Write(b)
		return err
	})
}

// checksums returns the checksum of each source, and the fingerprint of all.
func checksums(sources []source, b ioBlocks) ([]uint32, pnm.Fingerprint) {
	sums, fingerprints := make([]uint32, len(sources)), make([]pnm.Fingerprint, len(sources))
	b.each(len(sources), func(i int, block []byte) error {
		s := sources[i]
		return s.pieces(block, func(b []byte) error {
			sums[i] = crc32.Update(sums[i], crc32.IEEETable, b)
			fingerprints[i].Add(fingerprintOf(s.name, s.format, s.first, b))
			s.first += uint64(len(b) / s.format.size)
			return nil
		})
	})
	return sums, totalOf(fingerprints)
}

// A read reads a blob of a file. The read of the scales of converted elements only verifies them: they are loaded with the elements.
type read struct {
	from  *blob
	bytes []byte     // the destination if only the order of bytes may differ; nil if elements are converted
	to    pnm.Vector // the destination of converted elements
	upper pnm.Vector // the upper halves, if to is low16
}

// appendReads appends the reads for a vector.
func appendReads(reads []read, from *blob, to, upper pnm.Vector) []read {
	x, scales := read{from: from, to: to, upper: upper}, read{from: from.scales}
	if from.format.name == to.Format() && from.rows == rowsOf(to) {
		x, scales.bytes = read{from: from, bytes: to.Bytes()}, to.Scales()
	}
	if reads = append(reads, x); from.scales != nil {
		reads = append(reads, scales)
	}
	return reads
}

func (x read) size() int64 { return x.from.n * int64(x.from.format.size) }

// byRuns reports whether x is converted by runs of mxfp8 blocks: convert then reads from the file.
func (x read) byRuns() bool {
	return x.bytes == nil && (x.from.format.name == mxfp8Format || x.to.Format() == mxfp8Format)
}

// A part is a list of reads that are adjacent in the file and fit into a block together, or a single read.
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
			if hi > lo && (x.byRuns() || reads[lo].byRuns() || x.from.at != end || !aligned || end+x.size()-first > blockSize) {
				break
			}
			end += x.size()
		}
		parts = append(parts, reads[lo:hi])
	}
	return parts
}

// pieces reads into a block and calls use with the data of each read: with all of it, or, for a single large read, piece by piece, from
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

// verify compares the checksums, and the fingerprint if the options have one.
func (c *checkpointFile) verify(saved []*savedTensor, reads []read, l *LoadOptions, b ioBlocks) error {
	if l.Fingerprint != nil && l.StateOnly { // the parameters are not loaded, but their fingerprint counts
		reads = slices.Clone(reads)
		for _, s := range saved {
			if s.params != nil {
				reads = append(reads, read{from: s.params})
			}
		}
	}
	parts := partsOf(reads)
	fingerprints := make([]pnm.Fingerprint, len(parts))
	err := b.each(len(parts), func(i int, block []byte) error { return parts[i].verify(c.r, block, l, &fingerprints[i]) })
	if err != nil || l.Fingerprint == nil {
		return err
	}
	got := totalOf(fingerprints)
	for _, s := range saved {
		got.Add(ofCount(s.Name, s.first(), s.Step))
	}
	if got != *l.Fingerprint {
		return fmt.Errorf("%w: it is %s, must be %s", ErrFingerprint, got, *l.Fingerprint)
	}
	return nil
}

// verify compares the checksums, and adds the fingerprint of the reads to sum, each only if the options ask for it.
func (p part) verify(r io.ReaderAt, block []byte, l *LoadOptions, sum *pnm.Fingerprint) error {
	sums := make([]uint32, len(p))
	err := p.pieces(r, block, func(i, lo int, data []byte) {
		b := p[i].from
		if !l.Unverified {
			sums[i] = crc32.Update(sums[i], crc32.IEEETable, data)
		}
		if l.Fingerprint != nil {
			sum.Add(fingerprintOf(b.name, b.format, b.first+uint64(lo), data))
		}
	})
	if err != nil {
		return err
	}
	for i, x := range p {
		if !l.Unverified && x.from.sum != nil && x.from.sum.value != sums[i] {
			return fmt.Errorf("%s: %w", strictjson.Quote(x.from.name), ErrChecksum)
		}
	}
	return nil
}

// load reads the elements, through a block if they are converted.
func (p part) load(r io.ReaderAt, block []byte) error {
	switch x := p[0]; {
	case x.byRuns():
		return x.convert(r, block)
	case len(p) == 1 && x.bytes != nil:
		at := 0
		for b := range slices.Chunk(x.bytes, blockSize) {
			if err := x.from.read(r, b, at); err != nil {
				return err
			}
			at += len(b) / x.from.format.size
		}
		return nil
	}
	return p.pieces(r, block, func(i, lo int, data []byte) {
		x := p[i]
		f := x.from.format
		f.swap(data)
		switch {
		case x.bytes != nil:
			copy(x.bytes[lo*f.size:], data)
		case f.vector != nil:
			x.set(lo, f.vector(data))
		}
	})
}

// read reads the elements from lo on.
func (b *blob) read(r io.ReaderAt, to []byte, lo int) error {
	if err := safetensors.ReadFull(r, to, b.at+int64(lo)*int64(b.format.size)); err != nil {
		return fmt.Errorf("%s: %w", strictjson.Quote(b.name), err)
	}
	b.format.swap(to)
	return nil
}

// mostConverted is the number of elements that are converted at a time: a block of memory has room for them in float32, for one mxfp8
// block more than them, and for their scales.
const mostConverted = blockSize / 8

// convert reads elements from mxfp8 or into it.
func (x read) convert(r io.ReaderAt, block []byte) error {
	for lo, n := 0, x.to.Len(); lo < n; {
		hi, _ := rowsOf(x.to).run(lo, min(lo+mostConverted, n))
		v, err := x.from.elements(r, block, lo, hi)
		if err != nil {
			return err
		}
		x.set(lo, v)
		lo = hi
	}
	return nil
}

// elements returns the elements lo … hi−1, at most mostConverted, in a block of memory; those of mxfp8 as float32.
func (b *blob) elements(r io.ReaderAt, block []byte, lo, hi int) (pnm.Vector, error) {
	if b.scales == nil {
		data := block[:(hi-lo)*b.format.size]
		err := b.read(r, data, lo)
		return b.format.vector(data), err
	}
	begin := b.rows.begin(lo)
	n, first := hi-begin, b.rows.block(begin)
	wide, data := elementsOf[float32](block[:4*n]), block[4*n:][:n]
	scales := block[5*n:][:b.rows.block(b.rows.begin(hi-1))+1-first]
	if err := cmp.Or(b.read(r, data, begin), b.scales.read(r, scales, first)); err != nil {
		return pnm.Vector{}, err
	}
	for at := begin; at < hi; {
		end, as := b.rows.run(at, hi)
		k := as.block(end - at)
		set(pnm.Float32(wide[at-begin:end-begin]), as.vector(data[at-begin:end-begin], scales[:k]))
		at, scales = end, scales[k:]
	}
	return pnm.Float32(wide[lo-begin:]), nil
}

// set sets the elements from lo on.
func (x read) set(lo int, v pnm.Vector) {
	to := portion(x.to, lo, lo+v.Len())
	if to.Format() != low16Format {
		set(to, v)
		return
	}
	if err := pnm.Split(x.upper.Slice(lo, lo+v.Len()), to, v); err != nil {
		panic(err)
	}
}
