package fashionmnist

import "math"

// Standardize shifts and scales the pixels of all images such that those for training have mean 0 and variance 1. On raw
// pixels, most of which are 0, a network hardly memorizes.
func Standardize(train, test Set) {
	sum, squares := 0.0, 0.0
	for _, x := range train.Images {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	n := float64(len(train.Images))
	mean := sum / n
	std := math.Sqrt(squares/n - mean*mean)
	for _, s := range []Set{train, test} {
		for i, x := range s.Images {
			s.Images[i] = float32((float64(x) - mean) / std)
		}
	}
}
