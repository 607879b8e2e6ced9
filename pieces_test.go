package pnm

import (
	"bytes"
	"testing"
)

// What is copied or cleared in pieces is all of it, and nothing behind it.
func TestPieces(t *testing.T) {
	for _, n := range []int{0, 1, maxPiece - 1, maxPiece, maxPiece + 1, 3*maxPiece + 7} {
		from, to := make([]byte, n), make([]byte, n+1)
		for i := range from {
			from[i] = byte(i%251 + 1)
		}
		to[n] = 0xa5
		if copyBytes(to, from); !bytes.Equal(to[:n], from) || to[n] != 0xa5 {
			t.Errorf("a copy of %d bytes differs, or has more", n)
		}
		if clearBytes(to[:n]); !bytes.Equal(to[:n], make([]byte, n)) || to[n] != 0xa5 {
			t.Errorf("of %d bytes some are not cleared, or more are", n)
		}
	}
}
