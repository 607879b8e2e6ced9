// Package limit gives benchmarks the speed that no step can exceed. It is not part of the engine's interface.
package limit

import (
	"errors"
	"fmt"
)

// Pass returns a function that reads and writes the memory of a step, on a pool, by kernels without arithmetic: it bounds the speed of the
// step from above. It changes only copies of float32 parameters, and leaves out the last elements of a tensor, up to 1023. Tensors with
// Skip set are left out.
//
// list is a *pnm.List, pool a *pnm.Pool: package pnm sets Pass and imports this package, which thus cannot name their types.
//
// The error is that of the list's Check, or [Unsupported].
var Pass = func(list, pool any) (func(), error) { return nil, Unsupported("this build of pnm") }

// Unsupported is an [errors.ErrUnsupported]: of has no limit kernels.
func Unsupported(of string) error {
	return fmt.Errorf("pnm: %s has no limit kernel: %w", of, errors.ErrUnsupported)
}
