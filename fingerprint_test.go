package pnm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

var hashedFormats = []format{f32, f64, bf16, f16, mxfp8}

// fileBytes returns the elements as a file has them, with canonical NaNs.
func fileBytes(v Vector) (b []byte) {
	for i := range v.n {
		switch v.format {
		case f32:
			x := v.Float32()[i]
			if x != x {
				x = math.Float32frombits(0x7fc00000)
			}
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		case f64:
			x := v.Float64()[i]
			if x != x {
				x = math.Float64frombits(0x7ff8000000000000)
			}
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
		case bf16, f16:
			x, nan, wide := v.Bits()[i], uint16(0x7fc0), widenBF16
			if v.format == f16 {
				nan, wide = 0x7e00, widenF16
			}
			if w := wide(x); w != w {
				x = nan
			}
			b = binary.LittleEndian.AppendUint16(b, x)
		case mxfp8:
			x := v.Bytes()[i]
			if w := widenMX(x, 127); w != w {
				x = 0x7f
			}
			b = append(b, x)
		}
	}
	return b
}

// fingerprintOracle is the fingerprint of a tensor's bytes as docs/fingerprint.md defines it.
func fingerprintOracle(name string, data []byte) (f Fingerprint) {
	digest := sha256.Sum256([]byte(name))
	key := binary.LittleEndian.Uint64(digest[:8])
	data = append(slices.Clone(data), 0, 0, 0)
	for w := range len(data) / 4 {
		word := uint64(binary.LittleEndian.Uint32(data[4*w:]))
		block, lane := uint64(w/1024), uint64(w%1024)
		keys := splitMix(1<<63 + lane)
		f[0] += (splitMix(key+splitMix(2*block)) | 1) * (keys % (1 << 32)) * word
		f[1] += (splitMix(key+splitMix(2*block+1)) | 1) * (keys >> 32) * word
	}
	return f
}

// splitMix is the first output of SplitMix64 with that state.
func splitMix(state uint64) uint64 {
	z := state + 0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// portionOracle is the fingerprint of a whole tensor.
func portionOracle(p Portion) Fingerprint {
	f := fingerprintOracle(p.Name, fileBytes(p.Vector))
	if p.Vector.format == mxfp8 {
		f.Add(fingerprintOracle(p.Name+".scales", p.Vector.Scales()))
	}
	return f
}

func mustFingerprint(t testing.TB, pool *Pool, portions ...Portion) Fingerprint {
	t.Helper()
	f, err := SumFingerprint(pool, portions...)
	wantNoError(t, err)
	return f
}

// filled returns a vector with special numbers among others; about one element in 64 is a NaN.
func filled(rng *rand.Rand, f format, n int) Vector {
	v := newVector(f, n)
	b := v.Bytes()
	for i := range b {
		b[i] = uint8(rng.Uint32())
	}
	for range n / 64 {
		i := rng.IntN(n)
		for k := range v.size() { // any NaN, or an infinity
			b[i*v.size()+k] |= []byte{0xff, 0x7f, 0xf0}[rng.IntN(3)]
		}
	}
	for i := range v.Scales() {
		v.Scales()[i] = uint8(rng.Uint32())
	}
	return v
}

// The fingerprint is what its definition says, for all formats and lengths.
func TestFingerprintOracle(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(51, 52))
		for _, f := range hashedFormats {
			lengths := []int{hashBlock - 1, hashBlock, hashBlock + 1, 3*hashBlock + 37}
			for n := range 300 {
				lengths = append(lengths, n)
			}
			for _, n := range lengths {
				p := Portion{Name: "state.fc.weight.exp_avg", Vector: filled(rng, f, n)}
				if got, want := mustFingerprint(t, nil, p), portionOracle(p); got != want {
					t.Fatalf("%d elements of %s: %s, want %s", n, f, got, want)
				}
			}
		}
	})
	if got := mustFingerprint(t, nil); got != (Fingerprint{}) {
		t.Errorf("the fingerprint of nothing is %s", got)
	}
	for _, f := range hashedFormats {
		if got := mustFingerprint(t, nil, Portion{Name: "a", First: 64, Vector: newVector(f, 5000)}); got != (Fingerprint{}) {
			t.Errorf("the fingerprint of zeros in %s is %s", f, got)
		}
	}
	if got := mustFingerprint(t, nil, Portion{Name: "a"}, Portion{Vector: Float32([]float32{})}); got != (Fingerprint{}) {
		t.Errorf("the fingerprint of no elements is %s", got)
	}
}

// portionsOf cuts a tensor at random, in any order.
func portionsOf(rng *rand.Rand, p Portion) (all []Portion) {
	for p.Vector.n > 0 {
		_, k := p.Vector.borders(min(1+rng.IntN(1<<rng.IntN(15)), p.Vector.n))
		part := p
		part.Vector = p.Vector.Slice(0, k)
		if p.Copy.at != nil {
			part.Copy = p.Copy.Slice(0, k)
			p.Copy = p.Copy.Slice(k, p.Copy.n)
		}
		p.Vector = p.Vector.Slice(k, p.Vector.n)
		p.First += uint64(k)
		all = append(all, part)
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// withRows returns mxfp8 with rows of a length that no block divides.
func withRows(t *testing.T, rng *rand.Rand, rows, row int) Vector {
	t.Helper()
	v, err := MXFP8(filled(rng, mxfp8, rows*row).Bytes(), make([]byte, rows*((row+31)/32)), row)
	wantNoError(t, err)
	for i := range v.Scales() {
		v.Scales()[i] = uint8(rng.Uint32())
	}
	return v
}

// testHash compares sums in the active tier with the reference, for all lengths.
func testHash(t *testing.T, rng *rand.Rand, place func(n int) Vector) {
	t.Helper()
	kinds := []nanCheck{noNaN, nanChecks[place(0).format]}
	for n := range 3*hashLine/place(0).size() + 2 {
		v := place(n)
		if raw := filled(rng, v.format, n); rng.IntN(2) == 0 {
			copy(v.Bytes(), raw.Bytes()) // some NaNs; else what the last call has left, which is similar
		}
		for raw, check := range kinds {
			at := v.size() * rng.IntN(hashBlock/v.size()-n+1)
			if rng.IntN(4) == 0 {
				at = hashBlock - n*v.size()
			}
			var want [2]uint64
			hashReference(&want, v, at, &check)
			if got := hashElements(v, raw == 0, at); got != want {
				t.Fatalf("%d elements of %s at byte %d: %x, want %x", n, v.format, at, got, want)
			}
		}
	}
}

// Every tier hashes as the reference does, at all alignments.
func TestHash(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(67, 68))
		for _, f := range hashedFormats {
			for at := range 64 / f.size() {
				testHash(t, rng, func(n int) Vector { return flatVector(f, at+n).cut(at, at+n) })
			}
		}
	})
}

// flatVector returns a vector without scales, which can be cut anywhere.
func flatVector(f format, n int) Vector {
	v := newVector(f, n)
	v.scales = nil
	return v
}

// However tensors are cut, ordered, added up and shared among workers, their fingerprint is the same.
func TestFingerprintDependsOnElementsAlone(t *testing.T) {
	sharing(t)
	var pools []*Pool
	for _, n := range workerCounts() {
		pools = append(pools, newTestPool(t, n))
	}
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(53, 54))
		for range 40 {
			var whole []Portion
			var want Fingerprint
			for i := range 1 + rng.IntN(6) {
				p := Portion{Name: string(rune('a' + i)), First: uint64(rng.IntN(100)) * 32}
				if rng.IntN(4) == 0 {
					p.First = 1 << 61
				}
				f := hashedFormats[rng.IntN(len(hashedFormats))]
				if p.Vector = filled(rng, f, rng.IntN(1<<rng.IntN(17))); f == mxfp8 && rng.IntN(2) == 0 {
					row := []int{1, 3, 33, 70}[rng.IntN(4)]
					p.Vector, p.First = withRows(t, rng, rng.IntN(200), row), uint64(row*rng.IntN(1000))
				}
				whole = append(whole, p)
				want.Add(mustFingerprint(t, nil, p))
			}
			for _, pool := range pools {
				var parts []Portion
				for _, p := range whole {
					parts = append(parts, portionsOf(rng, p)...)
				}
				var sum Fingerprint
				for len(parts) > 0 {
					k := 1 + rng.IntN(len(parts))
					sum.Add(mustFingerprint(t, pool, parts[:k]...))
					parts = parts[k:]
				}
				if got := mustFingerprint(t, pool, whole...); got != want || sum != want {
					t.Fatalf("%d workers: %s, and %s in parts, want %s", pool.Workers(), got, sum, want)
				}
			}
		}
	})
}

// A part of a tensor has the fingerprint of the whole in which all else is 0.
func TestFingerprintOfPart(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(55, 56))
		whole := func(v Vector, first, n int) Portion {
			w := newVector(v.format, n)
			copy(w.Bytes()[first*v.size():], v.Bytes())
			if v.format == mxfp8 {
				copy(w.Scales()[first/32:], v.Scales())
			}
			return Portion{Name: "a", Vector: w}
		}
		for _, f := range hashedFormats {
			for range 200 {
				first, n := rng.IntN(6000), rng.IntN(3000)
				if f == mxfp8 {
					first &^= 31
				}
				v := filled(rng, f, n)
				got := mustFingerprint(t, nil, Portion{Name: "a", First: uint64(first), Vector: v})
				if want := portionOracle(whole(v, first, first+n)); got != want {
					t.Fatalf("%d elements of %s from %d on: %s, want %s", n, f, first, got, want)
				}
			}
		}
		v := withRows(t, rng, 20, 70) // the part of rows 7 … 12 has scales 21 … 38
		part := v.Slice(7*70, 13*70)
		want := fingerprintOracle("a", append(make([]byte, 7*70), fileBytes(part)...))
		want.Add(fingerprintOracle("a.scales", append(make([]byte, 21), part.Scales()...)))
		if got := mustFingerprint(t, nil, Portion{Name: "a", First: 7 * 70, Vector: part}); got != want {
			t.Errorf("rows of mxfp8: %s, want %s", got, want)
		}
	})
}

// Parameters with a copy count as the float32 numbers that a step reads.
func TestFingerprintOfCopies(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(57, 58))
		for range 100 {
			x := filled(rng, f32, rng.IntN(5000))
			first := uint64(rng.IntN(5000))
			want := mustFingerprint(t, nil, Portion{Name: "p", First: first, Vector: x})
			upper, low := newVector(bf16, x.n), newVector(low16, x.n)
			wantNoError(t, Split(upper, low, x))
			if got := mustFingerprint(t, nil, Portion{Name: "p", First: first, Vector: low, Copy: upper}); got != want {
				t.Fatalf("%d split parameters: %s, want %s", x.n, got, want)
			}
			for _, f := range []format{bf16, f16} {
				copied := newVector(f, x.n)
				convert(copied, x)
				p := Portion{Name: "p", First: first, Vector: x, Copy: copied}
				if got := mustFingerprint(t, nil, p); got != want {
					t.Fatalf("%d parameters with a copy in %s: %s, want %s", x.n, f, got, want)
				}
				if x.n == 0 {
					continue
				}
				i := rng.IntN(x.n)
				copied.Bits()[i] = 0x4040 // 3 in bf16
				followed := x.Clone()
				convert(followed.cut(i, i+1), copied.cut(i, i+1))
				if got, want := mustFingerprint(t, nil, p), mustFingerprint(t, nil, Portion{Name: "p", First: first, Vector: followed}); got != want {
					t.Fatalf("a parameter follows its copy in %s: %s, want %s", f, got, want)
				}
			}
		}
	})
}

// Bytes count as the elements of their format, or as they are, wherever they begin in memory.
func TestBytesFingerprint(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(59, 60))
		for range 100 {
			memory, at := make([]byte, 6016), rng.IntN(16)
			b := memory[at : at+rng.IntN(6000)]
			for i := range b {
				b[i] = []byte{0x7f, 0xff, uint8(rng.Uint32())}[rng.IntN(3)]
			}
			first := rng.IntN(6000)
			want := fingerprintOracle("step.a", append(make([]byte, first), b...))
			got, err := BytesFingerprint("step.a", "", uint64(first), b)
			if wantNoError(t, err); got != want {
				t.Fatalf("%d bytes from %d on: %s, want %s", len(b), first, got, want)
			}
			for _, f := range hashedFormats {
				v := filled(rng, f, rng.IntN(6000/f.size()))
				b := memory[at:][:copy(memory[at:], v.Bytes())]
				f.swap(b)
				got, err := BytesFingerprint("a", f.String(), uint64(first), b)
				if want := fingerprintOracle("a", append(make([]byte, first*f.size()), fileBytes(v)...)); err != nil || got != want {
					t.Fatalf("%d elements of %s, %d bytes into a word: %s, want %s (%v)", v.n, f, at, got, want, err)
				}
			}
		}
	})
	bytes := func(format string) func([]float32) error {
		return func([]float32) error {
			_, err := BytesFingerprint("a", format, 0, make([]byte, 13))
			return err
		}
	}
	refuse(t, []refusal{
		{"low16", bytes("low16"), &FormatError{"elements", "low16", "joined with the copy"}, "elements is low16"},
		{"half an element", bytes("float32"), &LengthError{"bytes", 13, 12}, "length of bytes is 13, must be 12"},
	})
	if _, err := BytesFingerprint("a", "F32", 0, nil); err == nil {
		t.Error("F32 is a format")
	}
}

// No factor is 0 or even, so that no single bit can flip without a change of both sums.
func TestHashKeys(t *testing.T) {
	for j := range hashKeys {
		for l, k := range hashKeys[j] {
			if (k == 0) != (l >= hashWords) {
				t.Errorf("K_%d[%d] = %d", j, l, k)
			}
		}
		if hashFactor(1, 2, j)&1 == 0 {
			t.Error("a factor is even")
		}
	}
}

// All NaNs of a format are one, and all other elements differ from each other.
func TestFingerprintOfNaNs(t *testing.T) {
	perTier(t, func(t *testing.T) {
		const at = 70 // of 200 elements
		wants := func(v Vector, isNaN bool, seen map[Fingerprint]bool, nan Fingerprint) {
			t.Helper()
			f := mustFingerprint(t, nil, Portion{Name: "a", Vector: v})
			if isNaN != (f == nan) || !isNaN && seen[f] {
				t.Fatalf("%s, bytes % x: a NaN is %v", v.Format(), v.cut(at, at+1).Bytes(), isNaN)
			}
			seen[f] = true
		}
		for _, f := range []format{bf16, f16} {
			v, seen := newVector(f, 200), map[Fingerprint]bool{}
			v.Bits()[at] = 0x7fff
			nan := mustFingerprint(t, nil, Portion{Name: "a", Vector: v})
			for x := range 1 << 16 {
				v.Bits()[at] = uint16(x)
				w := v.cut(at, at+1).wide()[0]
				wants(v, w != w, seen, nan)
			}
		}
		v, seen := newVector(mxfp8, 200), map[Fingerprint]bool{}
		v.Bytes()[at] = 0x7f
		nan := mustFingerprint(t, nil, Portion{Name: "a", Vector: v})
		for x := range 256 {
			v.Bytes()[at] = uint8(x)
			wants(v, x&0x7f == 0x7f, seen, nan)
		}
		for bit := range 64 { // each payload of one bit, with either sign, in both types
			v := newVector(f64, 200)
			v.Float64()[at] = math.NaN()
			nan := mustFingerprint(t, nil, Portion{Name: "a", Vector: v})
			b := 0x7ff<<52 | uint64(1)<<bit
			v.Float64()[at] = math.Float64frombits(b)
			wants(v, b<<12 != 0, map[Fingerprint]bool{}, nan)
			b |= 1 << 63
			v.Float64()[at] = math.Float64frombits(b)
			wants(v, b<<12 != 0, map[Fingerprint]bool{}, nan)

			v = newVector(f32, 200)
			v.Float32()[at] = float32(math.NaN())
			nan = mustFingerprint(t, nil, Portion{Name: "a", Vector: v})
			narrow := 0xff<<23 | uint32(1)<<(bit%32) | uint32(bit/32)<<31
			v.Float32()[at] = math.Float32frombits(narrow)
			wants(v, narrow<<9 != 0, map[Fingerprint]bool{}, nan)
		}
	})
}

// A single bit that flips changes both sums.
func TestFingerprintOfFlippedBit(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(61, 62))
		flip := func(v Vector, memory []byte, bit int) {
			t.Helper()
			p := Portion{Name: "a", Vector: v}
			before := mustFingerprint(t, nil, p)
			canonical := string(fileBytes(v)) + string(v.Scales())
			memory[bit/8] ^= 1 << (bit % 8)
			after := mustFingerprint(t, nil, p)
			if canonical == string(fileBytes(v))+string(v.Scales()) { // one NaN became another
				if after != before {
					t.Fatalf("%s: a NaN's bit %d changes the fingerprint", v.Format(), bit)
				}
				return
			}
			if after[0] == before[0] || after[1] == before[1] {
				t.Fatalf("%s: bit %d flips, and the fingerprint goes from %s to %s", v.Format(), bit, before, after)
			}
		}
		for _, f := range hashedFormats {
			v := filled(rng, f, 129)
			for bit := range 8 * len(v.Bytes()) {
				flip(v, v.Bytes(), bit)
			}
			for bit := range 8 * len(v.Scales()) {
				flip(v, v.Scales(), bit)
			}
			v = filled(rng, f, 3*hashBlock)
			for range 50 {
				flip(v, v.Bytes(), rng.IntN(8*len(v.Bytes())))
			}
		}
	})
}

// Runs that differ in any way have fingerprints whose upper bits differ at random. (Lower bits stay where all words differ by multiples of
// a power of 2, such as numbers and their negatives.)
func TestFingerprintsDiffer(t *testing.T) {
	rng := rand.New(rand.NewPCG(63, 64))
	const rows, row = 60, 50
	weight := func() Vector {
		x := make([]float32, rows*row)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return Float32(x)
	}
	of := func(a, b Vector) Fingerprint {
		return mustFingerprint(t, nil, Portion{Name: "a", Vector: a}, Portion{Name: "b", Vector: b})
	}
	changes := map[string]func(a, b []float32){
		"another tensor":   func(a, _ []float32) { copy(a, weight().Float32()) },
		"swapped tensors":  func(a, b []float32) { swapSlices(a, b) },
		"swapped rows":     func(a, _ []float32) { swapSlices(a[:row], a[row:2*row]) },
		"swapped elements": func(a, _ []float32) { swapSlices(a[7:8], a[rows*row-3:][:1]) },
		"swapped blocks":   func(a, _ []float32) { swapSlices(a[:hashWords], a[hashWords:2*hashWords]) },
		"negated": func(a, _ []float32) {
			for i := range a {
				a[i] = -a[i]
			}
		},
		"negated rows": func(a, _ []float32) {
			for i := range 2 * row {
				a[i] = -a[i]
			}
		},
		"shifted":       func(a, _ []float32) { copy(a, append([]float32{a[len(a)-1]}, a[:len(a)-1]...)) },
		"doubled":       func(a, _ []float32) { scaleBy(a, 2) },
		"equal tensors": func(a, b []float32) { copy(a, b) },
		"last place": func(a, b []float32) {
			a[0] = math.Nextafter32(a[0], 9)
			b[0] = math.Nextafter32(b[0], 9)
		},
		"a sum kept": func(a, _ []float32) { // the words' sum stays
			a[3] = math.Float32frombits(math.Float32bits(a[3]) + 1)
			a[4] = math.Float32frombits(math.Float32bits(a[4]) - 1)
		},
	}
	seen := map[Fingerprint]bool{}
	ones, all := 0, 0
	for name, change := range changes {
		for range 100 {
			a, b := weight(), weight()
			before := of(a, b)
			change(a.Float32(), b.Float32())
			after := of(a, b)
			if seen[before] || seen[after] || before[0] == after[0] || before[1] == after[1] {
				t.Fatalf("%s: %s and %s", name, before, after)
			}
			seen[before], seen[after] = true, true
			for j := range before {
				ones += bits.OnesCount64((after[j] ^ before[j]) >> 32)
				all += 32
			}
		}
	}
	if share := float64(ones) / float64(all); math.Abs(share-0.5) > 0.02 {
		t.Errorf("%.3f of the upper bits differ", share)
	}
}

func swapSlices(a, b []float32) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

func scaleBy(a []float32, factor float32) {
	for i := range a {
		a[i] *= factor
	}
}

// A fingerprint allocates its list of tensors and little else, in all formats.
func TestFingerprintAllocates(t *testing.T) {
	perTier(t, func(t *testing.T) {
		portions := []Portion{{Name: "params.transformer.h.0.ln_1.weight", Vector: newVector(low16, 5000), Copy: newVector(bf16, 5000)}}
		for i := range 50 {
			portions = append(portions, Portion{Name: "state.transformer.h.0.ln_1.weight.exp_avg", First: uint64(32 * i), Vector: newVector(f32, 2000)})
		}
		if n := testing.AllocsPerRun(20, func() { mustFingerprint(t, nil, portions...) }); n > 2 {
			t.Errorf("%g allocations", n)
		}
		b := make([]byte, 10_001)
		if n := testing.AllocsPerRun(20, func() {
			_, err := BytesFingerprint("step.transformer.h.0.ln_1.weight", "float32", 0, b[1:])
			wantNoError(t, err)
		}); n > 0 {
			t.Errorf("%g allocations for bytes", n)
		}
	})
}

// The text of a fingerprint is read back.
func TestFingerprintText(t *testing.T) {
	f := Fingerprint{0x0123456789abcdef, 0x00000000000000fe}
	if got, want := f.String(), "0123456789abcdef00000000000000fe"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, s := range []string{f.String(), "0123456789ABCDEF00000000000000FE"} {
		got, err := ParseFingerprint(s)
		if wantNoError(t, err); got != f {
			t.Errorf("%s is read as %s", s, got)
		}
	}
	for _, s := range []string{"", "0", f.String()[1:], f.String() + "0", "0x23456789abcdef00000000000000fe00", "+123456789abcdef00000000000000fe0",
		"0123456789abcdef0000000_000000fe", "0123456789abcdef0000000000000öfe"[:32]} {
		if got, err := ParseFingerprint(s); err == nil || got != (Fingerprint{}) {
			t.Errorf("%q is read as %s", s, got)
		}
	}
	text, err := json.Marshal(map[string]Fingerprint{"run": f})
	wantNoError(t, err)
	if want := `{"run":"0123456789abcdef00000000000000fe"}`; string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	back := map[string]Fingerprint{}
	if wantNoError(t, json.Unmarshal(text, &back)); back["run"] != f {
		t.Errorf("%s is read as %s", text, back["run"])
	}
	if err := json.Unmarshal([]byte(`{"run":"1"}`), &back); err == nil {
		t.Error("a digit is a fingerprint")
	}
}

// What has no fingerprint is refused, and the error says why.
func TestFingerprintErrors(t *testing.T) {
	rows := withRows(t, rand.New(rand.NewPCG(65, 66)), 3, 40)
	call := func(p Portion) func([]float32) error {
		p.Name = "fc.weight"
		return func([]float32) error {
			f, err := SumFingerprint(nil, Portion{Name: "fc.bias", Vector: Float32(lcg[float32](1, 9))}, p)
			if f != (Fingerprint{}) {
				t.Errorf("there is a fingerprint beside an error: %s", f)
			}
			return err
		}
	}
	at := func(err error) error { return &TensorError{Tensor: 1, Name: "fc.weight", Err: err} }
	refuse(t, []refusal{
		{"halves", call(Portion{Vector: newVector(low16, 4)}),
			at(&FormatError{"copy", "nil", "bf16 for low16 elements"}), `pnm: tensor 1 ("fc.weight"): the format of copy is nil, must be bf16`},
		{"f16 of low16", call(Portion{Vector: newVector(low16, 4), Copy: newVector(f16, 4)}),
			at(&FormatError{"copy", "f16", "bf16 for low16 elements"}), "copy is f16"},
		{"copied copy", call(Portion{Vector: newVector(bf16, 4), Copy: newVector(bf16, 4)}),
			at(&FormatError{"elements", "bf16", "float32 or low16 to follow their copy"}), "elements is bf16"},
		{"wide copy", call(Portion{Vector: newVector(f32, 4), Copy: newVector(f32, 4)}),
			at(&FormatError{"copy", "float32", "bf16 or f16 for elements to follow it"}), "copy is float32"},
		{"short copy", call(Portion{Vector: newVector(f32, 4), Copy: newVector(bf16, 3)}), at(&LengthError{"copy", 3, 4}), "copy is 3, must be 4"},
		{"within a block", call(Portion{First: 31, Vector: newVector(mxfp8, 4)}),
			at(&ValueError{"Portion", "First", 31, "a multiple of 32, where mxfp8 can be cut"}), "First is 31, must be a multiple of 32"},
		{"within a row", call(Portion{First: 64, Vector: rows}),
			at(&ValueError{"Portion", "First", 64, "a multiple of 40, where mxfp8 can be cut"}), "First is 64, must be a multiple of 40"},
	})
}

// The fingerprint of the same numbers is the same on every machine, in every release.
func TestRecordedFingerprints(t *testing.T) {
	recorded := map[format]string{
		f32:   "57619eaafc694238577493a8942542d0",
		f64:   "e1dcf475d794bd99e9c657f01e1f9b84",
		bf16:  "d0a49a5ced44a5c0cba2f2eeec1a7809",
		f16:   "defe6ebb5d36a615ba767235bf1e2315",
		mxfp8: "a923933575da240ab37a8c24c27911d0",
	}
	perTier(t, func(t *testing.T) {
		for f, want := range recorded {
			p := Portion{Name: "state.fc.weight.exp_avg", First: 96, Vector: ordinary(f, 7, 5000)}
			if got := mustFingerprint(t, nil, p); got.String() != want {
				t.Errorf("%s: %s, want %s", f, got, want)
			}
		}
	})
}
