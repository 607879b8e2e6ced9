/* A host whose threads flush denormals, round otherwise or trap has the bits of any other, and keeps its ways. Prints a hash;
 * modes_test.go does the same in Go. Nothing here computes with floats, lest it trap.
 *
 * Arguments: the mode, and the library's path where it is to be loaded; "first" behind that loads it before the mode is set. A
 * program that is linked with the library takes the mode that it is started with if the argument is "linked". */
#include "check.h"
#ifndef LINKED
#include <dlfcn.h>
#endif

enum { N = 1 << 20, STEPS = 2 };

#if defined(__x86_64__)
#include <immintrin.h>
enum { BITS = 0xffc0 };
static unsigned get_mode(void) { return _mm_getcsr() & BITS; }
static void set_mode(unsigned mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
static unsigned get_mode(void) {
	uint64_t mode;
	__asm__ volatile("mrs %0, fpcr" : "=r"(mode));
	return (unsigned)mode;
}
static void set_mode(unsigned mode) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode)); }
#endif

static pnm_status (*update_all)(const pnm_options *, const pnm_update *, int64_t, pnm_report *);
static pnm_rule (*adapnm)(void);

static uint32_t *fill(pnm_vector v, uint64_t seed) {
	uint32_t *x = v.data;
	for (int i = 0; i < N; i++) { /* of either sign: below 2^-126, or from 0.5 to 1 */
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		x[i] = (uint32_t)(seed >> 41) | (uint32_t)(seed >> 40 & 1) << 31 | (i % 2 == 0 ? 0 : 0x3f000000);
	}
	return x;
}

static uint64_t train(int32_t workers) {
	pnm_rule rule = adapnm();
	pnm_options options;
	pnm_report report;
	memset(&options, 0, sizeof options);
	memset(&report, 0, sizeof report);
	options.loss_scale = 3;
	options.clip_norm = 7;
	options.workers = workers;
	pnm_update u = tensor(&rule, N, 4);
	u.copy = zeros(N, PNM_BF16);
	fill(u.params, 1);
	fill(grads_of(&u), 2);
	fill(u.state[0], 3);
	fill(u.state[1], 4);
	uint64_t h = HASH_START;
	for (u.step = 1; u.step <= STEPS; u.step++) {
		unsigned before = get_mode();
		CHECK(update_all(&options, &u, 1, &report) == PNM_OK, "a step fails");
		CHECK(get_mode() == before, "the mode was %x and is %x", before, get_mode());
		h = hash(h, vector(&report.grad_norm, 1, PNM_FLOAT64));
	}
	h = hash(hash(h, u.params), u.copy);
	for (int k = 0; k < 4; k++)
		h = hash(h, u.state[k]);
	release(&u);
	return h;
}

#ifdef LINKED
static void load(const char *path) {
	(void)path;
	update_all = pnm_update_all;
	adapnm = pnm_rule_adapnm;
}
#else
static void load(const char *path) {
	unsigned before = get_mode();
	void *library = dlopen(path, RTLD_NOW);
	if (library == NULL) {
		printf("%s\n", dlerror());
		exit(1);
	}
	CHECK(get_mode() == before, "the mode was %x and is %x", before, get_mode());
	*(void **)&update_all = dlsym(library, "pnm_update_all");
	*(void **)&adapnm = dlsym(library, "pnm_rule_adapnm");
}
#endif

int main(int argc, char **argv) {
	unsigned started = get_mode(), mode = argc < 2 || strcmp(argv[1], "linked") == 0 ? started : (unsigned)strtoul(argv[1], NULL, 16);
	if (argc > 3) {
		load(argv[2]);
		train(4); /* all workers have threads */
		set_mode(mode);
	} else {
		set_mode(mode);
		load(argv[argc - 1]);
	}
	uint64_t h = train(1);
	CHECK(h == train(2) && h == train(4), "other bits with more workers");
	set_mode(started);
	printf("%x %016llx\n", started, (unsigned long long)h);
	return failures != 0;
}
