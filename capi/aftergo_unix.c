//go:build (linux || darwin) && cgo

// The constructor after Go's. It is in its own file, to which only Go refers: a linker that takes the objects that it needs from the
// static library takes this one after Go's, and constructors run in that order.
#include "internal.h"
#include "unix.h"

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

static void __attribute__((constructor)) after_go(void) {
	if (!pnm_before_go.recorded) {
		pnm_before_go.late = 1;
		return;
	}
	for (int s = 1; s < NSIG; s++) {
		const struct sigaction *was = &pnm_before_go.actions[s];
		struct sigaction is;
		if (pnm_before_go.known[s] && sigaction(s, NULL, &is) == 0 && (is.sa_handler != was->sa_handler || is.sa_flags != was->sa_flags))
			sigaction(s, was, NULL);
	}
	pnm_host_keep_modes(&pnm_before_go.thread); // modes that a constructor in between has set, such as that of gcc's -Ofast
	pnm_host_leave(&pnm_before_go.thread);
}

// most_files is the system's limit of open files for a process.
static rlim_t most_files(rlim_t hard) {
#ifdef __APPLE__
	int most;
	size_t size = sizeof most;
	if (sysctlbyname("kern.maxfilesperproc", &most, &size, NULL, 0) == 0 && (rlim_t)most < hard)
		return (rlim_t)most;
#endif
	return hard;
}

void pnm_host_limits(void) {
	struct rlimit now; // Go has raised the limit, unless the host has set its own before
	if (!pnm_before_go.recorded)
		return;
	if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur > pnm_before_go.files.rlim_cur && now.rlim_cur >= most_files(now.rlim_max) - 1) {
		now.rlim_cur = pnm_before_go.files.rlim_cur;
		setrlimit(RLIMIT_NOFILE, &now);
	}
}
