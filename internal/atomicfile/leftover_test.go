//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain makes the test's program one that writes half a file, says so, and waits, if it is told a path.
func TestMain(m *testing.M) {
	if path := os.Getenv("PNM_TEST_HALF_A_FILE"); path != "" {
		Write(path, func(w io.Writer) error {
			io.WriteString(w, "half")
			fmt.Println("written")
			time.Sleep(time.Hour)
			return nil
		})
	}
	os.Exit(m.Run())
}

// halfWritten starts a program that has written half a file.
func halfWritten(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "PNM_TEST_HALF_A_FILE="+path)
	out, err := c.StdoutPipe()
	ok(t, err)
	if err := c.Start(); err != nil {
		t.Skip(err) // as in an emulator
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	return c
}

func kill(c *exec.Cmd) {
	c.Process.Kill()
	c.Wait()
}

// Who is killed leaves the old file, and what else is left the next one removes; but nothing of who is still writing, be it the
// same path, and nothing of other paths.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run")
	ok(t, Write(path, text("old")))
	live, other := halfWritten(t, path), halfWritten(t, filepath.Join(dir, "other"))
	for range 2 {
		kill(halfWritten(t, path))
	}
	kill(other)
	left := func() (names []string) {
		t.Helper()
		list, err := os.ReadDir(dir)
		ok(t, err)
		for _, e := range list {
			names = append(names, e.Name()[:min(len(e.Name()), len(prefix("")))])
		}
		slices.Sort(names)
		return names
	}
	// The second of the killed ones has removed what the first had left.
	expected := []string{prefix("other"), prefix("run"), prefix("run"), "run"}
	slices.Sort(expected)
	if got := left(); !slices.Equal(got, expected) {
		t.Fatalf("%q are left", got)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Fatalf("%q (%v)", b, err)
	}
	ok(t, Write(path, text("new")))
	got := left()
	if n := strings.Count(strings.Join(got, ""), prefix("run")); n != 1 || len(got) != 3 {
		t.Fatalf("%q are left", got)
	}
	kill(live)
	ok(t, Write(path, text("new")))
	ok(t, Write(filepath.Join(dir, "other"), text("new")))
	want(t, path, "new", "other", "run")
}

// The names are those of Python's _files.py, which has the same test.
func TestPrefix(t *testing.T) {
	if got := prefix("run"); got != ".pnm-5076a4c0-" {
		t.Error(got)
	}
}

// The system refuses what can be done without.
func TestRefused(t *testing.T) {
	defer func() { chmod, chown, fsync, rename = (*os.File).Chmod, (*os.File).Chown, (*os.File).Sync, os.Rename }()
	path := filepath.Join(t.TempDir(), "a")
	for _, refusal := range []error{syscall.EPERM, syscall.EACCES, syscall.ENOSYS, syscall.ENOTSUP, syscall.EINVAL} {
		refused := &fs.PathError{Op: "x", Path: path, Err: refusal}
		chmod = func(*os.File, fs.FileMode) error { return refused }
		chown = func(*os.File, int, int) error { return refused }
		fsync = func(*os.File) error { return refused }
		os.Remove(path)
		for _, perm := range []fs.FileMode{0o644, 0o666, 0o600} {
			ok(t, Write(path, text("one")))
			ok(t, os.Chmod(path, perm))
			ok(t, Write(path, text("two")))
			if got := mode(t, path); got&^perm != 0 {
				t.Errorf("the mode has become %s, was %s", got, perm)
			}
		}
	}
	want(t, path, "two", "a")
	chmod, fsync = (*os.File).Chmod, func(*os.File) error { return syscall.EIO }
	if err := Write(path, text("three")); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	fsync = (*os.File).Sync
	rename = func(from, to string) error {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.EBUSY}
	}
	if err := Write(path, text("three")); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), path+" is a mount point") {
		t.Error(err)
	}
	want(t, path, "two", "a")
}

// The owner and the group are handed on; of what cannot be, the group's permissions are not.
func TestOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	ok(t, os.WriteFile(path, nil, 0o666))
	if err := os.Chown(path, 12345, 23456); err != nil {
		t.Skip(err) // only root may
	}
	ok(t, os.Chmod(path, 0o664))
	owner := func() string {
		info, err := os.Stat(path)
		ok(t, err)
		s := info.Sys().(*syscall.Stat_t)
		return fmt.Sprint(s.Uid, s.Gid, info.Mode().Perm())
	}
	ok(t, Write(path, text("one")))
	if got := owner(); got != "12345 23456 -rw-rw-r--" {
		t.Error(got)
	}
	defer func() { chown = (*os.File).Chown }()
	chown = func(f *os.File, uid, gid int) error {
		if uid >= 0 {
			return syscall.EPERM
		}
		return f.Chown(uid, gid)
	}
	ok(t, Write(path, text("one")))
	if got := owner(); got != fmt.Sprint(os.Getuid(), " 23456 -rw-rw-r--") {
		t.Error(got)
	}
	chown = func(*os.File, int, int) error { return syscall.EPERM }
	ok(t, Write(path, text("one")))
	if got := owner(); got != fmt.Sprint(os.Getuid(), " ", os.Getgid(), " -rw----r--") {
		t.Error(got)
	}
}
