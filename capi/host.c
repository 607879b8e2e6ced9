//go:build linux && cgo

#include "host.h"
#include "internal.h"

#include <stddef.h>
#include <sys/resource.h>

static volatile sig_atomic_t forked;

int host_forked(void) { return forked; }

static void in_child(void) { forked = 1; }

// Signals that a thread's own instructions raise. They cannot wait.
static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};

void host_hold_signals(sigset_t *before) {
	sigset_t others;
	sigfillset(&others);
	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		sigdelset(&others, own[i]);
	pthread_sigmask(SIG_SETMASK, &others, before);
}

void host_release_signals(const sigset_t *before) { pthread_sigmask(SIG_SETMASK, before, NULL); }

// Go's start, which is a constructor too, installs handlers for signals such as SIGSEGV and SIGPIPE, so that a crash in the host
// would end in a Go traceback, and a broken pipe in nothing at all. The engine needs none of them. So one constructor runs in
// front of Go's and another one behind it: between them, what Go starts inherits a mask without the host's signals, and
// behind them the host's handlers are as they were.
static struct {
	sigset_t mask;
	struct sigaction actions[NSIG];
	int known[NSIG];
	struct rlimit files;
} host;

static void __attribute__((constructor(101))) before_go(void) {
	pthread_atfork(NULL, NULL, in_child);
	for (int s = 1; s < NSIG; s++)
		host.known[s] = sigaction(s, NULL, &host.actions[s]) == 0;
	getrlimit(RLIMIT_NOFILE, &host.files);
	host_hold_signals(&host.mask);
}

static void __attribute__((constructor)) after_go(void) {
	for (int s = 1; s < NSIG; s++) {
		const struct sigaction *was = &host.actions[s];
		struct sigaction is;
		if (host.known[s] && sigaction(s, NULL, &is) == 0 && (is.sa_handler != was->sa_handler || is.sa_flags != was->sa_flags))
			sigaction(s, was, NULL);
	}
	host_release_signals(&host.mask);
}

void pnm_host_limits(void) {
	struct rlimit now; // Go has raised the number of files, unless the host was faster to set its own
	if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur > host.files.rlim_cur && now.rlim_cur >= now.rlim_max - 1) {
		now.rlim_cur = host.files.rlim_cur;
		setrlimit(RLIMIT_NOFILE, &now);
	}
}
