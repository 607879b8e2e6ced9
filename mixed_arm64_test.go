//go:build !purego

package pnm

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The kernels for mixed formats leave FPCR as it was: arithmetic goes on to keep what a NaN carries.
func TestMixedLeavesFPCR(t *testing.T) {
	rng := rand.New(rand.NewPCG(27, 28))
	for f := range form(len(forms)) {
		b := newMixedMemory(rng, f, 0, mixedBlock).call(f, scalars[float32]{}, 0, 0, 0)
		updateMixed(f, b, mixedBlock, 0)
		nan := math.Float32frombits(0x7fc12345 + uint32(f))
		if got := math.Float32bits(nan + 1); got != 0x7fc12345+uint32(f) {
			t.Errorf("after %s with %q a NaN becomes %x", forms[f].rule, forms[f].roles, got)
		}
	}
}

// The limit kernel for mixed formats changes nothing but the copy, whatever streams there are.
func TestMixedLimitNEON(t *testing.T) {
	rng := rand.New(rand.NewPCG(25, 26))
	for f := range form(len(forms)) {
		for _, formats := range formatSets(f) {
			for n := mixedBlock; n <= 5*mixedBlock; n += mixedBlock {
				m := newMixedMemory(rng, f, formats, n)
				var before [7][]byte
				for i := range before {
					before[i] = slices.Clone(m.bytes[i])
				}
				b := m.call(f, scalars[float32]{}, formats, 0, 0)
				mixedLimitNEON(&b.c.gs, n, rng.IntN(2)*prefetchAhead)
				if b.out != nil {
					copy(before[6][m.at[6]:m.at[6]+2*n], m.bytes[6][m.at[6]:])
				}
				for i := range before {
					if !bytes.Equal(m.bytes[i], before[i]) {
						t.Fatalf("%s with %q, formats %b, %d elements: stream %d changed", forms[f].rule, forms[f].roles, formats, n, i)
					}
				}
			}
		}
	}
}
