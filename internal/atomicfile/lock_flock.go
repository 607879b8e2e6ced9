//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package atomicfile

import (
	"os"
	"syscall"
)

// lock locks a file until it is closed, or its process ends.
func lock(f *os.File) int {
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
		case nil:
			return locked
		case syscall.EWOULDBLOCK:
			return taken
		case syscall.EINTR:
		default:
			return unknown
		}
	}
}

// isThere reports whether a file still has a name.
func isThere(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Sys().(*syscall.Stat_t).Nlink > 0
}
