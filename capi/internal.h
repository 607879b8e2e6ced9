// What the C and the Go half of the library say to each other. Not for callers: they have pnm.h.
#ifndef PNM_INTERNAL_H
#define PNM_INTERNAL_H

#include "pnm.h"
#include <stddef.h>

// pnm_set_message sets what pnm_last_error returns on this thread.
void pnm_set_message(const char *text, size_t length);

// pnmgo_bind makes the calling thread one of Go's.
void pnmgo_bind(void);

// pnm_host_limits takes back what Go's start has done to the limits of the process.
void pnm_host_limits(void);

#endif
