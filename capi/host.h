// The process that the library is a guest in: its signals, limits, forks, and how its threads round.
#ifndef PNM_HOST_H
#define PNM_HOST_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>

// host_forked reports whether this process is a forked child of the one that loaded the library.
int host_forked(void);

// host_hold_signals keeps the host's signal handlers off the calling thread while it is in Go, whose stacks are too small for
// them. What is sent meanwhile goes to another thread, or waits for host_release_signals.
void host_hold_signals(sigset_t *before);
void host_release_signals(const sigset_t *before);

// host_hold_rounding gives the calling thread the arithmetic of IEEE 754, which is Go's: no flush of denormals to zero, as
// PyTorch's set_flush_denormal has, no other rounding, no traps. host_release_rounding gives it back what it had.
uint64_t host_hold_rounding(void);
void host_release_rounding(uint64_t before);

#endif
