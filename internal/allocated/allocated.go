// Package allocated counts, for tests, what calls allocate.
package allocated

import "runtime"

// Bytes returns how many bytes f allocates, and calls it up to ten times to find out: the count is the whole process's, and the
// runtime allocates, too, as for the threads that it starts on a busy machine. The first count of at most limit is returned, or
// else the smallest.
func Bytes(limit uint64, f func()) uint64 {
	least := ^uint64(0)
	for range 10 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
		if least <= limit {
			break
		}
	}
	return least
}
