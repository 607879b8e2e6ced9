package pnm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const canMap = true

// mapMemory returns zeros that nobody has touched, within what the system gave. They begin at the border of a huge page, and are
// advised to come in such. A kernel without huge pages gives others.
func mapMemory(bytes int) (memory, whole []byte, err error) {
	whole, err = unix.Mmap(-1, 0, bytes+2*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(whole))) & (hugePage - 1)
	rounded := (bytes + hugePage - 1) &^ (hugePage - 1)
	_ = unix.Madvise(whole[skip:][:rounded], unix.MADV_HUGEPAGE)
	return whole[skip:][:bytes:bytes], whole, nil
}

func unmapMemory(whole []byte) { _ = unix.Munmap(whole) } // cannot fail: the mapping is ours, and whole

func adviseHugePages(pages []byte) error {
	if len(pages) == 0 {
		return nil
	}
	if err := unix.Madvise(pages, unix.MADV_HUGEPAGE); err != nil {
		return err
	}
	// The advice is for pages still to come. Those that are there are moved at once by Linux 6.1 and newer, and by and by
	// by others.
	_ = unix.Madvise(pages, unix.MADV_COLLAPSE)
	return nil
}
