//go:build (amd64 || arm64) && !purego

package pnm

import (
	"fmt"

	"github.com/posneg/pnm/internal/limit"
)

func init() {
	limit.Pass = func(list, pool any) (func(), error) { return limitOf(list.(*List), pool.(*Pool)) }
}

// A bare is a kernel as tables have it.
type bare[T Float] func(c, p, g, m, n, v, x *T, count, ahead int)

func limitOf(l *List, p *Pool) (func(), error) {
	if err := l.Check(0); err != nil {
		return nil, err
	}
	if active == generic {
		return nil, limit.Unsupported(string(generic))
	}
	var passes []func()
	for i, u := range l.Updates {
		if u.Skip {
			continue
		}
		t := l.batch.tensors[i]
		t.g = u.Grads
		if t.s[0].row%mixedBlock != 0 { // blocks are shorter somewhere
			return nil, limit.Unsupported(fmt.Sprintf("mxfp8 in rows of %d", t.s[0].row))
		}
		passes = append(passes, t.limit(active, p, isFar(l.working)))
	}
	return func() {
		for _, pass := range passes {
			pass()
		}
	}, nil
}

// limit returns a pass of a tier's limit kernel over a step's streams. far tells that they come from memory.
func (t *tensor) limit(tier tier, p *Pool, far bool) func() {
	task := &limitTask{*t, tier, ahead(far)}
	shards, pieces := split(t.traffic(), p.Workers())
	return func() { p.pool().run(task, shards, pieces) }
}

// A limitTask runs a limit kernel on a pool.
type limitTask struct {
	tensor
	tier  tier
	ahead int
}

func (l *limitTask) run(part, parts int) {
	const whole = 1024 // elements: kernels only get whole passes
	lo, end := l.p.n*part/parts&^(whole-1), l.p.n*(part+1)/parts&^(whole-1)
	for ; lo < end; lo += maxCall {
		l.move(lo, min(maxCall, end-lo))
	}
}

// move reads and writes the memory of n elements from lo on.
func (l *limitTask) move(lo, n int) {
	if l.isMixed() {
		var b mixed
		l.call(&b, lo)
		mixedLimits[l.tier](&b.c.gs, n, l.ahead)
		return
	}
	at := func(v *Vector) *float32 { return (*float32)(v.pointer(lo)) } // bytes are moved, and not numbers
	roleM, roleN, roleV, roleX := l.roles()
	limitKernels[l.tier][l.form](nil, at(&l.p), at(&l.g), at(roleM), at(roleN), at(roleV), at(roleX), n*l.p.size()/4, l.ahead)
}
