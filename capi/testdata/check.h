/* What the test programs have in common. They are C and C++. */
#ifndef CHECK_H
#define CHECK_H

#include "pnm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int failures;

/* CHECK(condition, format, …) */
#define CHECK(condition, ...) \
	do { \
		if (!(condition)) { \
			failures++; \
			printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
			printf(__VA_ARGS__); \
			printf("\n"); \
		} \
	} while (0)

static inline double seconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline pnm_vector vector(void *data, int64_t length, pnm_dtype dtype) {
	pnm_vector v;
	memset(&v, 0, sizeof v);
	v.data = data;
	v.length = length;
	v.dtype = dtype;
	return v;
}

static inline pnm_const_vector const_vector(const void *data, int64_t length, pnm_dtype dtype) {
	pnm_const_vector v;
	memset(&v, 0, sizeof v);
	v.data = data;
	v.length = length;
	v.dtype = dtype;
	return v;
}

static const size_t size_of[] = {4, 8, 2, 2, 2, 1}; /* an element of a pnm_dtype */

static inline void *zeroed(int64_t count, size_t size) {
	void *data = calloc((size_t)count, size); /* exactly so much: valgrind sees one element too many */
	if (data == NULL)
		abort();
	return data;
}

static inline int64_t scales_of(pnm_vector v) {
	if (v.dtype != PNM_MXFP8)
		return 0;
	return v.row == 0 ? (v.length + 31) / 32 : v.length / v.row * ((v.row + 31) / 32);
}

/* row is of PNM_MXFP8. */
static inline pnm_vector zeros_in_rows(int64_t length, int64_t row, pnm_dtype dtype) {
	pnm_vector v = vector(zeroed(length, size_of[dtype]), length, dtype);
	if (dtype == PNM_MXFP8) {
		v.row = row;
		v.scales = zeroed(scales_of(v), 1);
	}
	return v;
}

static inline pnm_vector zeros(int64_t length, pnm_dtype dtype) { return zeros_in_rows(length, 0, dtype); }

/* A step of a tensor of float32, with its memory. */
static inline pnm_update tensor(const pnm_rule *rule, int64_t length, int state) {
	pnm_update u;
	memset(&u, 0, sizeof u);
	u.rule = rule;
	u.step = 1;
	u.params = zeros(length, PNM_FLOAT32);
	u.grads = pnm_as_const(zeros(length, PNM_FLOAT32));
	for (int k = 0; k < state; k++)
		u.state[k] = zeros(length, PNM_FLOAT32);
	return u;
}

/* Gradients that the program itself has allocated. */
static inline pnm_vector grads_of(const pnm_update *u) {
	return vector((void *)u->grads.data, u->grads.length, (pnm_dtype)u->grads.dtype);
}

static inline void release(pnm_update *u) {
	free(u->params.data);
	free(grads_of(u).data);
	for (int k = 0; k < 4; k++) {
		free(u->state[k].data);
		free(u->state[k].scales);
	}
	free(u->copy.data);
}

static inline uint64_t hash_bytes(uint64_t h, const void *data, size_t count) { /* FNV-1a */
	const unsigned char *bytes = (const unsigned char *)data;
	for (size_t i = 0; i < count; i++)
		h = (h ^ bytes[i]) * UINT64_C(1099511628211);
	return h;
}

static inline uint64_t hash(uint64_t h, pnm_vector v) {
	return hash_bytes(hash_bytes(h, v.data, (size_t)v.length * size_of[v.dtype]), v.scales, (size_t)scales_of(v));
}

#define HASH_START UINT64_C(14695981039346656037)

#endif
