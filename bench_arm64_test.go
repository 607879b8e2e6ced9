//go:build !purego

package pnm

// The yardsticks by tier: for each form its streams without arithmetic; square root and division without streams.
var (
	limitKernels = map[tier][len(forms)]bare[float32]{
		neon: {
			formPNM:           pnmLimitF32NEON,
			formAdaPNM:        adapnmLimitF32NEON,
			formAdaPNMAMSGrad: adapnmAMSGradLimitF32NEON,
			formSGD:           sgdLimitF32NEON,
			formSGDMomentum:   sgdMomentumLimitF32NEON,
			formSGDNesterov:   sgdNesterovLimitF32NEON,
			formAdam:          adamLimitF32NEON,
			formAdamAMSGrad:   adamAMSGradLimitF32NEON,
		},
	}
	dividers = map[tier]struct {
		f32 bare[float32]
		f64 bare[float64]
	}{
		neon: {dividerF32NEON, dividerF64NEON},
	}
	mixedLimits = map[tier]func(c *float32, count, ahead int){neon: mixedLimitNEON}
)
