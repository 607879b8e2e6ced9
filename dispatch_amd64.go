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
	if cpuid.CPU.Supports(cpuid.AVX, cpuid.AVX2) {
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

// updateAssembly updates the elements lo … lo+n−1 by the kernels of the active tier, which is not generic; n > 0. It
// prefetches ahead bytes in front of its loads, or not if ahead is 0.
func updateAssembly[T Float](f form, c *scalars[T], s *streams[T], lo, n, ahead int) {
	wide := active == avx512
	switch s := any(s).(type) {
	case *streams[float32]:
		if c := &any(c).(*scalars[float32]).gs; wide {
			updateF32AVX512(f, c, s, lo, n, ahead)
		} else {
			updateF32AVX2(f, c, s, lo, n, ahead)
		}
	case *streams[float64]:
		if c := &any(c).(*scalars[float64]).gs; wide {
			updateF64AVX512(f, c, s, lo, n, ahead)
		} else {
			updateF64AVX2(f, c, s, lo, n, ahead)
		}
	}
}

// sumSquaresAssembly works like sumSquaresGeneric, for a positive multiple of lanes elements. It prefetches as updateAssembly
// does.
func sumSquaresAssembly[T Float](sums *[lanes]float64, g []T, ahead int) {
	wide := active == avx512
	switch x := any(&g[0]).(type) {
	case *float32:
		if wide {
			sumSquaresF32AVX512(&sums[0], x, len(g), ahead)
		} else {
			sumSquaresF32AVX2(&sums[0], x, len(g), ahead)
		}
	case *float64:
		if wide {
			sumSquaresF64AVX512(&sums[0], x, len(g), ahead)
		} else {
			sumSquaresF64AVX2(&sums[0], x, len(g), ahead)
		}
	}
}
