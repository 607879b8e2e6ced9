//go:build (linux || darwin || windows) && cgo

package main

// #include "internal.h"
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/posneg/pnm"
)

// A block is the memory of one call of pnm_alloc.
type block struct {
	arena *pnm.Arena     // in units of 8 bytes, for vectors of any format
	pins  runtime.Pinner // a small arena is on Go's heap
	used  int            // the number of its vectors that have not been freed
}

// blocks are the blocks in use, by the addresses of their vectors.
var blocks struct {
	sync.Mutex
	of map[unsafe.Pointer]*block
}

func alloc(list []C.pnm_vector) error {
	lengths := make([]int, 0, len(list)) // of vectors that are not empty
	units := 0
	for i := range list {
		size, err := checkShape(&list[i], fmt.Sprintf("vectors[%d]", i))
		if err != nil {
			return err
		}
		if n := int(list[i].length); n > 0 {
			n = ((n-1)*int(size)+scalesOf(&list[i]))/8 + 1
			if units += n; units > math.MaxInt/16 {
				return &failure{C.PNM_ERROR_MEMORY, fmt.Sprintf("vectors[0] … vectors[%d] together need more memory than any system has", i)}
			}
			lengths = append(lengths, n)
		}
	}
	arena, err := pnm.Alloc("float64", lengths...)
	if err != nil {
		return &failure{C.PNM_ERROR_MEMORY, strings.TrimPrefix(err.Error(), "pnm: ")}
	}
	blocks.Lock()
	defer blocks.Unlock()
	if blocks.of == nil {
		blocks.of = make(map[unsafe.Pointer]*block)
	}
	b, parts := &block{arena: arena, used: len(lengths)}, arena.Vectors()
	for i := range list {
		v := &list[i]
		if v.data, v.scales = nil, nil; v.length > 0 {
			at := unsafe.Pointer(&parts[0].Float64()[0])
			b.pins.Pin(at)
			v.data, blocks.of[at] = at, b
			if v.dtype == C.PNM_MXFP8 {
				v.scales = unsafe.Add(at, v.length)
			}
			parts = parts[1:]
		}
	}
	return nil
}

func free(list []C.pnm_vector) error {
	blocks.Lock()
	defer blocks.Unlock()
	freed := make([]*block, 0, len(list))
	for i := range list {
		at := list[i].data
		b := blocks.of[at]
		if at != nil && b == nil {
			for j, b := range freed { // undo
				if b != nil {
					blocks.of[list[j].data] = b
				}
			}
			return &failure{C.PNM_ERROR_NOT_ALLOCATED, fmt.Sprintf("vectors[%d] is at %#x, not from pnm_alloc, or was freed", i, uintptr(at))}
		}
		delete(blocks.of, at)
		freed = append(freed, b)
	}
	for i, b := range freed {
		if list[i].data, list[i].scales = nil, nil; b == nil {
			continue
		}
		if b.used--; b.used == 0 {
			b.pins.Unpin()
			b.arena.Close()
		}
	}
	return nil
}
