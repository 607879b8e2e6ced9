// Package atomicfile replaces files as a whole: whenever the program or the machine stops, the path has the old file or the new one.
package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Write writes a file through a temporary one beside it, which is on disk before it takes the path. If anything fails, or write does,
// what the path had is untouched and the temporary file is gone; only a program that is killed leaves one, .pnm-….tmp. A file that
// is replaced hands on its permissions; a new one has those that os.Create gives. Where the path is a symbolic link, it stays one, and
// what it points to is replaced.
func Write(path string, write func(io.Writer) error) (err error) {
	if path, err = target(path); err != nil {
		return err
	}
	old, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !old.Mode().IsRegular():
		return &fs.PathError{Op: "replace", Path: path, Err: errors.New("is not a regular file")}
	}
	dir, _ := filepath.Split(path) // not Dir, nor Join: what link/.. is, only the system knows
	f, err := create(dir)
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
		if err := f.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	}
	w := bufio.NewWriterSize(f, 256<<10) // what is small is gathered; what is not goes past it
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// target follows the symbolic links that a path ends in, also to where no file is yet.
func target(path string) (string, error) {
	for range 40 { // as Linux does
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link; what else is wrong with it will be found
		}
		if !filepath.IsAbs(link) {
			dir, _ := filepath.Split(path)
			link = dir + link
		}
		path = link
	}
	return "", &fs.PathError{Op: "readlink", Path: path, Err: errors.New("too many links")}
}

// create creates a file of a new name in a directory, which ends in a separator or is empty.
func create(dir string) (*os.File, error) {
	for {
		f, err := os.OpenFile(fmt.Sprintf("%s.pnm-%016x.tmp", dir, rand.Uint64()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}
