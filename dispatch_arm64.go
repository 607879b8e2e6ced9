//go:build !purego

package pnm

// tiers returns the tiers that this machine has, the best one last. NEON is part of every arm64 that Go runs on.
func tiers() []tier { return []tier{generic, neon} }

// lastLevelCache is taken for the size of the largest cache in bytes, which no instruction tells: that of Graviton 2 and 3
// and of Ampere Altra.
const lastLevelCache = 32 << 20

func updateMixed(f form, b *mixed, n, ahead int) { f.missing() }

func sumSquaresBF16(sums *float64, g *uint16, n, ahead int) { panic("not yet") }

func sumSquaresF16(sums *float64, g *uint16, n, ahead int) { panic("not yet") }
