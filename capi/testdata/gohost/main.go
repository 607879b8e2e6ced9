// Command gohost does what modes.c does, in Go, and prints the same. Whatever C library it is linked with has set the modes of its
// threads.
package main

/*
static unsigned mode(void) {
#if defined(__x86_64__)
	return __builtin_ia32_stmxcsr() & 0xffc0;
#elif defined(__aarch64__)
	unsigned long mode;
	__asm__ volatile("mrs %0, fpcr" : "=r"(mode));
	return mode;
#endif
}
#ifdef FAST
int fast(void);
#else
static int fast(void) { return 0; }
#endif
*/
import "C"

import (
	"fmt"
	"hash"
	"hash/fnv"
	"os"
	"unsafe"

	"github.com/posneg/pnm"
)

const n, steps = 1 << 20, 2

func fill(seed uint64) []float32 {
	x := make([]float32, n)
	bits := unsafe.Slice((*uint32)(unsafe.Pointer(&x[0])), n)
	for i := range bits {
		seed = seed*6364136223846793005 + 1442695040888963407
		bits[i] = uint32(seed>>41) | uint32(seed>>40&1)<<31 | uint32(i%2)*0x3f000000
	}
	return x
}

func write[T any](h hash.Hash, x ...T) {
	h.Write(unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), len(x)*int(unsafe.Sizeof(x[0]))))
}

func train(workers int) string {
	pool, err := pnm.NewPool(workers)
	check(err)
	defer pool.Close()
	p, g, m0, m1, v, x := fill(1), fill(2), fill(3), fill(4), make([]float32, n), make([]float32, n)
	out := make([]uint16, n)
	h := fnv.New64a()
	for step := 1; step <= steps; step++ {
		r, err := pnm.UpdateAll(pnm.Options{LossScale: 3, ClipNorm: 7, Pool: pool}, []pnm.Update{{
			Rule: pnm.NewAdaPNM(), Step: step, Params: pnm.Float32(p), Grads: pnm.Float32(g),
			State: []pnm.Vector{pnm.Float32(m0), pnm.Float32(m1), pnm.Float32(v), pnm.Float32(x)}, Copy: pnm.BF16(out),
		}})
		check(err)
		write(h, r.GradNorm)
	}
	write(h, p...)
	write(h, out...)
	for _, s := range [][]float32{m0, m1, v, x} {
		write(h, s...)
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	C.fast()
	mode := C.mode()
	want := train(1)
	for _, workers := range []int{2, 4} {
		if got := train(workers); got != want {
			fmt.Printf("%d workers have %s, one has %s\n", workers, got, want)
			os.Exit(1)
		}
	}
	fmt.Printf("%x %s\n", mode, want)
}
