//go:build (linux || darwin || windows) && cgo

package main

// #include "internal.h"
import "C"

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/posneg/pnm"
)

// pools are the pools of calls, by their number of workers.
var pools poolCache

// mostWorkers is the engine's limit.
const mostWorkers = 4096

// mostPools is the largest number of pools that are kept. Their helpers sleep, and hold no threads.
const mostPools = 16

type poolCache struct {
	standard atomic.Int32 // the default number of workers; 0 is the engine's own pool
	mu       sync.Mutex
	byCount  map[int]*pnm.Pool
}

// of returns the pool with that many workers, or the default one for 0.
func (c *poolCache) of(workers int) (*pnm.Pool, error) {
	if workers == 0 {
		workers = int(c.standard.Load())
	}
	if workers == 0 {
		return nil, nil // the engine's own
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.byCount[workers]; p != nil {
		return p, nil
	}
	if workers < 0 || workers > mostWorkers {
		return nil, &failure{C.PNM_ERROR_HYPERPARAMETER, fmt.Sprintf("workers is %d, must be in [0, %d]", workers, mostWorkers)}
	}
	p, err := pnm.NewPool(workers)
	if err != nil {
		return nil, err
	}
	if c.byCount == nil || len(c.byCount) == mostPools {
		c.byCount = make(map[int]*pnm.Pool) // the garbage collector ends unused pools
	}
	c.byCount[workers] = p
	return p, nil
}

// setStandard sets the default number of workers.
func (c *poolCache) setStandard(workers int) error {
	if workers != 0 {
		if _, err := c.of(workers); err != nil {
			return err
		}
	}
	c.standard.Store(int32(workers))
	return nil
}

// workers is the default number of workers.
func (c *poolCache) workers() int {
	p, err := c.of(0)
	if err != nil {
		panic(err)
	}
	return p.Workers()
}
