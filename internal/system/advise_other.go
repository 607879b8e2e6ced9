//go:build !linux

package system

import "errors"

// CanAdvise tells whether there is AdviseHugePages.
const CanAdvise = false

func adviseNew([]byte) {}

func AdviseHugePages([]byte) error { return errors.ErrUnsupported }
