// What host_unix.c, aftergo_unix.c and goruntime_unix.c say to each other.
#ifndef PNM_UNIX_H
#define PNM_UNIX_H

#include "host.h"

#include <stddef.h>
#include <sys/resource.h>

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

// A part of the program or library that this file is in, as it lies in memory. What comes from its file begins it.
typedef struct {
	uintptr_t first;
	size_t size, from_file;
	int readable, writable;
} pnm_segment;

// pnm_segments writes those of the module, and returns how many there are: at most PNM_SEGMENTS, and 0 if they are not to be found.
enum { PNM_SEGMENTS = 32 };
int pnm_segments(pnm_segment *segments);

#endif
