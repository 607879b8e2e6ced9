package optim

import (
	"math"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/floatmode"
)

// A LossScaler chooses the loss scale of a run in low precision, as torch's GradScaler does: it raises the scale after a
// number of consecutive steps with finite gradients, and lowers it after each step with a gradient that is not finite. The trainer
// multiplies the loss by Scale before it computes gradients, passes Scale as [pnm.Options].LossScale together with SkipNonFinite, and
// then calls [LossScaler.Update].
//
// Its fields are its whole state, to save and restore. Torch's state_dict calls them scale, growth_factor, backoff_factor,
// growth_interval and _growth_tracker.
type LossScaler struct {
	Scale          float64 // the factor on the loss: in [2⁻¹²⁶, 2¹²⁶]; default 65536
	GrowthFactor   float64 // multiplies Scale after GrowthInterval finite steps: finite, ≥ 1; default 2
	BackoffFactor  float64 // multiplies Scale after a step that was skipped: in (0, 1]; default 0.5
	GrowthInterval int     // in steps: ≥ 1; default 2000
	FiniteSteps    int     // finite steps since Scale last changed: ≥ 0
}

// NewLossScaler returns a LossScaler with torch's defaults.
func NewLossScaler() LossScaler {
	return LossScaler{Scale: 65536, GrowthFactor: 2, BackoffFactor: 0.5, GrowthInterval: 2000}
}

// The scale stays where it and its inverse are normal numbers of float32.
const leastScale, greatestScale = 0x1p-126, 0x1p126

// Update adjusts the scale after a step; skipped is [pnm.Report].Skipped. If a field is out of its range, it returns a *pnm.ValueError and
// changes nothing.
func (s *LossScaler) Update(skipped bool) error {
	var h floatmode.Hold
	defer h.Take().Release()
	if err := s.check(); err != nil {
		return err
	}
	if skipped {
		s.Scale = max(s.Scale*s.BackoffFactor, leastScale)
		s.FiniteSteps = 0
		return nil
	}
	s.FiniteSteps++
	if s.FiniteSteps >= s.GrowthInterval {
		s.FiniteSteps = 0
		if grown := s.Scale * s.GrowthFactor; grown <= greatestScale {
			s.Scale = grown
		}
	}
	return nil
}

// check reports the first field out of its range.
func (s *LossScaler) check() error {
	for _, f := range []struct {
		field         string
		value, lo, hi float64
		legal         string
	}{
		{"Scale", s.Scale, leastScale, greatestScale, "in [2⁻¹²⁶, 2¹²⁶]"},
		{"GrowthFactor", s.GrowthFactor, 1, math.MaxFloat64, "finite and ≥ 1"},
		{"BackoffFactor", s.BackoffFactor, math.SmallestNonzeroFloat64, 1, "in (0, 1]"},
		{"GrowthInterval", float64(s.GrowthInterval), 1, math.Inf(1), "≥ 1"},
		{"FiniteSteps", float64(s.FiniteSteps), 0, math.Inf(1), "≥ 0"},
	} {
		if !(f.lo <= f.value && f.value <= f.hi) {
			return &pnm.ValueError{Of: "LossScaler", Field: f.field, Value: f.value, Legal: f.legal}
		}
	}
	return nil
}
