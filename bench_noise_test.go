//go:build (amd64 || arm64) && !purego

package pnm

import (
	"bytes"
	"fmt"
	"testing"
)

// noiseFormats are formats of a tensor whose noise is read.
var noiseFormats = []struct {
	name string
	formatsOf
}{
	{"float32", formatsOf{f32, f32, f32, f32}},
	{"bf16-state", formatsOf{f32, f32, bf16, f32}},
	{"bf16", formatsOf{bf16, bf16, bf16, f32}},
	{"mxfp8", formatsOf{f32, bf16, mxfp8, bf16}},
}

// BenchmarkNoise runs, in memory and on one worker, a step that reads the noise beside one that does not, and SumNoise beside a loop that
// only reads the momenta.
func BenchmarkNoise(b *testing.B) {
	for _, r := range []struct {
		name string
		rule Rule
	}{{"PNM", NewPNM(1e-3)}, {"AdaPNM", NewAdaPNM()}} {
		for _, f := range noiseFormats {
			for _, tier := range tiers()[1:] {
				name := fmt.Sprintf("rule=%s/format=%s/isa=%s/n=64Mi", r.name, f.name, tier)
				b.Run("in-step/"+name, func(b *testing.B) {
					useTier(b, tier)
					step, _, _ := noiseProblem(r.rule, f.formatsOf, inMemory)
					with, without := Options{Pool: workers(b, 1), Noise: make([]NoiseSums, 1)}, Options{Pool: workers(b, 1)}
					ratios := inTurn(b, inMemory, 0, func() { step(with) }, []yardstick{{"of-plain", func() { step(without) }}})
					b.ReportMetric(1/ratios[0]-1, "cost")
				})
				if r.name == "PNM" {
					b.Run("alone/"+name, func(b *testing.B) {
						useTier(b, tier)
						_, updates, momenta := noiseProblem(r.rule, f.formatsOf, inMemory)
						pool := workers(b, 1)
						inTurn(b, inMemory, int64(momenta[0].bytes()+momenta[1].bytes()), func() {
							if _, err := SumNoise(pool, updates); err != nil {
								panic(err)
							}
						}, []yardstick{{"of-read", func() {
							for _, m := range momenta {
								for at := 0; at < m.n; at += maxPiece {
									bytes.Count(m.cut(at, min(at+maxPiece, m.n)).Bytes(), []byte{1})
								}
							}
						}}})
					})
				}
			}
		}
	}
}

// noiseProblem returns a step of a tensor, its update and its momenta.
func noiseProblem(r Rule, f formatsOf, n int) (step func(Options), updates []Update, momenta []Vector) {
	q := newMixedProblem(r, f, n)
	l := List{Updates: []Update{{Rule: r, Step: 1000, Params: q.p, Grads: q.g, State: q.s[:len(forms[q.form].Slots)], Copy: q.out}}}
	return func(o Options) {
		l.Updates[0].Grads = q.g
		l.Updates[0].Step++
		if _, err := l.Step(o); err != nil {
			panic(err)
		}
	}, l.Updates, q.s[:2]
}
