package system

import "golang.org/x/sys/unix"

// CanAdvise tells whether AdviseHugePages works on this system.
const CanAdvise = true

// adviseNew asks for huge pages in memory that has not been touched. A kernel without them gives ordinary pages.
func adviseNew(pages []byte) { _ = unix.Madvise(pages, unix.MADV_HUGEPAGE) }

// AdviseHugePages asks for huge pages in memory that begins and ends at borders of huge pages.
func AdviseHugePages(pages []byte) error {
	if len(pages) == 0 {
		return nil
	}
	if err := unix.Madvise(pages, unix.MADV_HUGEPAGE); err != nil {
		return err
	}
	// The advice concerns new pages. Linux 6.1 and later move existing pages at once, older versions little by little.
	_ = unix.Madvise(pages, unix.MADV_COLLAPSE)
	return nil
}
