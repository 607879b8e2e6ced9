/* Sizes and places of fields, of which a change is a new PNM_ABI_VERSION. python/src/posneg/_library.py has the same. C and C++. */
#include "check.h"
#include <stddef.h>

#ifdef __cplusplus
#define SAME(a, b) static_assert((a) == (b), #a " is not " #b)
#else
#define SAME(a, b) _Static_assert((a) == (b), #a " is not " #b)
#endif

#if UINTPTR_MAX == UINT64_MAX
SAME(sizeof(pnm_vector), 48);
SAME(offsetof(pnm_vector, length), 8);
SAME(offsetof(pnm_vector, dtype), 16);
SAME(offsetof(pnm_vector, reserved_flags), 20);
SAME(offsetof(pnm_vector, scales), 24);
SAME(offsetof(pnm_vector, row), 32);
SAME(offsetof(pnm_vector, reserved), 40);

SAME(sizeof(pnm_const_vector), 48);
SAME(offsetof(pnm_const_vector, length), 8);
SAME(offsetof(pnm_const_vector, dtype), 16);
SAME(offsetof(pnm_const_vector, reserved_flags), 20);
SAME(offsetof(pnm_const_vector, scales), 24);
SAME(offsetof(pnm_const_vector, row), 32);
SAME(offsetof(pnm_const_vector, reserved), 40);

SAME(sizeof(pnm_rule), 176);
SAME(offsetof(pnm_rule, exact_bias), 20);
SAME(offsetof(pnm_rule, reserved_flags), 24);
SAME(offsetof(pnm_rule, lr), 48);
SAME(offsetof(pnm_rule, dampening), 104);
SAME(offsetof(pnm_rule, reserved), 112);

SAME(sizeof(pnm_update), 448);
SAME(offsetof(pnm_update, step), 8);
SAME(offsetof(pnm_update, params), 16);
SAME(offsetof(pnm_update, grads), 64);
SAME(offsetof(pnm_update, state), 112);
SAME(offsetof(pnm_update, copy), 304);
SAME(offsetof(pnm_update, seed), 352);
SAME(offsetof(pnm_update, tensor), 360);
SAME(offsetof(pnm_update, first), 368);
SAME(offsetof(pnm_update, skip), 376);
SAME(offsetof(pnm_update, follow), 380);
SAME(offsetof(pnm_update, reserved), 384);

SAME(sizeof(pnm_options), 112);
SAME(offsetof(pnm_options, skip_non_finite), 24);
SAME(offsetof(pnm_options, zero_grads), 28);
SAME(offsetof(pnm_options, workers), 32);
SAME(offsetof(pnm_options, reserved_flags), 36);
SAME(offsetof(pnm_options, squares), 48);
SAME(offsetof(pnm_options, noise), 56);
SAME(offsetof(pnm_options, reserved), 64);

SAME(sizeof(pnm_portion), 144);
SAME(offsetof(pnm_portion, vector), 8);
SAME(offsetof(pnm_portion, copy), 56);
SAME(offsetof(pnm_portion, first), 104);
SAME(offsetof(pnm_portion, reserved), 112);
#endif

SAME(sizeof(pnm_report), 96);
SAME(offsetof(pnm_report, overflows), 8);
SAME(offsetof(pnm_report, skipped), 16);
SAME(offsetof(pnm_report, reserved_flags), 20);
SAME(offsetof(pnm_report, reserved), 32);

int main(void) {
	char version[32];
	snprintf(version, sizeof version, "%d.%d.%d", PNM_VERSION_MAJOR, PNM_VERSION_MINOR, PNM_VERSION_PATCH);
	CHECK(strcmp(pnm_version(), version) == 0, "the library is %s, the header %s", pnm_version(), version);
	CHECK(PNM_VERSION_NUMBER == PNM_VERSION_MAJOR * 10000 + PNM_VERSION_MINOR * 100 + PNM_VERSION_PATCH, "%d", PNM_VERSION_NUMBER);
	CHECK(PNM_VERSION_MINOR < 100 && PNM_VERSION_PATCH < 100, "%s has no number", version);
	CHECK(pnm_abi_version() == PNM_ABI_VERSION, "%d", pnm_abi_version());

	pnm_vector v = vector(version, 3, PNM_BF16);
	v.reserved_flags[0] = 4;
	v.scales = version + 3;
	v.row = 6;
	v.reserved[0] = 7;
	pnm_const_vector c = pnm_as_const(v);
	CHECK(memcmp(&c, &v, sizeof v) == 0, "pnm_as_const changes something");

	for (int i = -1; i < 20; i++) {
		const char *text = pnm_status_string((pnm_status)i);
		CHECK(text != NULL && (strcmp(text, "unknown status") == 0) == (i < 0 || i > PNM_ERROR_UNSUPPORTED), "status %d: %s", i, text);
	}
	return failures != 0;
}
