//go:build linux || darwin

package system

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// CanMap tells whether Map works on this system.
const CanMap = true

// Map returns zeros that have not been touched, and the whole mapping in which they are. They begin at the border of a huge page, and the
// system is advised to use huge pages, if it can be.
func Map(bytes int) (memory, whole []byte, err error) {
	whole, err = unix.Mmap(-1, 0, bytes+2*HugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(whole))) & (HugePage - 1)
	rounded := (bytes + HugePage - 1) &^ (HugePage - 1)
	adviseNew(whole[skip:][:rounded])
	return whole[skip:][:bytes:bytes], whole, nil
}

// Unmap gives a whole mapping of Map back to the system.
func Unmap(whole []byte) { _ = unix.Munmap(whole) } // cannot fail: the mapping is ours, and whole
