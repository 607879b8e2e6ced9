//go:build !linux

package pnm

import "errors"

const canMap = false

type mapping struct{ bytes []byte }

func mapMemory(int) (*mapping, error) { return nil, errors.ErrUnsupported }

func (*mapping) unmap() {}

func adviseHugePages([]byte) error { return errors.ErrUnsupported }
