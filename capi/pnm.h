/* pnm.h: the optimizer step of a training loop on the CPU, in one pass over memory, with the same bits on every machine.
 *
 * The rules are described at https://pkg.go.dev/github.com/posneg/pnm; this is their C interface. docs/c.md has a program, and how
 * to build, install, link and ship the library.
 *
 * - All memory is the caller's. A call keeps nothing of it; what pnm_alloc gives is the caller's until pnm_free.
 * - A call that fails has written nothing, neither to vectors nor through any other pointer; a call that succeeds has written all.
 *   PNM_OK is 0. Treat every other status as a failure: new ones may come.
 * - Any thread may call, at the same time as others, on memory that they do not share.
 * - The library does not survive fork(): in a child every call that works on vectors or rules returns PNM_ERROR_FORKED at once, and
 *   the child is otherwise unharmed. exec, or a new process, is the way to use it there.
 * - Initialize structs to zero, or by the functions below. Fields called reserved must be 0; a later version may give them names,
 *   and 0 will mean what it means now. Structs must be aligned as their type is.
 * - Enumerators never change. Layouts of structs change only with PNM_ABI_VERSION, which is the number in the library's soname, too.
 */
#ifndef PNM_H
#define PNM_H

#include <stdint.h>

/* Before functions of the library. Define PNM_STATIC where a program is linked with the static library; only Windows sees the
 * difference. Define PNM_BUILD in the library itself. */
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

/* The version of the library that is loaded, as "1.2.3"; a string that lives as long as the library. */
PNM_API const char *pnm_version(void);

/* The version of this interface. A library is compatible if pnm_abi_version() gives the same. */
#define PNM_ABI_VERSION 1
PNM_API int pnm_abi_version(void);

/* The instruction set in use: "avx512", "avx2", "neon" or "generic". The environment variable PNM_ISA pins one; it is that of the
 * environment which the process was started with. In a forked child this is "" unless the parent has asked, too. */
PNM_API const char *pnm_isa(void);

/* How many workers large steps have where their options do not say: as many as there are CPUs for the process, or what
 * pnm_set_workers said; 0 in a forked child. */
PNM_API int pnm_workers(void);

typedef enum {
	PNM_OK = 0,
	PNM_ERROR_HYPERPARAMETER = 1, /* a field of a rule, a vector, an update or the options is out of its range, or one that must be is not 0 */
	PNM_ERROR_STEP = 2,           /* a step below 1 */
	PNM_ERROR_LENGTH = 3,         /* vectors of one tensor differ in length, or a length or a count is negative or too large */
	PNM_ERROR_OVERLAP = 4,        /* memory that is written is used twice */
	PNM_ERROR_DTYPE = 5,          /* an element type that is unknown, or not legal in its place */
	PNM_ERROR_NULL = 6,           /* a null pointer where there is a length, or where a struct must be; no scales of PNM_MXFP8 */
	PNM_ERROR_ISA = 7,            /* PNM_ISA names an instruction set that this machine does not have */
	PNM_ERROR_FORKED = 8,         /* the process is a child of the one that loaded the library */
	PNM_ERROR_INTERNAL = 9,       /* a bug in the library; please report it */
	PNM_ERROR_ALIGNMENT = 10,     /* an address that is not a multiple of its type's alignment */
	PNM_ERROR_MEMORY = 11,        /* the system refuses the memory */
	PNM_ERROR_NOT_ALLOCATED = 12  /* pnm_free is given memory that pnm_alloc did not give, or that has been freed */
} pnm_status;

/* What a status means, in a few words; never null. */
PNM_API const char *pnm_status_string(pnm_status status);

/* What went wrong in the last call on this thread that failed, in a sentence that names the argument and the numbers; "" if none
 * has. Another failure on this thread overwrites it, and the thread's end frees it. */
PNM_API const char *pnm_last_error(void);

/* Sets the default number of workers, from 1 to 4096; 0 restores as many as there are CPUs, of which more workers than that are no
 * use. */
PNM_API pnm_status pnm_set_workers(int workers);

typedef enum {
	PNM_FLOAT32 = 0,
	PNM_FLOAT64 = 1,
	PNM_BF16 = 2, /* the upper half of a float32 */
	PNM_F16 = 3,  /* IEEE 754 binary16 */
	PNM_LOW16 = 4, /* the lower half of a float32 whose upper half is a PNM_BF16, see pnm_update */
	PNM_MXFP8 = 5  /* a byte for each element, and one for each block of 32: momenta, see pnm_vector */
} pnm_dtype;

/* A contiguous array, aligned as its elements are. data may be null if length is 0.
 *
 * PNM_MXFP8 is MXFP8 of OCP Microscaling v1.0: data has elements of E4M3, scales a byte of E8M0 for each block of up to 32 elements, which
 * are E4M3(element) * 2^(scale - 127). Zeros in both are zeros. The tensor is cut into rows of row elements, those of one index of its first
 * dimension, and each row into blocks, of which its last may be shorter. There are
 *
 *	length / row * ((row + 31) / 32)   scales, row after row;
 *	(length + 31) / 32                 if row is 0, for a tensor without rows.
 *
 * A call trusts that there are so many. A part of a tensor must begin and end between rows, or without rows at multiples of 32. */
typedef struct {
	void *data;
	int64_t length; /* elements */
	int32_t dtype;  /* a pnm_dtype */
	int32_t reserved_flags[1];
	void *scales; /* of PNM_MXFP8, else null */
	int64_t row;  /* of PNM_MXFP8, a divisor of length below 2^32 or 0; else 0 */
	int64_t reserved[1];
} pnm_vector;

/* The same, for memory that a call only reads. */
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

/* Sets data of each vector to new zeros for its length and dtype, or to null if its length is 0. The scales of PNM_MXFP8, zeros too, lie
 * in the same memory directly behind the elements. One call for many vectors is best:
 * vectors of 64 KiB and more begin at different offsets within a page, as a step that runs through them side by side needs for its
 * full speed, and a call for 1 MiB or more takes huge pages where the system has them. All are aligned to at least 8 bytes. If the
 * system refuses the memory, the status is PNM_ERROR_MEMORY. */
PNM_API pnm_status pnm_alloc(pnm_vector *vectors, int64_t count);

/* Frees memory of pnm_alloc, and sets data and scales of each vector to null; only data is looked at, and null is legal. The memory of one
 * call of pnm_alloc goes back to the system when the last of its vectors is freed. If any data is not such memory, or was freed before,
 * nothing is freed, and the status is PNM_ERROR_NOT_ALLOCATED. In a forked child the memory may be used, but not freed. */
PNM_API pnm_status pnm_free(pnm_vector *vectors, int64_t count);

/* Sets each element of to to that of from, which has as many: widened exactly, or rounded to nearest even. Both are of the same
 * dtype, or of any two but PNM_FLOAT64 and PNM_LOW16; rows may differ. *overflows becomes the number of finite elements that became infinite
 * in PNM_F16; overflows may be null. An infinity becomes a NaN in PNM_MXFP8, which has none. */
PNM_API pnm_status pnm_convert(const pnm_vector *to, const pnm_const_vector *from, int64_t *overflows);

typedef enum {
	PNM_RULE_PNM = 1,
	PNM_RULE_ADAPNM = 2,
	PNM_RULE_SGD = 3,
	PNM_RULE_ADAM = 4, /* AdamW is decoupled */
	PNM_RULE_LION = 5
} pnm_rule_kind;

/* An update rule. Build it by one of the functions below, which fill the defaults, and change fields: a field set to zero means
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

/* How many state vectors a tensor has with a rule, which depends on the rule's options; −1 if the rule is null or misaligned, its
 * kind or a flag is unknown, or in a forked child: pnm_last_error() says which. */
PNM_API int pnm_state_count(const pnm_rule *rule);

/* The name of state vector i, from 0, as checkpoints and PyTorch have it, such as "exp_avg"; a string that lives as long as the
 * library. Null where pnm_state_count is −1 or i is not below it. */
PNM_API const char *pnm_state_name(const pnm_rule *rule, int i);

/* A step of one tensor. All vectors have the same length and share no memory. Params are float32, bf16 (stored by stochastic
 * rounding) or split, grads float32, bf16 or f16, state float32, bf16 (momenta to nearest, averages of squares stochastically), or momenta in
 * mxfp8, stochastically, all with the same rows, with averages of squares in bf16; or all are float64. The averages of squares are those
 * named exp_avg_sq and max_exp_avg_sq. A momentum that is infinite becomes a NaN in mxfp8.
 *
 * Split params are float32 numbers in two halves, with the bits that float32 params would have after every step. copy, in PNM_BF16, has
 * the upper halves, which a model computes with: each is its float32 rounded to nearest, of two the one farther from zero. params, in
 * PNM_LOW16, has the lower halves, as int16_t. A float32 with the bits b is split and joined by
 *
 *	uint16_t upper = (uint16_t)((b + 0x8000) >> 16);        of a NaN: any NaN
 *	int16_t low = (int16_t)(b & 0xffff);                    of a NaN: 0
 *	b = ((uint32_t)upper << 16) + (uint32_t)(int32_t)low;   (uint32_t)upper << 16 where the sum has another sign
 *
 * Zeros in params are lower halves of what is in copy. Others may write to copy between steps: the next step begins from a number that
 * rounds to theirs. Without a copy in PNM_BF16 the status is PNM_ERROR_DTYPE. */
typedef struct {
	const pnm_rule *rule;
	int64_t step;           /* the tensor's own count, from 1; it decides which momentum is due */
	pnm_vector params;
	pnm_const_vector grads; /* only read, unless zero_grads is set: then they must be memory that may be written */
	pnm_vector state[4];    /* pnm_state_count(rule) of them, zero before the first step; the others are all zero */
	pnm_vector copy;        /* of updated float32 params in bf16 or f16, or the upper halves of split ones; all zero for none */
	uint64_t seed, tensor;  /* of stochastic rounding: the run's seed, and a number that tells its tensors apart */
	int64_t first;          /* the number of the first element within the whole tensor, where this is a part of it; of a tensor with
	                         * state in mxfp8, a multiple of its row, or of 32 without rows */
	int32_t skip;           /* leave the tensor as it is, for it has no gradient now: step and grads do not matter then */
	int32_t follow;         /* 1: read copy before the step; where float32 params do not round to it, they become what it has, since
	                         * others have written to it. 0: only write it. Without a copy 1 is PNM_ERROR_DTYPE; split params always follow */
	int64_t reserved[8];
} pnm_update;

/* How many numbers pnm_sum_squares gives. */
#define PNM_SQUARES 334

/* What is done around a step, in the same pass. All zero: none of it. */
typedef struct {
	double loss_scale;       /* divided out of the gradients; 0 means 1 */
	double clip_norm;        /* bound of the Euclidean norm of all gradients together; 0: none, infinity: only report it */
	double clip_value;       /* bound of each element; 0: none */
	int32_t skip_non_finite; /* leave everything as it is if a gradient is NaN or infinite, and report it */
	int32_t zero_grads;      /* set the gradients to zero after the step */
	int32_t workers;         /* at most so many, up to 4096; 0: pnm_workers() */
	int32_t reserved_flags[3];
	const int64_t *squares;  /* of all gradients of the step, by pnm_sum_squares, where the call has not all of them: for clip_norm and
	                          * skip_non_finite, one of which it needs; null: the call sums up its own */
	int64_t reserved[7];
} pnm_options;

/* What a step did. It is written whole, reserved fields to 0, where the step returns PNM_OK, and not at all where it fails. */
typedef struct {
	double grad_norm;  /* of all gradients, loss scale divided out; 0 unless clip_norm or skip_non_finite asked for it */
	int64_t overflows; /* finite params that became infinite in an f16 copy */
	int32_t skipped;   /* by skip_non_finite */
	int32_t reserved_flags[3];
	int64_t reserved[8];
} pnm_report;

/* A step of a list of tensors: one fork and join of the workers, one norm. options and report may be null. */
PNM_API pnm_status pnm_update_all(const pnm_options *options, const pnm_update *updates, int64_t count, pnm_report *report);

/* The same for one tensor. */
PNM_API pnm_status pnm_update_one(const pnm_options *options, const pnm_update *update, pnm_report *report);

/* The sum of the squares of all elements of the gradients, as PNM_SQUARES integers, which are written where the status is PNM_OK. Those of
 * up to 2^20 calls may be added up one by one, in any order and by whatever adds int64_t, such as MPI_SUM: the result is the sum for all of
 * their gradients. Grads may be PNM_FLOAT32, PNM_FLOAT64, PNM_BF16 and PNM_F16. */
PNM_API pnm_status pnm_sum_squares(const pnm_const_vector *grads, int64_t count, int32_t workers, int64_t *squares);

/* The root of a sum of squares, the Euclidean norm of the gradients: the same bits however elements were cut into vectors, calls and
 * processes, and ordered. NaN if a gradient has a NaN, else infinite if one has an infinity, or if the norm is too large for a double. *norm
 * is written where the status is PNM_OK. */
PNM_API pnm_status pnm_norm(const int64_t *squares, double *norm);

#ifdef __cplusplus
}
#endif

#endif
