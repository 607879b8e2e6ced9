package pnm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// formatSets are all sets of formats that a kernel of a form may meet.
func formatSets(f form) (sets []uint32) {
	for _, grad := range []uint32{0, gradBF16, gradF16} {
		for _, param := range []uint32{0, outBF16, outF16, outBF16 | outAround, outF16 | outAround, paramBF16} {
			sets = append(sets, withStochastic(f, grad|param))
			if len(forms[f].slots) > 0 {
				sets = append(sets, withStochastic(f, grad|param|stateBF16))
			}
		}
	}
	return sets
}

// bits16 returns n random elements of a format of 16 bits: specials, and numbers of every size.
func bits16(rng *rand.Rand, n int) []uint16 {
	special := []uint16{0, 0x8000, 1, 0x8001, 0x7f, 0x80, 0x3f80, 0x3c00, 0x3ff, 0x400, 0x7bff, 0x7c00, 0xfc00, 0x7c01, 0x7dff, 0x7e00, 0x7f7f, 0x7f80,
		0xff80, 0x7f81, 0x7fbf, 0x7fc0, 0x7fff, 0xffff}
	out := make([]uint16, n)
	for i := range out {
		if out[i] = uint16(rng.Uint32()); rng.IntN(4) == 0 {
			out[i] = special[rng.IntN(len(special))]
		}
	}
	return out
}

// mixedMemory is what a kernel gets: a slice for each stream, and bytes around it that must stay as they are.
type mixedMemory struct {
	bytes [7][]byte
	at    [7]int
}

// newMixedMemory places n elements of each stream; the copy on a multiple of 32 bytes if that is asked for.
func newMixedMemory(rng *rand.Rand, f form, formats uint32, n int) (m *mixedMemory) {
	m = new(mixedMemory)
	for i := range m.bytes {
		wide := make([]uint32, n+64)
		m.bytes[i] = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(wide))), 4*len(wide))
		m.at[i] = 4 * rng.IntN(16)
		if i == 6 && formats&outAround != 0 {
			m.at[i] = int(-uintptr(unsafe.Pointer(unsafe.SliceData(wide)))) & 31
		}
		narrow := formats&[]uint32{paramBF16, gradBF16 | gradF16, stateBF16, stateBF16, stateBF16, stateBF16, outBF16 | outF16}[i] != 0
		if narrow {
			m.at[i] += 2 * rng.IntN(2) * int(1-formats&outAround/outAround)
			copy(elements16(unsafe.Pointer(&m.bytes[i][0]), 0, 2*len(wide)), bits16(rng, 2*len(wide)))
		} else {
			copy(elements32(unsafe.Pointer(&m.bytes[i][0]), 0, len(wide)), random[float32](rng, len(wide)))
			if i == 0 && formats&outF16 != 0 && rng.IntN(2) == 0 { // where f16 has its borders
				for k, x := range elements32(unsafe.Pointer(&m.bytes[i][0]), 0, len(wide)) {
					elements32(unsafe.Pointer(&m.bytes[i][0]), 0, len(wide))[k] = 65504 + float32(math.Mod(float64(x), 40))
				}
			}
		}
	}
	return m
}

func (m *mixedMemory) call(f form, c scalars[float32], formats, counter, key uint32) *mixed {
	at := func(i int) unsafe.Pointer { return unsafe.Pointer(&m.bytes[i][m.at[i]]) }
	b := &mixed{c: c, formats: formats, counter: counter, key: key, p: at(0), g: at(1)}
	for i, role := range "mnvx" {
		for _, has := range forms[f].roles {
			if has == role {
				*[]*unsafe.Pointer{&b.m, &b.n, &b.v, &b.x}[i] = at(2 + i)
			}
		}
	}
	if formats&(outBF16|outF16) != 0 {
		b.out = at(6)
	}
	return b
}

// Every tier's mixed kernels give the bits of the reference, and count what it counts, for every set of formats.
func TestMixedKernelsAgree(t *testing.T) {
	perTier(t, func(t *testing.T) {
		if active == generic {
			return
		}
		rng := rand.New(rand.NewPCG(21, 22))
		for _, r := range sampleRules() {
			f := r.form()
			for _, formats := range formatSets(f) {
				for n := mixedBlock; n <= 5*mixedBlock; n += mixedBlock {
					c, err := coefficients[float32](r, 1+rng.IntN(4))
					wantNoError(t, err)
					o := Options{ClipValue: []float64{0, 1}[rng.IntN(2)]}
					apply(&o, []float64{1, 0.7, 1e30}[rng.IntN(3)], &c)
					got := newMixedMemory(rng, f, formats, n)
					want := &mixedMemory{at: got.at}
					for i := range want.bytes {
						want.bytes[i] = slices.Clone(got.bytes[i])
					}
					counter, key := rng.Uint32(), rng.Uint32()
					a, b := got.call(f, c, formats, counter, key), want.call(f, c, formats, counter, key)
					updateMixed(f, a, n, rng.IntN(2)*prefetchAhead)
					updateMixedGeneric(f, b, n)
					what := fmt.Sprintf("%+v, formats %b, %d elements: ", r, formats, n)
					for i, role := range []string{"p", "g", "m", "n", "v", "x", "out"} {
						wantSameMixed(t, what+role, got, want, i, formats)
					}
					if a.overflows != b.overflows {
						t.Fatalf("%s%d overflows, want %d", what, a.overflows, b.overflows)
					}
				}
			}
		}
	})
}

// wantSameMixed compares a stream and the bytes around it: NaN by being one.
func wantSameMixed(t *testing.T, what string, got, want *mixedMemory, i int, formats uint32) {
	t.Helper()
	if string(got.bytes[i]) == string(want.bytes[i]) {
		return
	}
	set := formats & []uint32{paramBF16, gradBF16 | gradF16, stateBF16, stateBF16, stateBF16, stateBF16, outBF16 | outF16}[i]
	from := got.at[i] & 3 // elements of 16 bits may lie on odd multiples
	a, b := got.bytes[i][from:], want.bytes[i][from:]
	if set == 0 {
		n := len(a) / 4
		wantSame(t, what, elements32(unsafe.Pointer(&a[0]), 0, n), elements32(unsafe.Pointer(&b[0]), 0, n))
		return
	}
	widen := widenBF16
	if set&(gradF16|outF16) != 0 {
		widen = widenF16
	}
	n := len(a) / 2
	x, y := elements16(unsafe.Pointer(&a[0]), 0, n), elements16(unsafe.Pointer(&b[0]), 0, n)
	for k := range x {
		if x[k] != y[k] && !sameBits(widen(x[k]), widen(y[k])) {
			t.Fatalf("%s[%d] = %x, want %x", what, (2*k+from-got.at[i])/2, x[k], y[k])
		}
	}
}

// Every tier adds the square of each element of 16 bits to the sum of its lane.
func TestSumSquares16Agree(t *testing.T) {
	perTier(t, func(t *testing.T) {
		if active == generic {
			return
		}
		rng := rand.New(rand.NewPCG(23, 24))
		for at := range lanes {
			for n := lanes; n <= 4*lanes; n += lanes {
				g := bits16(rng, at+n)[at:]
				for i := range g { // most are finite
					if rng.IntN(100) > 0 && g[i]&0x7c00 == 0x7c00 {
						g[i] &^= 0x4000
					}
				}
				for _, v := range []Vector{BF16(g), F16(g)} {
					got := [lanes]float64(lcg[float64](rng.Uint64(), lanes))
					want := got
					sumSquaresAssembly(&got, v, rng.IntN(2)*prefetchAhead)
					wide := make([]float32, n)
					widen(wide, v.at, v.format, 0)
					sumSquaresGeneric(&want, wide, 1)
					wantSame(t, fmt.Sprintf("%d elements of %s: sums", n, v.Format()), got[:], want[:])
				}
			}
		}
	})
}
