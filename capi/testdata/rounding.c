/* A thread that flushes denormals to zero and rounds towards zero gets the same bits, and keeps its ways. */
#include "check.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { N = 1000, STEPS = 3 };

static uint64_t train(void) {
	pnm_rule rule = pnm_rule_sgd(0.3);
	rule.momentum = 0.9;
	pnm_update u = tensor(&rule, N, 1);
	for (int i = 0; i < N; i++) { /* 2^-126 and below: whole numbers as bits, so that nothing is rounded here */
		((uint32_t *)u.params.data)[i] = 0x00800000u - 77u * (uint32_t)i;
		((uint32_t *)u.grads.data)[i] = 0x00400000u + 1234567u % (uint32_t)(i + 1);
	}
	for (u.step = 1; u.step <= STEPS; u.step++)
		CHECK(pnm_update_one(NULL, &u, NULL) == PNM_OK, "%s", pnm_last_error());
	uint64_t h = hash(hash(HASH_START, u.params), u.state[0]);
	release(&u);
	return h;
}

int main(void) {
	uint64_t want = train();
#if defined(__x86_64__)
	unsigned mine = _mm_getcsr() | 0xe040; /* flush both ways, round towards zero */
	_mm_setcsr(mine);
#endif
	uint64_t got = train();
#if defined(__x86_64__)
	CHECK((_mm_getcsr() & 0xffc0) == (mine & 0xffc0), "MXCSR was %x and is %x", mine, _mm_getcsr());
#endif
	CHECK(got == want, "other bits: %llx, want %llx", (unsigned long long)got, (unsigned long long)want);
	return failures != 0;
}
