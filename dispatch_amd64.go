//go:build !purego

package pnm

import (
	"runtime"

	"github.com/klauspost/cpuid/v2"
)

// tiers returns the tiers that this machine has, the best one last. cpuid reports AVX and AVX-512 only where the
// operating system saves their registers.
func tiers() []tier {
	t := []tier{generic}
	if cpuid.CPU.Supports(cpuid.AVX, cpuid.AVX2, cpuid.F16C, cpuid.FMA3, cpuid.POPCNT) {
		t = append(t, avx2)
		// On darwin a signal may clobber opmasks and the upper halves of registers (golang.org/issue/49233).
		if cpuid.CPU.Supports(cpuid.AVX512F, cpuid.AVX512DQ, cpuid.AVX512BW, cpuid.AVX512VL) && runtime.GOOS != "darwin" {
			t = append(t, avx512)
		}
	}
	return t
}

// lastLevelCache is the size of the largest cache in bytes; 32 MiB if it is unknown.
var lastLevelCache = func() int {
	if size := max(cpuid.CPU.Cache.L2, cpuid.CPU.Cache.L3); size > 0 {
		return size
	}
	return 32 << 20
}()

// prefetchAhead is how far in front of its loads a kernel prefetches what comes from memory, in bytes. It depends on who makes the processor:
// see docs/performance.md for what was measured.
var prefetchAhead = func() int {
	if cpuid.CPU.VendorID == cpuid.Intel {
		return 2 << 10
	}
	return 0
}()
