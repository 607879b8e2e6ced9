package atomicfile

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// An access list is handed on, and one that the directory has for new files is not given to old ones. Of a list, the mode shows as the
// group's permissions what anybody in the list may have at most.
func TestACL(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	list := []byte{2, 0, 0, 0}
	for _, entry := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 6, 12345}, {4, 0, 1<<32 - 1}, {16, 6, 1<<32 - 1}, {32, 0, 1<<32 - 1}} { // owner, user 12345, group, most, others
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[0]))
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[1]))
		list = binary.LittleEndian.AppendUint32(list, entry[2])
	}
	ok(t, Write(path, text("one")))
	if err := unix.Setxattr(path, acl, list, 0); err != nil {
		t.Skip(err)
	}
	for range 2 {
		ok(t, Write(path, text("two")))
		got := make([]byte, 1000)
		n, err := unix.Getxattr(path, acl, got)
		if err != nil || !bytes.Equal(got[:n], list) || mode(t, path).Perm() != 0o660 {
			t.Errorf("the list is %x (%v), was %x; mode %s", got[:max(n, 0)], err, list, mode(t, path))
		}
	}
	ok(t, unix.Removexattr(path, acl))
	ok(t, os.Chmod(path, 0o640))
	ok(t, unix.Setxattr(dir, "system.posix_acl_default", list, 0))
	ok(t, Write(path, text("three")))
	if _, err := unix.Getxattr(path, acl, nil); err != unix.ENODATA || mode(t, path).Perm() != 0o640 {
		t.Errorf("a list has come (%v); mode %s", err, mode(t, path))
	}
	ok(t, unix.Removexattr(dir, "system.posix_acl_default"))
}

// A file that is bind-mounted cannot be replaced.
func TestMountPoint(t *testing.T) {
	dir := t.TempDir()
	from, path := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ok(t, Write(from, text("one")))
	ok(t, Write(path, text("two")))
	if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
		t.Skip(err) // only root may
	}
	defer unix.Unmount(path, 0)
	if err := Write(path, text("three")); err == nil || err.Error()[:len(path)+17] != path+" is a mount point" {
		t.Error(err)
	}
	want(t, from, "one", "a", "b")
}
