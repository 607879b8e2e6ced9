package system

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// CanMap tells whether Map works on this system.
const CanMap = true

// Map returns zeros that have not been touched, and the whole mapping in which they are. They begin at the border of a huge page, as on
// other systems.
func Map(bytes int) (memory, whole []byte, err error) {
	at, err := windows.VirtualAlloc(0, uintptr(bytes+HugePage), windows.MEM_RESERVE|windows.MEM_COMMIT, windows.PAGE_READWRITE)
	if err != nil {
		return nil, nil, err
	}
	whole = unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), bytes+HugePage)
	return whole[-at&(HugePage-1):][:bytes:bytes], whole, nil
}

// Unmap gives a whole mapping of Map back to the system.
func Unmap(whole []byte) { // cannot fail: the memory is ours, and whole
	_ = windows.VirtualFree(uintptr(unsafe.Pointer(unsafe.SliceData(whole))), 0, windows.MEM_RELEASE)
}
