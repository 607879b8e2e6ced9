//go:build (linux || darwin) && cgo

#include "arithmetic.h"
#include "internal.h"
#include "unix.h"

#include <pthread.h>
#include <stdlib.h>

static volatile sig_atomic_t forked;

int pnm_host_forked(void) { return forked; }

static void in_child(void) { forked = 1; }

// What a thread keeps lies on the heap: a thread-local array would come out of the little room that glibc has for libraries which are
// loaded late, and that PyTorch and others want, too.
static pthread_key_t kept_key;
static int have_kept_key;

int pnm_host_keep(void *memory) { return have_kept_key && pthread_setspecific(kept_key, memory) == 0; }

void *pnm_host_kept(void) { return have_kept_key ? pthread_getspecific(kept_key) : NULL; }

// Signals that a thread's own instructions raise. They cannot wait.
static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

static void hold_signals(sigset_t *before) {
	sigset_t others;
	sigfillset(&others);
	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		sigdelset(&others, own[i]);
	pthread_sigmask(SIG_SETMASK, &others, before);
}

// The first call of a thread makes it one of Go's, until it ends: it then has a small alternate stack for signals, which the
// handlers of the host would run on, and unblocks some signals, or does where pnm_go_hold_signals has found nothing.
static pthread_key_t bound_key;
static int have_bound_key;

static void bind_thread(void) {
	stack_t before;
	int known = sigaltstack(NULL, &before);
	pnmgo_bind();
	if (known == 0 && (before.ss_flags & SS_DISABLE) != 0) // else Go has left it alone
		sigaltstack(&before, NULL);
	hold_signals(NULL);
	if (have_bound_key)
		pthread_setspecific(bound_key, &bound_key);
}

static void hold(pnm_guest *g) {
	hold_signals(&g->signals);
	g->arithmetic = arithmetic();
	set_arithmetic(IEEE754);
}

void pnm_host_enter(pnm_guest *g) {
	hold(g);
	if (!have_bound_key || pthread_getspecific(bound_key) == NULL)
		bind_thread();
}

void pnm_host_keep_modes(pnm_guest *g) {
	if ((arithmetic() & MODE_BITS) != IEEE754)
		g->arithmetic = arithmetic();
}

void pnm_host_leave(const pnm_guest *g) {
	set_arithmetic(g->arithmetic);
	pthread_sigmask(SIG_SETMASK, &g->signals, NULL);
}

// Go's start, which is a constructor too, installs handlers for signals such as SIGSEGV and SIGPIPE, so that a crash in the host
// would end in a Go traceback, and a broken pipe in nothing at all. The engine needs none of them. So one constructor runs in
// front of Go's and another one, in aftergo_unix.c, behind it: between them, what Go starts inherits a mask without the host's signals
// and IEEE 754's arithmetic, and behind them the host's handlers are as they were.
struct pnm_before_go pnm_before_go;

#ifdef __APPLE__ // where constructors run in the order of the objects, which release/library sets
#define FIRST constructor
#else
#define FIRST constructor(101)
#endif

static void __attribute__((FIRST)) before_go(void) {
	pthread_atfork(NULL, NULL, in_child);
	have_kept_key = pthread_key_create(&kept_key, free) == 0;
	have_bound_key = pthread_key_create(&bound_key, NULL) == 0;
	for (int s = 1; s < NSIG; s++)
		pnm_before_go.known[s] = sigaction(s, NULL, &pnm_before_go.actions[s]) == 0;
	getrlimit(RLIMIT_NOFILE, &pnm_before_go.files);
	hold(&pnm_before_go.thread);
	pnm_go_hold_signals();
}
