/* What loading the library does to its host: nothing. Arguments: what to do, and the library's path. */
#include "check.h"
#include <dirent.h>
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
	pnm_update u = tensor(&rule, 1 << 20, 1);
	for (int i = 0; i < u.grads.length; i++)
		((float *)u.grads.data)[i] = (float)(i % 11 - 5);
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

/* The threads of Go do not take the host's signals: SIGINT is bit 1 and SIGALRM bit 13 of the mask. */
static void check_threads(void) {
	DIR *tasks = opendir("/proc/self/task");
	int threads = 0;
	for (struct dirent *d; (d = readdir(tasks)) != NULL;) {
		char path[300], line[256];
		unsigned long long blocked = 0;
		if (d->d_name[0] == '.' || atoi(d->d_name) == (int)getpid())
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%s/status", d->d_name);
		FILE *f = fopen(path, "r");
		if (f == NULL)
			continue; /* it has ended */
		while (fgets(line, sizeof line, f) != NULL)
			sscanf(line, "SigBlk: %llx", &blocked);
		fclose(f);
		threads++;
		CHECK((blocked & 0x2002) == 0x2002, "thread %s blocks only %llx", d->d_name, blocked);
	}
	closedir(tasks);
	CHECK(threads > 0, "Go has no threads?");
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
	check_threads();
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
	else if (strcmp(what, "idle") == 0)
		idle(path);
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
