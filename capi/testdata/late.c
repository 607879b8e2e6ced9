/* The constructors of host_unix.c and aftergo_unix.c in the wrong order, as a plain go build for macOS has them: they leave signals,
 * limits and floating-point modes as they are. Without Go. */
#include "check.h"
#define constructor(priority) unused /* main calls before_go */
#include "../host_unix.c"
#undef constructor
#include "../aftergo_unix.c"

void pnmgo_bind(void) {}
void pnm_go_hold_signals(void) { CHECK(0, "too late: Go's threads use what this changes"); }

static sigset_t blocked; /* when the program starts */
static uint64_t modes;

static void __attribute__((constructor(101))) first(void) {
	sigset_t usr1;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	modes = arithmetic();
}

static void unchanged(const char *when) {
	sigset_t now;
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	for (int s = 1; s < NSIG; s++)
		CHECK(sigismember(&now, s) == sigismember(&blocked, s), "%s, signal %d", when, s);
	CHECK(arithmetic() == modes, "%s: %#llx, were %#llx", when, (unsigned long long)arithmetic(), (unsigned long long)modes);
}

int main(void) {
	unchanged("after after_go"); /* which has run as a constructor */
	struct rlimit before, after;
	getrlimit(RLIMIT_NOFILE, &before);
	pnm_host_limits();
	before_go();
	pnm_host_limits();
	getrlimit(RLIMIT_NOFILE, &after);
	CHECK(before.rlim_cur == after.rlim_cur, "%llu files, were %llu", (unsigned long long)after.rlim_cur, (unsigned long long)before.rlim_cur);
	unchanged("after before_go");
	pnm_guest guest;
	pnm_host_enter(&guest);
	pnm_host_leave(&guest);
	unchanged("after a call");
	return failures != 0;
}
