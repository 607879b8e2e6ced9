package pnm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sort"
	"strconv"
	"sync/atomic"
	"unsafe"

	"github.com/posneg/pnm/internal/floatmode"
)

// The fingerprint is linear, so that it does not depend on how elements are cut and shared. A tensor is a stream of bytes: those of element
// i, in little-endian order, begin at size·i modulo 2⁶⁴, where i counts from the beginning of the whole tensor. The stream is cut into
// words of 32 bits, and these into blocks of hashWords. Word l of block b adds to sum j = 0, 1, modulo 2⁶⁴,
//
//	M_j(name, b) · K_j[l] · word
//
// So an element of 16 bits in the upper half of a word adds the product with its bits times 2¹⁶, wherever the lower half is added. Every NaN
// counts as the one of its format in nanChecks.
//
// A single bit that flips changes both sums: it changes a word by ±2^k, k ≤ 31, and 0 < K < 2³², so that the product with K is not 0
// modulo 2⁶⁴; and M is odd.

const (
	hashWords = 1 << 10
	hashBlock = 4 * hashWords // bytes
)

// hashKeys are K_0 and K_1. Kernels read up to 16 numbers past the last one, and ignore them.
var hashKeys = func() (keys [2][hashWords + 16]uint32) {
	for l := range hashWords {
		x := scramble(1<<63 + uint64(l))
		keys[0][l], keys[1][l] = uint32(x), uint32(x>>32)
	}
	return keys
}()

// hashFactor is M_j of a block.
func hashFactor(key, block uint64, j int) uint64 {
	return scramble(key+scramble(2*block+uint64(j))) | 1
}

// hashKey is the number of a name.
func hashKey(name string) uint64 {
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(name), len(name))) // []byte(name) would allocate
	return binary.LittleEndian.Uint64(sum[:])
}

// scalesSuffix makes the name of the tensor that the scales of mxfp8 count as. In a checkpoint file they have the same name.
const scalesSuffix = ".scales"

// A Fingerprint identifies the content of a set of tensors, in 128 bits. The fingerprints of parts add up to that of the whole, so it does
// not depend on the machine, or on how the elements are cut into parts and shared among workers and processes. The zero Fingerprint is that
// of nothing, and of zeros. docs/fingerprint.md has the definition, and says what equal fingerprints prove.
type Fingerprint [2]uint64

// Add adds the fingerprint of other elements, modulo 2⁶⁴. Anything that adds 64-bit integers does the same, such as an all-reduce.
func (f *Fingerprint) Add(other Fingerprint) {
	f[0] += other[0]
	f[1] += other[1]
}

// String returns 32 hexadecimal digits: 16 of f[0], then 16 of f[1].
func (f Fingerprint) String() string { return fmt.Sprintf("%016x%016x", f[0], f[1]) }

// MarshalText is [Fingerprint.String].
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is [ParseFingerprint].
func (f *Fingerprint) UnmarshalText(text []byte) error {
	parsed, err := ParseFingerprint(string(text))
	if err == nil {
		*f = parsed
	}
	return err
}

// ParseFingerprint returns the fingerprint that [Fingerprint.String] wrote. The digits may also be upper case.
func ParseFingerprint(s string) (f Fingerprint, err error) {
	for j := range f {
		if len(s) == 32 && err == nil {
			f[j], err = strconv.ParseUint(s[16*j:][:16], 16, 64)
		}
	}
	if len(s) != 32 || err != nil {
		return Fingerprint{}, fmt.Errorf("pnm: a fingerprint has 32 hexadecimal digits, not %q", s)
	}
	return f, nil
}

// A Portion is a tensor, or a part of one, whose elements take part in a [Fingerprint].
type Portion struct {
	Name   string // of the tensor: the same in all runs that are compared
	First  uint64 // the index of the first element in the whole tensor; with mxfp8, the beginning of a row or a block
	Vector Vector // the elements; the scales of mxfp8 count as those of another tensor, Name + ".scales"

	// Copy is nil, or the Copy of an [Update] whose Params are Vector. The elements are then the float32 numbers that the next step reads:
	// those that low16 Params form with the Copy, or those of Params that Follow it.
	Copy Vector
}

// SumFingerprint returns the fingerprint of all portions; each element must be in one of them. A nil pool means the default pool.
//
// An error is a *[TensorError] that wraps a *[FormatError] if a portion is low16 without its copy, or has a copy that no step could read; a
// *[LengthError] if the copy has another length; or a *[ValueError] if First is not where mxfp8 can be cut.
func SumFingerprint(pool *Pool, portions ...Portion) (Fingerprint, error) {
	for i := range portions {
		if err := portions[i].check(); err != nil {
			return Fingerprint{}, &TensorError{Tensor: i, Name: portions[i].Name, Err: err}
		}
	}
	h := hashing{streams: make([]stream, 0, len(portions))}
	for i := range portions {
		h.add(&portions[i])
	}
	shards, pieces := split(h.bytes, pool.Workers())
	pool.pool().run(&h, shards, pieces)
	return h.value(), nil
}

// BytesFingerprint returns the fingerprint of elements of a tensor from their bytes, in little-endian order, as files have them. first is the
// index of the first element in the whole tensor. format is one of the names that [Vector.Format] returns, without the scales of mxfp8, or ""
// for bytes of which every bit counts: integers, and the scales of mxfp8. first then counts bytes.
//
// It returns an error for an unknown format, a *[FormatError] for low16, and a *[LengthError] if an element is not complete.
func BytesFingerprint(name, format string, first uint64, b []byte) (Fingerprint, error) {
	s := stream{v: vectorAs(mxfp8, b), key: hashKey(name), first: first, bytes: true, raw: format == ""}
	if !s.raw {
		f, err := formatOf(format)
		switch {
		case err != nil:
			return Fingerprint{}, err
		case f == low16:
			return Fingerprint{}, &FormatError{"elements", format, "joined with the copy"}
		case len(b)%f.size() != 0:
			return Fingerprint{}, &LengthError{"bytes", len(b), len(b) - len(b)%f.size()}
		}
		s.v.format, s.v.n = f, len(b)/f.size()
	}
	var sum Fingerprint
	s.addTo(&sum, 0, s.v.n)
	return sum, nil
}

func (p *Portion) check() error {
	v := p.Vector
	half := p.Copy.format == bf16 || p.Copy.format == f16
	switch {
	case v.format == low16 && (p.Copy.format != bf16 || p.Copy.at == nil && v.n > 0):
		return &FormatError{"copy", p.Copy.described(), "bf16 for low16 elements"}
	case p.Copy.at != nil && v.format != low16 && v.format != f32:
		return &FormatError{"elements", v.format.String(), "float32 or low16 to follow their copy"}
	case p.Copy.at != nil && !half:
		return &FormatError{"copy", p.Copy.format.String(), "bf16 or f16 for elements to follow it"}
	case p.Copy.at != nil && p.Copy.n != v.n:
		return &LengthError{"copy", p.Copy.n, v.n}
	case v.n > 0 && p.First%uint64(v.step()) != 0:
		return &ValueError{"Portion", "First", float64(p.First), fmt.Sprintf("a multiple of %d, where mxfp8 can be cut", v.step())}
	}
	return nil
}

// A hashing is the task of computing a fingerprint.
type hashing struct {
	streams []stream
	bytes   int64 // of all streams
	sums    [2]atomic.Uint64
}

// A stream is a run of elements of a tensor, or of its scales.
type stream struct {
	v, copied  Vector
	raw        bool // every byte is an element that is no NaN
	bytes      bool // v has the elements as bytes in little-endian order, at any address
	key, first uint64
	before     int64 // bytes of all streams before this one
}

// add adds a portion's elements and scales.
func (h *hashing) add(p *Portion) {
	v := p.Vector
	h.append(stream{v: v, copied: p.Copy, key: hashKey(p.Name), first: p.First})
	if v.format == mxfp8 {
		h.append(stream{v: vectorAs(mxfp8, v.Scales()), key: hashKey(p.Name + scalesSuffix), first: blocksOf(p.First, uint64(v.row)), raw: true})
	}
}

func (h *hashing) append(s stream) {
	s.v.scales = nil // so that elements can be cut anywhere
	s.before = h.bytes
	h.bytes += int64(s.v.n) * int64(s.size())
	h.streams = append(h.streams, s)
}

// size is the size of an element in bytes.
func (s *stream) size() int {
	if s.copied.at != nil {
		return f32.size()
	}
	return s.v.size()
}

// border returns the first element of s behind the cut at byte at of all streams. Within a stream, cuts are borders of blocks.
func (s *stream) border(at int64) int {
	size := int64(s.size())
	lo := min(max(at-s.before, 0), int64(s.v.n)*size)
	if lo < int64(s.v.n)*size {
		lo = max(0, lo-int64((s.first*uint64(size)+uint64(lo))%hashBlock))
	}
	return int(lo / size)
}

// run implements task.
func (h *hashing) run(part, parts int) {
	var held floatmode.Hold
	defer held.Take().Release()
	var f Fingerprint
	begin, end := h.cut(part, parts), h.cut(part+1, parts)
	i := sort.Search(len(h.streams), func(i int) bool { return h.streams[i].before > begin })
	for i = max(0, i-1); i < len(h.streams) && h.streams[i].before < end; i++ {
		s := &h.streams[i]
		s.addTo(&f, s.border(begin), s.border(end))
	}
	for j := range f {
		h.sums[j].Add(f[j])
	}
}

// cut returns where a part begins.
func (h *hashing) cut(part, parts int) int64 {
	if part == parts {
		return h.bytes
	}
	return h.bytes / int64(parts) * int64(part)
}

func (h *hashing) value() Fingerprint { return Fingerprint{h.sums[0].Load(), h.sums[1].Load()} }

// addTo adds the elements lo … hi−1 to a fingerprint.
func (s *stream) addTo(f *Fingerprint, lo, hi int) {
	if lo >= hi {
		return
	}
	raceRead(s.v.cut(lo, hi).Bytes())
	if s.copied.at != nil {
		raceRead(s.copied.cut(lo, hi).Bytes())
	}
	size := uint64(s.size())
	var room hashRoom
	for n := 0; lo < hi; lo += n {
		at := (s.first + uint64(lo)) * size
		n = min(hi-lo, int((hashBlock-at%hashBlock)/size))
		for j, sum := range hashElements(s.elements(lo, n, &room), s.raw, int(at%hashBlock)) {
			f[j] += hashFactor(s.key, at/hashBlock, j) * sum
		}
	}
}

// A hashRoom has room for a block, aligned for every format.
type hashRoom [hashBlock / 8]uint64

// elements returns n elements from lo on, at most a block, as numbers in memory.
func (s *stream) elements(lo, n int, room *hashRoom) Vector {
	v := s.v.cut(lo, lo+n)
	switch {
	case s.copied.at != nil:
		v = Vector{at: unsafe.Pointer(room), n: n}
		join(v.Float32(), s.v, s.copied, lo)
	case s.bytes && (bigEndian || uintptr(v.at)%uintptr(v.size()) != 0):
		from := v.Bytes()
		v.at = unsafe.Pointer(room)
		copy(v.Bytes(), from)
		v.format.swap(v.Bytes())
	}
	return v
}

// join reads parameters from lo on, as a step reads them.
func join(to []float32, params, copied Vector, lo int) {
	b := mixed{p: params.at, out: copied.at, formats: follow}
	if copied.format == f16 {
		b.formats |= outF16
	}
	widenParams(to, &b, params.format, lo)
}

// A nanCheck finds the NaNs among elements of a format: those whose sum of the bits in mask and of add has the highest bit. All of its
// numbers hold as many elements as fit into 64 bits.
type nanCheck struct{ mask, add, nan uint64 }

var (
	nanChecks = [...]nanCheck{
		f32:   {0x7fffffff * twice, 0x007fffff * twice, 0x7fc00000 * twice},
		f64:   {1<<63 - 1, 1<<52 - 1, 0x7ff8 << 48},
		bf16:  {0x7fff * fourTimes, 0x7f * fourTimes, 0x7fc0 * fourTimes},
		f16:   {0x7fff * fourTimes, 0x3ff * fourTimes, 0x7e00 * fourTimes},
		mxfp8: {0x7f * eightTimes, 1 * eightTimes, 0x7f * eightTimes},
	}
	noNaN nanCheck
)

const (
	twice      = 1<<32 + 1
	fourTimes  = (1<<16 + 1) * twice
	eightTimes = (1<<8 + 1) * fourTimes
)

// hashElements returns Σ K_j[l]·word for elements within one block, whose bytes begin at a given offset from the block's first.
func hashElements(v Vector, raw bool, at int) (sums [2]uint64) {
	check := &nanChecks[v.format]
	if raw {
		check = &noNaN
	}
	size := v.size()
	if active != generic {
		head := min((4-at%4)%4/size, v.n) // elements before the first whole word
		if whole := (v.n - head) &^ (hashLine/size - 1); whole > 0 {
			middle := v.cut(head, head+whole)
			if s, ok := hashAssembly(middle, at+head*size, check); ok {
				sums = s
				hashReference(&sums, v.cut(0, head), at, check)
				v, at = v.cut(head+whole, v.n), at+(head+whole)*size
			}
		}
	}
	hashReference(&sums, v, at, check)
	return sums
}

// hashLine divides the number of bytes that assembly hashes. They begin with a word.
const hashLine = 128

// hashReference adds elements within a block to its sums.
func hashReference(sums *[2]uint64, v Vector, at int, check *nanCheck) {
	switch v.size() {
	case 1:
		hashGeneric[uint8](sums, v, at, check)
	case 2:
		hashGeneric[uint16](sums, v, at, check)
	case 4:
		hashGeneric[uint32](sums, v, at, check)
	case 8:
		hashGeneric[uint64](sums, v, at, check)
	}
}

func hashGeneric[T uint8 | uint16 | uint32 | uint64](sums *[2]uint64, v Vector, at int, check *nanCheck) {
	size := unsafe.Sizeof(*new(T))
	mask, add, nan := T(check.mask), T(check.add), T(check.nan)
	k0, k1, s0, s1 := &hashKeys[0], &hashKeys[1], uint64(0), uint64(0)
	offset := uintptr(at)
	for _, x := range unsafe.Slice((*T)(v.at), v.n) {
		if (x&mask+add)>>(8*size-1) != 0 {
			x = nan
		}
		bits, l := uint64(x)<<(8*(offset%4)), offset/4%hashWords
		s0 += uint64(k0[l]) * (bits & (1<<32 - 1))
		s1 += uint64(k1[l]) * (bits & (1<<32 - 1))
		if size == 8 {
			s0 += uint64(k0[l+1]) * (bits >> 32)
			s1 += uint64(k1[l+1]) * (bits >> 32)
		}
		offset += size
	}
	sums[0] += s0
	sums[1] += s1
}
