/* What is refused, how it is said, and that nothing is written then. */
#include "check.h"
#include <math.h>

enum { N = 8 };

static pnm_rule rule;
static pnm_options options;
static pnm_update u[2];
static int64_t no_squares[PNM_SQUARES];

/* Two good tensors of SGD with momentum. */
static void reset(void) {
	for (int i = 0; i < 2; i++) {
		release(&u[i]);
		u[i] = tensor(&rule, N, 1);
	}
	rule = pnm_rule_sgd(0.1);
	rule.momentum = 0.9;
	memset(&options, 0, sizeof options);
}

static uint64_t bits(void) {
	uint64_t h = HASH_START;
	for (int i = 0; i < 2; i++) {
		pnm_vector state = u[i].state[0];
		h = hash(h, vector(u[i].params.data, u[i].params.data ? N : 0, PNM_FLOAT32));
		h = hash_bytes(h, state.data, state.data ? N * (state.dtype == PNM_MXFP8 ? sizeof(uint8_t) : sizeof(float)) : 0);
	}
	return h;
}

static void refused_all(int line, pnm_status want, const char *text, const pnm_update *updates, int64_t count) {
	for (int i = 0; i < 2; i++)
		if (u[i].grads.data != NULL)
			((float *)grads_of(&u[i]).data)[0] = 1;
	uint64_t before = bits();
	pnm_report report;
	memset(&report, 0x55, sizeof report);
	pnm_report untouched = report;
	pnm_status status = pnm_update_all(&options, updates, count, &report);
	CHECK(status == want, "line %d: got %d, want %d: %s", line, status, want, pnm_last_error());
	CHECK(strstr(pnm_last_error(), text) != NULL, "line %d: %s", line, pnm_last_error());
	CHECK(before == bits() && memcmp(&report, &untouched, sizeof report) == 0, "line %d: something was written", line);
}

/* change is made to a good call, which is then refused. */
#define REFUSED(status, text, change) \
	do { \
		reset(); \
		change; \
		refused_all(__LINE__, status, text, u, 2); \
	} while (0)

static void rules(void) {
	REFUSED(PNM_ERROR_NULL, "tensor 1: rule is null", u[1].rule = NULL);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "rule.kind is 99", rule.kind = 99);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "AdaPNM.Beta1, Beta2 and Eps are 0, must be set: pnm_rule_adapnm() fills in the defaults",
		(rule = (pnm_rule){.kind = PNM_RULE_ADAPNM, .lr = 1}));
	REFUSED(PNM_ERROR_HYPERPARAMETER, "rule.kind is 0", memset(&rule, 0, sizeof rule));
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.nesterov is 2, must be 0 or 1", rule.nesterov = 2);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.maximize is -1, must be 0 or 1", rule.maximize = -1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.amsgrad is 1, must be 0: the rule does not have it", rule.amsgrad = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.exact_bias is 1, must be 0: the rule does not have it", rule.exact_bias = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.beta1 is 0.5, must be 0: the rule does not have it", rule.beta1 = 0.5);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.beta2 is NaN, must be 0: the rule does not have it", rule.beta2 = (double)NAN);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.eps is 1, must be 0: the rule does not have it", rule.eps = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.LR is +Inf, must be finite", rule.lr = (double)INFINITY);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "PNM.momentum is 0.9", rule = pnm_rule_pnm(1); rule.momentum = 0.9);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "AdaPNM.dampening is 1", rule = pnm_rule_adapnm(); rule.dampening = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Adam.beta0 is 1", rule = pnm_rule_adam(); rule.beta0 = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Adam.nesterov is 1", rule = pnm_rule_adam(); rule.nesterov = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.reserved is 5, must be 0", rule.reserved[7] = 5);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "SGD.reserved_flags is 6, must be 0", rule.reserved_flags[5] = 6);
}

static void *odd(void *p, int by) { return (char *)p + by; }

static void vectors(void) {
	REFUSED(PNM_ERROR_NULL, "tensor 0: params is null, but its length is 8", free(u[0].params.data); u[0].params.data = NULL);
	REFUSED(PNM_ERROR_NULL, "tensor 1: grads is null", free(grads_of(&u[1]).data); u[1].grads.data = NULL);
	REFUSED(PNM_ERROR_NULL, "tensor 1: state[0] is null", free(u[1].state[0].data); u[1].state[0].data = NULL);
	REFUSED(PNM_ERROR_NULL, "copy is null", u[0].copy = vector(NULL, N, PNM_BF16));
	REFUSED(PNM_ERROR_LENGTH, "length of copy is 0, must be 8", u[0].copy = vector(NULL, 0, PNM_BF16));
	REFUSED(PNM_ERROR_LENGTH, "length of grads is 7, must be 8", u[1].grads.length = N - 1);
	REFUSED(PNM_ERROR_LENGTH, "length of params is -1", u[1].params.length = -1);
	REFUSED(PNM_ERROR_LENGTH, "length of params is 9223372036854775807", u[1].params.length = INT64_MAX);
	REFUSED(PNM_ERROR_LENGTH, "too long for memory at", u[0].copy = vector((void *)~(uintptr_t)255, 200, PNM_BF16));
	u[0].copy.data = NULL;
	REFUSED(PNM_ERROR_LENGTH, "tensor 1: state[1] is set, but the rule has 1 state vectors", u[1].state[1] = zeros(N, PNM_FLOAT32));
	REFUSED(PNM_ERROR_LENGTH, "state[0] is set, but the rule has 0 state vectors", rule.momentum = 0);
	REFUSED(PNM_ERROR_LENGTH, "length of exp_avg_sq is 0, must be 8", rule = pnm_rule_adam());
	REFUSED(PNM_ERROR_OVERLAP, "params of tensor 0 and params of tensor 1 share 1 elements", free(u[1].params.data); u[1].params.data = u[0].params.data;
		u[1].params.length = u[1].grads.length = u[1].state[0].length = 1);
	u[1].params.data = NULL;
	REFUSED(PNM_ERROR_DTYPE, "dtype of grads is 6", u[1].grads.dtype = 6);
	REFUSED(PNM_ERROR_DTYPE, "dtype of state[0] is -1", u[1].state[0].dtype = -1);
	REFUSED(PNM_ERROR_DTYPE, "the format of momentum_buffer is f16, must be float32, bf16 or mxfp8", u[1].state[0].dtype = PNM_F16);
	REFUSED(PNM_ERROR_DTYPE, "the format of grads is float64", u[1].grads.dtype = PNM_FLOAT64);
	REFUSED(PNM_ERROR_DTYPE, "the format of grads is low16", u[1].grads.dtype = PNM_LOW16);
	REFUSED(PNM_ERROR_DTYPE, "the format of momentum_buffer is low16", u[1].state[0].dtype = PNM_LOW16);
	REFUSED(PNM_ERROR_DTYPE, "the format of copy is nil, must be bf16, the upper halves of low16 params", u[1].params.dtype = PNM_LOW16);
	REFUSED(PNM_ERROR_DTYPE, "the format of copy is f16, must be bf16", u[1].params.dtype = PNM_LOW16; u[1].copy = zeros(N, PNM_F16));
	REFUSED(PNM_ERROR_DTYPE, "the format of copy is low16, must be bf16 or f16", u[1].copy = zeros(N, PNM_LOW16));
	REFUSED(PNM_ERROR_DTYPE, "the format of copy is nil, must be bf16 or f16 for params to follow it", u[1].follow = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "tensor 1: Update.follow is 2, must be 0 or 1", u[1].follow = 2);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "grads.reserved is 1, must be 0", u[1].grads.reserved[0] = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Update.reserved is -1, must be 0", u[1].reserved[7] = -1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "copy.reserved_flags is 2, must be 0", u[0].copy.reserved_flags[0] = 2);
	REFUSED(PNM_ERROR_LENGTH, "state[1] is set", u[0].state[1].reserved[0] = 2);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "tensor 1: Update.skip is 2, must be 0 or 1", u[1].skip = 2);
	REFUSED(PNM_ERROR_NULL, "tensor 1: params is null", u[1].skip = 1; free(u[1].params.data); u[1].params.data = NULL); /* checked, too */
	REFUSED(PNM_ERROR_ALIGNMENT, "tensor 1: rule is at 0x", u[1].rule = odd(&rule, 4));
	REFUSED(PNM_ERROR_ALIGNMENT, "tensor 1: grads is at 0x", u[1].grads.length = 1; u[1].grads.data = odd(grads_of(&u[1]).data, 1));
	u[1].grads.data = odd(grads_of(&u[1]).data, -1);
	REFUSED(PNM_ERROR_ALIGNMENT, "state[1] is at 0x", rule = pnm_rule_adam(); u[0].state[1] = vector(odd(u[1].params.data, 2), 1, PNM_FLOAT32));
	u[0].state[1].data = NULL;
	REFUSED(PNM_ERROR_ALIGNMENT, "tensor 0: copy is at", u[0].copy = vector(odd(u[1].params.data, 3), 1, PNM_F16));
	u[0].copy.data = NULL;
	REFUSED(PNM_ERROR_STEP, "tensor 1: Update.Step is 0, must be", u[1].step = 0);
	REFUSED(PNM_ERROR_STEP, "Update.Step is -9.223372036854776e+18", u[1].step = INT64_MIN);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Update.first is -1", u[1].first = -1);
}

/* The state of tensor 1 becomes mxfp8. */
static void to_mxfp8(int64_t row) {
	free(u[1].state[0].data);
	u[1].state[0] = zeros_in_rows(N, row, PNM_MXFP8);
}

/* Adam, with momenta in mxfp8 and averages in another format. */
static void to_adam(pnm_dtype averages) {
	rule = pnm_rule_adam();
	for (int i = 0; i < 2; i++) {
		free(u[i].state[0].data);
		u[i].state[0] = zeros(N, PNM_MXFP8);
		u[i].state[1] = zeros(N, averages);
	}
}

static void mxfp8(void) {
	REFUSED(PNM_ERROR_NULL, "tensor 1: scales of state[0] is null, but 1 are needed", to_mxfp8(0); free(u[1].state[0].scales); u[1].state[0].scales = NULL);
	REFUSED(PNM_ERROR_NULL, "tensor 1: scales of state[0] is null, but 4 are needed", to_mxfp8(2); free(u[1].state[0].scales); u[1].state[0].scales = NULL);
	REFUSED(PNM_ERROR_NULL, "tensor 1: state[0] is null", to_mxfp8(0); free(u[1].state[0].data); u[1].state[0].data = NULL);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "state[0].row is -1, must be in [0, 2³²)", to_mxfp8(0); u[1].state[0].row = -1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "state[0].row is 4.294967296e+09, must be in [0, 2³²)", to_mxfp8(0); u[1].state[0].row = INT64_C(1) << 32);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "state[0].row is 3, must be a divisor of the length, 8", to_mxfp8(0); u[1].state[0].row = 3);
	REFUSED(PNM_ERROR_LENGTH, "length of state[0] is 9223372036854775807", to_mxfp8(0); u[1].state[0].length = INT64_MAX);
	REFUSED(PNM_ERROR_LENGTH, "too long for memory at", to_mxfp8(0); free(u[1].state[0].scales); u[1].state[0].scales = (void *)~(uintptr_t)0; u[1].state[0].row = 1);
	u[1].state[0].scales = NULL;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "params.row is 8, must be 0: only PNM_MXFP8 has it", u[1].params.row = N);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "must be 0: only PNM_MXFP8 has it", u[1].grads.scales = &rule);
	REFUSED(PNM_ERROR_DTYPE, "the format of params is mxfp8, must be float32, bf16 or low16", u[1].params.dtype = PNM_MXFP8; u[1].params.scales = &rule);
	REFUSED(PNM_ERROR_DTYPE, "the format of grads is mxfp8, must be float32, bf16 or f16", u[1].grads.dtype = PNM_MXFP8; u[1].grads.scales = &rule);
	REFUSED(PNM_ERROR_DTYPE, "the format of copy is mxfp8, must be bf16 or f16", u[1].copy = zeros(N, PNM_MXFP8));
	free(u[1].copy.scales);
	REFUSED(PNM_ERROR_DTYPE, "the format of exp_avg_sq is mxfp8, must be bf16", to_adam(PNM_MXFP8));
	REFUSED(PNM_ERROR_DTYPE, "the format of exp_avg_sq is float32, must be bf16 where exp_avg is mxfp8", to_adam(PNM_FLOAT32));
	REFUSED(PNM_ERROR_HYPERPARAMETER, "neg_momentum.Row is 4, must be 2 like that of pos_momentum", rule = pnm_rule_pnm(1); to_mxfp8(2);
		for (int i = 0; i < 2; i++) u[i].state[1] = i == 1 ? zeros_in_rows(N, 4, PNM_MXFP8) : zeros(N, PNM_FLOAT32));
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Rounding.First is 31, must be between blocks of momentum_buffer, which is mxfp8: 0 or 32", to_mxfp8(0); u[1].first = 31);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Rounding.First is 9, must be between rows of 4 of momentum_buffer, which is mxfp8: 8 or 12", to_mxfp8(4); u[1].first = 9);
	REFUSED(PNM_ERROR_OVERLAP, "share", to_mxfp8(0); free(u[1].state[0].scales); u[1].state[0].scales = u[1].state[0].data);
	u[1].state[0].scales = NULL;
	REFUSED(PNM_ERROR_OVERLAP, "share", to_mxfp8(0); free(u[1].state[0].scales); u[1].state[0].scales = u[0].params.data);
	u[1].state[0].scales = NULL;
}

static void calls(void) {
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Options.ClipNorm is -1", options.clip_norm = -1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Options.LossScale is NaN", options.loss_scale = (double)NAN);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Options.skip_non_finite is 2, must be 0 or 1", options.skip_non_finite = 2);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Options.zero_grads is -1, must be 0 or 1", options.zero_grads = -1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "workers is -1, must be in [0, 4096]", options.workers = -1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "workers is 4097", options.workers = 4097);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Options.reserved is 1, must be 0", options.reserved[5] = 1);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Options.Squares is set, must be nil unless ClipNorm or", options.squares = no_squares);
	REFUSED(PNM_ERROR_ALIGNMENT, "squares is at 0x", (options.clip_norm = 1, options.squares = odd(no_squares, 4)));
	REFUSED(PNM_ERROR_ALIGNMENT, "noise is at 0x", options.noise = odd(no_squares, 4));
	REFUSED(PNM_ERROR_LENGTH, "too many for an array at 0x", options.noise = (int64_t *)~(uintptr_t)4095);
	REFUSED(PNM_ERROR_HYPERPARAMETER, "Options.reserved_flags is 1, must be 0", options.reserved_flags[2] = 1);
	reset();
	refused_all(__LINE__, PNM_ERROR_LENGTH, "count is -1", u, -1);
	refused_all(__LINE__, PNM_ERROR_LENGTH, "count is 9223372036854775807", u, INT64_MAX);
	refused_all(__LINE__, PNM_ERROR_LENGTH, "too many for an array at 0x", (const pnm_update *)~(uintptr_t)4095, 100);
	refused_all(__LINE__, PNM_ERROR_ALIGNMENT, "updates is at 0x", odd(u, 4), 1);
	refused_all(__LINE__, PNM_ERROR_NULL, "updates is null, but count is 2", NULL, 2);
	CHECK(pnm_update_one(NULL, NULL, NULL) == PNM_ERROR_NULL, "%s", pnm_last_error());

	pnm_report report;
	uint64_t before = bits();
	CHECK(pnm_update_all(odd(&options, 4), u, 2, &report) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "options is at 0x") != NULL, "%s", pnm_last_error());
	CHECK(pnm_update_all(&options, u, 2, odd(&report, 4)) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "report is at 0x") != NULL, "%s", pnm_last_error());
	CHECK(before == bits(), "something was written");

	CHECK(pnm_limit(odd(&options, 4), u, 2) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(pnm_limit(NULL, NULL, 2) == PNM_ERROR_NULL, "%s", pnm_last_error());
	u[1].step = 0;
	CHECK(pnm_limit(NULL, u, 2) == PNM_ERROR_STEP, "%s", pnm_last_error());
	u[1].step = 1;
	CHECK(before == bits(), "something was written");

	double norm = 5;
	int64_t squares[PNM_SQUARES] = {7};
	CHECK(pnm_sum_squares(&u[0].grads, 1, 0, odd(squares, 4)) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "squares is at 0x") != NULL, "%s", pnm_last_error());
	CHECK(pnm_sum_squares(odd(&u[0].grads, 4), 1, 0, squares) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "grads is at 0x") != NULL, "%s", pnm_last_error());
	CHECK(pnm_sum_squares(&u[0].grads, -1, 0, squares) == PNM_ERROR_LENGTH, "%s", pnm_last_error());
	CHECK(pnm_sum_squares(NULL, 1, 0, squares) == PNM_ERROR_NULL, "%s", pnm_last_error());
	CHECK(pnm_sum_squares(&u[0].grads, 1, 0, NULL) == PNM_ERROR_NULL, "%s", pnm_last_error());
	CHECK(pnm_sum_squares(&u[0].grads, 1, -1, squares) == PNM_ERROR_HYPERPARAMETER, "%s", pnm_last_error());
	u[0].grads.dtype = 9;
	CHECK(pnm_sum_squares(&u[0].grads, 1, 0, squares) == PNM_ERROR_DTYPE, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "tensor 0: dtype of grads is 9") != NULL, "%s", pnm_last_error());
	u[0].grads.dtype = PNM_LOW16;
	CHECK(pnm_sum_squares(&u[0].grads, 1, 0, squares) == PNM_ERROR_DTYPE, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "tensor 0: the format of grads is low16") != NULL, "%s", pnm_last_error());
	CHECK(squares[0] == 7 && squares[1] == 0, "squares are %lld, … after errors", (long long)squares[0]);
	CHECK(pnm_norm(NULL, &norm) == PNM_ERROR_NULL, "%s", pnm_last_error());
	CHECK(pnm_norm(squares, NULL) == PNM_ERROR_NULL, "%s", pnm_last_error());
	CHECK(pnm_norm(odd(squares, 4), &norm) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(pnm_norm(squares, odd(&norm, 4)) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(norm == 5, "norm is %g after errors", norm);
	int workers = pnm_workers();
	CHECK(pnm_set_workers(4097) == PNM_ERROR_HYPERPARAMETER, "%s", pnm_last_error());
	CHECK(pnm_set_workers(-1) == PNM_ERROR_HYPERPARAMETER, "%s", pnm_last_error());
	CHECK(pnm_workers() == workers, "%d, was %d", pnm_workers(), workers);
}

static int64_t sums[2][2 * PNM_SQUARES], others[2][2 * PNM_SQUARES];

/* A reading of noise, which is refused: it writes nothing. */
static void no_noise(void) {
	memset(sums, 0x55, sizeof sums);
	memcpy(others, sums, sizeof sums);
#define NO_NOISE(status, text, change, ...) \
	do { \
		reset(); \
		change; \
		CHECK(pnm_sum_noise(__VA_ARGS__) == status && strstr(pnm_last_error(), text) != NULL, "%s", pnm_last_error()); \
		CHECK(memcmp(sums, others, sizeof sums) == 0, "something was written"); \
	} while (0)
	NO_NOISE(PNM_ERROR_NULL, "updates is null", , NULL, 1, 0, sums[0]);
	NO_NOISE(PNM_ERROR_NULL, "sums is null", , u, 1, 0, NULL);
	NO_NOISE(PNM_ERROR_ALIGNMENT, "sums is at 0x", , u, 1, 0, odd(sums, 4));
	NO_NOISE(PNM_ERROR_LENGTH, "count is -1", , u, -1, 0, sums[0]);
	NO_NOISE(PNM_ERROR_HYPERPARAMETER, "workers is -1", , u, 1, -1, sums[0]);
	NO_NOISE(PNM_ERROR_NULL, "tensor 1: rule is null", u[1].rule = NULL, u, 2, 0, sums[0]);
	NO_NOISE(PNM_ERROR_HYPERPARAMETER, "tensor 1: Update.skip is 2", u[1].skip = 2, u, 2, 0, sums[0]);
	NO_NOISE(PNM_ERROR_LENGTH, "tensor 0: state[1] is set", u[0].state[1] = zeros(N, PNM_FLOAT32), u, 2, 0, sums[0]);
	NO_NOISE(PNM_ERROR_LENGTH, "length of neg_momentum is 0, must be 8", rule = pnm_rule_pnm(1), u, 2, 0, sums[0]);
	NO_NOISE(PNM_ERROR_STEP, "Step is -1", (rule = pnm_rule_pnm(1), u[0].step = -1), u, 1, 0, sums[0]);

	double signal = 5, variance = 6;
	reset();
	memset(sums, 0, sizeof sums);
	CHECK(pnm_noise(&rule, 2, sums[0], &signal, &variance) == PNM_ERROR_HYPERPARAMETER, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "rule.kind is 3, must be PNM_RULE_PNM or") != NULL, "%s", pnm_last_error());
	rule = pnm_rule_pnm(1);
	CHECK(pnm_noise(NULL, 2, sums[0], &signal, &variance) == PNM_ERROR_NULL, "%s", pnm_last_error());
	CHECK(pnm_noise(&rule, 2, NULL, &signal, &variance) == PNM_ERROR_NULL, "%s", pnm_last_error());
	CHECK(pnm_noise(&rule, 2, odd(sums, 4), &signal, &variance) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(pnm_noise(&rule, 2, sums[0], NULL, &variance) == PNM_ERROR_NULL, "%s", pnm_last_error());
	CHECK(pnm_noise(&rule, 2, sums[0], &signal, odd(&variance, 4)) == PNM_ERROR_ALIGNMENT, "%s", pnm_last_error());
	CHECK(pnm_noise(&rule, -1, sums[0], &signal, &variance) == PNM_ERROR_STEP, "%s", pnm_last_error());
	rule.beta1 = 1;
	CHECK(pnm_noise(&rule, 2, sums[0], &signal, &variance) == PNM_ERROR_HYPERPARAMETER, "%s", pnm_last_error());
	CHECK(signal == 5 && variance == 6, "%g, %g after errors", signal, variance);
}

/* Two tensors of PNM, whose gradients are 1, 2, … in the first step and 2, 4, … in the second. After one update each, a momentum divided by
 * the sum of its weights is a gradient. */
static void noise(void) {
	pnm_update part;
	double signal = 0, variance = 0;
	const double squares = N * (N + 1) * (2 * N + 1) / 6;
	rule = pnm_rule_pnm(0.5);
	for (int i = 0; i < 2; i++) {
		release(&u[i]);
		u[i] = tensor(&rule, N, 2);
	}
	memset(&options, 0, sizeof options);
	options.noise = sums[0];
	for (int step = 1; step <= 2; step++) {
		for (int i = 0; i < 2; i++)
			for (int k = 0; k < N; k++)
				((float *)grads_of(&u[i]).data)[k] = (float)(step * (k + 1));
		u[0].step = u[1].step = step;
		memset(sums, 0x55, sizeof sums);
		CHECK(pnm_update_all(&options, u, 2, NULL) == PNM_OK, "%s", pnm_last_error());
		CHECK(pnm_sum_noise(u, 2, 3, others[0]) == PNM_OK, "%s", pnm_last_error());
		CHECK(memcmp(sums, others, sizeof sums) == 0, "a step reads other sums than pnm_sum_noise");
		CHECK(pnm_noise(&rule, step, sums[1], &signal, &variance) == PNM_OK, "%s", pnm_last_error());
		CHECK(step == 2 || (isnan(signal) && isnan(variance)), "after one step, %g and %g", signal, variance);
	}
	CHECK(fabs(signal / (2 * squares) - 1) < 1e-6, "the signal is %g", signal);
	CHECK(fabs(variance / (squares / 2) - 1) < 1e-6, "the variance is %g", variance);

	memset(others, 0, sizeof others);
	for (int first = 0; first < N; first += 3) { /* in parts */
		int64_t sum[2 * PNM_SQUARES];
		part = u[0];
		memset(&part.params, 0, sizeof part.params); /* which are not used */
		memset(&part.grads, 0, sizeof part.grads);
		for (int k = 0; k < 2; k++)
			part.state[k] = vector((float *)u[0].state[k].data + first, first + 3 > N ? N - first : 3, PNM_FLOAT32);
		CHECK(pnm_sum_noise(&part, 1, 1, sum) == PNM_OK, "%s", pnm_last_error());
		for (int i = 0; i < 2 * PNM_SQUARES; i++)
			others[0][i] += sum[i];
	}
	double of_parts[2];
	CHECK(pnm_noise(&rule, 2, others[0], &of_parts[0], &of_parts[1]) == PNM_OK, "%s", pnm_last_error());
	CHECK(of_parts[0] == signal && of_parts[1] == variance, "%g and %g from parts", of_parts[0], of_parts[1]);

	memset(others, 0, sizeof others);
	u[0].step = u[1].step = 3;
	u[1].skip = 1;
	CHECK(pnm_update_all(&options, u, 2, NULL) == PNM_OK, "%s", pnm_last_error());
	CHECK(memcmp(sums[0], others[0], sizeof sums[0]) != 0, "nothing was read");
	CHECK(memcmp(sums[1], others[1], sizeof sums[1]) == 0, "a tensor was read that was skipped");
	options.skip_non_finite = 1;
	((float *)grads_of(&u[0]).data)[0] = (float)NAN;
	CHECK(pnm_update_all(&options, u, 2, NULL) == PNM_OK, "%s", pnm_last_error());
	CHECK(memcmp(sums, others, sizeof sums) == 0, "a skipped step reads something");
	options.skip_non_finite = 0;
	CHECK(pnm_update_all(&options, NULL, 0, NULL) == PNM_OK && pnm_sum_noise(NULL, 0, 0, NULL) == PNM_OK, "%s", pnm_last_error());
	rule = pnm_rule_adam();
	CHECK(pnm_sum_noise(u, 1, 0, sums[0]) == PNM_OK && memcmp(sums, others, sizeof sums) == 0, "Adam: %s", pnm_last_error());
}

#define UNPRINTED(status, text, call) \
	do { \
		uint64_t f[2] = {7, 8}; \
		CHECK((call) == status, "%s", pnm_last_error()); \
		CHECK(strstr(pnm_last_error(), text) != NULL, "%s", pnm_last_error()); \
		CHECK(f[0] == 7 && f[1] == 8, "a fingerprint is written with the error %s", pnm_last_error()); \
	} while (0)

static void fingerprints(void) {
	static float x[2];
	static uint8_t elements[64], scales[2];
	pnm_portion good = {.name = "w", .vector = const_vector(x, 2, PNM_FLOAT32)}, p[2];
#define REFUSED_PORTION(status, text, change) \
	do { \
		p[0] = p[1] = good; \
		change; \
		UNPRINTED(status, text, pnm_fingerprint(p, 2, 0, f)); \
	} while (0)
	REFUSED_PORTION(PNM_ERROR_NULL, "tensor 1: name is null", p[1].name = NULL);
	REFUSED_PORTION(PNM_ERROR_HYPERPARAMETER, "tensor 0 (\"w\"): Portion.first is -1, must be ≥ 0", p[0].first = -1);
	REFUSED_PORTION(PNM_ERROR_HYPERPARAMETER, "tensor 1 (\"w\"): Portion.reserved is 5", p[1].reserved[3] = 5);
	REFUSED_PORTION(PNM_ERROR_NULL, "tensor 1 (\"w\"): vector is null", p[1].vector.data = NULL);
	REFUSED_PORTION(PNM_ERROR_DTYPE, "tensor 1 (\"w\"): dtype of vector is 6", p[1].vector.dtype = 6);
	REFUSED_PORTION(PNM_ERROR_DTYPE, "tensor 1 (\"w\"): the format of copy is ", p[1].vector = const_vector(x, 2, PNM_LOW16));
	REFUSED_PORTION(PNM_ERROR_DTYPE, "tensor 1 (\"w\"): the format of copy is float32", p[1].copy = const_vector(x, 2, PNM_FLOAT32));
	REFUSED_PORTION(PNM_ERROR_LENGTH, "tensor 1 (\"w\"): ", p[1].copy = const_vector(x, 3, PNM_BF16));
	REFUSED_PORTION(PNM_ERROR_HYPERPARAMETER, "tensor 0 (\"w\"): Portion.First is 33, must be a multiple of 32",
		(p[0].vector = const_vector(elements, 64, PNM_MXFP8), p[0].vector.scales = scales, p[0].first = 33));
	UNPRINTED(PNM_ERROR_NULL, "portions is null", pnm_fingerprint(NULL, 1, 0, f));
	UNPRINTED(PNM_ERROR_LENGTH, "count is -1", pnm_fingerprint(&good, -1, 0, f));
	UNPRINTED(PNM_ERROR_ALIGNMENT, "portions is at 0x", pnm_fingerprint(odd(&good, 4), 1, 0, f));
	UNPRINTED(PNM_ERROR_HYPERPARAMETER, "workers is -1", pnm_fingerprint(&good, 1, -1, f));
	UNPRINTED(PNM_ERROR_NULL, "fingerprint is null", pnm_fingerprint(&good, 1, 0, NULL));
	UNPRINTED(PNM_ERROR_ALIGNMENT, "fingerprint is at 0x", pnm_fingerprint(&good, 1, 0, odd(f, 4)));

	UNPRINTED(PNM_ERROR_NULL, "name is null", pnm_fingerprint_bytes(NULL, PNM_BYTES, 0, x, 8, f));
	UNPRINTED(PNM_ERROR_NULL, "bytes is null, but size is 8", pnm_fingerprint_bytes("w", PNM_BYTES, 0, NULL, 8, f));
	UNPRINTED(PNM_ERROR_LENGTH, "size is -1", pnm_fingerprint_bytes("w", PNM_BYTES, 0, x, -1, f));
	UNPRINTED(PNM_ERROR_LENGTH, "size is 9223372036854775807", pnm_fingerprint_bytes("w", PNM_BYTES, 0, (void *)(UINTPTR_MAX - 8), INT64_MAX, f));
	UNPRINTED(PNM_ERROR_LENGTH, "length", pnm_fingerprint_bytes("w", PNM_FLOAT32, 0, x, 7, f));
	UNPRINTED(PNM_ERROR_HYPERPARAMETER, "bytes.first is -2, must be ≥ 0", pnm_fingerprint_bytes("w", PNM_BYTES, -2, x, 8, f));
	UNPRINTED(PNM_ERROR_DTYPE, "dtype of bytes is 9", pnm_fingerprint_bytes("w", 9, 0, x, 8, f));
	UNPRINTED(PNM_ERROR_DTYPE, "low16", pnm_fingerprint_bytes("w", PNM_LOW16, 0, x, 8, f));
	UNPRINTED(PNM_ERROR_NULL, "fingerprint is null", pnm_fingerprint_bytes("w", PNM_BYTES, 0, x, 8, NULL));
	UNPRINTED(PNM_ERROR_ALIGNMENT, "fingerprint is at 0x", pnm_fingerprint_bytes("w", PNM_BYTES, 0, x, 8, odd(f, 4)));
}

/* What looks odd, and is legal. */
static void accepted(void) {
	reset();
	for (int i = 0; i < 2; i++) {
		release(&u[i]);
		memset(&u[i], 0, sizeof u[i]); /* a tensor without elements */
		u[i].rule = &rule;
		u[i].step = 1;
	}
	CHECK(pnm_update_all(NULL, u, 2, NULL) == PNM_OK, "%s", pnm_last_error());
	CHECK(pnm_update_all(NULL, NULL, 0, NULL) == PNM_OK, "%s", pnm_last_error());
	u[0].copy = vector(NULL, 0, PNM_BF16);
	CHECK(pnm_update_one(&options, u, NULL) == PNM_OK, "%s", pnm_last_error());
	u[0].params.dtype = PNM_LOW16;
	CHECK(pnm_update_one(&options, u, NULL) == PNM_OK, "%s", pnm_last_error());

	pnm_update large = tensor(&rule, 1 << 16, 1);
	uint64_t numbers = hash(hash(HASH_START, large.params), large.state[0]);
	pnm_status moved = strcmp(pnm_isa(), "generic") == 0 ? PNM_ERROR_UNSUPPORTED : PNM_OK;
	CHECK(pnm_limit(NULL, &large, 1) == moved, "%s", pnm_last_error());
	CHECK(numbers == hash(hash(HASH_START, large.params), large.state[0]), "pnm_limit changes numbers");
	release(&large);

	double norm = 5;
	int64_t squares[PNM_SQUARES], others[PNM_SQUARES];
	CHECK(pnm_sum_squares(NULL, 0, 0, squares) == PNM_OK, "%s", pnm_last_error());
	CHECK(pnm_norm(squares, &norm) == PNM_OK && norm == 0, "%s, norm %g", pnm_last_error(), norm);
	static const float g[3] = {3, 4, 1e-30f}; /* on two machines */
	pnm_const_vector grads = const_vector(g, 1, PNM_FLOAT32), rest = const_vector(g + 1, 2, PNM_FLOAT32);
	CHECK(pnm_sum_squares(&grads, 1, 3, squares) == PNM_OK, "%s", pnm_last_error());
	CHECK(pnm_sum_squares(&rest, 1, 0, others) == PNM_OK, "%s", pnm_last_error());
	for (int i = 0; i < PNM_SQUARES; i++)
		squares[i] += others[i];
	CHECK(pnm_norm(squares, &norm) == PNM_OK && norm == 5, "%s, norm %g", pnm_last_error(), norm);

	for (int n = 1; n < 40; n++) /* more than there are pools */
		CHECK(pnm_set_workers(n) == PNM_OK && pnm_workers() == n, "%d workers: %s", n, pnm_last_error());
	CHECK(pnm_set_workers(0) == PNM_OK && pnm_workers() >= 1, "%s", pnm_last_error());

	reset();
	options.skip_non_finite = 1;
	((float *)grads_of(&u[1]).data)[3] = (float)INFINITY;
	pnm_report report, zero;
	memset(&report, 0x55, sizeof report);
	memset(&zero, 0, sizeof zero);
	uint64_t before = bits();
	CHECK(pnm_update_all(&options, u, 2, &report) == PNM_OK && report.skipped == 1 && isinf(report.grad_norm), "%s", pnm_last_error());
	CHECK(before == bits(), "a skipped step has written");
	CHECK(memcmp(report.reserved, zero.reserved, sizeof zero.reserved) == 0 &&
		memcmp(report.reserved_flags, zero.reserved_flags, sizeof zero.reserved_flags) == 0, "the report is not written whole");

	options.skip_non_finite = 0;
	reset();
	options.clip_norm = INFINITY; /* with squares of other gradients, too */
	options.squares = squares;
	CHECK(pnm_update_all(&options, u, 2, &report) == PNM_OK && report.grad_norm == 5, "%s, norm %g", pnm_last_error(), report.grad_norm);
	options.clip_norm = 0;
	options.squares = NULL;
	u[1].skip = 1;
	u[1].step = -5;
	u[1].grads.length = 1; /* of a gradient that is not looked at */
	before = hash(HASH_START, u[1].params);
	((float *)u[0].params.data)[0] = ((float *)grads_of(&u[0]).data)[0] = 1;
	CHECK(pnm_update_all(&options, u, 2, &report) == PNM_OK && report.skipped == 0, "%s", pnm_last_error());
	CHECK(before == hash(HASH_START, u[1].params) && ((float *)u[0].params.data)[0] < 1, "a tensor is left out that shall not be, or the other way round");
	release(&u[1]);
	u[1] = tensor(&rule, N, 1);
	u[1].copy = zeros(N, PNM_F16);
	((float *)u[1].params.data)[3] = 1e5f;
	CHECK(pnm_update_all(&options, u, 2, &report) == PNM_OK && report.skipped == 0 && report.overflows == 1, "%s", pnm_last_error());
}

int main(void) {
	CHECK(strcmp(pnm_last_error(), "") == 0, "%s", pnm_last_error());
	rules();
	vectors();
	mxfp8();
	calls();
	no_noise();
	fingerprints();
	accepted();
	noise();
	release(&u[0]);
	release(&u[1]);
	return failures != 0;
}
