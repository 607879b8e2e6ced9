//go:build !linux

package system

import (
	"errors"
	"fmt"
	"runtime"
)

func AllowedCPUs() ([]int, error) {
	return nil, fmt.Errorf("binding to CPUs on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func BindThread(int) {}
