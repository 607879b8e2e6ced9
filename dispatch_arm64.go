//go:build !purego

package pnm

// tiers returns the tiers that this machine has, the best one last. NEON is part of every arm64 that Go runs on.
func tiers() []tier { return []tier{generic, neon} }

// lastLevelCache is taken for the size of the largest cache in bytes, which no instruction tells: that of Graviton 2 and 3
// and of Ampere Altra.
const lastLevelCache = 32 << 20

// prefetchAhead is 0, since nothing was measured: the kernels do not prefetch. Tests set it.
var prefetchAhead = 0
