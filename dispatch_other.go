//go:build !(amd64 || arm64) || purego

package pnm

const lastLevelCache = 0

func tiers() []tier { return []tier{generic} }

func updateAssembly[T Float](form, *scalars[T], *streams[T], int, int, int) {
	panic("unreachable: there is no tier with assembly")
}

func sumSquaresAssembly[T Float](*[lanes]float64, []T, int) {
	panic("unreachable: there is no tier with assembly")
}

func pause() {}

func updateMixed(f form, b *mixed, n, ahead int) { f.missing() }

func sumSquaresBF16(sums *float64, g *uint16, n, ahead int) { panic("not yet") }

func sumSquaresF16(sums *float64, g *uint16, n, ahead int) { panic("not yet") }
