//go:build !purego

package pnm

import (
	"math/rand/v2"
	"testing"
)

// Small tensors are read as those that no cache holds, whose reading prefetches. With the race detector, no pointer may be past a slice.
func TestNoiseFromMemory(t *testing.T) {
	defer func(size int) { lastLevelCache = size }(lastLevelCache)
	lastLevelCache = 1
	perTier(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(57, 58))
		for range 20 {
			list := List{Updates: someUpdates(rng, noisyRules())}
			for i := range list.Updates {
				list.Updates[i].Grads.fill(rng)
			}
			noise := make([]NoiseSums, len(list.Updates))
			_, err := list.Step(Options{Noise: noise})
			wantNoError(t, err)
			wantNoise(t, "a step", noise, list.Updates)
			after, err := SumNoise(nil, list.Updates)
			wantNoError(t, err)
			wantNoise(t, "SumNoise", after, list.Updates)
		}
	})
}
