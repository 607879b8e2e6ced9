//go:build cgo

#include "unix.h"

#include <dlfcn.h>
#include <mach-o/loader.h>
#include <string.h>

int pnm_segments(pnm_segment *segments) {
	Dl_info own;
	if (dladdr((const void *)(uintptr_t)pnm_segments, &own) == 0)
		return 0;
	const struct mach_header_64 *header = own.dli_fbase;
	const struct load_command *c = (const void *)(header + 1);
	uintptr_t moved = 0; // by how much all of it lies behind where it was linked for
	int count = 0;
	for (uint32_t i = 0; i < header->ncmds; i++, c = (const void *)((const char *)c + c->cmdsize)) {
		const struct segment_command_64 *s = (const void *)c;
		if (c->cmd != LC_SEGMENT_64 || strcmp(s->segname, SEG_LINKEDIT) == 0)
			continue;
		if (count == PNM_SEGMENTS)
			return 0;
		if (s->fileoff == 0 && s->filesize != 0) // the header is its beginning
			moved = (uintptr_t)header - s->vmaddr;
		segments[count++] = (pnm_segment){s->vmaddr, s->vmsize, s->filesize, (s->initprot & VM_PROT_READ) != 0, (s->initprot & VM_PROT_WRITE) != 0};
	}
	for (int i = 0; i < count; i++)
		segments[i].first += moved;
	return count;
}
