package pnm

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posneg/pnm/internal/system"
)

// A Pool is a set of workers that share the work of large steps: the goroutine that calls a step, and helper goroutines that start
// when they are first needed. Helpers wait for the next step for some 20 µs and then sleep, so that an idle pool costs
// nothing. Each worker updates the same range of the same tensors at every step; other workers take over a part of that range only if the
// worker is late or slow. Small steps run on the calling goroutine alone.
//
// A pool may serve any number of optimizers and calls, also at the same time; while it serves eight, further calls run on their own
// goroutine alone. It never changes a result: the bits are the same for any number of workers. A nil Pool and the zero Pool stand for
// the default pool, which follows GOMAXPROCS and whose helpers sleep until the program ends.
type Pool struct{ inner *pool }

// maxWorkers is the largest number of workers of a pool.
const maxWorkers = 1 << 12

// defaultPool runs the steps that name no pool.
var defaultPool = newPool(0)

// NewPool returns a pool of that many workers, including the caller of a step: from 1 to 4096, or 0 to follow GOMAXPROCS as it changes.
// Any other number returns a *ValueError.
//
// [Pool.Close] ends the helpers. The garbage collector also ends those of a pool that is no longer used.
func NewPool(workers int) (*Pool, error) {
	if workers < 0 || workers > maxWorkers {
		return nil, &ValueError{"Pool", "Workers", float64(workers), fmt.Sprintf("in [0, %d]", maxWorkers)}
	}
	p := &Pool{newPool(workers)}
	runtime.AddCleanup(p, (*pool).close, p.inner)
	return p, nil
}

// Pin binds each helper to its own CPU, among those that the process may run on; the first of these CPUs is left to the caller. Waking a
// bound helper takes longer. Pin returns an error if the pool has performed a step, or if the process may run on fewer CPUs than there
// are workers. On systems other than Linux, it returns an error that wraps [errors.ErrUnsupported].
func (p *Pool) Pin() error {
	if p == nil || p.inner == nil {
		return errors.New("pnm: the default pool cannot be pinned: make one with NewPool")
	}
	return p.inner.pin()
}

// pool returns the pool that runs the steps: the default one for a nil or zero Pool.
func (p *Pool) pool() *pool {
	if p == nil || p.inner == nil {
		return defaultPool
	}
	return p.inner
}

// Workers returns the number of workers of a large step, including its caller: the number given to [NewPool], or GOMAXPROCS, or 1 after
// Close.
func (p *Pool) Workers() int { return p.pool().workers() }

// Close ends the helpers and returns when they have ended. Steps that are running complete, and later steps run on their callers
// alone. Close does nothing if the Pool is closed, nil or zero.
func (p *Pool) Close() {
	if p != nil && p.inner != nil {
		p.inner.close()
	}
}

// A task is work that can be cut into any number of parts, which may run at the same time.
type task interface{ run(part, parts int) }

// A pool is the part of a Pool that helpers refer to, so that an unused Pool can be collected while they sleep.
//
// Each worker has a shard of a step, cut into pieces. It takes the pieces of its own shard from the first to the last, and
// then those that are left in other shards, from their last. So a helper that is late or slow delays a step by at most one piece.
// The caller can take every piece, so that neither a nested call, nor a concurrent one, nor helpers that have ended can block a step.
type pool struct {
	fixed   int                   // workers; 0 follows GOMAXPROCS
	cpus    atomic.Pointer[[]int] // the CPUs to bind helpers to; nil to let them run anywhere
	helpers atomic.Pointer[[]*helper]
	spin    atomic.Bool // there was a CPU for each worker of the last step
	slots   [steps]slot

	mu     sync.Mutex // guards growing and closing
	closed atomic.Bool
	ended  sync.WaitGroup
}

// steps is the number of steps of a pool that can have helpers at the same time.
const steps = 8

// A slot is a running step. Only a worker that has taken a piece and not finished it may read task, shards and pieces.
type slot struct {
	busy    atomic.Bool
	left    pieces       // of the caller's shard
	pending atomic.Int32 // pieces of all shards that are not finished
	parked  atomic.Bool  // the caller waits for done
	done    chan struct{}
	task    task
	shards  int
	pieces  int      // of each shard
	_       [64]byte // fields that are polled need a cache line of their own
}

// A helper is a goroutine that works on the shard with its number in each step.
type helper struct {
	left   [steps]pieces // by slot: of its shard
	parked atomic.Bool   // the helper waits for wake
	wake   chan struct{}
	number int // from 1; the caller is 0
	_      [64]byte
}

func newPool(workers int) *pool {
	p := &pool{fixed: workers}
	p.helpers.Store(new([]*helper))
	for i := range p.slots {
		p.slots[i].done = make(chan struct{}, 1)
	}
	return p
}

func (p *pool) workers() int {
	switch {
	case p.closed.Load():
		return 1
	case p.fixed > 0:
		return p.fixed
	}
	if cpus := p.cpus.Load(); cpus != nil {
		return min(runtime.GOMAXPROCS(0), len(*cpus))
	}
	return runtime.GOMAXPROCS(0)
}

func (p *pool) pin() error {
	cpus, err := system.AllowedCPUs()
	if err != nil {
		return fmt.Errorf("pnm: Pool.Pin: %w", err)
	}
	if p.fixed > len(cpus) {
		return fmt.Errorf("pnm: Pool.Pin needs a CPU for each worker, but there are %d workers and the process may run on %d CPUs",
			p.fixed, len(cpus))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(*p.helpers.Load()) > 0 {
		return errors.New("pnm: Pool.Pin must come before the first step of the pool")
	}
	p.cpus.Store(&cpus)
	return nil
}

// run runs all of a task and returns when that is done.
func (p *pool) run(t task, shards, pieces int) {
	if shards == 1 {
		t.run(0, 1)
		return
	}
	helpers := p.grow(shards - 1)
	helpers = helpers[:min(len(helpers), shards-1)]
	s := p.acquire()
	if s < 0 {
		t.run(0, 1)
		return
	}
	slot := &p.slots[s]
	slot.task, slot.shards, slot.pieces = t, len(helpers)+1, pieces
	slot.pending.Store(int32(slot.shards * pieces))
	slot.left.offer(pieces)
	for _, h := range helpers {
		h.left[s].offer(pieces) // those that are awake can begin
	}
	for _, h := range helpers {
		h.rouse()
	}
	slot.work(0, &slot.left, true)
	p.workOnOthers(s)
	slot.wait(p.spin.Load())
	slot.task = nil
	slot.busy.Store(false)
}

// work runs the pieces of a shard that are left, from the first (own) or from the last, and reports whether there were any.
func (s *slot) work(shard int, left *pieces, own bool) (worked bool) {
	for {
		piece, ok := left.take(own)
		if !ok {
			return worked
		}
		s.task.run(shard*s.pieces+piece, s.shards*s.pieces)
		s.finish()
		worked = true
	}
}

// workOnOthers runs the pieces that are left in all shards of a slot.
func (p *pool) workOnOthers(s int) {
	slot := &p.slots[s]
	for _, h := range *p.helpers.Load() {
		slot.work(h.number, &h.left[s], false)
	}
	slot.work(0, &slot.left, false)
}

// A pieces is the range of pieces of a shard that are left: the lower 16 bits are the first one, the upper 16 bits the end.
type pieces struct{ atomic.Uint32 }

func (p *pieces) offer(n int) { p.Swap(uint32(n) << 16) } // not Store, as in rest

func (p *pieces) none() bool { v := p.Load(); return v>>16 == v&0xffff }

// take takes the first piece or the last one, if there is any.
func (p *pieces) take(first bool) (piece int, ok bool) {
	for {
		v := p.Load()
		begin, end := v&0xffff, v>>16
		switch {
		case begin == end:
			return 0, false
		case first && p.CompareAndSwap(v, v+1):
			return int(begin), true
		case !first && p.CompareAndSwap(v, v-1<<16):
			return int(end) - 1, true
		}
	}
}

// acquire returns the number of a free slot, or −1.
func (p *pool) acquire() int {
	for i := range p.slots {
		if p.slots[i].busy.CompareAndSwap(false, true) {
			return i
		}
	}
	return -1
}

// grow returns the helpers, at least n if the pool is open.
func (p *pool) grow(n int) []*helper {
	p.spin.Store(n < runtime.GOMAXPROCS(0))
	if h := *p.helpers.Load(); len(h) >= n {
		return h
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := *p.helpers.Load()
	if p.closed.Load() {
		return all
	}
	for len(all) < n {
		h := &helper{wake: make(chan struct{}, 1), number: len(all) + 1}
		all = append(all[:len(all):len(all)], h)
		p.ended.Go(func() { p.help(h) })
	}
	p.helpers.Store(&all)
	return all
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed.Store(true)
	p.mu.Unlock()
	for _, h := range *p.helpers.Load() {
		h.rouse()
	}
	p.ended.Wait()
}

// help runs a helper until the pool is closed.
func (p *pool) help(h *helper) {
	if cpus := p.cpus.Load(); cpus != nil && h.number < len(*cpus) {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		system.BindThread((*cpus)[h.number])
	}
	for !p.closed.Load() {
		worked := false
		for s := range h.left {
			if p.slots[s].work(h.number, &h.left[s], true) {
				p.workOnOthers(s)
				worked = true
			}
		}
		if !worked {
			h.rest(p)
		}
	}
}

func (h *helper) hasWork() bool {
	for s := range h.left {
		if !h.left[s].none() {
			return true
		}
	}
	return false
}

// rest returns when the helper has work or the pool is closed. It polls for spinTime, then sleeps.
//
// No wake-up is lost: a caller offers work before it reads parked, and the helper sets parked before it looks for work once more. This
// takes Swap instead of Store: with Store, QEMU 7.2 emulating arm64 on amd64 moves the read before the write.
func (h *helper) rest(p *pool) {
	if p.spin.Load() && spinUntil(h.hasWork) {
		return
	}
	h.parked.Swap(true)
	if h.hasWork() || p.closed.Load() {
		if h.parked.CompareAndSwap(true, false) {
			return
		}
	}
	<-h.wake
}

// rouse wakes a helper that is parked.
func (h *helper) rouse() {
	if h.parked.Load() && h.parked.CompareAndSwap(true, false) {
		h.wake <- struct{}{}
	}
}

// finish counts a piece as done, and wakes the caller after the last one.
func (s *slot) finish() {
	if s.pending.Add(-1) == 0 && s.parked.CompareAndSwap(true, false) {
		s.done <- struct{}{}
	}
}

// wait returns when no piece is pending. A late finish of the step that had the slot before may wake it.
func (s *slot) wait(spin bool) {
	none := func() bool { return s.pending.Load() == 0 }
	if none() || spin && spinUntil(none) {
		return
	}
	for !none() {
		s.parked.Swap(true) // not Store, as in rest
		if none() && s.parked.CompareAndSwap(true, false) {
			return
		}
		<-s.done
	}
}

// spinTime is how long a goroutine polls for another one before it sleeps: longer than a wake-up takes.
const spinTime = 20 * time.Microsecond

// spinUntil returns true as soon as the condition holds, or false after spinTime.
func spinUntil(condition func() bool) bool {
	for start := time.Now(); time.Since(start) < spinTime; {
		for range 16 {
			if condition() {
				return true
			}
			pause()
		}
	}
	return false
}
