//go:build race

package pnm

import (
	"runtime"
	"unsafe"
)

// raceAnnotate tells the race detector what the assembly is about to read and write, which it cannot see.
func raceAnnotate[T Float](s *streams[T]) {
	for _, x := range [][]T{s.g, s.n} {
		runtime.RaceReadRange(unsafe.Pointer(unsafe.SliceData(x)), len(x)*int(unsafe.Sizeof(*new(T))))
	}
	for _, x := range [][]T{s.p, s.m, s.v, s.x} {
		runtime.RaceWriteRange(unsafe.Pointer(unsafe.SliceData(x)), len(x)*int(unsafe.Sizeof(*new(T))))
	}
}
