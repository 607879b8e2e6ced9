//go:build race

package pnm

import (
	"runtime"
	"strings"

	"github.com/posneg/pnm/internal/equations"
)

// raceAnnotate tells the race detector what the assembly is about to read and write of elements lo … hi−1, which it cannot see.
func (t *tensor) raceAnnotate(lo, hi int) {
	raceRead(t.g.cut(lo, hi))
	raceWrite(t.p.cut(lo, hi))
	if t.out.at != nil {
		raceWrite(t.out.cut(lo, hi))
	}
	for _, role := range forms[t.form].Roles {
		if k := t.s[slotOf[t.form][t.step&1][strings.IndexRune(equations.AllRoles, role)]]; role == 'n' {
			raceRead(k.cut(lo, hi))
		} else {
			raceWrite(k.cut(lo, hi))
		}
	}
}

func raceRead(v Vector)  { runtime.RaceReadRange(v.at, v.n*v.size()) }
func raceWrite(v Vector) { runtime.RaceWriteRange(v.at, v.n*v.size()) }
