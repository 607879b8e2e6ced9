//go:build (linux || darwin) && cgo

// Two settings of Go's runtime that cannot be reached otherwise.
//
// Each thread of Go, and each thread of the host at its first call, unblocks some signals, whatever mask it has inherited: those
// that instructions raise, and also SIGCHLD, SIGPROF and, on Linux, SIGSTKFLT and 34, which glibc gives to programs as SIGRTMIN. And
// Go sends SIGURG to its threads to preempt goroutines. Go's own handlers run on an alternate stack, but the host's may not: they
// would run on a goroutine's stack of a few KiB, and overwrite the memory below.
//
// Go takes the signals to unblock from runtime.sigtable, and the setting for preemption by signals from runtime.debug.asyncpreemptoff,
// which GODEBUG sets by name through runtime.dbgvars. Both are plain data before Go starts, and are found by the texts to which they point.
// If a later Go no longer has them, nothing is changed; testdata/host.c, which checks each thread's mask, then fails.
#include "unix.h"

#include <string.h>

// runtime.sigTabT: an entry of runtime.sigtable, which has one for each signal.
typedef struct {
	int32_t flags;
	const char *name;
	size_t length;
} signal_entry;

// runtime.dbgVar
typedef struct {
	const char *name;
	size_t length;
	int32_t *value;
	void *atomic;
	int32_t otherwise;
} setting;

typedef struct {
	int count;
	pnm_segment segments[PNM_SEGMENTS];
} module;

// within reports whether memory belongs to one of the module's segments, and to a writable one if written is set.
static int within(const module *m, const void *memory, size_t length, int written) {
	uintptr_t at = (uintptr_t)memory;
	for (int i = 0; i < m->count; i++) {
		const pnm_segment *s = &m->segments[i];
		if (s->readable && (s->writable || !written) && at >= s->first && length <= s->size && at - s->first <= s->size - length)
			return 1;
	}
	return 0;
}

// is reports whether a Go string equals text.
static int is(const module *m, const char *name, size_t length, const char *text) {
	return length == strlen(text) && within(m, name, length, 0) && memcmp(name, text, length) == 0;
}

static void hold(const module *m, signal_entry *table) {
#ifdef __linux__
	static const int held[] = {SIGCHLD, SIGPROF, SIGSTKFLT, 34};
	enum { SIGNALS = 65 };
	static const char last[] = "signal 64";
#else
	static const int held[] = {SIGCHLD, SIGPROF};
	enum { SIGNALS = 32 };
	static const char last[] = "SIGUSR2: user-defined signal 2";
#endif
	if (!within(m, table, SIGNALS * sizeof *table, 1) || !is(m, table[SIGPROF].name, table[SIGPROF].length, "SIGPROF: profiling alarm clock") ||
		!is(m, table[SIGUSR1].name, table[SIGUSR1].length, "SIGUSR1: user-defined signal 1") ||
		!is(m, table[SIGNALS - 1].name, table[SIGNALS - 1].length, last))
		return;
	int32_t unblock = table[SIGPROF].flags & ~table[SIGUSR1].flags; // the two differ in nothing else
	if (unblock == 0 || (unblock & (unblock - 1)) != 0 || (table[SIGSEGV].flags & unblock) == 0)
		return;
	for (size_t i = 0; i < sizeof held / sizeof held[0]; i++)
		table[held[i]].flags &= ~unblock;
}

void pnm_go_hold_signals(void) {
	module m;
	m.count = pnm_segments(m.segments);
	for (int i = 0; i < m.count; i++) {
		const pnm_segment *data = &m.segments[i];
		if (!data->writable)
			continue;
		uintptr_t at = (data->first + sizeof(void *) - 1) & ~(sizeof(void *) - 1), end = data->first + data->from_file;
		for (; at + sizeof(setting) <= end; at += sizeof(void *)) {
			signal_entry *table = (signal_entry *)at;
			setting *s = (setting *)at;
			if (table->flags == 0 && is(&m, table->name, table->length, "SIGNONE: no trap"))
				hold(&m, table);
			else if (is(&m, s->name, s->length, "asyncpreemptoff") && within(&m, s->value, sizeof *s->value, 1))
				*s->value = 1;
		}
	}
}
