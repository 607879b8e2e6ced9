//go:build race

package pnm

import (
	"runtime"
	"unsafe"
)

// raceAnnotate tells the race detector what the assembly is about to read and write, which it cannot see.
func raceAnnotate[T Float](s *streams[T], lo, hi int) {
	raceRead(s.g[lo:hi])
	if s.n != nil {
		raceRead(s.n[lo:hi])
	}
	for _, x := range [][]T{s.p, s.m, s.v, s.x} {
		if x != nil {
			raceWrite(x[lo:hi])
		}
	}
}

func raceRead[T Float](x []T) {
	runtime.RaceReadRange(unsafe.Pointer(unsafe.SliceData(x)), sizeInBytes(x))
}
func raceWrite[T Float](x []T) {
	runtime.RaceWriteRange(unsafe.Pointer(unsafe.SliceData(x)), sizeInBytes(x))
}

func sizeInBytes[T Float](x []T) int { return len(x) * int(unsafe.Sizeof(*new(T))) }
