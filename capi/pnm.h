/* pnm.h: the optimizer step of a training loop on the CPU, fused into one pass over memory, with the same bits on every machine.
 *
 * Build libpnm.so with Go:  go build -buildmode=c-shared -o libpnm.so ./capi
 * The rules are described at https://pkg.go.dev/github.com/posneg/pnm; this is their C interface. docs/c.md has a program, and how
 * to install, link and ship the library.
 *
 * - All memory is the caller's: nothing is owned, and nothing is retained after a call.
 * - A call either checks all of its input and runs, or returns an error and has written nothing but that.
 * - Calls may be made from any thread, also at the same time, on different memory.
 * - The library does not survive fork(): in a child every call that does work returns PNM_ERROR_FORKED at once, and the child is
 *   otherwise unharmed. exec, or a new process, is the way to use it there.
 * - Fields called reserved must be 0, and are there to become others: what a caller leaves zero means what it meant before.
 *   Enumerators never change; sizes of structs do only with PNM_ABI_VERSION, which is the number in the library's soname, too.
 */
#ifndef PNM_H
#define PNM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* The version of this interface. A library is compatible if pnm_abi_version() gives the same. */
#define PNM_ABI_VERSION 1
int pnm_abi_version(void);

/* "0.1.0"; a string that lives as long as the library. */
const char *pnm_version(void);

/* The instruction set in use: "avx512", "avx2", "neon" or "generic". The environment variable PNM_ISA pins one; it is that of the
 * environment which the process was started with. In a forked child this is "" unless the parent has asked, too. */
const char *pnm_isa(void);

/* How many workers large steps have where their options do not say: as many as there are CPUs for the process, or what
 * pnm_set_workers said; 0 in a forked child. */
int pnm_workers(void);

typedef enum {
	PNM_OK = 0,
	PNM_ERROR_HYPERPARAMETER = 1, /* a field of a rule or an option is out of its range, or a reserved one is not 0 */
	PNM_ERROR_STEP = 2,           /* a step below 1 */
	PNM_ERROR_LENGTH = 3,         /* vectors of one tensor differ in length, or a length is negative */
	PNM_ERROR_OVERLAP = 4,        /* memory that is written is used twice */
	PNM_ERROR_DTYPE = 5,          /* an element type that is not for its place */
	PNM_ERROR_NULL = 6,           /* a null pointer where there is a length, or where a struct must be */
	PNM_ERROR_ISA = 7,            /* PNM_ISA names what this machine does not have */
	PNM_ERROR_FORKED = 8,         /* the process is a child of the one that loaded the library */
	PNM_ERROR_INTERNAL = 9,       /* a bug in the library; please report it */
	PNM_ERROR_ALIGNMENT = 10      /* an address that is not a multiple of its element's size */
} pnm_status;

/* From 1 to 4096, also more than there are CPUs, which is of no use; 0 is the default again. */
pnm_status pnm_set_workers(int workers);

/* What went wrong in the last call on this thread that failed, in a sentence that names the argument and the numbers; "" if none
 * has. Another failure on this thread overwrites it, and the thread's end frees it. */
const char *pnm_last_error(void);

typedef enum {
	PNM_FLOAT32 = 0,
	PNM_FLOAT64 = 1,
	PNM_BF16 = 2, /* the upper half of a float32 */
	PNM_F16 = 3   /* IEEE 754 binary16 */
} pnm_dtype;

typedef enum {
	PNM_RULE_PNM = 1,    /* state: pos_momentum, neg_momentum */
	PNM_RULE_ADAPNM = 2, /* state: exp_avg, neg_exp_avg, exp_avg_sq and, with amsgrad, max_exp_avg_sq */
	PNM_RULE_SGD = 3,    /* state: momentum_buffer, or none if momentum is 0 */
	PNM_RULE_ADAM = 4    /* state: exp_avg, exp_avg_sq and, with amsgrad, max_exp_avg_sq; AdamW is decoupled */
} pnm_rule_kind;

/* An update rule. Build it by one of the functions below, which fill the defaults, and change fields: a field set to zero means
 * zero. Fields that a rule does not have must be 0. */
typedef struct {
	int32_t kind; /* a pnm_rule_kind */
	int32_t decoupled, amsgrad, maximize, nesterov, exact_bias; /* 0 or 1 */
	double lr, beta1, beta2, beta0, eps, weight_decay, momentum, dampening;
	int64_t reserved[4];
} pnm_rule;

pnm_rule pnm_rule_pnm(double lr);
pnm_rule pnm_rule_adapnm(void);
pnm_rule pnm_rule_sgd(double lr);
pnm_rule pnm_rule_adam(void);
pnm_rule pnm_rule_adamw(void);

/* A contiguous array, aligned as its type is. data may be null if length is 0. */
typedef struct {
	void *data;
	int64_t length; /* elements */
	int32_t dtype;  /* a pnm_dtype */
	int32_t reserved;
} pnm_vector;

/* A step of one tensor. All vectors have the same length and share no memory; state beyond what the rule has is all zero. Params
 * are float32 or bf16 (stored by stochastic rounding), grads float32, bf16 or f16, state float32 or bf16 (momenta to nearest,
 * averages of squares stochastically); or all are float64. State is zero before the first step. */
typedef struct {
	const pnm_rule *rule;
	int64_t step; /* the tensor's own count, from 1; it decides which momentum is due */
	pnm_vector params;
	pnm_vector grads; /* read only, unless zero_grads is set */
	pnm_vector state[4];
	pnm_vector copy; /* of updated float32 params in bf16 or f16; all zero for none */
	uint64_t seed, tensor; /* of stochastic rounding: the run's seed, and what tells its tensors apart */
	int64_t first;         /* the number of the first element within the whole tensor, for who owns a part of it */
	int64_t reserved[4];
} pnm_update;

/* The chores around a step, in the same pass. All zero: none of them. */
typedef struct {
	double loss_scale;       /* divided out of the gradients; 0 means 1 */
	double clip_norm;        /* bound of the Euclidean norm of all gradients together; 0: none, infinity: only report it */
	double clip_value;       /* bound of each element; 0: none */
	int32_t skip_non_finite; /* leave everything as it is if a gradient is NaN or infinite, and report it */
	int32_t zero_grads;      /* set the gradients to zero after the step */
	int32_t workers;         /* at most so many, up to 4096; 0: pnm_workers() */
	int32_t reserved[5];
} pnm_options;

typedef struct {
	double grad_norm;  /* of all gradients, loss scale divided out; 0 unless clip_norm or skip_non_finite asked for it */
	int64_t overflows; /* finite params that became infinite in an f16 copy */
	int32_t skipped;   /* by skip_non_finite */
	int32_t reserved[5]; /* set to 0 */
} pnm_report;

/* A step of a list of tensors: one fork and join of the workers, one norm. options and report may be null. */
pnm_status pnm_update_all(const pnm_options *options, const pnm_update *updates, int64_t count, pnm_report *report);

/* The same for one tensor. */
pnm_status pnm_update_one(const pnm_options *options, const pnm_update *update, pnm_report *report);

/* The Euclidean norm of all gradients together, in float64; the same bits for any number of workers. */
pnm_status pnm_grad_norm(const pnm_vector *grads, int64_t count, int32_t workers, double *norm);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif
