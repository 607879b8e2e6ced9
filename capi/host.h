// The process that the library is a guest in: its signals, limits and forks.
#ifndef PNM_HOST_H
#define PNM_HOST_H

#include <pthread.h>
#include <signal.h>

// host_forked reports whether this process is a forked child of the one that loaded the library.
int host_forked(void);

// host_hold_signals keeps the host's signal handlers off the calling thread while it is in Go, whose stacks are too small for
// them. What is sent meanwhile goes to another thread, or waits for host_release_signals.
void host_hold_signals(sigset_t *before);
void host_release_signals(const sigset_t *before);

#endif
