//go:build linux && cgo

// Two settings of Go's runtime that nothing else reaches.
//
// Each thread of Go, and each thread of the host at its first call, unblocks some signals, whatever mask it has inherited: those
// that instructions raise, and also SIGCHLD, SIGPROF, SIGSTKFLT and 34, which glibc gives to programs as SIGRTMIN. And Go sends
// SIGURG to its threads to preempt goroutines. Go's own handlers run on a stack of their own. The host's need not: they would
// run on a goroutine's stack of a few KiB, and write over what lies below.
//
// What Go unblocks it reads from runtime.sigtable, and whether it preempts by signals from runtime.debug.asyncpreemptoff, which
// GODEBUG sets by name through runtime.dbgvars. Both are plain data that is there before Go starts, and are found by the texts
// that they point to. A Go that has them no longer would leave its threads as it likes: testdata/host.c looks at each thread's mask.
#include "host.h"

#include <elf.h>
#include <link.h>
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

// The program or library that this file is in.
typedef struct dl_phdr_info module;

// within reports whether memory belongs to one of the module's segments that has flags.
static int within(const module *m, const void *memory, size_t length, ElfW(Word) flags) {
	uintptr_t at = (uintptr_t)memory;
	for (int i = 0; i < m->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &m->dlpi_phdr[i];
		uintptr_t first = m->dlpi_addr + segment->p_vaddr;
		if (segment->p_type == PT_LOAD && (segment->p_flags & flags) == flags && at >= first && length <= segment->p_memsz &&
			at - first <= segment->p_memsz - length)
			return 1;
	}
	return 0;
}

// is reports whether a string of Go's is a text.
static int is(const module *m, const char *name, size_t length, const char *text) {
	return length == strlen(text) && within(m, name, length, PF_R) && memcmp(name, text, length) == 0;
}

static void hold(const module *m, signal_entry *table) {
	static const int held[] = {SIGCHLD, SIGPROF, SIGSTKFLT, 34};
	if (!within(m, table, 65 * sizeof *table, PF_W) || !is(m, table[SIGPROF].name, table[SIGPROF].length, "SIGPROF: profiling alarm clock") ||
		!is(m, table[SIGUSR1].name, table[SIGUSR1].length, "SIGUSR1: user-defined signal 1") || !is(m, table[34].name, table[34].length, "signal 34"))
		return;
	int32_t unblock = table[SIGPROF].flags & ~table[SIGUSR1].flags; // the two differ in nothing else
	if (unblock == 0 || (unblock & (unblock - 1)) != 0 || (table[SIGSEGV].flags & unblock) == 0)
		return;
	for (size_t i = 0; i < sizeof held / sizeof held[0]; i++)
		table[held[i]].flags &= ~unblock;
}

static int search(module *m, size_t size, void *unused) {
	(void)size;
	(void)unused;
	if (!within(m, (const void *)(uintptr_t)search, 1, PF_X))
		return 0;
	for (int i = 0; i < m->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &m->dlpi_phdr[i];
		if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) == 0)
			continue;
		uintptr_t at = m->dlpi_addr + segment->p_vaddr, end = at + segment->p_filesz;
		at = (at + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
		for (; at + sizeof(setting) <= end; at += sizeof(void *)) {
			signal_entry *table = (signal_entry *)at;
			setting *s = (setting *)at;
			if (table->flags == 0 && is(m, table->name, table->length, "SIGNONE: no trap"))
				hold(m, table);
			else if (is(m, s->name, s->length, "asyncpreemptoff") && within(m, s->value, sizeof *s->value, PF_W))
				*s->value = 1;
		}
	}
	return 1;
}

void pnm_go_hold_signals(void) { dl_iterate_phdr(search, NULL); }
