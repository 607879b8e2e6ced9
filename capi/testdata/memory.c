/* Memory of the library's, conversions, and the names of state. */
#include "check.h"
#include <math.h>

enum { LARGE = 300000 };

static void is_zero(pnm_vector v) {
	size_t elements = (size_t)v.length * size_of[v.dtype], bytes = elements + (size_t)scales_of(v);
	if (v.dtype == PNM_MXFP8)
		CHECK((unsigned char *)v.scales == (unsigned char *)v.data + elements, "scales are not behind the elements");
	else
		CHECK(v.scales == NULL, "there are scales of what has none");
	for (size_t i = 0; i < bytes; i++)
		if (((const unsigned char *)v.data)[i] != 0) {
			CHECK(0, "byte %d is not 0", (int)i);
			return;
		}
	memset(v.data, 0x5a, bytes); /* all of it may be written */
}

/* From both kinds of memory, small and large, and with none at all. */
static void allocate(int64_t length) {
	pnm_vector v[8] = {vector(NULL, length, PNM_FLOAT32), vector(NULL, length + 1, PNM_BF16), vector(&v, 0, PNM_F16),
		vector(NULL, length + 3, PNM_F16), vector(NULL, length, PNM_FLOAT64), vector(NULL, 1, PNM_LOW16),
		vector(NULL, length, PNM_MXFP8), vector(NULL, length, PNM_MXFP8)};
	v[7].row = length / 5;
	for (int round = 0; round < 20; round++) {
		CHECK(pnm_alloc(v, 8) == PNM_OK, "%s", pnm_last_error());
		CHECK(v[2].data == NULL, "an empty vector has memory");
		for (int i = 0; i < 8; i++) {
			CHECK((uintptr_t)v[i].data % 8 == 0, "vector %d is at %p", i, v[i].data);
			is_zero(v[i]);
		}
		if (length == LARGE)
			for (int i = 1; i < 8; i++)
				CHECK(i == 2 || i == 5 || ((uintptr_t)v[i].data - (uintptr_t)v[0].data) % 4096 != 0, "vectors 0 and %d begin at the same offset", i);
		CHECK(pnm_free(v, 2) == PNM_OK && v[0].data == NULL && v[1].data == NULL, "%s", pnm_last_error()); /* in parts */
		memset(v[4].data, 1, (size_t)v[4].length * 8);
		CHECK(pnm_free(v, 8) == PNM_OK && v[4].data == NULL && v[7].data == NULL && v[7].scales == NULL, "%s", pnm_last_error());
		CHECK(pnm_free(v, 8) == PNM_OK, "%s", pnm_last_error());
	}
}

/* One call for each vector makes different offsets, too. */
static void spread(void) {
	uintptr_t offsets[8];
	pnm_vector v[8];
	for (int i = 0; i < 8; i++) {
		v[i] = vector(NULL, LARGE, PNM_FLOAT32);
		CHECK(pnm_alloc(&v[i], 1) == PNM_OK, "%s", pnm_last_error());
		offsets[i] = (uintptr_t)v[i].data % 4096;
		for (int j = 0; j < i; j++)
			CHECK(offsets[i] != offsets[j], "vectors %d and %d begin at %#x", j, i, (unsigned)offsets[i]);
	}
	CHECK(pnm_free(v, 8) == PNM_OK, "%s", pnm_last_error());
}

/* A step on memory of the library's, and one more after some of it has been freed. */
static void step(void) {
	pnm_rule rule = pnm_rule_adam();
	pnm_vector v[4];
	for (int i = 0; i < 4; i++)
		v[i] = vector(NULL, LARGE, PNM_FLOAT32);
	CHECK(pnm_alloc(v, 4) == PNM_OK, "%s", pnm_last_error());
	pnm_update u;
	memset(&u, 0, sizeof u);
	u.rule = &rule;
	u.step = 1;
	u.params = v[0];
	u.grads = pnm_as_const(v[1]);
	u.state[0] = v[2];
	u.state[1] = v[3];
	((float *)v[1].data)[LARGE - 1] = 1;
	CHECK(pnm_update_one(NULL, &u, NULL) == PNM_OK, "%s", pnm_last_error());
	CHECK(((float *)v[0].data)[LARGE - 1] < 0, "no step");
	rule = pnm_rule_sgd(1);
	u.state[0] = u.state[1] = vector(NULL, 0, PNM_FLOAT32);
	CHECK(pnm_free(&v[2], 2) == PNM_OK, "%s", pnm_last_error());
	CHECK(pnm_update_one(NULL, &u, NULL) == PNM_OK, "%s", pnm_last_error());
	CHECK(pnm_free(v, 4) == PNM_OK, "%s", pnm_last_error());
}

#define REFUSED(status, text, call) \
	do { \
		pnm_status got = (call); \
		CHECK(got == (status) && strstr(pnm_last_error(), text) != NULL, "%d: %s", (int)got, pnm_last_error()); \
	} while (0)

static void refused(void) {
	float own = 1;
	pnm_vector v[3] = {vector(&own, 5, PNM_FLOAT32), vector(&own, 7, PNM_BF16), vector(&own, 9, PNM_F16)}, bad;
	REFUSED(PNM_ERROR_NULL, "vectors is null, but count is 1", pnm_alloc(NULL, 1));
	REFUSED(PNM_ERROR_LENGTH, "count is -1", pnm_alloc(v, -1));
	REFUSED(PNM_ERROR_ALIGNMENT, "vectors is at 0x", pnm_alloc((pnm_vector *)((char *)v + 1), 1));
	bad = v[1];
	v[1].length = -7;
	REFUSED(PNM_ERROR_LENGTH, "length of vectors[1] is -7, must be in [0, ", pnm_alloc(v, 3));
	v[1].length = INT64_MAX / 4;
	REFUSED(PNM_ERROR_MEMORY, "memory", pnm_alloc(v, 3));
#ifndef NO_COLLECTIONS
	v[1].length = INT64_C(1) << 46; /* more than there are addresses */
	REFUSED(PNM_ERROR_MEMORY, "the system refuses ", pnm_alloc(v, 3));
#endif
	v[1] = bad;
	v[2].dtype = 6;
	REFUSED(PNM_ERROR_DTYPE, "dtype of vectors[2] is 6", pnm_alloc(v, 3));
	v[2].dtype = PNM_MXFP8;
	v[2].row = 2;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "vectors[2].row is 2, must be a divisor of the length, 9", pnm_alloc(v, 3));
	v[2].dtype = PNM_F16;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "vectors[2].row is 2, must be 0: only PNM_MXFP8 has it", pnm_alloc(v, 3));
	v[2].row = 0;
	v[2].scales = &own;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "only PNM_MXFP8 has it", pnm_alloc(v, 3));
	v[2].scales = NULL;
	v[1].reserved[0] = 1;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "vectors[1].reserved is 1", pnm_alloc(v, 3));
	v[1].reserved[0] = 0;
	v[0].reserved_flags[0] = 1;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "vectors[0].reserved_flags is 1", pnm_alloc(v, 3));
	v[0].reserved_flags[0] = 0;
	for (int i = 0; i < 3; i++)
		CHECK(v[i].data == &own, "a call that failed has written");

	REFUSED(PNM_ERROR_NULL, "vectors is null, but count is 2", pnm_free(NULL, 2));
	REFUSED(PNM_ERROR_LENGTH, "count is -2", pnm_free(v, -2));
	REFUSED(PNM_ERROR_ALIGNMENT, "vectors is at 0x", pnm_free((pnm_vector *)((char *)v + 4), 1));
	REFUSED(PNM_ERROR_NOT_ALLOCATED, "vectors[0] is at 0x", pnm_free(v, 3));
	CHECK(pnm_alloc(v, 3) == PNM_OK && pnm_alloc(NULL, 0) == PNM_OK && pnm_free(NULL, 0) == PNM_OK, "%s", pnm_last_error());
	pnm_vector again[4] = {v[0], v[1], v[2], v[0]};
	REFUSED(PNM_ERROR_NOT_ALLOCATED, "vectors[3] is at 0x", pnm_free(again, 4)); /* nothing has been freed, so that it works now: */
	bad = v[1];
	bad.data = (char *)bad.data + 2; /* within such memory */
	REFUSED(PNM_ERROR_NOT_ALLOCATED, "vectors[0] is at 0x", pnm_free(&bad, 1));
	CHECK(pnm_free(v, 3) == PNM_OK, "%s", pnm_last_error());
	REFUSED(PNM_ERROR_NOT_ALLOCATED, "or was freed", pnm_free(again, 3)); /* twice */
	CHECK(again[0].data != NULL, "a call that failed has written");
}

static void convert(void) {
	float x[4] = {1.00390625f, -3e38f, 65519, 1e-30f}, back[4];
	uint16_t h[4], b[4];
	int64_t overflows = 7;
	pnm_vector to = vector(h, 4, PNM_F16), bf16 = vector(b, 4, PNM_BF16), wide = vector(back, 4, PNM_FLOAT32);
	pnm_const_vector from = const_vector(x, 4, PNM_FLOAT32), half = pnm_as_const(to), upper = pnm_as_const(bf16);
	CHECK(pnm_convert(&to, &from, &overflows) == PNM_OK && overflows == 1, "%s, %d", pnm_last_error(), (int)overflows);
	CHECK(h[0] == 0x3c04 && h[1] == 0xfc00 && h[2] == 0x7bff && h[3] == 0, "%#x %#x %#x %#x", h[0], h[1], h[2], h[3]);
	CHECK(pnm_convert(&wide, &half, &overflows) == PNM_OK && overflows == 0, "%s, %d", pnm_last_error(), (int)overflows);
	CHECK(back[0] == x[0] && isinf(back[1]) && back[2] == 65504 && back[3] == 0, "%g %g %g", (double)back[0], (double)back[2], (double)back[3]);
	CHECK(pnm_convert(&bf16, &from, NULL) == PNM_OK && b[0] == 0x3f80, "%s, %#x", pnm_last_error(), b[0]); /* a tie, to even */
	CHECK(pnm_convert(&to, &upper, NULL) == PNM_OK && h[0] == 0x3c00, "%s, %#x", pnm_last_error(), h[0]);
	double d[2] = {1, 2}, e[2] = {0, 0};
	pnm_const_vector doubles = const_vector(d, 2, PNM_FLOAT64);
	pnm_vector copy = vector(e, 2, PNM_FLOAT64), none = vector(NULL, 0, PNM_F16);
	pnm_const_vector nothing = const_vector(NULL, 0, PNM_FLOAT32);
	CHECK(pnm_convert(&copy, &doubles, NULL) == PNM_OK && e[1] == 2, "%s", pnm_last_error());
	int16_t low[2] = {-3, 4}, other[2] = {0, 0};
	pnm_const_vector lower = const_vector(low, 2, PNM_LOW16);
	pnm_vector same = vector(other, 2, PNM_LOW16);
	CHECK(pnm_convert(&same, &lower, &overflows) == PNM_OK && other[0] == -3 && other[1] == 4, "%s", pnm_last_error());
	CHECK(pnm_convert(&none, &nothing, &overflows) == PNM_OK && overflows == 0, "%s", pnm_last_error());

	const float numbers[6] = {448, -1, 0.0625f, 3e-39f, -(float)INFINITY, 0};
	unsigned char elements[6], scales[3], flat[6], scale;
	float again[6];
	pnm_const_vector of_numbers = const_vector(numbers, 6, PNM_FLOAT32);
	pnm_vector mx = vector(elements, 6, PNM_MXFP8), mx_flat = vector(flat, 6, PNM_MXFP8), floats = vector(again, 6, PNM_FLOAT32);
	mx.scales = scales;
	mx.row = 2;
	mx_flat.scales = &scale;
	CHECK(pnm_convert(&mx, &of_numbers, &overflows) == PNM_OK && overflows == 0, "%s", pnm_last_error());
	CHECK(elements[0] == 0x7e && elements[1] == 0xb8 && scales[0] == 127, "%#x %#x at %d", elements[0], elements[1], scales[0]);
	CHECK(elements[2] == 0x78 && elements[3] == 0 && scales[1] == 115, "%#x %#x at %d", elements[2], elements[3], scales[1]);
	CHECK(elements[4] == 0xff && elements[5] == 0 && scales[2] == 0, "%#x %#x at %d", elements[4], elements[5], scales[2]);
	pnm_const_vector of_mx = pnm_as_const(mx);
	CHECK(pnm_convert(&mx_flat, &of_mx, NULL) == PNM_OK && scale == 127, "%s, %d", pnm_last_error(), scale);
	CHECK(pnm_convert(&floats, &of_mx, NULL) == PNM_OK, "%s", pnm_last_error());
	CHECK(again[0] == 448 && again[1] == -1 && again[2] == 0.0625f && again[3] == 0 && isnan(again[4]), "%g %g %g", (double)again[0], (double)again[1], (double)again[3]);
	mx.length = 5;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "to.row is 2, must be a divisor of the length, 5", pnm_convert(&mx, &of_numbers, NULL));
	mx.scales = NULL;
	mx.length = 6;
	REFUSED(PNM_ERROR_NULL, "scales of to is null, but 3 are needed", pnm_convert(&mx, &of_numbers, NULL));

	overflows = 7;
	memset(h, 0x11, sizeof h);
	pnm_vector bad = to;
	REFUSED(PNM_ERROR_NULL, "to is null", pnm_convert(NULL, &from, &overflows));
	REFUSED(PNM_ERROR_NULL, "from is null", pnm_convert(&to, NULL, &overflows));
	REFUSED(PNM_ERROR_ALIGNMENT, "overflows is at 0x", pnm_convert(&to, &from, (int64_t *)((char *)&overflows + 4)));
	REFUSED(PNM_ERROR_ALIGNMENT, "to is at 0x", pnm_convert((pnm_vector *)((char *)&to + 4), &from, &overflows));
	REFUSED(PNM_ERROR_ALIGNMENT, "from is at 0x", pnm_convert(&to, (pnm_const_vector *)((char *)&from + 4), &overflows));
	bad.length = 2;
	REFUSED(PNM_ERROR_DTYPE, "the format of to is f16", pnm_convert(&bad, &doubles, &overflows));
	REFUSED(PNM_ERROR_DTYPE, "the format of to is f16, must be low16 as from", pnm_convert(&bad, &lower, &overflows));
	REFUSED(PNM_ERROR_LENGTH, "length of to is 2, must be 4", pnm_convert(&bad, &from, &overflows));
	bad.length = -1;
	REFUSED(PNM_ERROR_LENGTH, "length of to is -1", pnm_convert(&bad, &from, &overflows));
	bad = vector((char *)h + 1, 4, PNM_F16);
	REFUSED(PNM_ERROR_ALIGNMENT, "to is at 0x", pnm_convert(&bad, &from, &overflows));
	bad = vector(NULL, 4, PNM_F16);
	REFUSED(PNM_ERROR_NULL, "to is null, but its length is 4", pnm_convert(&bad, &from, &overflows));
	bad = vector(x, 4, PNM_BF16);
	REFUSED(PNM_ERROR_OVERLAP, "share", pnm_convert(&bad, &from, &overflows));
	bad = vector(h, 4, PNM_F16);
	bad.reserved_flags[0] = 3;
	REFUSED(PNM_ERROR_HYPERPARAMETER, "to.reserved_flags is 3", pnm_convert(&bad, &from, &overflows));
	from.dtype = -1;
	REFUSED(PNM_ERROR_DTYPE, "dtype of from is -1", pnm_convert(&to, &from, &overflows));
	CHECK(overflows == 7 && h[0] == 0x1111 && h[3] == 0x1111, "a call that failed has written");
}

static void state(void) {
	pnm_rule r = pnm_rule_adapnm();
	static const char *const names[] = {"exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
	CHECK(pnm_state_count(&r) == 4, "%d: %s", pnm_state_count(&r), pnm_last_error());
	for (int i = 0; i < 4; i++) {
		const char *name = pnm_state_name(&r, i);
		CHECK(name != NULL && strcmp(name, names[i]) == 0, "%s", pnm_last_error());
		CHECK(pnm_state_name(&r, i) == name, "the string moves");
	}
	r.amsgrad = 0;
	CHECK(pnm_state_count(&r) == 3, "%d: %s", pnm_state_count(&r), pnm_last_error());
	CHECK(pnm_state_name(&r, 3) == NULL && strstr(pnm_last_error(), "state.i is 3, must be in [0, 3)") != NULL, "%s", pnm_last_error());
	CHECK(pnm_state_name(&r, -1) == NULL && strstr(pnm_last_error(), "state.i is -1") != NULL, "%s", pnm_last_error());
	r = pnm_rule_sgd((double)NAN); /* what is out of its range is for a step to say */
	CHECK(pnm_state_count(&r) == 0 && pnm_state_name(&r, 0) == NULL, "%s", pnm_last_error());
	r.momentum = 0.9;
	CHECK(pnm_state_count(&r) == 1 && strcmp(pnm_state_name(&r, 0), "momentum_buffer") == 0, "%s", pnm_last_error());
	CHECK(pnm_state_count(NULL) == -1 && strstr(pnm_last_error(), "rule is null") != NULL, "%s", pnm_last_error());
	CHECK(pnm_state_name(NULL, 0) == NULL && strstr(pnm_last_error(), "rule is null") != NULL, "%s", pnm_last_error());
	CHECK(pnm_state_count((const pnm_rule *)((char *)&r + 4)) == -1 && strstr(pnm_last_error(), "rule is at 0x") != NULL, "%s", pnm_last_error());
	r.reserved_flags[5] = 1;
	CHECK(pnm_state_count(&r) == -1 && strstr(pnm_last_error(), "SGD.reserved_flags is 1, must be 0") != NULL, "%s", pnm_last_error());
	r.kind = 99;
	CHECK(pnm_state_count(&r) == -1 && strstr(pnm_last_error(), "rule.kind is 99") != NULL, "%s", pnm_last_error());
}

int main(void) {
	allocate(5);
	allocate(LARGE);
	spread();
	step();
	refused();
	convert();
	state();
	return failures != 0;
}
