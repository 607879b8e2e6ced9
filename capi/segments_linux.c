//go:build cgo

#include "unix.h"

#include <link.h>

static int take(struct dl_phdr_info *m, size_t size, void *to) {
	pnm_segment *segments = to;
	int count = 0, own = 0;
	(void)size;
	for (int i = 0; i < m->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &m->dlpi_phdr[i];
		if (p->p_type != PT_LOAD)
			continue;
		if (count == PNM_SEGMENTS)
			return 0;
		pnm_segment s = {m->dlpi_addr + p->p_vaddr, p->p_memsz, p->p_filesz, (p->p_flags & PF_R) != 0, (p->p_flags & PF_W) != 0};
		own |= (p->p_flags & PF_X) != 0 && (uintptr_t)take - s.first < s.size;
		segments[count++] = s;
	}
	return own ? count : 0;
}

int pnm_segments(pnm_segment *segments) { return dl_iterate_phdr(take, segments); }
