// Package pnm performs the optimizer step of a training loop on the CPU. It updates parameters and optimizer state in place, in one
// parallel pass over memory, with bit-identical results on every machine. Its update rules are [PNM] and [AdaPNM] (Positive-Negative
// Momentum: Xie, Yuan, Zhu, Sugiyama, ICML 2021, arXiv 2103.17182); the baselines of that paper, which are [SGD] and [Adam] as PyTorch
// defines them; and [Lion] (Chen and others, NeurIPS 2023, arXiv 2302.06675).
//
// There are three ways to call it:
//
//   - [UpdatePNM], [UpdateAdaPNM], [UpdateSGD], [UpdateAdam] and [UpdateLion] step one tensor, given as slices.
//   - [UpdateAll] steps a list of tensors, with the [Options] below. A [List] does the same for tensors that are stepped again and
//     again, and checks only what has changed.
//   - Package [github.com/posneg/pnm/optim] also keeps the state, and adds groups, schedules and checkpoints.
//
// In the first two, the caller owns the state and passes the step number. A step allocates no memory.
//
// [Options] divide by a loss scale, clip by global norm and by value, skip steps whose gradients are not finite, and zero the gradients.
// They add no pass over memory, with one exception: clipping by norm and skipping read the gradients once, before the step. Steps also
// convert formats: an [Update] takes 16-bit gradients for float32 parameters, writes 16-bit copies of the parameters, and can keep
// parameters and state in bf16, and momenta in one byte per element. A [Vector] is a slice in one of these formats.
//
// The step is assembly for AVX-512 or AVX2 on amd64, where the CPU has them, and for NEON on arm64: see [ISA]. Goroutines share the
// work of large steps, including those over thousands of small tensors: see [Pool]. For full speed, large slices should begin at
// different offsets within a page. Slices from make all begin at the same one; [Alloc] and [AllocState] spread them.
//
// # The update
//
// One step t = 1, 2, … of one parameter p with gradient g, learning rate η (LR), weight decay λ and γ = (1+β0)² + β0²:
//
//	g = ±g·s                      minus to maximize; s = 1, or by Options: LossScale⁻¹ times the clip factor
//	g = max(min(g, c), −c)        c = ∞, or Options.ClipValue
//	g = g + λ·p                   if decay is coupled (L2), and λ is not 0
//	m = β1²·m + (1−β1²)·g         m is buffer A on odd t, buffer B on even t; n is the other one
//	u = (k1·m − k2·n)             k1 = η(1+β0)/√γ, k2 = η·β0/√γ
//	p = (1 − η·λ)·p − u           the factor is 1 if decay is coupled
//
// AdaPNM divides k1 and k2 by 1−β1^t (by 1−β1^(2⌈t/2⌉) with ExactBias), and u by √w·r + ε, where
//
//	v = β2·v + ((1−β2)·g)·g       in this order, as in torch: g² would overflow first
//	w = vmax = max(vmax, v) with AMSGrad, else v
//	r = 1/√(1−β2^t)
//
// The other rules have their own u, and their own m or none:
//
//	SGD                           u = η·g
//	SGD with momentum μ           m = g at step 1, then m = μ·m + (1−τ)·g with the dampening τ; u = η·m
//	SGD with Nesterov momentum    the same m, u = η·(g + μ·m)
//	Adam                          m = β1·m + (1−β1)·g, u = (η/(1−β1^t))·m divided as in AdaPNM
//	Lion                          u = η·sign(β1·m + (1−β1)·g), then m = β2·m + (1−β2)·g; sign(±0) = +0, sign(NaN) = NaN
//
// An option that is off adds no operation: without coupled decay an infinite parameter stays infinite, and a gradient of −0 stays −0.
//
// # The numerical contract
//
//  1. Every operation of the update is one IEEE-754 operation in the element type, rounded to nearest even, in the order
//     that update_generic.go shows: no fused multiply-add, no reassociation, no flush-to-zero, no approximate reciprocals.
//     The coefficients (k1, k2, r, 1−η·λ, 1−β1², …) are computed once per step in float64 and rounded once to the element type.
//     The powers β^t among them are correctly rounded, and a coefficient of −0 counts as +0. NumPy in the same type, operation
//     by operation, gives the same bits.
//     Floating-point modes that C code in the process has set (flush to zero, denormals are zero, another rounding, traps) change
//     nothing on amd64, 386 and arm64: a step saves and restores them on each thread it runs on. On other architectures, and
//     with -tags purego, Go cannot do so: leave the modes of threads as they are at start.
//  2. The result is the same, bit for bit, with AVX-512, AVX2, NEON or plain Go, on every architecture, for any way of
//     cutting a tensor into pieces, any number of workers, any alignment and any position of an element in its slice. Only
//     the payload and the sign of a NaN are unspecified.
//  3. NaN and ±Inf in a gradient reach the state and the parameters, unless an option skips such steps or clips ±Inf by
//     value. max(vmax, v) never loses a NaN, and neither does clipping.
//  4. The gradient norm depends only on the numbers in the gradients. It is the same, bit for bit, in any order and format, for any
//     number of workers, and for any way of cutting the numbers into tensors, calls and processes (see [Squares]). Let e be ⌊log2⌋ of the
//     largest |g|, J = ⌈(e−24)/26⌉, and q = 2^(52(J−1)). Each g·g is rounded to float64 (with unbounded exponent), and g·g/q to the
//     nearest integer, ties to even. T is the exact sum of these integers, rounded once to float64; the norm is √T · √q. So each square
//     is off by at most 2⁻⁵¹ of the largest one. In an ordinary float64 sum, a single addition may err by as much, once the sum has grown
//     to four times the largest square.
//     The sums of [SumNoise] and Options.Noise are such sums of squares: those of the numbers x + y and x − y, where x and y are the
//     two momenta, each multiplied by the inverse of the sum of its weights, one rounded operation after the other in float32 (float64
//     for float64 state). noise.go has the definition.
//  5. Elements of 16 or 8 bits are widened exactly, including denormals. They are updated as float32, and the results are
//     rounded once, when they are stored: to nearest even, or stochastically. The random numbers are a function of
//     seed, tensor, step and element ([Rounding]), and never depend on shared random state. format.go, mxfp8.go and rounding.go define
//     the formats, the rounding and the random numbers. A NaN stays a NaN.
//  6. A step either validates all its inputs and runs, or returns an error and has written nothing. The gradient is an
//     input and is not written, unless the caller asked for it to be zeroed.
package pnm
