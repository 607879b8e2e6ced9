//go:build (linux || darwin || windows) && cgo

package main

// #include "internal.h"
import "C"

import (
	"cmp"
	"fmt"
	"math"
	"unsafe"

	"github.com/posneg/pnm"
)

//export pnmgo_fingerprint
func pnmgo_fingerprint(portions *C.pnm_portion, count C.int64_t, workers C.int32_t, fingerprint *C.uint64_t) C.pnm_status {
	return call(func() error {
		list, err := listOf(portions, count, "portions")
		if err != nil {
			return err
		}
		if err := checkPointer(fingerprint, "fingerprint"); err != nil {
			return err
		}
		pool, err := pools.of(int(workers))
		if err != nil {
			return err
		}
		converted := make([]pnm.Portion, len(list))
		for i := range list {
			if converted[i], err = portionOf(&list[i]); err != nil {
				return &pnm.TensorError{Tensor: i, Name: converted[i].Name, Err: err}
			}
		}
		f, err := pnm.SumFingerprint(pool, converted...)
		if err == nil {
			setFingerprint(fingerprint, f)
		}
		return err
	})
}

// portionOf converts a caller's portion. With an error, the result has at least the name, if there is one.
func portionOf(c *C.pnm_portion) (p pnm.Portion, err error) {
	if c.name == nil {
		return p, &failure{C.PNM_ERROR_NULL, "name is null"}
	}
	p.Name = C.GoString(c.name)
	if p.First, err = firstOf(c.first, "Portion"); err != nil {
		return p, err
	}
	if p.Vector, err = vectorOf(readOnly(&c.vector), "vector"); err != nil {
		return p, err
	}
	if c.copy != (C.pnm_const_vector{}) {
		if p.Copy, err = vectorOf(readOnly(&c.copy), "copy"); err != nil {
			return p, err
		}
	}
	return p, checkReserved("Portion", nil, c.reserved[:])
}

//export pnmgo_fingerprint_bytes
func pnmgo_fingerprint_bytes(
	name *C.char, dtype C.int32_t, first C.int64_t, bytes unsafe.Pointer, size C.int64_t, fingerprint *C.uint64_t,
) C.pnm_status {
	return call(func() error {
		if name == nil {
			return &failure{C.PNM_ERROR_NULL, "name is null"}
		}
		if err := checkPointer(fingerprint, "fingerprint"); err != nil {
			return err
		}
		format := ""
		if dtype != C.PNM_BYTES {
			empty, err := vectorOf(&C.pnm_vector{dtype: dtype}, "bytes")
			if err != nil {
				return err
			}
			format = empty.Format()
		}
		at, err := firstOf(first, "bytes")
		if err != nil {
			return err
		}
		b, err := bytesOf(bytes, size)
		if err != nil {
			return err
		}
		f, err := pnm.BytesFingerprint(C.GoString(name), format, at, b)
		if err == nil {
			setFingerprint(fingerprint, f)
		}
		return err
	})
}

// firstOf converts the number of an element.
func firstOf(first C.int64_t, of string) (uint64, error) {
	if first < 0 {
		return 0, outside(of, "first", float64(first), "≥ 0")
	}
	return uint64(first), nil
}

// bytesOf is a caller's memory.
func bytesOf(at unsafe.Pointer, size C.int64_t) ([]byte, error) {
	switch {
	case size < 0 || int64(size) > math.MaxInt || uintptr(at)+uintptr(size) < uintptr(at):
		return nil, &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("size is %d, must be ≥ 0 and within memory at %#x", size, uintptr(at))}
	case at == nil && size > 0:
		return nil, &failure{C.PNM_ERROR_NULL, fmt.Sprintf("bytes is null, but size is %d", size)}
	}
	return unsafe.Slice((*byte)(cmp.Or(at, unsafe.Pointer(&nothing))), int(size)), nil
}

// setFingerprint sets a caller's two words.
func setFingerprint(to *C.uint64_t, f pnm.Fingerprint) {
	*(*pnm.Fingerprint)(unsafe.Pointer(to)) = f
}
