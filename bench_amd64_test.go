//go:build !purego

package pnm

// The yardsticks by tier: for each form its streams without arithmetic; square root and division without streams.
var (
	limitKernels = map[tier][len(forms)]bare[float32]{
		avx2: {
			formPNM:           pnmLimitF32AVX2,
			formAdaPNM:        adapnmLimitF32AVX2,
			formAdaPNMAMSGrad: adapnmAMSGradLimitF32AVX2,
			formSGD:           sgdLimitF32AVX2,
			formSGDMomentum:   sgdMomentumLimitF32AVX2,
			formSGDNesterov:   sgdNesterovLimitF32AVX2,
			formAdam:          adamLimitF32AVX2,
			formAdamAMSGrad:   adamAMSGradLimitF32AVX2,
		},
		avx512: {
			formPNM:           pnmLimitF32AVX512,
			formAdaPNM:        adapnmLimitF32AVX512,
			formAdaPNMAMSGrad: adapnmAMSGradLimitF32AVX512,
			formSGD:           sgdLimitF32AVX512,
			formSGDMomentum:   sgdMomentumLimitF32AVX512,
			formSGDNesterov:   sgdNesterovLimitF32AVX512,
			formAdam:          adamLimitF32AVX512,
			formAdamAMSGrad:   adamAMSGradLimitF32AVX512,
		},
	}
	dividers = map[tier]struct {
		f32 bare[float32]
		f64 bare[float64]
	}{
		avx2:   {dividerF32AVX2, dividerF64AVX2},
		avx512: {dividerF32AVX512, dividerF64AVX512},
	}
	mixedLimits = map[tier]func(c *float32, count, ahead int){avx2: mixedLimitAVX2, avx512: mixedLimitAVX512}
)
