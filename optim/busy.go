package optim

import (
	"sync"
	"sync/atomic"

	"github.com/posneg/pnm"
)

// A turnstile lets one call at a time into an optimizer, or several that only read it, and refuses others. Each call holds its lock;
// calls that cannot be refused, such as Close and methods without an error, wait for the lock.
type turnstile struct {
	inside atomic.Int32 // the number of calls that read, or writing
	sync.RWMutex
}

const writing = -1

// begin starts a call that changes the optimizer, or returns pnm.ErrBusy.
func (t *turnstile) begin() error {
	if !t.inside.CompareAndSwap(0, writing) {
		return pnm.ErrBusy
	}
	t.Lock()
	return nil
}

func (t *turnstile) end() {
	t.Unlock()
	t.inside.Store(0)
}

// beginReading starts a call that does not change the optimizer, or returns pnm.ErrBusy.
func (t *turnstile) beginReading() error {
	for {
		n := t.inside.Load()
		if n == writing {
			return pnm.ErrBusy
		}
		if t.inside.CompareAndSwap(n, n+1) {
			if !t.TryRLock() { // Close holds the lock, or waits for a call that this one may be nested in
				t.inside.Add(-1)
				return pnm.ErrBusy
			}
			return nil
		}
	}
}

func (t *turnstile) endReading() {
	t.RUnlock()
	t.inside.Add(-1)
}
