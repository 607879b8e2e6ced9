//go:build !purego

package pnm

// The yardsticks by tier: for each form its streams without arithmetic; square root and division without streams.
var (
	limitKernels = map[tier][3]bare[float32]{
		avx2:   {pnmLimitF32AVX2, adapnmLimitF32AVX2, adapnmAMSGradLimitF32AVX2},
		avx512: {pnmLimitF32AVX512, adapnmLimitF32AVX512, adapnmAMSGradLimitF32AVX512},
	}
	dividers = map[tier]struct {
		f32 bare[float32]
		f64 bare[float64]
	}{
		avx2:   {dividerF32AVX2, dividerF64AVX2},
		avx512: {dividerF32AVX512, dividerF64AVX512},
	}
)
