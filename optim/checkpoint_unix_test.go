//go:build unix

package optim

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/posneg/pnm"
	"golang.org/x/sys/unix"
)

// A disk that is full, here a limit on the size of files, leaves the old file, and no part of the new one.
func TestSaveOnFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	opt := optimizerOf(t, groupOf(pnm.NewPNM(1), make([]float32, 1<<20), make([]float32, 1)))
	wantNoError(t, os.WriteFile(path, []byte("old"), 0o666))
	var limit unix.Rlimit
	wantNoError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
	low := limit
	low.Cur = 1 << 20
	wantNoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &low))
	err := opt.Save(path, SaveOptions{})
	wantNoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	if !errors.Is(err, syscall.EFBIG) {
		t.Error(err)
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" || len(entries) != 1 {
		t.Errorf("%q is left (%v), among %v", b, err, entries)
	}
}

// A pipe is no checkpoint, and nobody waits for its writer.
func TestLoadPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	wantNoError(t, unix.Mkfifo(path, 0o666))
	if _, err := ReadCheckpoint(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	if err := newSubject(t).Save(path, SaveOptions{}); err == nil || !strings.HasPrefix(err.Error(), "optim: checkpoint "+path) {
		t.Error(err)
	}
}
