/* The static library leaves the host's signals alone, too: see host.c, and docs/c.md. Its names begin with pnm. */
#include "masks.h"

int forked, host_forked, hold_signals, bind_thread, search; /* the host's own */
#ifdef INSTALLED
int fatalf, crosscall1, crosscall2, _cgo_init, x_cgo_init, x_cgo_inittls, _cgo_topofstack, pnm_host_forked, pnmgo_bind;
#endif

int main(void) {
	static const int go[] = {SIGSEGV, SIGBUS, SIGFPE, SIGPIPE, SIGURG};
	CHECK(pnm_workers() >= 1, "%s", pnm_last_error());
	for (size_t i = 0; i < sizeof go / sizeof go[0]; i++) {
		struct sigaction a;
		sigaction(go[i], NULL, &a);
		CHECK(a.sa_handler == SIG_DFL, "signal %d has a handler", go[i]);
	}
	sigset_t mask;
	sigprocmask(SIG_BLOCK, NULL, &mask);
	CHECK(!sigismember(&mask, SIGINT), "SIGINT is blocked");
#ifdef __linux__
	check_masks();
#endif
	return forked + host_forked + hold_signals + bind_thread + search + failures != 0;
}
