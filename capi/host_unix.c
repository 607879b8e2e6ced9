//go:build (linux || darwin) && cgo

#include "arithmetic.h"
#include "internal.h"
#include "unix.h"

#include <pthread.h>
#include <stdlib.h>

#ifdef __APPLE__
#include <dlfcn.h>
#endif

static volatile sig_atomic_t forked;

int pnm_host_forked(void) { return forked; }

static void in_child(void) { forked = 1; }

// A thread's message is on the heap: a thread-local array would use the little static TLS space that glibc keeps for libraries loaded
// late, which PyTorch and others need, too.
static pthread_key_t kept_key;
static int have_kept_key;

int pnm_host_keep(void *memory) { return have_kept_key && pthread_setspecific(kept_key, memory) == 0; }

void *pnm_host_kept(void) { return have_kept_key ? pthread_getspecific(kept_key) : NULL; }

// Signals that a thread's own instructions raise: blocking them would not delay them.
static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

static void hold_signals(sigset_t *before) {
	sigset_t others;
	sigfillset(&others);
	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		sigdelset(&others, own[i]);
	pthread_sigmask(SIG_SETMASK, &others, before);
}

// The first call of a thread binds it to Go until it ends. Go gives it a small alternate signal stack, on which the host's handlers
// would run, and unblocks some signals, unless pnm_go_hold_signals has prevented that. bind_thread undoes both.
static pthread_key_t bound_key;
static int have_bound_key;

static void bind_thread(void) {
	stack_t before;
	int known = sigaltstack(NULL, &before);
	pnmgo_bind();
	if (known == 0 && (before.ss_flags & SS_DISABLE) != 0) // else Go has kept the host's
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

// Go starts in a constructor and installs handlers for signals such as SIGSEGV and SIGPIPE: a crash of the host would end in a Go
// traceback, and a broken pipe would have no effect. The engine needs none of these handlers. So one constructor runs before Go's, and
// another, in aftergo_unix.c, after it. In between, Go's threads inherit a mask that blocks the host's signals, and IEEE 754's
// arithmetic. Afterwards the host's handlers are as before.
//
// A plain go build for macOS runs this one last. Then Go's handlers stay, but neither of the two may change anything else.
struct pnm_before_go pnm_before_go;

#ifdef __APPLE__ // where constructors run in the order of the objects, which release/library sets
#define FIRST constructor
#else
#define FIRST constructor(101)
#endif

static void __attribute__((FIRST)) before_go(void) {
#ifdef __APPLE__ // elsewhere the linker says that Go cannot be unloaded
	Dl_info own;
	if (dladdr((const void *)(uintptr_t)in_child, &own) != 0)
		dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
#endif
	pthread_atfork(NULL, NULL, in_child);
	have_kept_key = pthread_key_create(&kept_key, free) == 0;
	have_bound_key = pthread_key_create(&bound_key, NULL) == 0;
	if (pnm_before_go.late)
		return;
	for (int s = 1; s < NSIG; s++)
		pnm_before_go.known[s] = sigaction(s, NULL, &pnm_before_go.actions[s]) == 0;
	getrlimit(RLIMIT_NOFILE, &pnm_before_go.files);
	hold(&pnm_before_go.thread);
	pnm_go_hold_signals();
	pnm_before_go.recorded = 1;
}
