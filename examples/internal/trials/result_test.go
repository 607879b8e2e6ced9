package trials

import (
	"math"
	"testing"
)

func TestResult(t *testing.T) {
	r := Result{Epochs: []Epoch{{TestError: 0.1}, {TestError: 0.5}, {TestError: 0.3}, {TestError: 0.4, Other: 0.2}}}
	if r.Best() != 0.1 || math.Abs(r.Last()-0.4) > 1e-15 || r.End().Other != 0.2 {
		t.Error(r.Best(), r.Last(), r.End())
	}
	if r.Epochs = r.Epochs[:1]; r.Last() != 0.1 {
		t.Error("one epoch:", r.Last())
	}
}
