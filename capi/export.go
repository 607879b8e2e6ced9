//go:build (linux || darwin || windows) && cgo

package main

/*
#cgo CFLAGS: -std=c11 -D_GNU_SOURCE -DPNM_BUILD -fvisibility=hidden
#include "internal.h"
*/
import "C"

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/limit"
)

func init() { C.pnm_host_limits() }

// isa is on C's heap, never freed.
var isa = C.CString(pnm.ISA())

// abiVersion is for tests, which cannot name C's constants.
func abiVersion() int { return C.PNM_ABI_VERSION }

//export pnmgo_bind
func pnmgo_bind() {}

//export pnmgo_isa
func pnmgo_isa() *C.char { return isa }

//export pnmgo_workers
func pnmgo_workers() C.int32_t { return C.int32_t(pools.workers()) }

//export pnmgo_set_workers
func pnmgo_set_workers(workers C.int32_t) C.pnm_status {
	return call(func() error { return pools.setStandard(int(workers)) })
}

//export pnmgo_update_all
func pnmgo_update_all(options *C.pnm_options, updates *C.pnm_update, count C.int64_t, report *C.pnm_report) C.pnm_status {
	return call(func() error {
		if err := checkAlignment(report, "report"); err != nil {
			return err
		}
		in := takeInput()
		defer in.putBack()
		o, err := in.fill(options, updates, count)
		if err != nil {
			return err
		}
		r, err := pnm.UpdateAll(o, in.updates)
		if err == nil && report != nil {
			*report = C.pnm_report{grad_norm: C.double(r.GradNorm), overflows: C.int64_t(r.Overflows)}
			if r.Skipped {
				report.skipped = 1
			}
		}
		return err
	})
}

//export pnmgo_limit
func pnmgo_limit(options *C.pnm_options, updates *C.pnm_update, count C.int64_t) C.pnm_status {
	return call(func() error {
		in := takeInput()
		defer in.putBack()
		o, err := in.fill(options, updates, count)
		if err != nil {
			return err
		}
		pass, err := limit.Pass(&pnm.List{Updates: in.updates}, o.Pool)
		if err == nil {
			pass()
		}
		return err
	})
}

//export pnmgo_sum_squares
func pnmgo_sum_squares(grads *C.pnm_const_vector, count C.int64_t, workers C.int32_t, squares *C.int64_t) C.pnm_status {
	return call(func() error {
		list, err := listOf(grads, count, "grads")
		if err != nil {
			return err
		}
		if err := checkPointer(squares, "squares"); err != nil {
			return err
		}
		pool, err := pools.of(int(workers))
		if err != nil {
			return err
		}
		in := takeInput()
		defer in.putBack()
		for i := range list {
			v, err := vectorOf(readOnly(&list[i]), "grads")
			if err == nil && (list[i].dtype == C.PNM_LOW16 || list[i].dtype == C.PNM_MXFP8) {
				err = &pnm.FormatError{Arg: "grads", Format: v.Format(), Want: "float32, float64, bf16 or f16"}
			}
			if err != nil {
				return &pnm.TensorError{Tensor: i, Err: err}
			}
			in.vectors = append(in.vectors, v)
		}
		*squaresOf(squares) = pnm.SumSquares(pool, in.vectors...)
		return nil
	})
}

//export pnmgo_norm
func pnmgo_norm(squares *C.int64_t, norm *C.double) C.pnm_status {
	return call(func() error {
		if err := cmp.Or(checkPointer(squares, "squares"), checkPointer(norm, "norm")); err != nil {
			return err
		}
		*norm = C.double(squaresOf(squares).Norm())
		return nil
	})
}

//export pnmgo_sum_noise
func pnmgo_sum_noise(updates *C.pnm_update, count C.int64_t, workers C.int32_t, sums *C.int64_t) C.pnm_status {
	return call(func() error {
		list, err := listOf(updates, count, "updates")
		if err != nil {
			return err
		}
		to, err := noiseOf(sums, count, "sums")
		if err != nil {
			return err
		}
		pool, err := pools.of(int(workers))
		if err != nil {
			return err
		}
		in := takeInput()
		defer in.putBack()
		for i := range list {
			var u pnm.Update
			if err := in.begin(&list[i], &u); err != nil {
				return &pnm.TensorError{Tensor: i, Err: err}
			}
			in.updates = append(in.updates, u)
		}
		read, err := pnm.SumNoise(pool, in.updates)
		copy(to, read)
		return err
	})
}

//export pnmgo_noise
func pnmgo_noise(rule *C.pnm_rule, step C.int64_t, sums *C.int64_t, signal, variance *C.double) C.pnm_status {
	return call(func() error {
		err := cmp.Or(checkPointer(sums, "sums"), checkPointer(signal, "signal"), checkPointer(variance, "variance"))
		if err != nil {
			return err
		}
		in := takeInput()
		defer in.putBack()
		r, err := in.rules.get(rule)
		if err != nil {
			return err
		}
		if rule.kind != C.PNM_RULE_PNM && rule.kind != C.PNM_RULE_ADAPNM {
			return outside("rule", "kind", float64(rule.kind), "PNM_RULE_PNM or PNM_RULE_ADAPNM, which have two momenta")
		}
		after, err := intOf(step, "step")
		if err != nil {
			return err
		}
		n, err := (*pnm.NoiseSums)(unsafe.Pointer(sums)).Noise(r, after)
		if err == nil {
			*signal, *variance = C.double(n.Signal), C.double(n.Variance)
		}
		return err
	})
}

// noiseOf converts a caller's 2·C.PNM_SQUARES words for each of the updates.
func noiseOf(words *C.int64_t, count C.int64_t, name string) ([]pnm.NoiseSums, error) {
	return listOf((*pnm.NoiseSums)(unsafe.Pointer(words)), count, name)
}

// squaresOf converts a caller's C.PNM_SQUARES words.
func squaresOf(words *C.int64_t) *pnm.Squares {
	return (*pnm.Squares)((*[C.PNM_SQUARES]int64)(unsafe.Pointer(words))) // compiles only if C and Go have the same number
}

//export pnmgo_alloc
func pnmgo_alloc(vectors *C.pnm_vector, count C.int64_t) C.pnm_status {
	return call(func() error {
		list, err := listOf(vectors, count, "vectors")
		if err != nil {
			return err
		}
		return alloc(list)
	})
}

//export pnmgo_free
func pnmgo_free(vectors *C.pnm_vector, count C.int64_t) C.pnm_status {
	return call(func() error {
		list, err := listOf(vectors, count, "vectors")
		if err != nil {
			return err
		}
		return free(list)
	})
}

//export pnmgo_convert
func pnmgo_convert(to *C.pnm_vector, from *C.pnm_const_vector, overflows *C.int64_t) C.pnm_status {
	return call(func() error {
		if err := cmp.Or(checkPointer(to, "to"), checkPointer(from, "from"), checkAlignment(overflows, "overflows")); err != nil {
			return err
		}
		written, err := vectorOf(to, "to")
		if err != nil {
			return err
		}
		read, err := vectorOf(readOnly(from), "from")
		if err != nil {
			return err
		}
		n, err := written.Set(read)
		if err == nil && overflows != nil {
			*overflows = C.int64_t(n)
		}
		return err
	})
}

//export pnmgo_state_count
func pnmgo_state_count(rule *C.pnm_rule) C.int32_t {
	count := -1
	call(func() error {
		names, err := stateOf(rule)
		if err == nil {
			count = len(names)
		}
		return err
	})
	return C.int32_t(count)
}

//export pnmgo_state_name
func pnmgo_state_name(rule *C.pnm_rule, i C.int32_t) (name *C.char) {
	call(func() error {
		names, err := stateOf(rule)
		if err != nil {
			return err
		}
		if i < 0 || int(i) >= len(names) {
			return outside("state", "i", float64(i), fmt.Sprintf("in [0, %d)", len(names)))
		}
		name = cName(names[i])
		return nil
	})
	return name
}

// listOf converts a caller's array of structs.
func listOf[T any](first *T, count C.int64_t, name string) ([]T, error) {
	size, at := unsafe.Sizeof(*first), uintptr(unsafe.Pointer(first))
	switch most := math.MaxInt / int64(size); {
	case count < 0 || int64(count) > most:
		return nil, &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("count is %d, must be in [0, %d]", count, most)}
	case count > 0 && first == nil:
		return nil, &failure{C.PNM_ERROR_NULL, fmt.Sprintf("%s is null, but count is %d", name, count)}
	case at+uintptr(count)*size < at:
		return nil, &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("count is %d, too many for an array at %#x", count, at)}
	case at%unsafe.Alignof(*first) != 0 && count > 0:
		return nil, misaligned(name, at, unsafe.Alignof(*first))
	}
	return unsafe.Slice(first, int(count)), nil
}

// call runs f, sets the thread's message if f fails, and returns the status. It stops panics before they reach C.
func call(f func() error) (status C.pnm_status) {
	defer func() {
		if p := recover(); p != nil {
			status = fail(fmt.Errorf("pnm: internal error: %v", p))
		}
	}()
	if err := f(); err != nil {
		return fail(err)
	}
	return C.PNM_OK
}

func fail(err error) C.pnm_status {
	text := err.Error()
	C.pnm_set_message((*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text)))
	return statusOf(err)
}

// A failure is an error of the C interface that the engine does not have.
type failure struct {
	status C.pnm_status
	text   string
}

func (f *failure) Error() string { return "pnm: " + f.text }

func statusOf(err error) C.pnm_status {
	if own, ok := errors.AsType[*failure](err); ok {
		return own.status
	}
	if e, ok := errors.AsType[*pnm.ValueError](err); ok {
		if e.Field == "Step" {
			return C.PNM_ERROR_STEP
		}
		return C.PNM_ERROR_HYPERPARAMETER
	}
	switch {
	case is[*pnm.LengthError](err):
		return C.PNM_ERROR_LENGTH
	case is[*pnm.OverlapError](err):
		return C.PNM_ERROR_OVERLAP
	case is[*pnm.FormatError](err):
		return C.PNM_ERROR_DTYPE
	case is[*pnm.ISAError](err):
		return C.PNM_ERROR_ISA
	case errors.Is(err, errors.ErrUnsupported):
		return C.PNM_ERROR_UNSUPPORTED
	}
	return C.PNM_ERROR_INTERNAL
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
