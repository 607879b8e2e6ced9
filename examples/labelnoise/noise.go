package main

import (
	"math"
	"math/rand/v2"

	"github.com/posneg/pnm/internal/fashionmnist"
)

// flip replaces a share of the labels, rounded to a whole number of labels, by wrong classes, all equally likely. It returns
// the new labels and the indices of the wrong ones.
func flip(labels []uint8, share float64, seed uint64) (noisy []uint8, flipped []int) {
	rng := rand.New(rand.NewPCG(seed, 1)) // stream 0 is the training's
	noisy = append(noisy, labels...)
	flipped = rng.Perm(len(labels))[:int(math.Round(share*float64(len(labels))))]
	for _, i := range flipped {
		noisy[i] = (noisy[i] + 1 + uint8(rng.IntN(fashionmnist.Classes-1))) % fashionmnist.Classes
	}
	return noisy, flipped
}
