//go:build !linux

package system

import "errors"

// CanAdvise tells whether AdviseHugePages works on this system.
const CanAdvise = false

func adviseNew([]byte) {}

func AdviseHugePages([]byte) error { return errors.ErrUnsupported }
