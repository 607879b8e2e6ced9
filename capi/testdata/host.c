/* What loading the library does to its host: nothing. Arguments: what to do, and the library's path. */
#include "check.h"
#include "masks.h"
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

static pnm_status (*update_one)(const pnm_options *, const pnm_update *, pnm_report *);
static int (*workers)(void);

static void *symbol(void *library, const char *name) {
	void *p = dlsym(library, name);
	if (p == NULL) {
		printf("%s\n", dlerror());
		exit(1);
	}
	return p;
}

static void load(const char *path) {
	double start = seconds();
	void *library = dlopen(path, RTLD_NOW);
	if (library == NULL) {
		printf("%s\n", dlerror());
		exit(1);
	}
	*(void **)&update_one = symbol(library, "pnm_update_one");
	*(void **)&workers = symbol(library, "pnm_workers");
	double loaded = seconds();
	workers(); /* waits until Go has started */
	printf("loaded in %.2f ms, ready after %.2f ms\n", 1e3 * (loaded - start), 1e3 * (seconds() - start));
}

static double cpu(void) {
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static pnm_rule rule;
static int slots = 1; /* of its state */

/* A step that all workers share. */
static void step(pnm_update *u) {
	CHECK(update_one(NULL, u, NULL) == PNM_OK, "a step fails");
	u->step++;
}

/* Signals. The handlers need more stack than Go's threads could have, and do not ask for another one. */
static volatile sig_atomic_t alarms, interrupts, faults;
static sigjmp_buf after_fault;

static void use_stack(void) {
	volatile char big[48 << 10];
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = (char)i;
}

static void on_alarm(int s) {
	(void)s;
	use_stack();
	alarms++;
}

static void on_interrupt(int s) {
	(void)s;
	use_stack();
	interrupts++;
}

static void on_fault(int s) {
	(void)s;
	faults++;
	siglongjmp(after_fault, 1);
}

static void handle(int s, void (*handler)(int)) {
	struct sigaction a;
	memset(&a, 0, sizeof a);
	a.sa_handler = handler;
	sigaction(s, &a, NULL);
}

static void handle_all(void) {
	handle(SIGALRM, on_alarm);
	handle(SIGINT, on_interrupt);
	handle(SIGSEGV, on_fault);
}

static void fault(void) {
	int before = faults;
	if (sigsetjmp(after_fault, 1) == 0)
		*(volatile int *)NULL = 1;
	CHECK(faults == before + 1, "SIGSEGV went elsewhere");
}

static volatile int stop;

static void *interrupt(void *arg) {
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL); /* for others to handle */
	(void)arg;
	while (!stop) {
		kill(getpid(), SIGINT);
		usleep(300);
	}
	return NULL;
}

static uint64_t train(int steps) {
	pnm_update u = tensor(&rule, 1 << 20, slots);
	for (int i = 0; i < u.grads.length; i++)
		((float *)grads_of(&u).data)[i] = (float)(i % 11 - 5);
	for (int i = 0; i < steps; i++)
		step(&u);
	uint64_t h = hash(hash(HASH_START, u.params), u.state[0]);
	release(&u);
	return h;
}

static void signals(const char *path, int before) {
	if (before)
		handle_all();
	load(path);
	if (!before)
		handle_all();
	uint64_t quiet = train(100);
	struct itimerval often = {{0, 500}, {0, 500}};
	setitimer(ITIMER_REAL, &often, NULL);
	pthread_t thread;
	pthread_create(&thread, NULL, interrupt, NULL);
	double start = seconds();
	do
		CHECK(train(100) == quiet, "signals have changed the bits");
	while ((alarms < 4 || interrupts < 4) && seconds() - start < 20);
	fault();
	stop = 1;
	pthread_join(thread, NULL);
	memset(&often, 0, sizeof often);
	setitimer(ITIMER_REAL, &often, NULL);
	CHECK(alarms > 3 && interrupts > 3, "%d alarms, %d interrupts", (int)alarms, (int)interrupts);
	fault();
	CHECK(train(100) == quiet, "signals have changed something");
}

/* The kernel's own flag, which the C library sets where a handler has ever been. */
enum { SA_RESTORER_FLAG = 0x04000000 };

static int same(const struct sigaction *a, const struct sigaction *b) {
	return a->sa_handler == b->sa_handler && (a->sa_flags & ~SA_RESTORER_FLAG) == (b->sa_flags & ~SA_RESTORER_FLAG);
}

static void unchanged(const char *path) {
	struct sigaction before[NSIG], after;
	sigset_t mask_before, mask_after;
	struct rlimit files_before, files_after;
	memset(before, 0, sizeof before);
	handle(SIGUSR1, on_alarm);
	handle(SIGBUS, on_alarm);
	handle(SIGHUP, SIG_IGN);
	for (int s = 1; s < NSIG; s++)
		sigaction(s, NULL, &before[s]);
	pthread_sigmask(SIG_BLOCK, NULL, &mask_before);
	getrlimit(RLIMIT_NOFILE, &files_before);
	files_before.rlim_cur = 100; /* Go would raise it */
	setrlimit(RLIMIT_NOFILE, &files_before);
	load(path);
	train(3);
	for (int s = 1; s < NSIG; s++) {
		memset(&after, 0, sizeof after);
		if (sigaction(s, NULL, &after) == 0)
			CHECK(same(&after, &before[s]), "signal %d is handled otherwise", s);
	}
	pthread_sigmask(SIG_BLOCK, NULL, &mask_after);
	for (int s = 1; s < NSIG; s++)
		CHECK(sigismember(&mask_before, s) == sigismember(&mask_after, s), "signal %d is masked otherwise", s);
	getrlimit(RLIMIT_NOFILE, &files_after);
	CHECK(files_before.rlim_cur == files_after.rlim_cur && files_before.rlim_max == files_after.rlim_max, "files: %lu to %lu",
		(unsigned long)files_before.rlim_cur, (unsigned long)files_after.rlim_cur);
	check_masks();
}

/* A profiler's signals, and others that Go would have its threads take, for handlers without a stack of their own. They run on
 * threads of the host alone, on their own stacks, and also while a thread makes its first call. */
static __thread const char *stack_low, *stack_high; /* NULL in threads of Go */
static volatile sig_atomic_t profiled, strays;

/* A thread is started with signals blocked, until it knows its stack. */
static pthread_t start(void *(*run)(void *), void *arg) {
	sigset_t all, before;
	pthread_t thread;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_create(&thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return thread;
}

static void know_stack(void) {
	pthread_attr_t a;
	sigset_t none;
	void *low;
	size_t size;
	pthread_getattr_np(pthread_self(), &a);
	pthread_attr_getstack(&a, &low, &size);
	pthread_attr_destroy(&a);
	stack_low = low;
	stack_high = stack_low + size;
	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static void on_profile(int s) {
	volatile char locals[16 << 10];
	const char *here = (const char *)(uintptr_t)locals;
	(void)s;
	if (here < stack_low || here >= stack_high)
		strays++;
	for (size_t i = 0; i < sizeof locals; i++)
		locals[i] = (char)i;
	profiled++;
}

static int shower[] = {SIGCHLD, SIGURG, SIGUSR2, 0 /* SIGRTMIN */};

static void *rain(void *arg) { /* with its own signals blocked */
	for (size_t i = 0; !stop; i++) {
		kill(getpid(), shower[i % (sizeof shower / sizeof shower[0])]);
		usleep(500);
	}
	return arg;
}

enum { STEPS = 750 };

static void *train_beside(void *arg) {
	know_stack();
	*(uint64_t *)arg = train(STEPS);
	return NULL;
}

static void *first_call(void *arg) {
	(void)arg;
	know_stack();
	CHECK(workers() > 0, "no workers");
	return NULL;
}

static void profile(const char *path) {
	know_stack();
	shower[3] = SIGRTMIN;
	handle(SIGPROF, on_profile);
	for (size_t i = 0; i < sizeof shower / sizeof shower[0]; i++)
		handle(shower[i], on_profile);
	struct itimerval often = {{0, 2000}, {0, 2000}}, never;
	memset(&never, 0, sizeof never);
	setitimer(ITIMER_PROF, &often, NULL); /* 500 Hz */
	pthread_t rainy = start(rain, NULL);
	load(path);
	uint64_t other = 0;
	pthread_t beside = start(train_beside, &other);
	uint64_t here = train(STEPS);
	for (int i = 0; i < 200; i++)
		pthread_join(start(first_call, NULL), NULL);
	pthread_join(beside, NULL);
	setitimer(ITIMER_PROF, &never, NULL);
	stop = 1;
	pthread_join(rainy, NULL);
	CHECK(here == other && here == train(STEPS), "signals have changed the bits");
	CHECK(profiled > 1000, "%d signals", (int)profiled);
	CHECK(strays == 0, "%d of %d signals on other stacks", (int)strays, (int)profiled);
	check_masks();
}

/* A thread keeps its stack for signals: one that it has, and none if it has none. */
static volatile sig_atomic_t big;

static void on_big(int s) {
	volatile char locals[600 << 10];
	(void)s;
	for (size_t i = 0; i < sizeof locals; i += 1024)
		locals[i] = 1;
	big++;
}

static void same_stack(const stack_t *want) {
	stack_t is;
	sigaltstack(NULL, &is);
	CHECK(is.ss_flags == want->ss_flags && is.ss_sp == want->ss_sp && is.ss_size == want->ss_size, "the stack for signals was %p and is %p",
		want->ss_sp, is.ss_sp);
	raise(SIGUSR1);
}

static void *own_stack(void *arg) {
	stack_t own;
	memset(&own, 0, sizeof own);
	own.ss_size = 1 << 20;
	own.ss_sp = malloc(own.ss_size);
	sigaltstack(&own, NULL);
	for (int i = 0; i < 3; i++) {
		same_stack(&own);
		train(1);
	}
	own.ss_flags = SS_DISABLE;
	sigaltstack(&own, NULL);
	free(own.ss_sp);
	return arg;
}

static void stacks(const char *path) {
	struct sigaction a;
	stack_t none;
	memset(&a, 0, sizeof a);
	a.sa_handler = on_big;
	a.sa_flags = SA_ONSTACK;
	sigaction(SIGUSR1, &a, NULL);
	sigaltstack(NULL, &none);
	load(path);
	for (int i = 0; i < 3; i++) {
		same_stack(&none);
		train(1);
	}
	pthread_t thread;
	pthread_create(&thread, NULL, own_stack, NULL);
	pthread_join(thread, NULL);
	CHECK(big == 6, "%d signals", (int)big);
}

/* A bad pointer, of which workers read the most. The host's handler reports it. */
static void on_crash(int s) {
	(void)s;
	_exit(42);
}

static void bad_pointer(const char *path) {
	struct sigaction a;
	memset(&a, 0, sizeof a);
	a.sa_handler = on_crash;
	a.sa_flags = SA_ONSTACK;
	sigaction(SIGSEGV, &a, NULL);
	load(path);
	train(3);
	pnm_update u = tensor(&rule, 1 << 22, 1);
	u.grads.data = (void *)4096;
	update_one(NULL, &u, NULL);
	CHECK(0, "a bad pointer goes unnoticed");
}

static void idle(const char *path) {
	load(path);
	train(3); /* all workers have been awake */
	double start = cpu();
	usleep(1000000);
	printf("an idle second took %.2f ms of CPU\n", 1e3 * (cpu() - start));
}

int main(int argc, char **argv) {
	if (argc != 3)
		return 2;
	const char *what = argv[1], *path = argv[2];
	memset(&rule, 0, sizeof rule);
	rule.kind = PNM_RULE_SGD;
	rule.lr = 0.01;
	rule.momentum = 0.9;
	if (strcmp(what, "signals-before") == 0)
		signals(path, 1);
	else if (strcmp(what, "signals-after") == 0)
		signals(path, 0);
	else if (strcmp(what, "unchanged") == 0)
		unchanged(path);
	else if (strcmp(what, "profile") == 0) {
		rule = (pnm_rule){.kind = PNM_RULE_ADAPNM, .decoupled = 1, .amsgrad = 1, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .beta0 = 1, .eps = 1e-8};
		slots = 4;
		profile(path);
	} else if (strcmp(what, "stacks") == 0)
		stacks(path);
	else if (strcmp(what, "idle") == 0)
		idle(path);
	else if (strcmp(what, "bad-pointer") == 0)
		bad_pointer(path);
	else if (strcmp(what, "crash") == 0) {
		load(path);
		train(3);
		fflush(stdout);
		*(volatile int *)NULL = 1;
	} else if (strcmp(what, "pipe") == 0) {
		load(path);
		int ends[2];
		if (pipe(ends) == 0)
			close(ends[0]);
		fflush(stdout);
		failures = write(ends[1], "x", 1) != 0; /* SIGPIPE */
	} else
		return 2;
	return failures != 0;
}
