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
)

// What the system does; tests have it refuse.
var (
	chmod  = (*os.File).Chmod
	chown  = (*os.File).Chown
	fsync  = (*os.File).Sync
	rename = os.Rename
)

// Write writes a file through a temporary one beside it, which is on disk before it takes the path. If anything fails, or write does,
// what the path had is untouched and the temporary file is gone; what a program leaves that is killed, the next Write of the same path
// removes. Where the path is a symbolic link, it stays one, and what it points to is replaced.
//
// A file that is replaced hands on its permissions, owner and access list (Linux's) as far as the system allows; the group's
// permissions only together with the group and the list. A new one has what os.Create gives. Where the system cannot synchronize, or
// does not allow it, Write goes on without.
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
	if runtime.GOOS == "windows" { // where nobody can remove, and nobody rename, what is open
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := rename(f.Name(), path); errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%s is a mount point, which cannot be replaced: mount the directory that it is in instead: %w", path, err)
	} else if err != nil {
		return err
	}
	f.Close() // after it is renamed: until then it is locked
	dir, _ := split(path)
	return unlessRefused(syncDir(dir))
}

// unlessRefused is err, but nil where the system says that it cannot do, or does not allow, what was asked for.
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
		perm &^= 0o070 // of a list's, these are not the permissions of the group; or they are another group's
	}
	now, err := f.Stat()
	if err == nil && now.Mode().Perm() != perm {
		err = unlessRefused(chmod(f, perm))
	}
	return err
}

// target follows the symbolic links that a path ends in, also to where no file is yet.
func target(path string) (string, error) {
	for range 40 { // as Linux does
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link; what else is wrong with it will be found
		}
		if !filepath.IsAbs(link) {
			dir, _ := split(path)
			link = dir + link
		}
		path = link
	}
	return "", &fs.PathError{Op: "readlink", Path: path, Err: errors.New("too many links")}
}

// split returns the directory of a path, which ends in a separator or is empty, and the name in it. It is not Dir, and what it returns
// is not for Join: what link/.. is, only the system knows.
func split(path string) (dir, name string) { return filepath.Split(path) }

// prefix is what names of temporary files for a name begin with, however long that is. Python's _files.py has the same.
func prefix(name string) string { return fmt.Sprintf(".pnm-%08x-", crc32.ChecksumIEEE([]byte(name))) }

const suffix = ".tmp"

// create creates a file of a new name beside a path, and locks it for as long as it is open: nobody then takes it for a leftover.
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
		f.Close() // somebody has just taken it for a leftover
	}
}

// removeLeftovers removes the temporary files for a path that nobody has locked: who wrote them is no more.
func removeLeftovers(path string) {
	dir, name := split(path)
	entries, _ := os.ReadDir(cmp.Or(dir, "."))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix(name)) || !strings.HasSuffix(e.Name(), suffix) || !e.Type().IsRegular() {
			continue
		}
		if runtime.GOOS == "windows" {
			os.Remove(dir + e.Name()) // fails while it is open
			continue
		}
		f, err := os.OpenFile(dir+e.Name(), os.O_RDWR, 0) // some network file systems lock nothing else
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

// What lock says.
const (
	locked  = iota
	taken   // by somebody else
	unknown // the system has no locks for this file
)
