/* Threads that call at the same time, each on its own memory, and fail each in its own way. */
#include "check.h"
#include <pthread.h>
#include <unistd.h>

enum { THREADS = 12, STEPS = 60, N = 50000 };

static pthread_barrier_t all;

static uint64_t train(int number) {
	pnm_rule rule = pnm_rule_adam();
	rule.lr = 0.001 * (number + 1);
	pnm_options options;
	memset(&options, 0, sizeof options);
	options.clip_norm = 1;
	options.workers = number % 4;
	pnm_update u = tensor(&rule, N, 2);
	for (int i = 0; i < N; i++)
		((float *)grads_of(&u).data)[i] = (float)(i % 7 - number);
	for (u.step = 1; u.step <= STEPS; u.step++)
		CHECK(pnm_update_one(&options, &u, NULL) == PNM_OK, "%s", pnm_last_error());
	uint64_t h = hash(hash(HASH_START, u.params), u.state[1]);
	release(&u);
	return h;
}

static void fail(int number) {
	char want[64];
	snprintf(want, sizeof want, "Update.Step is -%d,", number + 1);
	pnm_rule rule = pnm_rule_adam();
	pnm_update u = tensor(&rule, 1, 2);
	u.step = -number - 1;
	CHECK(strcmp(pnm_last_error(), "") == 0, "thread %d begins with: %s", number, pnm_last_error());
	CHECK(pnm_update_one(NULL, &u, NULL) == PNM_ERROR_STEP, "%s", pnm_last_error());
	pthread_barrier_wait(&all); /* all have failed */
	CHECK(strstr(pnm_last_error(), want) != NULL, "thread %d: %s", number, pnm_last_error());
	release(&u);
}

static void *work(void *arg) {
	int number = *(int *)arg;
	fail(number);
	uint64_t *h = (uint64_t *)malloc(sizeof *h);
	if (h != NULL)
		*h = train(number);
	return h;
}

int main(void) {
	pthread_attr_t small; /* as small a stack as there is */
	pthread_attr_init(&small);
	CHECK(pthread_attr_setstacksize(&small, (size_t)sysconf(_SC_THREAD_STACK_MIN)) == 0, "no small stacks");
	pthread_t threads[THREADS];
	int numbers[THREADS];
	pthread_barrier_init(&all, NULL, THREADS);
	for (int i = 0; i < THREADS; i++) {
		numbers[i] = i;
		CHECK(pthread_create(&threads[i], i == 0 ? &small : NULL, work, &numbers[i]) == 0, "no thread");
	}
	for (int i = 0; i < THREADS; i++) {
		void *h;
		pthread_join(threads[i], &h);
		CHECK(h != NULL && *(uint64_t *)h == train(i), "thread %d has other bits than it has alone", i);
		free(h);
	}
	CHECK(strcmp(pnm_last_error(), "") == 0, "the main thread has: %s", pnm_last_error());
	return failures != 0;
}
