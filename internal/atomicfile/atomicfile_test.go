package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

// want fails the test unless a path has a text, and its directory nothing but the given names.
func want(t *testing.T, path, text string, names ...string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Fatalf("%s has %q (%v), want %q", path, got, err, text)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Fatalf("the directory has %q, want %q", got, names)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	ok(t, err)
	return info.Mode()
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path, created := filepath.Join(dir, "a"), filepath.Join(t.TempDir(), "b")
	ok(t, os.WriteFile(created, nil, 0o666)) // as os.Create
	ok(t, Write(path, text("one")))
	want(t, path, "one", "a")
	if got, want := mode(t, path), mode(t, created); got != want {
		t.Errorf("the mode of a new file is %s, want %s", got, want)
	}
	for _, m := range []fs.FileMode{0o600, 0o666, 0o444} {
		if runtime.GOOS == "windows" && m == 0o444 {
			continue // cannot be replaced there
		}
		ok(t, os.Chmod(path, m))
		wanted := mode(t, path)
		ok(t, Write(path, text("two")))
		if got := mode(t, path); got != wanted {
			t.Errorf("the mode is %s, was %s", got, wanted)
		}
	}
	want(t, path, "two", "a")
	t.Chdir(dir)
	ok(t, Write("a", text("three")))
	want(t, path, "three", "a")
}

// Whatever fails, the old file is untouched, and nothing is left behind.
func TestWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	ok(t, Write(path, text("one")))
	broken := errors.New("broken")
	for _, n := range []int{0, 1, 1 << 20} {
		err := Write(path, func(w io.Writer) error {
			ok(t, text(strings.Repeat("x", n))(w))
			want(t, path, "one", entries(t, path)...)
			return broken
		})
		if !errors.Is(err, broken) {
			t.Error(err)
		}
		want(t, path, "one", "a")
	}
	if err := Write(filepath.Join(path, "b"), text("")); err == nil {
		t.Error("a file is a directory")
	}
	if err := Write(filepath.Join(filepath.Dir(path), "no", "b"), text("")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := Write(filepath.Dir(path), text("")); err == nil {
		t.Error("a directory was replaced")
	}
	want(t, path, "one", "a")
	if os.Getuid() > 0 { // root may write everywhere
		ok(t, os.Chmod(filepath.Dir(path), 0o555))
		defer os.Chmod(filepath.Dir(path), 0o777)
		if err := Write(path, text("two")); !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		want(t, path, "one", "a")
	}
}

// entries has what is in the directory of a path now: with it, one temporary file.
func entries(t *testing.T, path string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(path))
	ok(t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	if len(names) != 2 || !strings.HasPrefix(names[0], ".pnm-") {
		t.Errorf("while it is written the directory has %q", names)
	}
	return names
}

// A link stays a link, and what it points to is replaced, or comes to be.
func TestWriteThroughLinks(t *testing.T) {
	dir := t.TempDir()
	join := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	ok(t, os.MkdirAll(join("data", "deep", "er"), 0o777))
	ok(t, os.Mkdir(join("links"), 0o777))
	link := func(to, at string) {
		if err := os.Symlink(to, at); err != nil {
			t.Skip(err) // Windows lets not everyone
		}
	}
	link("deep/er", join("data", "short"))
	link("../data/short/../file", join("links", "relative")) // data/deep/file
	link(join("links", "relative"), join("links", "twice"))
	link("loop", join("links", "loop"))
	for _, s := range []string{"one", "two"} {
		ok(t, Write(join("links", "twice"), text(s)))
		want(t, join("data", "deep", "file"), s, "er", "file")
		want(t, join("links", "twice"), s, "loop", "relative", "twice")
	}
	if mode, err := os.Lstat(join("links", "relative")); err != nil || mode.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link has become %s (%v)", mode.Mode(), err)
	}
	if err := Write(join("links", "loop"), text("")); err == nil {
		t.Error("a loop was followed")
	}
	ok(t, Write(dir+"/data/short/../file", func(w io.Writer) error {
		if list, err := os.ReadDir(join("data", "deep")); err != nil || len(list) != 3 {
			t.Errorf("the temporary file is not beside the other one: %v", list)
		}
		return text("three")(w)
	}))
	want(t, join("data", "deep", "file"), "three", "er", "file")
}

// Without locks, what was written to just now may be about to be renamed.
func TestRemoveOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	ok(t, os.WriteFile(path, nil, 0o666))
	removeOld(path)
	want(t, path, "", "a")
	ok(t, os.Chtimes(path, time.Time{}, time.Now().Add(-61*time.Second)))
	removeOld(path)
	if _, err := os.Stat(path); err == nil {
		t.Error("the old file is still there")
	}
}
