package pnm

import (
	"math"
	"os"
	"slices"
	"strings"

	"github.com/posneg/pnm/internal/equations"
	"github.com/posneg/pnm/internal/floatmode"
)

//go:generate go run ./gen

// A form is one set of update equations, over one set of state buffers: it is the number of a row of [equations.Forms].
type form uint8

// forms has those rows, as the engine reads them: see there.
var forms = func() (rows [len(equations.Forms)]struct {
	rule, roles string
	slots       []string
	starts      bool
}) {
	for f, row := range equations.Forms {
		to := &rows[f]
		to.rule, to.roles, to.slots, to.starts = row.Rule, row.Roles, row.Slots, row.Starts
	}
	return rows
}()

// state names the state buffers in an error.
func (f form) state() string {
	if len(forms[f].slots) == 0 {
		return "empty"
	}
	return strings.Join(forms[f].slots, ", ")
}

// sameState reports whether a run may change from one form to another: they are of one rule, and have the same state.
func (f form) sameState(g form) bool {
	return forms[f].rule == forms[g].rule && slices.Equal(forms[f].slots, forms[g].slots)
}

// A formSet has bit f set for each form f in it.
type formSet uint64

// kernels and mixedKernels are the forms that have kernels in every tier but generic, for one format and for several. The reference
// runs the others.
var kernels, mixedKernels formSet = kernelForms, mixedKernelForms

// assembled reports whether the active tier has a kernel of its own for a form, among those of a set.
func (f form) assembled(among formSet) bool { return active != generic && among>>f&1 != 0 }

// slotOf tells which slots of a form have the roles m, n, v and x, at even and at odd steps: m and n take turns. A role that
// the form does not know gets a slot that it does not use.
var slotOf = func() (table [len(forms)][2][maxSlots]uint8) {
	for f, form := range forms {
		unused := len(form.slots)
		at := &table[f][1]
		for i, role := range equations.AllRoles {
			k := strings.IndexRune(form.roles, role)
			if k < 0 {
				k = unused
				unused++
			}
			at[i] = uint8(k)
		}
		table[f][0] = *at
		if strings.Contains(form.roles, "n") {
			table[f][0][0], table[f][0][1] = at[1], at[0]
		}
	}
	return table
}()

// A tier is an implementation of all forms, for CPUs with certain instructions.
type tier string

const (
	generic tier = "generic" // plain Go
	avx2    tier = "avx2"
	avx512  tier = "avx512" // F, DQ, BW, VL
	neon    tier = "neon"
)

// active is the tier that runs; errISA is set if the environment asks for one that cannot.
var active, errISA = choose(os.Getenv("PNM_ISA"), tiers())

// choose returns the tier that pin names or, if it is empty, the last and best of the available ones.
func choose(pin string, available []tier) (tier, error) {
	if pin == "" {
		return available[len(available)-1], nil
	}
	if slices.Contains(available, tier(pin)) {
		return tier(pin), nil
	}
	names := make([]string, len(available))
	for i, t := range available {
		names[i] = string(t)
	}
	return generic, &ISAError{pin, names}
}

// ISA returns the name of the implementation that runs: "generic", "avx2" or "avx512" on amd64, "neon" on arm64. It is
// the best one that the CPU, the operating system and the build (-tags purego leaves only generic) allow, unless the
// environment variable PNM_ISA names another. All of them give the same bits.
//
// If PNM_ISA names one that is unknown or not available, every update and every optimizer returns an *ISAError.
func ISA() string { return string(active) }

// maxCall is how many elements one call into assembly updates at most. Assembly cannot be preempted, and a garbage
// collection waits for it: on slow memory this many elements of six streams take some 100 µs.
const maxCall = 16 << 10

// streams are the slices of a tensor, by their role at one step: m is the momentum that is updated, n the other one, v the
// average of squared gradients, x the largest v so far.
type streams[T Float] struct{ p, g, m, n, v, x []T }

// prefetchAhead is how far in front of its loads a kernel prefetches where the data comes from memory, in bytes. See
// docs/performance.md for what was measured.
const prefetchAhead = 2048

// prefetchAlone is how many times further that is where gradients are the only stream.
const prefetchAlone = 4

// prefetchFor returns how far to prefetch if working bytes are touched from one step of the caller's to the next: what fits
// the caches is found there.
func prefetchFor(working int64) int {
	if working > int64(lastLevelCache) {
		return prefetchAhead
	}
	return 0
}

// assign gives the tensor's slices their roles at the step that is due.
func assign[T Float](t *tensor, s *streams[T]) {
	at := &slotOf[t.form][t.step&1]
	// Field by field: a literal would be built aside and copied, and the copy would wait for the stores to drain.
	s.p, s.g = sliceOf[T](t.p), sliceOf[T](t.g)
	s.m, s.n, s.v, s.x = sliceOf[T](t.s[at[0]]), sliceOf[T](t.s[at[1]]), sliceOf[T](t.s[at[2]]), sliceOf[T](t.s[at[3]])
}

// update performs the step that is due on the elements lo … hi−1 of a tensor that has been checked, and then zeroes their
// gradients if zero is set. It returns how many parameters overflowed in their copy.
func (t *tensor) update(lo, hi, ahead int, zero bool) (overflows int) {
	most := maxCall
	if zero {
		most = zeroLen
	}
	switch {
	case t.isMixed():
		return t.updateFormats(lo, hi, ahead, most, zero)
	case t.wide():
		updateTyped(t, &t.c64, lo, hi, ahead, most, zero)
	default:
		updateTyped(t, &t.c32, lo, hi, ahead, most, zero)
	}
	return 0
}

// updateTyped is update for a tensor that has one format, in calls of most elements.
func updateTyped[T Float](t *tensor, c *scalars[T], lo, hi, ahead, most int, zero bool) {
	var s streams[T]
	assign(t, &s)
	for ; lo < hi; lo += most {
		end := min(lo+most, hi)
		t.start(lo, end)
		if t.form.assembled(kernels) {
			t.raceAnnotate(lo, end)
			updateAssembly(t.form, c, &s, lo, end-lo, ahead)
		} else {
			updateGeneric(t.form, c, &s, lo, end)
		}
		if zero {
			t.zeroGrads(lo, end)
		}
	}
}

// start prepares the first momentum of the elements lo … hi−1 where it is to be the gradient itself, as torch has it: β·m + g is g
// for m = −0, also if g is −0.
func (t *tensor) start(lo, hi int) {
	if t.step != 1 || !forms[t.form].starts {
		return
	}
	switch m := t.s[0].cut(lo, hi); m.format {
	case f32:
		fill(sliceOf[float32](m), float32(math.Copysign(0, -1)))
	case f64:
		fill(sliceOf[float64](m), math.Copysign(0, -1))
	case bf16:
		fill(sliceOf[uint16](m), 1<<15)
	}
}

func fill[T Element](s []T, x T) {
	for i := range s {
		s[i] = x
	}
}

// zeroGrads zeroes the gradients of the elements lo … hi−1.
func (t *tensor) zeroGrads(lo, hi int) {
	g := t.g.cut(lo, hi)
	raceWrite(g)
	g.clear()
}

// updateOne checks the slices of a tensor that a caller brings, and performs the step that t names, with a rule's
// coefficients. h is the caller's hold.
func updateOne(t *tensor, exact *scalars[float64], o *Options, h *floatmode.Hold) (Report, error) {
	if errISA != nil {
		return Report{}, errISA
	}
	if err := t.round(exact); err != nil {
		return Report{}, err
	}
	if err := checkBuffers(t); err != nil {
		return Report{}, err
	}
	clear(t.s[len(forms[t.form].slots):]) // an empty one may have an address, and kernels take that for a stream
	if err := checkOptions(o, t.wide()); err != nil {
		return Report{}, err
	}
	working := t.traffic()
	if working < int64(2*leastShard) && !o.measures() { // too small to be shared
		if o.scales() {
			t.apply(o, o.scale())
		}
		return Report{Overflows: t.update(0, t.p.n, prefetchFor(working), o.ZeroGrads)}, nil
	}
	b := takeBatch()
	defer b.putBack()
	b.tensors = append(b.tensors, *t)
	b.held = *h
	r := b.step(o, working)
	*h = b.held
	return r, nil
}
