//go:build !purego

package pnm

// The yardsticks by tier: for each form its streams without arithmetic; square root and division without streams.
var (
	limitKernels = map[tier][3]bare[float32]{
		neon: {pnmLimitF32NEON, adapnmLimitF32NEON, adapnmAMSGradLimitF32NEON},
	}
	dividers = map[tier]struct {
		f32 bare[float32]
		f64 bare[float64]
	}{
		neon: {dividerF32NEON, dividerF64NEON},
	}
)
