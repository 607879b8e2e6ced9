package system

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// CanMap tells whether there is Map.
const CanMap = true

// Map returns zeros that nobody has touched, within what the system gave. They begin at the border of a huge page, and are
// advised to come in such. A kernel without huge pages gives others.
func Map(bytes int) (memory, whole []byte, err error) {
	whole, err = unix.Mmap(-1, 0, bytes+2*HugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(whole))) & (HugePage - 1)
	rounded := (bytes + HugePage - 1) &^ (HugePage - 1)
	_ = unix.Madvise(whole[skip:][:rounded], unix.MADV_HUGEPAGE)
	return whole[skip:][:bytes:bytes], whole, nil
}

// Unmap gives back what Map has got from the system.
func Unmap(whole []byte) { _ = unix.Munmap(whole) } // cannot fail: the mapping is ours, and whole

// AdviseHugePages asks for huge pages in memory that lies on their borders.
func AdviseHugePages(pages []byte) error {
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
