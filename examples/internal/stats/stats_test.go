package stats

import (
	"math"
	"testing"
)

func TestDifference(t *testing.T) {
	mean, stderr := Difference([]float64{10, 20, 33}, []float64{11, 22, 36})
	if math.Abs(mean+2) > 1e-12 || math.Abs(stderr-1/math.Sqrt(3)) > 1e-12 { // of −1, −2, −3
		t.Errorf("%g ± %g", mean, stderr)
	}
	if mean, stderr := Difference([]float64{10}, []float64{20}); mean != -10 || stderr != 0 {
		t.Errorf("one pair: %g ± %g", mean, stderr)
	}
}
