package system

import "golang.org/x/sys/unix"

// CanAdvise tells whether there is AdviseHugePages.
const CanAdvise = true

// adviseNew asks for huge pages in memory that nobody has touched. A kernel that has none gives others.
func adviseNew(pages []byte) { _ = unix.Madvise(pages, unix.MADV_HUGEPAGE) }

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
