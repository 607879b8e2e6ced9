//go:build !linux

package pnm

import (
	"errors"
	"fmt"
	"runtime"
)

func allowedCPUs() ([]int, error) {
	return nil, fmt.Errorf("binding to CPUs on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func bindThread(int) {}
