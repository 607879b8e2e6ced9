// Package stats has the statistics of a few runs.
package stats

import (
	"fmt"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"
)

// Spread returns mean and standard deviation, which is 0 for one number.
func Spread(x []float64) (mean, std float64) {
	if len(x) == 1 {
		return x[0], 0
	}
	return stat.MeanStdDev(x, nil)
}

// Difference returns the mean of the differences x − y between numbers that are paired, and its standard error.
func Difference(x, y []float64) (mean, stderr float64) {
	mean, std := Spread(floats.SubTo(make([]float64, len(x)), x, y))
	return mean, stat.StdErr(std, float64(len(x)))
}

// PlusMinus formats a mean with its error. One number alone has no error.
func PlusMinus(format string, mean, err float64, numbers int) string {
	if numbers == 1 {
		return fmt.Sprintf(format, mean)
	}
	return fmt.Sprintf(format+" ± %.2f", mean, err)
}
