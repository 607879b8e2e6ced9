package allocated

import "testing"

var sink []byte

// What f allocates at each call counts, what happens now and then does not.
func TestBytes(t *testing.T) {
	calls := 0
	f := func() {
		calls++
		sink = make([]byte, 1<<20)
		if calls == 1 {
			sink = make([]byte, 1<<24)
		}
	}
	const limit = 1<<20 + 1<<16
	if n := Bytes(limit, f); n < 1<<20 || n > limit || calls < 2 {
		t.Errorf("%d bytes after %d calls", n, calls)
	}
	if n := Bytes(1<<20-1, f); n < 1<<20 {
		t.Errorf("%d bytes are within the limit", n)
	}
}
