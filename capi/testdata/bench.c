/* What a call costs its thread, of CPU time: others may be busy. Argument: how many calls. */
#include "check.h"

enum { TENSORS = 148, N = 16 };

static double cpu(void) {
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const char *what, double start, int calls) {
	printf("%.0f ns/%s\n", 1e9 * (cpu() - start) / calls, what);
}

int main(int argc, char **argv) {
	int calls = argc > 1 ? atoi(argv[1]) : 1000;
	pnm_rule rule = pnm_rule_adamw();
	pnm_update u[TENSORS];
	for (int i = 0; i < TENSORS; i++)
		u[i] = tensor(&rule, N, 2);
	pnm_update_all(NULL, u, TENSORS, NULL); /* allocates */

	double start = cpu();
	for (int i = 0; i < calls; i++)
		pnm_workers();
	report("pnm_workers", start, calls);
	start = cpu();
	for (int i = 0; i < calls; i++)
		CHECK(pnm_update_all(NULL, u, 1, NULL) == PNM_OK, "%s", pnm_last_error());
	report("1-tensor", start, calls);
	start = cpu();
	for (int i = 0; i < calls; i++)
		CHECK(pnm_update_all(NULL, u, TENSORS, NULL) == PNM_OK, "%s", pnm_last_error());
	report("148-tensors", start, calls);
	for (int i = 0; i < TENSORS; i++)
		release(&u[i]);
	return failures != 0;
}
