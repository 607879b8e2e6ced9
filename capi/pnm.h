/* pnm.h: the optimizer step of a training loop on the CPU, in one pass over memory, with bit-identical results on every machine.
 *
 * This is the C interface of the rules described at https://pkg.go.dev/github.com/posneg/pnm. docs/c.md has a program, and says how
 * to build, install, link and ship the library.
 *
 * - All memory is the caller's. A call keeps no pointer to it. Memory from pnm_alloc is the caller's until pnm_free.
 * - A call that fails has written nothing, neither to vectors nor through any other pointer. A call that succeeds has written everything.
 *   PNM_OK is 0. Treat every other status as a failure: later versions may add some.
 * - Several threads may call at the same time, on memory that they do not share.
 * - The library cannot be used after fork(): in the child, every call that works on vectors or rules returns PNM_ERROR_FORKED at once. The
 *   child is otherwise unharmed. To use the library there, call exec or start a new process.
 * - Initialize structs to zero, or with the functions below. Fields called reserved must be 0. A later version may give them names; 0 will
 *   then mean the present behaviour. Structs must be aligned for their type.
 * - Enumerators never change. Layouts of structs change only together with PNM_ABI_VERSION, which is also the number in the library's
 *   soname.
 */
#ifndef PNM_H
#define PNM_H

#include <stdint.h>

/* PNM_API marks the functions of the library. Define PNM_STATIC in a program that links the static library; this matters only on Windows.
 * PNM_BUILD is defined when the library itself is compiled. */
#if !defined(PNM_API)
#if defined(_WIN32) || defined(__CYGWIN__)
#if defined(PNM_STATIC)
#define PNM_API
#elif defined(PNM_BUILD)
#define PNM_API __declspec(dllexport)
#else
#define PNM_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define PNM_API __attribute__((visibility("default")))
#else
#define PNM_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header. To compare: PNM_VERSION_NUMBER >= 10203 is version 1.2.3 or newer. */
#define PNM_VERSION_MAJOR 0
#define PNM_VERSION_MINOR 1
#define PNM_VERSION_PATCH 0
#define PNM_VERSION_NUMBER (PNM_VERSION_MAJOR * 10000 + PNM_VERSION_MINOR * 100 + PNM_VERSION_PATCH)

/* The version of the loaded library, such as "1.2.3". The string lives as long as the library. */
PNM_API const char *pnm_version(void);

/* The version of this interface. A library is compatible with this header if pnm_abi_version() returns the same number. */
#define PNM_ABI_VERSION 1
PNM_API int pnm_abi_version(void);

/* The instruction set in use: "avx512", "avx2", "neon" or "generic". The environment variable PNM_ISA selects another one, if it is set
 * when the process starts. In a forked child, pnm_isa returns "" unless the parent called it before the fork. */
PNM_API const char *pnm_isa(void);

/* The number of workers of large steps whose options do not set it: the number of CPUs that the process may use, or the number given to
 * pnm_set_workers. In a forked child it is 0. */
PNM_API int pnm_workers(void);

typedef enum {
	PNM_OK = 0,
	PNM_ERROR_HYPERPARAMETER = 1, /* a field of a rule, vector, update or options is out of its range, or a field that must be 0 is not */
	PNM_ERROR_STEP = 2,           /* a step below 1, or below 0 in a call that reads noise */
	PNM_ERROR_LENGTH = 3,         /* vectors of one tensor differ in length, or a length or a count is negative or too large */
	PNM_ERROR_OVERLAP = 4,        /* two vectors share memory that the call would write */
	PNM_ERROR_DTYPE = 5,          /* an element type that is unknown, or not legal in its place */
	PNM_ERROR_NULL = 6,           /* a null pointer for data of a length above 0, for a struct that is needed, or for scales of PNM_MXFP8 */
	PNM_ERROR_ISA = 7,            /* PNM_ISA names an instruction set that is unknown or that this machine does not have */
	PNM_ERROR_FORKED = 8,         /* the process is a forked child of the process that loaded the library */
	PNM_ERROR_INTERNAL = 9,       /* a bug in the library; please report it */
	PNM_ERROR_ALIGNMENT = 10,     /* an address that is not a multiple of its type's alignment */
	PNM_ERROR_MEMORY = 11,        /* the system refuses the memory */
	PNM_ERROR_NOT_ALLOCATED = 12, /* pnm_free was given memory that is not from pnm_alloc, or that has been freed */
	PNM_ERROR_UNSUPPORTED = 13    /* pnm_limit has no kernel for the memory, or none for this machine */
} pnm_status;

/* The meaning of a status in a few words; never null. */
PNM_API const char *pnm_status_string(pnm_status status);

/* The error of the last call on this thread that failed, in a sentence that names the argument and the numbers; "" if no call has
 * failed. The next failure on this thread overwrites the string, and the thread's end frees it. */
PNM_API const char *pnm_last_error(void);

/* Sets the default number of workers, from 1 to 4096. 0 restores the number of CPUs; more workers than CPUs make nothing faster. */
PNM_API pnm_status pnm_set_workers(int workers);

typedef enum {
	PNM_FLOAT32 = 0,
	PNM_FLOAT64 = 1,
	PNM_BF16 = 2, /* the upper half of a float32 */
	PNM_F16 = 3,  /* IEEE 754 binary16 */
	PNM_LOW16 = 4, /* the lower half of a float32 whose upper half is a PNM_BF16: see pnm_update */
	PNM_MXFP8 = 5  /* momenta: a byte for each element, and one for each block of 32: see pnm_vector */
} pnm_dtype;

/* A contiguous array, aligned for its elements. data may be null if length is 0.
 *
 * PNM_MXFP8 is MXFP8 of OCP Microscaling v1.0: data has E4M3 elements, and scales has an E8M0 byte for each block of up to 32 elements. An
 * element stands for E4M3(element) * 2^(scale - 127); zero bytes in both stand for 0. The tensor is cut into rows of row elements, those of
 * one index of the tensor's first dimension, and each row into blocks; the last block of a row may be shorter. There are
 *
 *	length / row * ((row + 31) / 32)   scales, row after row;
 *	(length + 31) / 32                 if row is 0, for a tensor without rows.
 *
 * The library cannot check the size of scales. A part of a tensor must begin and end between rows or, without rows, at multiples
 * of 32. */
typedef struct {
	void *data;
	int64_t length; /* elements */
	int32_t dtype;  /* a pnm_dtype */
	int32_t reserved_flags[1];
	void *scales; /* for PNM_MXFP8, else null */
	int64_t row;  /* for PNM_MXFP8, a divisor of length below 2^32, or 0; else 0 */
	int64_t reserved[1];
} pnm_vector;

/* A pnm_vector whose memory a call only reads. */
typedef struct {
	const void *data;
	int64_t length;
	int32_t dtype;
	int32_t reserved_flags[1];
	const void *scales;
	int64_t row;
	int64_t reserved[1];
} pnm_const_vector;

static inline pnm_const_vector pnm_as_const(pnm_vector v) {
	pnm_const_vector c = {v.data, v.length, v.dtype, {v.reserved_flags[0]}, v.scales, v.row, {v.reserved[0]}};
	return c;
}

/* Sets data of each vector to new memory for its length and dtype, all zero, or to null if its length is 0. The scales of PNM_MXFP8 are
 * also zero, and follow the elements in the same memory. All vectors are aligned to at least 8 bytes. If the system refuses the memory, the
 * status is PNM_ERROR_MEMORY.
 *
 * Allocate all vectors of a run in one call: those of 64 KiB or more then begin at different offsets within a page, which a step needs for
 * its full speed, and a call for 1 MiB or more uses huge pages if the system has them. */
PNM_API pnm_status pnm_alloc(pnm_vector *vectors, int64_t count);

/* Frees memory from pnm_alloc, and sets data and scales of each vector to null. It reads only data, which may be null. The memory of one
 * call of pnm_alloc goes back to the system when the last of its vectors is freed. If any data is not from pnm_alloc, or was freed before,
 * nothing is freed, and the status is PNM_ERROR_NOT_ALLOCATED. In a forked child the memory may be used, but not freed. */
PNM_API pnm_status pnm_free(pnm_vector *vectors, int64_t count);

/* Copies *from to *to, which has the same length. Elements are widened exactly, or rounded to nearest even. The dtypes may differ, unless
 * one of them is PNM_FLOAT64 or PNM_LOW16; rows may differ, too. *overflows becomes the number of finite elements that became infinite in
 * PNM_F16; overflows may be null. In PNM_MXFP8 an infinity becomes a NaN. */
PNM_API pnm_status pnm_convert(const pnm_vector *to, const pnm_const_vector *from, int64_t *overflows);

typedef enum {
	PNM_RULE_PNM = 1,
	PNM_RULE_ADAPNM = 2,
	PNM_RULE_SGD = 3,
	PNM_RULE_ADAM = 4, /* AdamW is Adam with decoupled set */
	PNM_RULE_LION = 5
} pnm_rule_kind;

/* An update rule. Build it with one of the functions below, which fill in the defaults, and then change fields. A field set to zero means
 * zero. Fields that a rule does not have must be 0. */
typedef struct {
	int32_t kind; /* a pnm_rule_kind */
	int32_t decoupled, amsgrad, maximize, nesterov, exact_bias; /* 0 or 1 */
	int32_t reserved_flags[6];
	double lr, beta1, beta2, beta0, eps, weight_decay, momentum, dampening;
	int64_t reserved[8];
} pnm_rule;

PNM_API pnm_rule pnm_rule_pnm(double lr);
PNM_API pnm_rule pnm_rule_adapnm(void);
PNM_API pnm_rule pnm_rule_sgd(double lr);
PNM_API pnm_rule pnm_rule_adam(void);
PNM_API pnm_rule pnm_rule_adamw(void);
PNM_API pnm_rule pnm_rule_lion(void);

/* The number of state vectors that a rule has for a tensor; it depends on the rule's options. It is −1 if the rule is null or misaligned,
 * if its kind or a flag is unknown, and in a forked child: pnm_last_error() says why. */
PNM_API int pnm_state_count(const pnm_rule *rule);

/* The name of state vector i, counted from 0, as in checkpoints and PyTorch, such as "exp_avg". The string lives as long as the library.
 * Null if pnm_state_count is −1, or if i is not in its range. */
PNM_API const char *pnm_state_name(const pnm_rule *rule, int i);

/* A step of one tensor. All vectors have the same length and share no memory. Either all of them are float64, and there is no copy, or they
 * have any combination of these types:
 *
 *	params   float32; bf16, rounded stochastically; or split, see below
 *	grads    float32, bf16 or f16
 *	state    float32; bf16, with momenta rounded to nearest even, and averages of squares (exp_avg_sq, max_exp_avg_sq) stochastically; or
 *	         mxfp8 for all momenta, with the same rows, rounded stochastically, and bf16 for averages of squares
 *	copy     bf16 or f16, rounded to nearest even, of float32 params; bf16 of split params
 *
 * An infinite momentum becomes a NaN in mxfp8.
 *
 * Split params are float32 numbers in two halves. Every step gives bit-identical results to a step with float32 params. copy, in PNM_BF16,
 * has the upper halves, with which the model computes: each is the float32 rounded to the nearest bf16, away from zero in a tie. params, in
 * PNM_LOW16, has the lower halves, as int16_t. A float32 with the bits b is split and joined by
 *
 *	uint16_t upper = (uint16_t)((b + 0x8000) >> 16);        of a NaN: any NaN
 *	int16_t low = (int16_t)(b & 0xffff);                    of a NaN: 0
 *	b = ((uint32_t)upper << 16) + (uint32_t)(int32_t)low;   if this changes the sign, (uint32_t)upper << 16 instead
 *
 * To start from bf16 parameters, use them as copy, and zeros as params. Others may write to copy between steps: the next step then begins
 * from a number that rounds to theirs. Without a copy in PNM_BF16, the status is PNM_ERROR_DTYPE. */
typedef struct {
	const pnm_rule *rule;
	int64_t step;           /* the tensor's own count, from 1; it determines which momentum is due */
	pnm_vector params;
	pnm_const_vector grads; /* only read, unless zero_grads is set: then the call writes zeros to this memory */
	pnm_vector state[4];    /* pnm_state_count(rule) vectors, zero before the first step; the rest of the array is all zero */
	pnm_vector copy;        /* gets the updated float32 params in bf16 or f16, or has the upper halves of split ones; all zero for none */
	uint64_t seed, tensor;  /* of stochastic rounding: the run's seed, and a number that differs between its tensors */
	int64_t first;          /* if this is a part of a tensor, the index of its first element in the whole; with state in mxfp8, a multiple
	                         * of the row, or of 32 without rows */
	int32_t skip;           /* 1: leave the tensor as it is, since it has no gradient in this step; step and grads are ignored */
	int32_t follow;         /* 1: read copy before the step: float32 params that do not round to it take its value, since others have
	                         * written to it. 0: only write it. Without a copy, 1 returns PNM_ERROR_DTYPE. Split params always follow */
	int64_t reserved[8];
} pnm_update;

/* The number of integers that pnm_sum_squares writes. */
#define PNM_SQUARES 334

/* What to do around a step. All zero: nothing. clip_norm and skip_non_finite first read the gradients once; the rest adds no pass over
 * memory. */
typedef struct {
	double loss_scale;       /* the gradients are divided by it; 0 means 1 */
	double clip_norm;        /* bound of the Euclidean norm of all gradients together; 0: no bound; infinity: only report the norm */
	double clip_value;       /* bound of each element's absolute value; 0: no bound */
	int32_t skip_non_finite; /* 1: if a gradient is NaN or infinite, skip the step, and report it */
	int32_t zero_grads;      /* 1: set the gradients to zero after the step, even if it was skipped */
	int32_t workers;         /* the largest number of workers, up to 4096; 0: pnm_workers() */
	int32_t reserved_flags[3];
	const int64_t *squares;  /* the sum of pnm_sum_squares over all gradients of the step, if this call has only some of them; it needs
	                          * clip_norm or skip_non_finite. Null: these two use the gradients of the call */
	int64_t *noise;          /* gets what pnm_sum_noise writes after the step: 2 * PNM_SQUARES integers for each of the updates; all 0 for
	                          * those with skip, and for all if the step was skipped. Null: none */
	int64_t reserved[6];
} pnm_options;

/* The result of a step. A step that returns PNM_OK writes all of it, with 0 in reserved fields; a step that fails writes nothing. */
typedef struct {
	double grad_norm;  /* the norm of all gradients, divided by loss_scale; 0 without clip_norm and skip_non_finite */
	int64_t overflows; /* the number of finite params that became infinite in an f16 copy */
	int32_t skipped;   /* 1 if skip_non_finite skipped the step: do not count it */
	int32_t reserved_flags[3];
	int64_t reserved[8];
} pnm_report;

/* Performs a step of a list of tensors, with one norm. The workers share the whole list. options and report may be null. */
PNM_API pnm_status pnm_update_all(const pnm_options *options, const pnm_update *updates, int64_t count, pnm_report *report);

/* Performs a step of one tensor. */
PNM_API pnm_status pnm_update_one(const pnm_options *options, const pnm_update *update, pnm_report *report);

/* For benchmarks: reads and writes the memory of a step, and computes nothing. A step is rarely faster. updates must be valid for a step;
 * of options, only workers is used. Only copies of float32 params change. The last elements of each tensor, up to 1023, are left out.
 * Without vector instructions, and for state in mxfp8 whose rows are not multiples of 32, the status is PNM_ERROR_UNSUPPORTED. */
PNM_API pnm_status pnm_limit(const pnm_options *options, const pnm_update *updates, int64_t count);

/* Writes the sum of the squares of all elements of the gradients to squares, as PNM_SQUARES integers. Adding such sums element by element,
 * in any order, gives the sum over the gradients of all calls (up to 2^20): use anything that adds int64_t, such as MPI_SUM. The gradients
 * may be PNM_FLOAT32, PNM_FLOAT64, PNM_BF16 and PNM_F16. */
PNM_API pnm_status pnm_sum_squares(const pnm_const_vector *grads, int64_t count, int32_t workers, int64_t *squares);

/* Sets *norm to the root of a sum of squares, which is the Euclidean norm of the gradients. Its bits do not depend on how the elements were
 * ordered, and cut into vectors, calls and processes. It is NaN if a gradient has a NaN. Otherwise it is infinite if a gradient has an
 * infinity, or if the norm is too large for a double. */
PNM_API pnm_status pnm_norm(const int64_t *squares, double *norm);

/* Reads the two momenta of each tensor of PNM and AdaPNM, and writes 2 * PNM_SQUARES integers for each of the updates to sums: the sum of
 * the squares of the momenta's sum, then that of their difference, each momentum divided by the sum of its weights. The integers are 0 if
 * there is nothing to read: with skip, after the first step, and for other rules. Of an update, the call uses rule, state, skip, and step,
 * which is here the number of the tensor's last step.
 *
 * Adding such sums of parts of a tensor integer by integer gives those of the tensor, whatever the parts (up to 2^20). */
PNM_API pnm_status pnm_sum_noise(const pnm_update *updates, int64_t count, int32_t workers, int64_t *sums);

/* Estimates a tensor's gradient and its noise from the 2 * PNM_SQUARES integers that were read after step number step: *signal estimates
 * |G|^2, where G is the mean gradient, and *variance the sum over all elements of the variance of a minibatch's gradient. variance / signal
 * is the gradient noise scale, in minibatches. Add up each over the tensors of a model, and average each over steps, before you divide. The
 * signal has no bias, so it is negative at times. Before step 2 both are NaN. For a rule other than PNM and AdaPNM, the status is
 * PNM_ERROR_HYPERPARAMETER. */
PNM_API pnm_status pnm_noise(const pnm_rule *rule, int64_t step, const int64_t *sums, double *signal, double *variance);

/* A tensor, or a part of one, that takes part in a fingerprint. */
typedef struct {
	const char *name;        /* of the tensor, in UTF-8: the same in all runs that are compared */
	pnm_const_vector vector; /* the elements; the scales of PNM_MXFP8 count as another tensor, whose name ends with ".scales" */
	pnm_const_vector copy;   /* all zero, or the copy of a pnm_update whose params are vector. The elements are then the float32 numbers
	                          * that the next step reads: split params joined with it, or float32 params that follow it */
	int64_t first;           /* the index of the first element in the whole tensor; with PNM_MXFP8, where a row or a block begins */
	int64_t reserved[4];
} pnm_portion;

/* Writes the fingerprint of all portions to fingerprint: 128 bits, as two integers that printf("%016" PRIx64 "%016" PRIx64, f[0], f[1])
 * prints as all of this library's interfaces do. Adding fingerprints integer by integer, modulo 2^64, gives that of the portions of all
 * calls, so it does not depend on how tensors are cut: use anything that adds uint64_t, such as MPI_SUM. Each element must be in one portion.
 * docs/fingerprint.md has the definition, and says what equal fingerprints prove. */
PNM_API pnm_status pnm_fingerprint(const pnm_portion *portions, int64_t count, int32_t workers, uint64_t *fingerprint);

/* For pnm_fingerprint_bytes: bytes of which each bit counts, such as those of integers, or the scales of PNM_MXFP8. first counts bytes. */
#define PNM_BYTES (-1)

/* Writes the fingerprint of elements from their bytes in little-endian order, at any address, as files have them. dtype is PNM_BYTES or a
 * pnm_dtype other than PNM_LOW16; PNM_MXFP8 stands for the elements alone. It uses only the caller's thread. */
PNM_API pnm_status pnm_fingerprint_bytes(
	const char *name, int32_t dtype, int64_t first, const void *bytes, int64_t size, uint64_t *fingerprint);

#ifdef __cplusplus
}
#endif

#endif
