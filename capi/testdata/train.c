/* Fits a line to points, by each rule and in several formats, and prints a hash of the bits that it ends with. train_test.go does
 * the same in Go. */
#include "check.h"

enum { ROWS = 24, WEIGHTS = 69, STEPS = 40 };

static float input[ROWS][WEIGHTS], target[ROWS];

/* The inputs that testdata/bits.py has, too: multiples of 2^-23 in [-1, 1). */
static void fill(float *x, int n, uint64_t seed) {
	for (int i = 0; i < n; i++) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		x[i] = (float)((double)(seed >> 40) / 8388608.0 - 1);
	}
}

static float get(pnm_vector v, int i) {
	switch (v.dtype) {
	case PNM_FLOAT32:
		return ((const float *)v.data)[i];
	case PNM_FLOAT64:
		return (float)((const double *)v.data)[i];
	default: { /* bf16 */
		uint32_t bits = (uint32_t)((const uint16_t *)v.data)[i] << 16;
		float x;
		memcpy(&x, &bits, sizeof x);
		return x;
	}
	}
}

static void put(pnm_vector v, int i, float x) {
	switch (v.dtype) {
	case PNM_FLOAT32:
		((float *)v.data)[i] = x;
		break;
	case PNM_FLOAT64:
		((double *)v.data)[i] = (double)x;
		break;
	default: { /* bf16, to nearest even */
		uint32_t bits;
		memcpy(&bits, &x, sizeof bits);
		((uint16_t *)v.data)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
	}
	}
}

/* What a model computes with. */
static pnm_vector model(const pnm_update *u) { return u->params.dtype == PNM_LOW16 || u->follow ? u->copy : u->params; }

/* The loss of weights and bias, and its gradients. */
static float backward(pnm_update *weights, pnm_update *bias) {
	float loss = 0, db = 0, dw[WEIGHTS] = {0};
	for (int r = 0; r < ROWS; r++) {
		float residual = get(model(bias), 0) - target[r];
		for (int i = 0; i < WEIGHTS; i++)
			residual += input[r][i] * get(model(weights), i);
		for (int i = 0; i < WEIGHTS; i++)
			dw[i] += residual * input[r][i];
		db += residual;
		loss += residual * residual;
	}
	for (int i = 0; i < WEIGHTS; i++)
		put(grads_of(weights), i, dw[i] / ROWS);
	put(grads_of(bias), 0, db / ROWS);
	return loss / ROWS;
}

typedef struct {
	const char *name;
	pnm_dtype params, grads, state;
	int copy; /* a pnm_dtype, or -1 */
	int follow;
	int rows; /* of weights, where momenta are in mxfp8; 0: they are flat */
} format;

static pnm_update new_tensor(const pnm_rule *rule, format f, int64_t length, uint64_t number) {
	pnm_update u;
	memset(&u, 0, sizeof u);
	u.rule = rule;
	u.params = zeros(length, f.params);
	u.grads = pnm_as_const(zeros(length, f.grads));
	for (int k = 0; k < pnm_state_count(rule); k++) {
		int average = strstr(pnm_state_name(rule, k), "avg_sq") != NULL;
		int64_t row = f.rows > 0 && length > 1 ? length / f.rows : 0;
		u.state[k] = zeros_in_rows(length, row, f.state == PNM_MXFP8 && average ? PNM_BF16 : f.state);
	}
	if (f.copy >= 0)
		u.copy = zeros(length, (pnm_dtype)f.copy);
	u.follow = f.follow;
	u.seed = 7;
	u.tensor = number;
	return u;
}

static void train(const char *name, pnm_rule rule, format f) {
	pnm_options options;
	memset(&options, 0, sizeof options);
	options.clip_norm = 1;
	options.loss_scale = 0.5;
	options.zero_grads = 1;
	pnm_report report;
	memset(&report, 0, sizeof report);
	pnm_update u[2] = {new_tensor(&rule, f, WEIGHTS, 0), new_tensor(&rule, f, 1, 1)};
	float first = 0, last = 0;
	for (int step = 1; step <= STEPS; step++) {
		last = backward(&u[0], &u[1]);
		if (step == 1)
			first = last;
		u[0].step = u[1].step = step;
		if (step == 5) /* as somebody who does not know of other halves or masters */
			put(model(&u[1]), 0, 0.25f);
		pnm_status status = pnm_update_all(&options, u, 2, &report);
		if (status != PNM_OK) {
			printf("%s: %s\n", name, pnm_last_error());
			exit(1);
		}
	}
	uint64_t h = HASH_START;
	for (int i = 0; i < 2; i++) {
		h = hash(hash(h, u[i].params), u[i].copy);
		for (int k = 0; k < pnm_state_count(&rule); k++)
			h = hash(h, u[i].state[k]);
		for (int j = 0; j < u[i].grads.length; j++)
			CHECK(get(grads_of(&u[i]), j) == 0, "%s %s: a gradient is left", name, f.name);
		release(&u[i]);
	}
	h = hash(h, vector(&report.grad_norm, 1, PNM_FLOAT64));
	h = hash(h, vector(&last, 1, PNM_FLOAT32));
	printf("%s, %s: %016llx, loss %.6f to %.6f\n", name, f.name, (unsigned long long)h, (double)first, (double)last);
}

int main(void) {
	static const format formats[] = {
		{"float32", PNM_FLOAT32, PNM_FLOAT32, PNM_FLOAT32, -1, 0, 0},
		{"float64", PNM_FLOAT64, PNM_FLOAT64, PNM_FLOAT64, -1, 0, 0},
		{"bf16 grads and copy", PNM_FLOAT32, PNM_BF16, PNM_FLOAT32, PNM_BF16, 0, 0},
		{"f16 copy", PNM_FLOAT32, PNM_FLOAT32, PNM_BF16, PNM_F16, 0, 0},
		{"bf16", PNM_BF16, PNM_BF16, PNM_BF16, -1, 0, 0},
		{"split", PNM_LOW16, PNM_BF16, PNM_FLOAT32, PNM_BF16, 0, 0},
		{"bf16 copy that is followed", PNM_FLOAT32, PNM_BF16, PNM_FLOAT32, PNM_BF16, 1, 0},
		{"mxfp8", PNM_FLOAT32, PNM_BF16, PNM_MXFP8, -1, 0, 0},
		{"mxfp8 in rows", PNM_BF16, PNM_BF16, PNM_MXFP8, -1, 0, 3},
		{"mxfp8, split", PNM_LOW16, PNM_BF16, PNM_MXFP8, PNM_BF16, 0, 3},
	};
	fill(&input[0][0], ROWS * WEIGHTS, 1);
	fill(target, ROWS, 2);
	pnm_rule momentum = pnm_rule_sgd(0.05);
	momentum.momentum = 0.9;
	momentum.nesterov = 1;
	for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
		train("PNM", pnm_rule_pnm(0.5), formats[i]);
		train("AdaPNM", pnm_rule_adapnm(), formats[i]);
		train("SGD", pnm_rule_sgd(0.1), formats[i]);
		train("SGD with momentum", momentum, formats[i]);
		train("Adam", pnm_rule_adam(), formats[i]);
		train("AdamW", pnm_rule_adamw(), formats[i]);
	}
	return failures != 0;
}
