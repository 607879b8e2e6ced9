/* Prints the fingerprints of some memory, for a test that knows them: TestFingerprint. */
#include "check.h"
#include <inttypes.h>

static void print(pnm_status status, const uint64_t *f) {
	CHECK(status == PNM_OK, "%s", pnm_last_error());
	printf("%016" PRIx64 "%016" PRIx64 "\n", f[0], f[1]);
}

static void portion(pnm_portion p) {
	uint64_t f[2] = {0, 0};
	print(pnm_fingerprint(&p, 1, 3, f), f);
}

int main(void) {
	static float x[4] = {1, -2, 3, 0.25f};
	static double wide[4] = {1, 2, 3, 4};
	static uint16_t halves[4] = {0x3f80, 0xc000, 0x7fc1, 5};
	static int16_t low[4] = {1, 2, 3, -4};
	static uint8_t elements[80], scales[4] = {127, 3, 4, 5};
	for (int i = 0; i < 80; i++)
		elements[i] = (uint8_t)(3 * i);
	pnm_const_vector small = const_vector(elements, 80, PNM_MXFP8), bf16 = const_vector(halves, 4, PNM_BF16);
	small.scales = scales;
	small.row = 40;
	portion((pnm_portion){.name = "w", .vector = const_vector(x, 4, PNM_FLOAT32)});
	portion((pnm_portion){.name = "größe", .vector = const_vector(wide, 4, PNM_FLOAT64), .first = INT64_C(1) << 40});
	portion((pnm_portion){.name = "w", .vector = bf16});
	portion((pnm_portion){.name = "w", .vector = const_vector(halves, 4, PNM_F16), .first = 3});
	portion((pnm_portion){.name = "w", .vector = const_vector(low, 4, PNM_LOW16), .copy = bf16});
	portion((pnm_portion){.name = "w", .vector = const_vector(x, 4, PNM_FLOAT32), .copy = const_vector(halves, 4, PNM_F16)});
	portion((pnm_portion){.name = "w", .vector = small, .first = 80});

	uint64_t f[2] = {0, 0};
	static const int dtypes[] = {PNM_BYTES, PNM_FLOAT32, PNM_FLOAT64, PNM_BF16, PNM_F16, PNM_MXFP8};
	for (int i = 0; i < 6; i++)
		print(pnm_fingerprint_bytes("w", dtypes[i], 5, elements + 1, 72, f), f);
	pnm_portion both[] = {{.name = "w", .vector = bf16}, {.name = "b", .vector = const_vector(x, 4, PNM_FLOAT32)}};
	print(pnm_fingerprint(both, 2, 0, f), f);
	f[0] = f[1] = 1;
	print(pnm_fingerprint(NULL, 0, 0, f), f);
	f[0] = f[1] = 1;
	print(pnm_fingerprint_bytes("", PNM_FLOAT32, 0, NULL, 0, f), f);
	return failures != 0;
}
