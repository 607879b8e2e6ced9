//go:build race

package pnm

import (
	"runtime"
	"strings"
	"unsafe"

	"github.com/posneg/pnm/internal/equations"
)

// raceAnnotate tells the race detector what the assembly is about to read and write of elements lo … hi−1, which it cannot see.
func (t *tensor) raceAnnotate(lo, hi int) {
	raceRead(t.g.cut(lo, hi).Bytes())
	raceWrite(t.p.cut(lo, hi).Bytes())
	if t.out.at != nil {
		raceWrite(t.out.cut(lo, hi).Bytes())
	}
	for _, role := range forms[t.form].Roles {
		k := t.s[slotOf[t.form][t.step&1][strings.IndexRune(equations.AllRoles, role)]]
		for _, b := range [...][]byte{k.cut(lo, hi).Bytes(), k.scalesOf(lo, hi)} {
			if role == 'n' {
				raceRead(b)
			} else {
				raceWrite(b)
			}
		}
	}
}

func raceRead(b []byte)  { runtime.RaceReadRange(unsafe.Pointer(unsafe.SliceData(b)), len(b)) }
func raceWrite(b []byte) { runtime.RaceWriteRange(unsafe.Pointer(unsafe.SliceData(b)), len(b)) }
