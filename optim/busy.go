package optim

import (
	"sync"
	"sync/atomic"

	"github.com/posneg/pnm"
)

// A turnstile lets one call at a time into an optimizer, or several that only read it, and refuses others. Its lock is held during
// each call: whoever is not refused, Close and the methods that return no error, waits for it.
type turnstile struct {
	inside atomic.Int32 // how many read; writing if one writes
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
			if !t.TryRLock() { // Close has it, or waits for a call that this one may be within
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
