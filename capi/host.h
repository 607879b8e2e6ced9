// The process that the library is a guest in: its signals, limits and forks, and how its threads compute.
#ifndef PNM_HOST_H
#define PNM_HOST_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>

// pnm_host_forked reports whether this process is a forked child of the one that loaded the library.
int pnm_host_forked(void);

// What a thread has that calls, and gets back when it leaves.
typedef struct {
	sigset_t signals;
	uint64_t arithmetic;
} pnm_guest;

// pnm_host_enter readies the calling thread for Go, and pnm_host_leave gives back what it had:
//
// - No handler of the host runs on it, for Go's stacks are too small for them. What is sent meanwhile goes to another thread, or
//   waits.
// - It computes as IEEE 754 does: no flush of denormals to zero, as PyTorch's set_flush_denormal has, no other rounding, no traps.
void pnm_host_enter(pnm_guest *g);
void pnm_host_leave(const pnm_guest *g);

// pnm_host_keep_modes has pnm_host_leave give the thread the modes that it has now, if these are not IEEE 754's.
void pnm_host_keep_modes(pnm_guest *g);

// What was there before Go started.
extern struct pnm_before_go {
	pnm_guest thread;
	struct sigaction actions[NSIG];
	int known[NSIG];
	struct rlimit files;
} pnm_before_go;

// pnm_go_hold_signals has the threads of Go leave blocked what they find blocked, but for signals that their own instructions
// raise. It must run before Go starts.
void pnm_go_hold_signals(void);

#endif
