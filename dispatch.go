package pnm

import (
	"os"
	"slices"
	"unsafe"
)

//go:generate go run ./gen -out update_amd64.s -stubs update_amd64.go -pkg pnm

// A form is one set of update equations, over one set of state buffers.
type form uint8

const (
	formPNM form = iota
	formAdaPNM
	formAdaPNMAMSGrad
)

// forms describes each form: its rule, the names that the authors' implementation gives to its state buffers, and
// whether the first two of them are momenta that take turns.
var forms = [...]struct {
	rule       string
	slots      []string
	alternates bool
}{
	formPNM:           {"PNM", []string{"pos_momentum", "neg_momentum"}, true},
	formAdaPNM:        {"AdaPNM", []string{"exp_avg", "neg_exp_avg", "exp_avg_sq"}, true},
	formAdaPNMAMSGrad: {"AdaPNM", []string{"exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq"}, true},
}

// A tier is an implementation of all forms, for CPUs with certain instructions.
type tier string

const (
	generic tier = "generic" // plain Go
	avx2    tier = "avx2"
	avx512  tier = "avx512" // F, DQ, BW, VL
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

// ISA returns the name of the implementation that runs: "generic", "avx2" or "avx512". It is the best one that the CPU,
// the operating system and the build (-tags purego leaves only generic) allow, unless the environment variable PNM_ISA
// names another. All of them give the same bits.
//
// If PNM_ISA names one that is unknown or not available, every update and every optimizer returns an *ISAError.
func ISA() string { return string(active) }

// maxCall is how many elements one call into assembly updates at most. Assembly cannot be preempted, and a garbage
// collection waits for it: on slow memory this many elements of six streams take some 100 µs.
const maxCall = 16 << 10

// streams are the slices of a tensor, by their role at one step: m is the momentum that is updated, n the other one.
type streams[T Float] struct{ p, g, m, n, v, x []T }

// prefetchAhead is how far in front of its loads a kernel prefetches where the data comes from memory, in bytes. See
// docs/performance.md for what was measured.
const prefetchAhead = 2048

// traffic is how many bytes of memory a step of a tensor touches.
func traffic[T Float](f form, n int) int {
	return n * (2 + len(forms[f].slots)) * int(unsafe.Sizeof(*new(T)))
}

// update performs step t on buffers that have been checked. working is how much memory is touched from one step of the
// caller's to the next: what fits the caches is found there and need not be prefetched.
func update[T Float](f form, t int, c *scalars[T], b *buffers[T], working int) {
	due, other := 0, 1
	if forms[f].alternates && t%2 == 0 {
		due, other = 1, 0
	}
	// Field by field: a literal would be built aside and copied, and the copy would wait for the stores to drain.
	var s streams[T]
	s.p, s.g, s.m, s.n, s.v, s.x = b.p, b.g, b.s[due], b.s[other], b.s[2], b.s[3]
	if active == generic {
		updateGeneric(f, c, &s)
		return
	}
	raceAnnotate(&s)
	ahead := 0
	if working > lastLevelCache {
		ahead = prefetchAhead
	}
	for lo := 0; lo < len(s.p); lo += maxCall {
		updateAssembly(f, c, &s, lo, min(maxCall, len(s.p)-lo), ahead)
	}
}

// updateGeneric runs the reference.
func updateGeneric[T Float](f form, c *scalars[T], s *streams[T]) {
	switch f {
	case formPNM:
		pnmGeneric(c, s.p, s.g, s.m, s.n)
	case formAdaPNM:
		adapnmGeneric(c, s.p, s.g, s.m, s.n, s.v)
	case formAdaPNMAMSGrad:
		adapnmAMSGradGeneric(c, s.p, s.g, s.m, s.n, s.v, s.x)
	}
}

// updateOne checks the slices of a tensor that a caller brings, and performs step t of a rule on it.
func updateOne[T Float](f form, t int, exact *scalars[float64], b *buffers[T]) error {
	if errISA != nil {
		return errISA
	}
	var c scalars[T]
	if err := round(forms[f].rule, exact, &c); err != nil {
		return err
	}
	if err := checkBuffers(f, b); err != nil {
		return err
	}
	update(f, t, &c, b, traffic[T](f, len(b.p)))
	return nil
}
