//go:build !(amd64 || arm64) || purego

package pnm

import "unsafe"

const lastLevelCache = 0

var prefetchAhead = 0 // tests set it

// There is nothing but the reference.
const kernelForms, mixedKernelForms formSet = 0, 0

func tiers() []tier { return []tier{generic} }

func (*tensor) updateAssembly(int, int, int) {
	panic("unreachable: there is no tier with assembly")
}

func sumSquaresAssembly(*window, Vector, int) blockSum {
	panic("unreachable: there is no tier with assembly")
}

func hashAssembly(Vector, int, *nanCheck) ([2]uint64, bool) {
	panic("unreachable: there is no tier with assembly")
}

func (*noiseReader) termsAssembly(int, int, unsafe.Pointer, unsafe.Pointer) {
	panic("unreachable: there is no tier with assembly")
}

func pause() {}

func updateMixed(form, *mixed, int, int) {
	panic("unreachable: there is no tier with assembly")
}
