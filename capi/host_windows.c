//go:build cgo

#include "arithmetic.h"
#include "host.h"
#include "internal.h"

#include <stdlib.h>
#include <windows.h> // which werapi.h needs

#include <werapi.h>

int pnm_host_forked(void) { return 0; }

// What a thread keeps is in fiber-local storage, which, unlike the thread's, frees it.
static DWORD kept = FLS_OUT_OF_INDEXES;

static void WINAPI release(void *memory) { free(memory); }

int pnm_host_keep(void *memory) { return kept != FLS_OUT_OF_INDEXES && FlsSetValue(kept, memory); }

void *pnm_host_kept(void) { return kept == FLS_OUT_OF_INDEXES ? NULL : FlsGetValue(kept); }

void pnm_host_enter(pnm_guest *g) {
	g->arithmetic = arithmetic();
	set_arithmetic(IEEE754);
}

void pnm_host_leave(const pnm_guest *g) { set_arithmetic(g->arithmetic); }

// Go's start has the system show no dialog, and tell no error reporting, when the process crashes; and boost no thread that has waited.
// That is the host's choice.
static UINT error_mode;
static BOOL no_boost, know_boost;
static DWORD reporting;
static int know_reporting;

static void __attribute__((constructor)) before_go(void) {
	HMODULE own;
	kept = FlsAlloc(release);
	error_mode = GetErrorMode();
	know_reporting = WerGetFlags(GetCurrentProcess(), &reporting) == S_OK;
	know_boost = GetProcessPriorityBoost(GetCurrentProcess(), &no_boost);
	GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN, (LPCWSTR)(void *)&kept, &own); // Go cannot be unloaded
}

void pnm_host_limits(void) {
	enum { GO = SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX | SEM_NOOPENFILEERRORBOX };
	if (GetErrorMode() == (error_mode | GO)) // else the host was faster to set its own
		SetErrorMode(error_mode);
	if (know_reporting)
		WerSetFlags(reporting);
	if (know_boost)
		SetProcessPriorityBoost(GetCurrentProcess(), no_boost);
}
