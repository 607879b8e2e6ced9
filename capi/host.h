// The host process of the library: its signals, limits and forks, and its threads' floating-point modes. host_unix.c and
// host_windows.c implement this for their systems.
#ifndef PNM_HOST_H
#define PNM_HOST_H

#include <stdint.h>
#ifndef _WIN32
#include <signal.h>
#endif

// pnm_host_forked reports whether this process is a forked child of the one that loaded the library. Windows has no forks.
int pnm_host_forked(void);

// pnm_host_keep stores a pointer from malloc for the calling thread, which is freed when the thread ends; it returns 0 if it cannot.
// pnm_host_kept returns the pointer, or NULL. A thread has one.
int pnm_host_keep(void *memory);
void *pnm_host_kept(void);

// The settings of a calling thread, which it gets back when it leaves.
typedef struct {
#ifndef _WIN32
	sigset_t signals;
#endif
	uint64_t arithmetic;
} pnm_guest;

// pnm_host_enter prepares the calling thread for Go, and pnm_host_leave restores its settings:
//
// - No signal handler runs on it, since Go's stacks are too small for them. Signals sent meanwhile go to another thread, or
//   wait. Windows has no such handlers.
// - It computes as IEEE 754 does: without flushing denormals to zero, as PyTorch's set_flush_denormal does, other rounding, or traps.
void pnm_host_enter(pnm_guest *g);
void pnm_host_leave(const pnm_guest *g);

#endif
