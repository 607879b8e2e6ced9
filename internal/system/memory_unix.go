//go:build linux || darwin

package system

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// CanMap tells whether there is Map.
const CanMap = true

// Map returns zeros that nobody has touched, within what the system gave. They begin at the border of a huge page, and are
// advised to come in such where the system can be advised.
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

// Unmap gives back what Map has got from the system.
func Unmap(whole []byte) { _ = unix.Munmap(whole) } // cannot fail: the mapping is ours, and whole
