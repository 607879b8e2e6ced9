/* A forked child gets an error at once, is otherwise unharmed, and so is its parent. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static pnm_rule rule;
static pnm_vector allocated;
static volatile int stop;

static void in_child(pnm_update *u, const char *isa) {
	double start = seconds(), norm = 1;
	CHECK(pnm_update_one(NULL, u, NULL) == PNM_ERROR_FORKED, "%s", pnm_last_error());
	CHECK(strstr(pnm_last_error(), "forked") != NULL, "%s", pnm_last_error());
	CHECK(pnm_update_all(NULL, u, 1, NULL) == PNM_ERROR_FORKED, "%s", pnm_last_error());
	CHECK(pnm_update_all(NULL, NULL, 0, NULL) == PNM_ERROR_FORKED, "%s", pnm_last_error());
	CHECK(pnm_limit(NULL, u, 1) == PNM_ERROR_FORKED, "%s", pnm_last_error());
	int64_t squares[PNM_SQUARES] = {7};
	CHECK(pnm_sum_squares(&u->grads, 1, 0, squares) == PNM_ERROR_FORKED && squares[0] == 7, "%s", pnm_last_error());
	CHECK(pnm_norm(squares, &norm) == PNM_ERROR_FORKED && norm == 1, "%s", pnm_last_error());
	int64_t sums[2 * PNM_SQUARES] = {7};
	CHECK(pnm_sum_noise(u, 1, 0, sums) == PNM_ERROR_FORKED && sums[0] == 7, "%s", pnm_last_error());
	CHECK(pnm_noise(&rule, 2, sums, &norm, &norm) == PNM_ERROR_FORKED && norm == 1, "%s", pnm_last_error());
	uint64_t fingerprint[2] = {7, 0};
	CHECK(pnm_fingerprint(NULL, 0, 0, fingerprint) == PNM_ERROR_FORKED && fingerprint[0] == 7, "%s", pnm_last_error());
	CHECK(pnm_fingerprint_bytes("", 0, 0, NULL, 0, fingerprint) == PNM_ERROR_FORKED && fingerprint[0] == 7, "%s", pnm_last_error());
	pnm_vector v = vector(NULL, 5, PNM_FLOAT32);
	CHECK(pnm_alloc(&v, 1) == PNM_ERROR_FORKED && v.data == NULL, "%s", pnm_last_error());
	float *p = (float *)allocated.data;
	CHECK(p[0] == 3, "%g", (double)p[0]); /* memory is there, and the parent's stays as it is */
	p[0] = 4;
	v = allocated;
	CHECK(pnm_free(&v, 1) == PNM_ERROR_FORKED && v.data == p && p[0] == 4, "%s", pnm_last_error());
	p[0] = 3; /* for a child of this one */
	CHECK(pnm_convert(&u->params, &u->grads, NULL) == PNM_ERROR_FORKED, "%s", pnm_last_error());
	CHECK(pnm_state_count(&rule) == -1 && strstr(pnm_last_error(), "forked") != NULL, "%s", pnm_last_error());
	CHECK(pnm_state_name(&rule, 0) == NULL, "a name");
	CHECK(strcmp(pnm_status_string(PNM_ERROR_FORKED), "") != 0, "no text");
	CHECK(pnm_set_workers(1) == PNM_ERROR_FORKED, "%s", pnm_last_error());
	CHECK(pnm_workers() == 0, "%d", pnm_workers());
	CHECK(strcmp(pnm_isa(), isa) == 0, "%s, not %s", pnm_isa(), isa);
	CHECK(strcmp(pnm_version(), "") != 0 && pnm_abi_version() == PNM_ABI_VERSION, "%s", pnm_version());
	CHECK(pnm_rule_adam().lr > 0, "no rule");
	CHECK(seconds() - start < 1, "%g seconds", seconds() - start);
}

/* Forks, checks the child and, in the first generation, a child of its own. Returns when they are gone. */
static void fork_child(pnm_update *u, const char *isa, int generations) {
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		in_child(u, isa);
		if (generations > 1)
			fork_child(u, isa, generations - 1);
		exit(failures != 0); /* with all handlers */
	}
	int status = -1;
	double start = seconds();
	while (waitpid(child, &status, WNOHANG) == 0 && seconds() - start < 20)
		usleep(500);
	CHECK(status == 0, "the child's status is %#x, -1 if it hangs", (unsigned)status);
	if (status == -1)
		kill(child, SIGKILL);
}

static void *work(void *arg) {
	pnm_update u = tensor(&rule, 1 << 20, 1);
	(void)arg;
	while (!stop)
		CHECK(pnm_update_one(NULL, &u, NULL) == PNM_OK, "%s", pnm_last_error());
	release(&u);
	return NULL;
}

int main(void) {
	rule = pnm_rule_sgd(0.1);
	rule.momentum = 0.9;
	pnm_update u = tensor(&rule, 1000, 1);
	float own = 3;
	allocated = vector(&own, 1, PNM_FLOAT32);
	fork_child(&u, "", 1); /* before Go has been asked for anything, it may still be starting */
	CHECK(own == 3, "a child has written %g", (double)own);
	allocated = vector(NULL, 1000000, PNM_FLOAT32);
	CHECK(pnm_alloc(&allocated, 1) == PNM_OK, "%s", pnm_last_error());
	((float *)allocated.data)[0] = 3;
	char isa[16];
	snprintf(isa, sizeof isa, "%s", pnm_isa());
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	for (int i = 0; i < 25; i++) {
		CHECK(pnm_update_one(NULL, &u, NULL) == PNM_OK, "%s", pnm_last_error());
		fork_child(&u, isa, 2);
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(pnm_update_one(NULL, &u, NULL) == PNM_OK, "%s", pnm_last_error());
	CHECK(((float *)allocated.data)[0] == 3 && pnm_free(&allocated, 1) == PNM_OK, "%s", pnm_last_error());
	release(&u);
	return failures != 0;
}
