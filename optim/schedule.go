package optim

import (
	"math"

	"github.com/posneg/pnm/internal/floatmode"
)

// StepDecay returns factor^⌊(t−1)/every⌋: it multiplies the learning rate by factor after each every steps, like torch's StepLR. If every
// is not positive, it returns 1.
//
// Schedules are factors on a base learning rate at step t ≥ 1. Multiply them, and pass the product to [Optimizer.SetLR] before step t:
//
//	lr := base * optim.WarmUp(t, 500) * optim.CosineDecay(t, 10_000)
//
// Like the rules, schedules give the same bits on every machine.
func StepDecay(t, every int, factor float64) float64 {
	var h floatmode.Hold
	defer h.Take().Release()
	if every <= 0 {
		return 1
	}
	f := 1.0
	for n := (max(t, 1) - 1) / every; n > 0; n /= 2 {
		if n%2 == 1 {
			f *= factor
		}
		factor *= factor
	}
	return f
}

// CosineDecay returns (1 + cos(π·(t−1)/steps))/2, like torch's CosineAnnealingLR with T_max = steps: it falls from 1 at step 1 to 0 at step
// steps+1. It is 1 before and 0 after these steps; if steps is not positive, it is 0 from step 1 on. For a floor, use
// floor + (1−floor)·CosineDecay(t, steps). See [StepDecay] for how to use schedules.
func CosineDecay(t, steps int) float64 {
	var h floatmode.Hold
	defer h.Take().Release()
	switch {
	case t > steps:
		return 0
	case t <= 1:
		return 1
	}
	// (1 + cos πx)/2 is 1 − sin²(πx/2), and also sin²(π(1−x)/2). math.Cos gives other bits on some machines.
	n, done := float64(steps), float64(t-1)
	if done <= n/2 {
		return 1 - sin2(done/n)
	}
	return sin2((n - done) / n)
}

// sin2 returns sin²(πx/2) for 0 ≤ x ≤ 1/2, by the Taylor series of (1 − cos πx)/2. The terms that it leaves out are below 2⁻⁵⁶.
func sin2(x float64) float64 {
	y := math.Pi * x
	z := y * y
	term := z / 4
	sum := term
	for k := 2; k <= 10; k++ {
		term = -term * z / float64((2*k-1)*2*k) // ends with a division, so that the addition is not fused with it
		sum += term
	}
	return sum
}

// WarmUp returns min(t/steps, 1): it rises linearly from 1/steps at step 1 to 1 at step steps, and stays 1. If steps is not positive, it
// returns 1. See [StepDecay] for how to use schedules.
func WarmUp(t, steps int) float64 {
	var h floatmode.Hold
	defer h.Take().Release()
	if t >= steps || steps <= 0 {
		return 1
	}
	return float64(max(t, 0)) / float64(steps)
}
