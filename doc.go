// Package pnm performs the optimizer step of a training loop on the CPU: given parameters, gradients and optimizer
// state in memory, it updates them in place, fused into one pass over memory. Its rules are Positive-Negative Momentum
// ([PNM], [AdaPNM]: Xie, Yuan, Zhu, Sugiyama, ICML 2021, arXiv 2103.17182), the baselines of that paper, [SGD] and [Adam],
// as PyTorch defines them, and [Lion] (Chen and others, NeurIPS 2023, arXiv 2302.06675).
//
// A trainer calls it on memory of its own, with the number of the step: [UpdatePNM], [UpdateAdaPNM], [UpdateSGD], [UpdateAdam] or
// [UpdateLion] on the slices of one tensor; [UpdateAll] on a list of tensors, with all that trainers do around a step. A [List] does the
// same for tensors that are stepped again and again, and checks only what has changed. None of them allocates memory, and the state is
// the caller's.
// A trainer that wants the state kept for it, with groups, schedules and checkpoints, takes package
// [github.com/posneg/pnm/optim], which is built on a List.
//
// On amd64 the step is assembly for AVX-512 or AVX2, where the CPU has them, on arm64 for NEON: see [ISA]. Large steps, also
// those over thousands of small tensors, are shared among goroutines: see [Pool]. Large slices of the caller's own should
// not all begin at the same offset within a page, as Go's do: [Alloc] and [AllocState] see to that.
//
// What trainers do around a step is part of it, in the same pass over memory, where [Options] ask for it: dividing out a
// loss scale, clipping by global norm and by value, skipping steps that are not finite, zeroing the gradients. So is the conversion of
// formats: a [Vector] is a slice of float32, float64, bf16 or f16, or of the lower halves of float32 parameters whose upper halves are
// bf16, or of momenta in [MXFP8], and an [Update] takes gradients of 16 bits for float32 parameters, copies of these in 16 bits, state
// and parameters in bf16, and momenta of a byte each.
//
// # The update
//
// One step t = 1, 2, … of one parameter p with gradient g, learning rate η (LR), weight decay λ and γ = (1+β0)² + β0²:
//
//	g = ±g·s                      minus to maximize; s = 1, or what Options make of it: LossScale⁻¹ times the clip factor
//	g = max(min(g, c), −c)        c = ∞, or Options.ClipValue
//	g = g + λ·p                   if decay is coupled (L2), and λ is not 0
//	m = β1²·m + (1−β1²)·g         m is buffer A on odd t, buffer B on even t; n is the other one
//	u = (k1·m − k2·n)             k1 = η(1+β0)/√γ, k2 = η·β0/√γ
//	p = (1 − η·λ)·p − u           the factor is 1 if decay is coupled
//
// AdaPNM divides k1 and k2 by 1−β1^t (by 1−β1^(2⌈t/2⌉) with ExactBias), and u by √w·r + ε, where
//
//	v = β2·v + ((1−β2)·g)·g       in this order, as torch: g² would overflow first
//	w = vmax = max(vmax, v) with AMSGrad, else v
//	r = 1/√(1−β2^t)
//
// The other rules have their own m, or none, and u:
//
//	SGD                           u = η·g
//	SGD with momentum μ           m = g at step 1, then m = μ·m + (1−τ)·g with the dampening τ; u = η·m
//	SGD with Nesterov momentum    the same m, u = η·(g + μ·m)
//	Adam                          m = β1·m + (1−β1)·g, u = (η/(1−β1^t))·m divided as in AdaPNM
//	Lion                          u = η·sign(β1·m + (1−β1)·g), then m = β2·m + (1−β2)·g; sign(±0) = +0, sign(NaN) = NaN
//
// What an option leaves out is not computed: without coupled decay an infinite parameter stays infinite, and a gradient of −0
// stays −0.
//
// # The numerical contract
//
//  1. Every operation of the update is one IEEE-754 operation in the element type, rounded to nearest even, in the order
//     that update_generic.go shows: no fused multiply-add, no reassociation, no flush-to-zero, no approximate reciprocals.
//     The coefficients (k1, k2, r, 1−η·λ, 1−β1², …) are computed once per step in float64 and rounded once to the element type;
//     the powers β^t among them are correctly rounded, and a coefficient of −0 counts as +0. NumPy in the same type, operation
//     by operation, gives the same bits.
//     What C code in the process has set for its threads (flush to zero, denormals are zero, another rounding, traps) changes
//     nothing on amd64, 386 and arm64: a step sets it aside on each thread that it runs on, and puts it back. On other
//     architectures, and with -tags purego, Go cannot; there, leave the threads as they start.
//  2. The result is the same, bit for bit, with AVX-512, AVX2, NEON or plain Go, on every architecture, for any way of
//     cutting a tensor into pieces, any number of workers, any alignment and any position of an element in its slice. Only
//     the payload and the sign of a NaN are exempt.
//  3. NaN and ±Inf in a gradient reach the state and the parameters, unless the caller asked for such steps to be skipped, or
//     for ±Inf to be clipped by value; max(vmax, v) never loses a NaN, and neither does clipping.
//  4. The gradient norm is the same, bit for bit, for the same numbers: however they are cut into tensors, calls and processes ([Squares]),
//     in whatever order and format they are, and for any number of workers. Let e be ⌊log2⌋ of the largest |g|, J = ⌈(e−24)/26⌉, and
//     q = 2^(52(J−1)). Each g·g is rounded to float64 (with an exponent without bounds), and g·g/q to the nearest integer, ties to even.
//     T is the exact sum of these integers, rounded once to float64; the norm is √T · √q. So each square is off by at most 2⁻⁵¹ of the
//     largest one. An addition in ordinary float64 may err by as much once the sum is four times that square.
//  5. Elements of 16 or 8 bits are widened exactly, denormals included; the update is that of float32, and its results are
//     rounded once, where they are stored: to nearest even, or stochastically by numbers drawn from a counter, a function of
//     seed, tensor, step and element ([Rounding]), never from shared random state. format.go, mxfp8.go and rounding.go show
//     both. A NaN stays one.
//  6. A step either validates all its inputs and runs, or returns an error and has written nothing. The gradient is an
//     input and is not written, unless the caller asked for it to be zeroed.
package pnm
