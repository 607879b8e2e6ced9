//go:build !linux && !darwin && !windows

package system

import "errors"

// CanMap tells whether Map works on this system.
const CanMap = false

func Map(int) (memory, whole []byte, err error) { return nil, nil, errors.ErrUnsupported }

func Unmap([]byte) {}
