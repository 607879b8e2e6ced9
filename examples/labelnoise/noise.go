package main

import (
	"math"
	"math/rand/v2"

	"github.com/posneg/pnm/examples/internal/fashionmnist"
)

// standardize shifts and scales the pixels of all images such that those for training have mean 0 and variance 1. On raw
// pixels, most of which are 0, the network hardly memorizes.
func standardize(train, test fashionmnist.Set) {
	sum, squares := 0.0, 0.0
	for _, x := range train.Images {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	n := float64(len(train.Images))
	mean := sum / n
	std := math.Sqrt(squares/n - mean*mean)
	for _, s := range []fashionmnist.Set{train, test} {
		for i, x := range s.Images {
			s.Images[i] = float32((float64(x) - mean) / std)
		}
	}
}

// flip replaces a share of the labels, rounded to a number of labels, by another class, every other one being as likely.
// It returns the new labels and which of them are wrong.
func flip(labels []uint8, share float64, seed uint64) (noisy []uint8, flipped []int) {
	rng := rand.New(rand.NewPCG(seed, 1)) // stream 0 is the training's
	noisy = append(noisy, labels...)
	flipped = rng.Perm(len(labels))[:int(math.Round(share*float64(len(labels))))]
	for _, i := range flipped {
		noisy[i] = (noisy[i] + 1 + uint8(rng.IntN(fashionmnist.Classes-1))) % fashionmnist.Classes
	}
	return noisy, flipped
}
