//go:build !linux

package pnm

import "errors"

const canMap = false

func mapMemory(int) (memory, whole []byte, err error) { return nil, nil, errors.ErrUnsupported }

func unmapMemory([]byte) {}

func adviseHugePages([]byte) error { return errors.ErrUnsupported }
