//go:build (amd64 || arm64) && !purego

package pnm

import (
	"fmt"
	"slices"
	"testing"
)

// spacings are how many bytes BenchmarkPlacement leaves free between two slices: none; a page, as malloc does between large ones; and
// enough for them to begin at different offsets within a page, or at the same offset of pages whose numbers differ more.
var spacings = []int{0, 4 << 10, 5312, 68 << 10}

// BenchmarkPlacement runs a step whose slices lie one behind the other at several distances, in memory on one worker. Beside it run the
// limit kernel at the same distance, and at the distance where that is fastest.
func BenchmarkPlacement(b *testing.B) {
	rules, names := benchRules()
	for i, r := range rules {
		for _, tier := range tiers()[1:] {
			for _, spacing := range spacings {
				b.Run(fmt.Sprintf("rule=%s/isa=%s/n=32Mi/spacing=%d", names[i], tier, spacing), func(b *testing.B) {
					benchPlacement(b, r, tier, spacing)
				})
			}
		}
	}
}

func benchPlacement(b *testing.B, r Rule, tier tier, spacing int) {
	useTier(b, tier)
	const n = 32 << 20
	memory := make([]float32, (2+len(forms[r.form()].Slots))*(n+slices.Max(spacings)/4))
	pool := workers(b, 1)
	at := func(spacing int) *problem[float32] {
		q := problemOn(r, func(i int) []float32 { return memory[i*(n+spacing/4):][:n] })
		q.pool = pool
		return q
	}
	step := at(spacing)
	step.fill()
	var limits []yardstick
	for _, s := range spacings { // these change nothing, wherever they run
		unit := ""
		if s == spacing {
			unit = "of-limit"
		}
		limits = append(limits, yardstick{unit, at(s).limit(tier)})
	}
	b.ReportMetric(slices.Min(inTurn(b, n, step.bytes(), step.update, limits)), "of-best-limit")
}
