package atomicfile

import (
	"os"

	"golang.org/x/sys/unix"
)

const acl = "system.posix_acl_access"

// handOnACL gives f the access list of the file at a path, or none if that has none, and reports whether it has.
func handOnACL(f *os.File, path string) bool {
	list := make([]byte, 64<<10) // no attribute is longer
	n, err := unix.Getxattr(path, acl, list)
	if err != nil {
		unix.Fremovexattr(int(f.Fd()), acl) // what the directory gives to new files
		return true
	}
	return unix.Fsetxattr(int(f.Fd()), acl, list[:n], 0) == nil
}
