package pnm

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkFingerprint takes the fingerprint of a vector in L2 and in memory, beside a search through its bytes, which reads them as fast as one
// core can, and in memory beside the norm.
func BenchmarkFingerprint(b *testing.B) {
	for _, f := range hashedFormats {
		for _, tier := range tiers() {
			for _, size := range []struct {
				name  string
				bytes int
			}{{"256KiB", 256 << 10}, {"256MiB", 256 << 20}} {
				for n := 1; n <= runtime.GOMAXPROCS(0); n *= 2 {
					if n > 1 && (size.bytes < leastShard || tier != active) {
						continue
					}
					b.Run(fmt.Sprintf("format=%s/isa=%s/size=%s/workers=%d", f, tier, size.name, n), func(b *testing.B) {
						useTier(b, tier)
						a, err := Alloc(f.String(), size.bytes/f.size())
						wantNoError(b, err)
						b.Cleanup(a.Close)
						v, pool := a.Vectors()[0], workers(b, n)
						for i := range v.Bytes() {
							v.Bytes()[i] = uint8(i%251) &^ 0x18 // no NaN in any format, and never 0x08
						}
						p := Portion{Name: "state.fc.weight.exp_avg", Vector: v}
						beside := []yardstick{{"of-read", func() {
							if bytes.IndexByte(v.Bytes(), 0x08) >= 0 {
								b.Fatal("found")
							}
						}}}
						if f != mxfp8 && size.bytes > leastShard {
							beside = append(beside, yardstick{"of-norm", func() { SumSquares(pool, v) }})
						}
						inTurn(b, v.n, int64(v.bytes()), func() { mustFingerprint(b, pool, p) }, beside)
					})
				}
			}
		}
	}
}

// BenchmarkFingerprintOfModel takes the fingerprint of the parameters of GPT-2 small, beside one tensor of as many elements.
func BenchmarkFingerprintOfModel(b *testing.B) {
	sizes, total := gpt2Small(), 0
	for _, n := range sizes {
		total += n
	}
	var portions []Portion
	for i, v := range arena(b, sizes...) {
		portions = append(portions, Portion{Name: fmt.Sprintf("params.transformer.h.%d.weight", i), Vector: v})
	}
	flat := Portion{Name: "flat", Vector: arena(b, total)[0]}
	for n := 1; n <= runtime.GOMAXPROCS(0); n *= 2 {
		b.Run(fmt.Sprintf("isa=%s/tensors=%d/workers=%d", active, len(sizes), n), func(b *testing.B) {
			pool := workers(b, n)
			inTurn(b, total, 4*int64(total), func() { mustFingerprint(b, pool, portions...) },
				[]yardstick{{"of-flat", func() { mustFingerprint(b, pool, flat) }}})
		})
	}
}
