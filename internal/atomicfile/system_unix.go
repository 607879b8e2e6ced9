//go:build unix

package atomicfile

import (
	"cmp"
	"io/fs"
	"os"
	"syscall"
)

// syncDir brings the names in a directory onto the disk.
func syncDir(dir string) error {
	d, err := os.Open(cmp.Or(dir, "."))
	if err != nil {
		return err
	}
	defer d.Close()
	return fsync(d)
}

// handOnOwner gives f the owner and the group of a file, or at least the group, and reports whether it now has the group.
func handOnOwner(f *os.File, old fs.FileInfo) (sameGroup bool, err error) {
	now, err := f.Stat()
	if err != nil {
		return false, err
	}
	was, is := old.Sys().(*syscall.Stat_t), now.Sys().(*syscall.Stat_t)
	if was.Uid == is.Uid && was.Gid == is.Gid {
		return true, nil
	}
	if chown(f, int(was.Uid), int(was.Gid)) == nil {
		return true, nil
	}
	if was.Gid == is.Gid {
		return true, nil
	}
	err = chown(f, -1, int(was.Gid))
	return err == nil, unlessRefused(err)
}
