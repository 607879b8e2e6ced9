package pnm

import (
	"os"
	"slices"
	"strings"

	"github.com/posneg/pnm/internal/equations"
)

//go:generate go run ./gen

// A form is one set of update equations, over one set of state buffers: it is the number of a row of [equations.Forms].
type form uint8

var forms = equations.Forms

// state names the state buffers in an error.
func (f form) state() string {
	if len(forms[f].Slots) == 0 {
		return "empty"
	}
	return strings.Join(forms[f].Slots, ", ")
}

// A formSet has bit f set for each form f in it.
type formSet uint64

// kernels and mixedKernels are the forms with kernels in every tier but generic, for one format and for several. The reference
// runs the other forms.
var kernels, mixedKernels formSet = kernelForms, mixedKernelForms

// assembled reports whether the active tier has a kernel for a form, which is in the set.
func (f form) assembled(among formSet) bool { return active != generic && among>>f&1 != 0 }

// slotOf has the slots of a form's roles m, n, v and x, at even and at odd steps, since m and n swap. A role that the form does not have
// gets an unused slot.
var slotOf = func() (table [len(forms)][2][maxSlots]uint8) {
	for f, form := range forms {
		unused := len(form.Slots)
		at := &table[f][1]
		for i, role := range equations.AllRoles {
			k := strings.IndexRune(form.Roles, role)
			if k < 0 {
				k = unused
				unused++
			}
			at[i] = uint8(k)
		}
		table[f][0] = *at
		if form.Has("n") {
			table[f][0][0], table[f][0][1] = at[1], at[0]
		}
	}
	return table
}()

// A tier is an implementation of all forms for CPUs with certain instructions.
type tier string

const (
	generic tier = "generic" // plain Go
	avx2    tier = "avx2"
	avx512  tier = "avx512" // F, DQ, BW, VL
	neon    tier = "neon"
)

// active is the tier that runs; errISA is set if PNM_ISA names a tier that this machine or build cannot run.
var active, errISA = choose(os.Getenv("PNM_ISA"), tiers())

// choose returns the tier that pin names, or the last and best of the available ones if pin is empty.
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

// ISA returns the name of the implementation that runs: "avx512", "avx2" or "generic" on amd64, "neon" or "generic" on arm64, and
// "generic" elsewhere. It is the best one for the CPU, the operating system and the build (-tags purego leaves only generic), unless the
// environment variable PNM_ISA names another. All implementations give bit-identical results.
//
// If PNM_ISA names one that is unknown or not available, every step returns an *ISAError.
func ISA() string { return string(active) }
