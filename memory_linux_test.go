package pnm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// hugeKiB returns how much of the process is on huge pages.
func hugeKiB(t *testing.T) int {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	wantNoError(t, err)
	found := regexp.MustCompile(`AnonHugePages: *(\d+) kB`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no count of huge pages in %s", text)
	}
	kib, err := strconv.Atoi(string(found[1]))
	wantNoError(t, err)
	return kib
}

// Where the system gives huge pages to whoever asks for them, an arena is on them. An emulator does not.
func TestArenaIsOnHugePages(t *testing.T) {
	const size = 32 << 20
	before := hugeKiB(t)
	control, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	wantNoError(t, err)
	defer unix.Munmap(control)
	err = unix.Madvise(control, unix.MADV_HUGEPAGE)
	for i := range control {
		control[i] = 1
	}
	given := hugeKiB(t) - before
	if given < size>>11 {
		t.Logf("the system gives %d KiB for 32 MiB (%v)", given, err)
		return
	}
	a, err := Alloc("float32", size/4)
	wantNoError(t, err)
	defer a.Close()
	x := a.Vectors()[0].Float32()
	for i := range x {
		x[i] = 1
	}
	if got := hugeKiB(t) - before - given; got < size>>11 {
		t.Errorf("of 32 MiB, %d KiB are on huge pages; others get %d", got, given)
	}
}

// Where the system refuses more memory, that of forgotten arenas goes back first.
func TestMemoryIsCollectedWhereRefused(t *testing.T) {
	defer func(saved int) { leastCollected = saved }(leastCollected)
	leastCollected = math.MaxInt
	text, err := os.ReadFile("/proc/self/statm")
	wantNoError(t, err)
	var pages uint64
	_, err = fmt.Sscan(string(text), &pages)
	wantNoError(t, err)
	const more = 200 << 20 // bf16 elements, which 32 bits can count the bytes of
	var saved unix.Rlimit
	wantNoError(t, unix.Getrlimit(unix.RLIMIT_AS, &saved))
	wantNoError(t, unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: min(saved.Max, pages*uint64(os.Getpagesize())+more), Max: saved.Max}))
	defer unix.Setrlimit(unix.RLIMIT_AS, &saved)
	if a, err := Alloc("bf16", more); err == nil {
		a.Close()
		t.Skip("this system knows no limit") // QEMU
	}
	wantNoError(t, forget(100))
	if a, err := Alloc("bf16", more); a != nil || !errors.Is(err, unix.ENOMEM) {
		t.Errorf("twice as much as there is: %v", err)
	}
}

// Touch brings the state into memory, where Alloc has not.
func TestStateIsTouched(t *testing.T) {
	resident := func() int {
		text, err := os.ReadFile("/proc/self/statm")
		wantNoError(t, err)
		var size, pages int
		_, err = fmt.Sscan(string(text), &size, &pages)
		wantNoError(t, err)
		return pages * os.Getpagesize()
	}
	p := Float32(make([]float32, 16*mebi))
	a, err := AllocState(NewAdaPNM(), "float32", []int{p.Len()}, nil)
	wantNoError(t, err)
	defer a.Close()
	l := List{Updates: []Update{{Rule: NewAdaPNM(), Step: 1, Params: p, State: a.Vectors()}}}
	before := resident()
	wantNoError(t, l.Touch(newTestPool(t, 2), 0))
	if got := resident() - before; got < 48<<20 {
		t.Errorf("of 64 MiB, %d are in memory", got)
	}
}
