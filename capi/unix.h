// The interface between host_unix.c, aftergo_unix.c and goruntime_unix.c.
#ifndef PNM_UNIX_H
#define PNM_UNIX_H

#include "host.h"

#include <stddef.h>
#include <sys/resource.h>

// pnm_host_keep_modes makes pnm_host_leave restore the thread's present modes, if these are not IEEE 754's.
void pnm_host_keep_modes(pnm_guest *g);

// The state of the process before Go started.
extern struct pnm_before_go {
	pnm_guest thread;
	struct sigaction actions[NSIG];
	int known[NSIG];
	struct rlimit files;
	int recorded; // whether all of these are
	int late;	  // whether it is too late for that
} pnm_before_go;

// pnm_go_hold_signals makes Go's threads leave blocked signals blocked, except those that their own instructions raise. It must run
// before Go starts.
void pnm_go_hold_signals(void);

// A segment in memory of the program or library that contains this code. Its first from_file bytes come from the file.
typedef struct {
	uintptr_t first;
	size_t size, from_file;
	int readable, writable;
} pnm_segment;

// pnm_segments writes the segments of the module, and returns their number: at most PNM_SEGMENTS, or 0 if they cannot be found.
enum { PNM_SEGMENTS = 32 };
int pnm_segments(pnm_segment *segments);

#endif
