//go:build amd64

package pnm

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"
)

func TestTmpMX(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, tier := range tiers()[1:] {
		useTier(t, tier)
		for _, r := range sampleRules() {
			f := r.form()
			for iter := range 20000 {
				n := 32 * (1 + rng.IntN(3))
				var c64 scalars[float64]
				step := 1 + iter%5
				r.scalars(step, &c64)
				var b mixed
				if round(f, &c64, &b.c) != nil {
					t.Fatal()
				}
				set := []uint32{0, gradBF16, gradF16}[rng.IntN(3)]
				set |= []uint32{0, paramBF16, outBF16, outF16, paramLow, outBF16 | follow, outF16 | follow}[rng.IntN(7)]
				switch rng.IntN(3) {
				case 1:
					set |= stateBF16
				case 2:
					set |= momentMX
					if forms[f].Has("v") {
						set |= stateBF16
					}
				}
				b.formats = withStochastic(f, set)
				b.counter, b.key = rng.Uint32(), rng.Uint32()
				special := iter%3 == 0
				bufs := map[string][]byte{}
				fill := func(name string, f format) unsafe.Pointer {
					words := make([]uint64, n*4/8+8)
					buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n*4+64)
					x := random[float32](rng, n)
					if !special {
						for i := range x {
							x[i] = float32(rng.NormFloat64() * math.Exp2(float64(rng.IntN(30)-15)))
						}
					}
					narrow(unsafe.Pointer(&buf[0]), f, 0, x, func(i int, x float32) uint16 {
						if special && rng.IntN(3) == 0 {
							return uint16(rng.Uint32())
						}
						if f == f16 {
							return narrowF16(x)
						}
						return narrowBF16(x)
					})
					bufs[name] = buf
					return unsafe.Pointer(&buf[0])
				}
				by := func(name string) unsafe.Pointer {
					buf := make([]byte, n+64)
					for i := range buf {
						buf[i] = byte(rng.Uint32())
						if !special && buf[i]&0x7f == 0x7f {
							buf[i] = 0
						}
					}
					bufs[name] = buf
					return unsafe.Pointer(&buf[0])
				}
				sc := func(name string) unsafe.Pointer {
					buf := make([]byte, 8)
					for i := range buf {
						buf[i] = byte(127 + rng.IntN(20) - 10)
						if special {
							buf[i] = byte(rng.Uint32())
						}
					}
					bufs[name] = buf
					return unsafe.Pointer(&buf[0])
				}
				pick := func(set, bit uint32, f format) format {
					if set&bit != 0 {
						return f
					}
					return f32
				}
				gf := f32
				if set&gradBF16 != 0 {
					gf = bf16
				} else if set&gradF16 != 0 {
					gf = f16
				}
				pf := pick(set, paramBF16, bf16)
				if set&paramLow != 0 {
					pf = bf16
				}
				sf := pick(set, stateBF16, bf16)
				b.p, b.g = fill("p", pf), fill("g", gf)
				mom := func(name string) unsafe.Pointer {
					if set&momentMX != 0 {
						return by(name)
					}
					return fill(name, sf)
				}
				if forms[f].Has("m") {
					b.m = mom("m")
					b.ms = sc("ms")
				}
				if forms[f].Has("n") {
					b.n = mom("n")
					b.ns = sc("ns")
				}
				if forms[f].Has("v") {
					b.v = fill("v", sf)
				}
				if forms[f].Has("x") {
					b.x = fill("x", sf)
				}
				if set&(outBF16|outF16|paramLow) != 0 {
					of := bf16
					if set&outF16 != 0 {
						of = f16
					}
					b.out = fill("out", of)
				}
				clone := map[string][]byte{}
				w := b
				ptr := map[string]*unsafe.Pointer{"p": &w.p, "g": &w.g, "m": &w.m, "n": &w.n, "v": &w.v, "x": &w.x, "out": &w.out, "ms": &w.ms, "ns": &w.ns}
				for k, v := range bufs {
					clone[k] = bytes.Clone(v)
					*ptr[k] = unsafe.Pointer(&clone[k][0])
				}
				updateMixed(f, &b, n, 64*rng.IntN(2))
				updateMixedGeneric(f, &w, n)
				if b.overflows != w.overflows {
					t.Fatalf("overflows")
				}
				for k, v := range bufs {
					if bytes.Equal(v, clone[k]) {
						continue
					}
					size := 4
					switch k {
					case "m", "n":
						if set&momentMX != 0 {
							size = 1
						} else if sf == bf16 {
							size = 2
						}
					case "ms", "ns":
						size = 1
					case "v", "x":
						if sf == bf16 {
							size = 2
						}
					case "p":
						if pf == bf16 {
							size = 2
						}
					case "out":
						size = 2
					}
					for i := 0; i < len(v)/size; i++ {
						x, y := v[i*size:i*size+size], clone[k][i*size:i*size+size]
						if bytes.Equal(x, y) {
							continue
						}
						nan := func(b []byte) bool {
							switch size {
							case 1:
								return k != "ms" && b[0]&0x7f == 0x7f
							case 2:
								h := uint16(b[0]) | uint16(b[1])<<8
								if k == "out" && set&outF16 != 0 {
									f := widenF16(h)
									return f != f
								}
								f := widenBF16(h)
								return f != f
							}
							u := math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
							return u != u
						}
						if nan(x) && nan(y) {
							continue
						}
						if pf == bf16 && set&paramLow != 0 && k == "p" {
							o, q := bufs["out"], clone["out"]
							if a, b := widenBF16(uint16(o[2*i])|uint16(o[2*i+1])<<8), widenBF16(uint16(q[2*i])|uint16(q[2*i+1])<<8); a != a && b != b {
								continue
							}
						}
						t.Fatalf("%s %T %+v set %b step %d special %v: %s[%d] = %x want %x", tier, r, r, set, step, special, k, i, x, y)
					}
				}
			}
		}
	}
}
