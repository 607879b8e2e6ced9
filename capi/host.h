// The process that the library is a guest in: its signals, limits and forks, and how its threads compute. host_unix.c and
// host_windows.c have what differs between systems.
#ifndef PNM_HOST_H
#define PNM_HOST_H

#include <stdint.h>
#ifndef _WIN32
#include <signal.h>
#endif

// pnm_host_forked reports whether this process is a forked child of the one that loaded the library. Windows has no forks.
int pnm_host_forked(void);

// pnm_host_keep has the calling thread keep memory of malloc's, which is freed when the thread ends, and pnm_host_kept returns it, or
// NULL. A thread keeps one; pnm_host_keep returns 0 if it cannot.
int pnm_host_keep(void *memory);
void *pnm_host_kept(void);

// What a thread has that calls, and gets back when it leaves.
typedef struct {
#ifndef _WIN32
	sigset_t signals;
#endif
	uint64_t arithmetic;
} pnm_guest;

// pnm_host_enter readies the calling thread for Go, and pnm_host_leave gives back what it had:
//
// - No handler of a signal runs on it, for Go's stacks are too small for them. What is sent meanwhile goes to another thread, or
//   waits. Windows has no such handlers.
// - It computes as IEEE 754 does: no flush of denormals to zero, as PyTorch's set_flush_denormal has, no other rounding, no traps.
void pnm_host_enter(pnm_guest *g);
void pnm_host_leave(const pnm_guest *g);

#endif
