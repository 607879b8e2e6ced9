//go:build !linux

package pnm

import "errors"

const canMap = false

func mapMemory(int) (*mapping, error) { return nil, errors.ErrUnsupported }

func unmapMemory([]byte) {}

func adviseHugePages([]byte) error { return errors.ErrUnsupported }
