// Package atomicfile replaces files as a whole: whenever the program or the machine stops, the path has the old file or the new one.
package atomicfile

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// What the system does; tests have it refuse.
var (
	chmod  = (*os.File).Chmod
	chown  = (*os.File).Chown
	fsync  = (*os.File).Sync
	rename = os.Rename
)

// Write writes a file through a temporary file beside it, which is on disk before it is renamed to path. If write or anything else
// fails, the old file is untouched and the temporary file is removed. If a program is killed, the next Write of the same path removes its
// temporary file. If path is a symbolic link, it stays one, and its target is replaced.
//
// The new file gets the old one's permissions, owner and (on Linux) access list, as far as the system allows; the group's
// permissions only together with the group and the list. Without an old file, it gets the permissions of os.Create. If the system cannot
// synchronize, or does not allow it, Write continues without.
func Write(path string, write func(io.Writer) error) (err error) {
	if path, err = target(path); err != nil {
		return err
	}
	old, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return err
	case !old.Mode().IsRegular():
		return &fs.PathError{Op: "replace", Path: path, Err: errors.New("is not a regular file")}
	}
	removeLeftovers(path)
	perm := fs.FileMode(0o666)
	if old != nil {
		perm = old.Mode().Perm() // never more than the old one's, whatever can be handed on
	}
	f, err := create(path, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if old != nil {
		if err := handOn(f, path, old); err != nil {
			return err
		}
	}
	if err := write(f); err != nil {
		return err
	}
	if err := unlessRefused(fsync(f)); err != nil {
		return err
	}
	if runtime.GOOS == "windows" { // which cannot remove or rename open files
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := rename(f.Name(), path); errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%s is a mount point, which cannot be replaced: mount the directory that it is in instead: %w", path, err)
	} else if err != nil {
		return err
	}
	f.Close() // after the rename: until then it is locked
	dir, _ := split(path)
	return unlessRefused(syncDir(dir))
}

// unlessRefused returns err, or nil if the system cannot do something or does not allow it.
func unlessRefused(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}

// handOn gives f the permissions, owner and access list of the file at a path.
func handOn(f *os.File, path string, old fs.FileInfo) error {
	sameGroup, err := handOnOwner(f, old)
	if err != nil {
		return err
	}
	perm := old.Mode().Perm()
	if handed := handOnACL(f, path); !handed || !sameGroup {
		perm &^= 0o070 // with a list, these bits are not the group's permissions; or the group has changed
	}
	now, err := f.Stat()
	if err == nil && now.Mode().Perm() != perm {
		err = unlessRefused(chmod(f, perm))
	}
	return err
}

// target follows the symbolic links at the end of a path, also to a file that does not exist yet.
func target(path string) (string, error) {
	for range 40 { // as Linux does
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil // not a link; other errors come later
		}
		if !filepath.IsAbs(link) {
			dir, _ := split(path)
			link = dir + link
		}
		path = link
	}
	return "", &fs.PathError{Op: "readlink", Path: path, Err: errors.New("too many links")}
}

// split returns the directory of a path, which ends in a separator or is empty, and the name in it. Unlike filepath.Dir and Join, it
// keeps elements such as link/.., which only the system can resolve.
func split(path string) (dir, name string) { return filepath.Split(path) }

// prefix is the beginning of the names of temporary files for a name, whatever its length. Python's _files.py has the same.
func prefix(name string) string { return fmt.Sprintf(".pnm-%08x-", crc32.ChecksumIEEE([]byte(name))) }

const suffix = ".tmp"

// create creates a file with a new name beside a path, and locks it while it is open, so that no process takes it for a leftover.
func create(path string, perm fs.FileMode) (*os.File, error) {
	dir, name := split(path)
	for {
		f, err := os.OpenFile(fmt.Sprintf("%s%s%016x%s", dir, prefix(name), rand.Uint64(), suffix), os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return nil, err
		case lock(f) != taken && isThere(f):
			return f, nil
		}
		f.Close() // another process has just taken it for a leftover
	}
}

// removeLeftovers removes the temporary files for a path that no process has locked: their writers have ended.
func removeLeftovers(path string) {
	dir, name := split(path)
	entries, _ := os.ReadDir(cmp.Or(dir, "."))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix(name)) || !strings.HasSuffix(e.Name(), suffix) || !e.Type().IsRegular() {
			continue
		}
		if runtime.GOOS == "windows" {
			removeOld(dir + e.Name())
			continue
		}
		f, err := os.OpenFile(dir+e.Name(), os.O_RDWR, 0) // some network file systems lock only files open for writing
		if errors.Is(err, fs.ErrPermission) {
			f, err = os.Open(dir + e.Name())
		}
		if err != nil {
			continue
		}
		if lock(f) == locked {
			os.Remove(f.Name())
		}
		f.Close()
	}
}

// removeOld removes a leftover on Windows, which has no such locks. It cannot remove an open file, but writers close theirs before
// they rename it: so a file to which something was written within the last minute stays.
func removeOld(name string) {
	if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > time.Minute {
		os.Remove(name)
	}
}

// The results of lock.
const (
	locked  = iota
	taken   // by another process
	unknown // the system has no locks for this file
)
