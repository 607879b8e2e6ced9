// The interface between the C and the Go half of the library. Callers use pnm.h.
#ifndef PNM_INTERNAL_H
#define PNM_INTERNAL_H

#include "pnm.h"
#include <stddef.h>

// pnm_set_message sets what pnm_last_error returns on this thread.
void pnm_set_message(const char *text, size_t length);

// pnmgo_bind makes the calling thread known to Go.
void pnmgo_bind(void);

// pnm_host_limits restores the limits of the process that Go has changed at its start.
void pnm_host_limits(void);

#endif
