//go:build unix

package pnm

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guarded returns memory of one page between two pages that must not be touched, as elements.
func guarded[T element](t *testing.T) []T {
	t.Helper()
	page := unix.Getpagesize()
	pages, err := unix.Mmap(-1, 0, 3*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	wantNoError(t, err)
	t.Cleanup(func() { unix.Munmap(pages) })
	for _, guard := range [][]byte{pages[:page], pages[2*page:]} {
		wantNoError(t, unix.Mprotect(guard, unix.PROT_NONE))
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&pages[page])), page/int(unsafe.Sizeof(*new(T))))
}

func testGuards[T Float](t *testing.T, rng *rand.Rand) {
	var pages [2 + maxSlots][]T
	for i := range pages {
		pages[i] = guarded[T](t)
	}
	for _, r := range sampleRules() {
		for n := range blocks[T]() + 1 {
			for _, atEnd := range []bool{false, true} {
				next := 0
				sameAsReference(t, rng, r, 1+n%2, n, func(n int) []T {
					s := pages[next]
					next++
					if atEnd {
						return s[len(s)-n:]
					}
					return s[:n:n]
				})
			}
		}
	}
}

func testMixedGuards(t *testing.T, rng *rand.Rand) {
	var pages [3 + maxSlots + 2][]byte // two momenta have scales
	for i := range pages {
		pages[i] = Vector.Bytes(BF16(guarded[uint16](t)))
	}
	for _, r := range sampleRules() {
		for _, f := range allFormats(r) {
			for n := range 2*mixedBlock + 1 {
				for _, atEnd := range []bool{false, true} {
					next := 0
					mixedLikeReference(t, rng, r, f, 1+n%2, n, func(bytes int) []byte {
						page := pages[next]
						next++
						if atEnd {
							return page[len(page)-bytes:]
						}
						return page[:bytes:bytes]
					})
				}
			}
		}
	}
}

func testNoiseGuards(t *testing.T, rng *rand.Rand) {
	var pages [2 + 2 + 2][]byte
	for i := range pages {
		pages[i] = Vector.Bytes(BF16(guarded[uint16](t)))
	}
	for _, atEnd := range []bool{false, true} {
		next := 0
		testNoiseTerms(t, rng, func(bytes int) []byte {
			page := pages[next%len(pages)]
			next++
			if atEnd {
				return page[len(page)-bytes:]
			}
			return page[:bytes:bytes]
		})
	}
}

// Nothing before the first or behind the last element is read or written: there would be a fault.
func TestGuardPages(t *testing.T) {
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(11, 12))
		testGuards[float32](t, rng)
		testGuards[float64](t, rng)
		testMixedGuards(t, rng)
		testNoiseGuards(t, rng)
		for _, v := range []Vector{Float32(guarded[float32](t)), Float64(guarded[float64](t)), BF16(guarded[uint16](t)), F16(guarded[uint16](t))} {
			testSquares(t, rng, func(n int) Vector { return v.cut(0, n) })
			testSquares(t, rng, func(n int) Vector { return v.cut(v.n-n, v.n) })
			testHash(t, rng, func(n int) Vector { return v.cut(0, n) })
			testHash(t, rng, func(n int) Vector { return v.cut(v.n-n, v.n) })
		}
	})
}
