//go:build linux && cgo

#include "host.h"
#include "internal.h"

#include <stddef.h>

static volatile sig_atomic_t forked;

int pnm_host_forked(void) { return forked; }

static void in_child(void) { forked = 1; }

// Signals that a thread's own instructions raise. They cannot wait.
static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

static void hold_signals(sigset_t *before) {
	sigset_t others;
	sigfillset(&others);
	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		sigdelset(&others, own[i]);
	pthread_sigmask(SIG_SETMASK, &others, before);
}

// How a thread computes, and what Go expects. MODE_BITS leaves out the flags of exceptions that there have been.
#if defined(__x86_64__)

enum { IEEE754 = 0x1f80, MODE_BITS = 0xffc0 }; // MXCSR: to nearest, all exceptions masked

static uint64_t arithmetic(void) { return __builtin_ia32_stmxcsr(); }

static void set_arithmetic(uint64_t mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }

#elif defined(__aarch64__)

enum { IEEE754 = 0, MODE_BITS = 0x7fffffff }; // FPCR

static uint64_t arithmetic(void) {
	uint64_t mode;
	__asm__ volatile("mrs %0, fpcr" : "=r"(mode));
	return mode;
}

static void set_arithmetic(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }

#else

enum { IEEE754 = 0, MODE_BITS = 0 };

static uint64_t arithmetic(void) { return 0; }

static void set_arithmetic(uint64_t mode) { (void)mode; }

#endif

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
// front of Go's and another one, in aftergo.c, behind it: between them, what Go starts inherits a mask without the host's signals
// and IEEE 754's arithmetic, and behind them the host's handlers are as they were.
struct pnm_before_go pnm_before_go;

static void __attribute__((constructor(101))) before_go(void) {
	pthread_atfork(NULL, NULL, in_child);
	have_bound_key = pthread_key_create(&bound_key, NULL) == 0;
	for (int s = 1; s < NSIG; s++)
		pnm_before_go.known[s] = sigaction(s, NULL, &pnm_before_go.actions[s]) == 0;
	getrlimit(RLIMIT_NOFILE, &pnm_before_go.files);
	hold(&pnm_before_go.thread);
	pnm_go_hold_signals();
}
