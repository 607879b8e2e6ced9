//go:build (linux || darwin || windows) && cgo

package main

// #include "internal.h"
import "C"

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/posneg/pnm"
)

// An input is a call's tensors in the engine's form. It is reused, so that a call allocates nothing.
type input struct {
	updates []pnm.Update
	vectors []pnm.Vector // all state; for a norm, the gradients
	rules   ruleCache
}

// spare are inputs for the next calls.
var spare = make(chan *input, 16)

func takeInput() *input {
	select {
	case in := <-spare:
		return in
	default:
		return new(input)
	}
}

// putBack ends the use of an input, which forgets the caller's memory.
func (in *input) putBack() {
	clear(in.updates)
	clear(in.vectors)
	in.updates, in.vectors = in.updates[:0], in.vectors[:0]
	select {
	case spare <- in:
	default:
	}
}

// fill sets the tensors of a step, and returns its options.
func (in *input) fill(options *C.pnm_options, updates *C.pnm_update, count C.int64_t) (o pnm.Options, err error) {
	list, err := listOf(updates, count, "updates")
	if err != nil {
		return o, err
	}
	if o, err = optionsOf(options); err != nil {
		return o, err
	}
	if options != nil && options.noise != nil {
		if o.Noise, err = noiseOf(options.noise, count, "noise"); err != nil {
			return o, err
		}
	}
	for i := range list {
		if err := in.add(&list[i]); err != nil {
			return o, &pnm.TensorError{Tensor: i, Err: err}
		}
	}
	return o, nil
}

// add appends a tensor.
func (in *input) add(u *C.pnm_update) (err error) {
	var to pnm.Update
	if err := in.begin(u, &to); err != nil {
		return err
	}
	if to.Params, err = vectorOf(&u.params, "params"); err != nil {
		return err
	}
	if !to.Skip {
		if to.Grads, err = vectorOf(readOnly(&u.grads), "grads"); err != nil {
			return err
		}
	}
	if u.copy != (C.pnm_vector{}) {
		if to.Copy, err = vectorOf(&u.copy, "copy"); err != nil {
			return err
		}
		if u.copy.length != u.params.length {
			return &pnm.LengthError{Arg: "copy", Len: int(u.copy.length), Want: int(u.params.length)}
		}
	}
	if to.Follow, err = boolOf(u.follow, "Update", "follow"); err != nil {
		return err
	}
	to.Rounding = pnm.Rounding{Seed: uint64(u.seed), Tensor: uint64(u.tensor)}
	if to.Rounding.First, err = firstOf(u.first, "Update"); err != nil {
		return err
	}
	if err := checkReserved("Update", nil, u.reserved[:]); err != nil {
		return err
	}
	in.updates = append(in.updates, to)
	return nil
}

// begin sets what a step and a reading of noise have in common: rule, step, skip and state.
func (in *input) begin(u *C.pnm_update, to *pnm.Update) (err error) {
	if to.Rule, err = in.rules.get(u.rule); err != nil {
		return err
	}
	if to.Step, err = intOf(u.step, "step"); err != nil {
		return err
	}
	if to.Skip, err = boolOf(u.skip, "Update", "skip"); err != nil {
		return err
	}
	first, slots := len(in.vectors), len(to.Rule.State())
	for k := range u.state {
		name := stateNames[k]
		if k >= slots {
			if u.state[k] != (C.pnm_vector{}) {
				return &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("%s is set, but the rule has %d state vectors", name, slots)}
			}
			continue
		}
		v, err := vectorOf(&u.state[k], name)
		if err != nil {
			return err
		}
		in.vectors = append(in.vectors, v)
	}
	to.State = in.vectors[first:]
	return nil
}

var stateNames = [...]string{"state[0]", "state[1]", "state[2]", "state[3]"}

// readOnly converts a vector that C declares read-only. The engine writes it only with zero_grads.
func readOnly(v *C.pnm_const_vector) *C.pnm_vector { return (*C.pnm_vector)(unsafe.Pointer(v)) }

// checkShape checks a vector, except for its addresses, and returns the size of an element.
func checkShape(v *C.pnm_vector, name string) (size uintptr, err error) {
	if v.dtype < C.PNM_FLOAT32 || v.dtype > C.PNM_MXFP8 {
		return 0, &failure{C.PNM_ERROR_DTYPE, fmt.Sprintf("dtype of %s is %d, must be a pnm_dtype", name, v.dtype)}
	}
	if err := checkReserved(name, v.reserved_flags[:], v.reserved[:]); err != nil {
		return 0, err
	}
	size = [...]uintptr{C.PNM_FLOAT32: 4, C.PNM_FLOAT64: 8, C.PNM_BF16: 2, C.PNM_F16: 2, C.PNM_LOW16: 2, C.PNM_MXFP8: 1}[v.dtype]
	// An element of mxfp8 may have a scale of its own.
	if most := math.MaxInt / int64(max(size, 2)); v.length < 0 || int64(v.length) > most {
		return 0, &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("length of %s is %d, must be in [0, %d]", name, v.length, most)}
	}
	return size, checkRow(v, name)
}

// checkRow checks the fields that only mxfp8 has.
func checkRow(v *C.pnm_vector, name string) error {
	const only = "0: only PNM_MXFP8 has it"
	switch row := int64(v.row); {
	case v.dtype != C.PNM_MXFP8 && row != 0:
		return outside(name, "row", float64(row), only)
	case v.dtype != C.PNM_MXFP8 && v.scales != nil:
		return outside(name, "scales", float64(uintptr(v.scales)), only)
	case row < 0 || row > math.MaxUint32 || int64(int(row)) != row:
		return outside(name, "row", float64(row), "in [0, 2³²)")
	case row > 0 && int64(v.length)%row != 0:
		return outside(name, "row", float64(row), fmt.Sprintf("a divisor of the length, %d", v.length))
	}
	return nil
}

// scalesOf is the number of scales of a vector that has been checked.
func scalesOf(v *C.pnm_vector) int {
	n, row := int64(v.length), int64(v.row)
	switch {
	case v.dtype != C.PNM_MXFP8 || n == 0:
		return 0
	case row == 0:
		return int((n-1)/32 + 1)
	}
	return int(n / row * ((row-1)/32 + 1))
}

// vectorOf is a caller's array.
func vectorOf(v *C.pnm_vector, name string) (pnm.Vector, error) {
	size, err := checkShape(v, name)
	if err != nil {
		return pnm.Vector{}, err
	}
	align := min(size, unsafe.Alignof(float64(0)))
	scales := scalesOf(v)
	for _, memory := range [...]struct {
		at    unsafe.Pointer
		bytes uintptr
	}{{v.data, uintptr(v.length) * size}, {v.scales, uintptr(scales)}} {
		if at := uintptr(memory.at); at+memory.bytes < at {
			return pnm.Vector{}, &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("length of %s is %d, too long for memory at %#x", name, v.length, at)}
		}
	}
	if v.data == nil && v.length > 0 {
		return pnm.Vector{}, &failure{C.PNM_ERROR_NULL, fmt.Sprintf("%s is null, but its length is %d", name, v.length)}
	}
	if v.scales == nil && scales > 0 {
		return pnm.Vector{}, &failure{C.PNM_ERROR_NULL, fmt.Sprintf("scales of %s is null, but %d are needed", name, scales)}
	}
	if uintptr(v.data)%align != 0 && v.length > 0 {
		return pnm.Vector{}, misaligned(name, uintptr(v.data), align)
	}
	n, data := int(v.length), v.data
	if data == nil {
		data = unsafe.Pointer(&nothing) // for the engine, a nil copy is no copy
	}
	switch v.dtype {
	case C.PNM_FLOAT32:
		return pnm.Float32(unsafe.Slice((*float32)(data), n)), nil
	case C.PNM_FLOAT64:
		return pnm.Float64(unsafe.Slice((*float64)(data), n)), nil
	case C.PNM_BF16:
		return pnm.BF16(unsafe.Slice((*uint16)(data), n)), nil
	case C.PNM_LOW16:
		return pnm.Low16(unsafe.Slice((*int16)(data), n)), nil
	case C.PNM_MXFP8:
		return pnm.MXFP8(unsafe.Slice((*byte)(data), n), unsafe.Slice((*byte)(v.scales), scales), int(v.row))
	}
	return pnm.F16(unsafe.Slice((*uint16)(data), n)), nil
}

// nothing is the address of an empty vector whose data is null.
var nothing float64

// optionsOf converts a caller's options, which may be null, except for noise.
func optionsOf(c *C.pnm_options) (o pnm.Options, err error) {
	if c == nil {
		c = new(C.pnm_options)
	}
	if err := checkPointer(c, "options"); err != nil {
		return o, err
	}
	o.LossScale, o.ClipNorm, o.ClipValue = float64(c.loss_scale), float64(c.clip_norm), float64(c.clip_value)
	if o.SkipNonFinite, err = boolOf(c.skip_non_finite, "Options", "skip_non_finite"); err != nil {
		return o, err
	}
	if o.ZeroGrads, err = boolOf(c.zero_grads, "Options", "zero_grads"); err != nil {
		return o, err
	}
	if err := checkReserved("Options", c.reserved_flags[:], c.reserved[:]); err != nil {
		return o, err
	}
	if c.squares != nil {
		if err := checkAlignment(c.squares, "squares"); err != nil {
			return o, err
		}
		o.Squares = squaresOf(c.squares)
	}
	o.Pool, err = pools.of(int(c.workers))
	return o, err
}

func boolOf(value C.int32_t, of, name string) (bool, error) {
	if value != 0 && value != 1 {
		return false, outside(of, name, float64(value), "0 or 1")
	}
	return value == 1, nil
}

// intOf converts a number to int, which has 32 bits on some machines.
func intOf(x C.int64_t, name string) (int, error) {
	if int64(int(x)) != int64(x) {
		return 0, outside("Update", name, float64(x), fmt.Sprintf("≤ %d on this machine", math.MaxInt))
	}
	return int(x), nil
}

// checkReserved refuses values in reserved fields, to which a later version may give a meaning.
func checkReserved(of string, flags []C.int32_t, numbers []C.int64_t) error {
	for _, x := range flags {
		if x != 0 {
			return outside(of, "reserved_flags", float64(x), "0")
		}
	}
	for _, x := range numbers {
		if x != 0 {
			return outside(of, "reserved", float64(x), "0")
		}
	}
	return nil
}

// checkPointer checks the address of a caller's struct or number.
func checkPointer[T any](p *T, name string) error {
	if p == nil {
		return &failure{C.PNM_ERROR_NULL, name + " is null"}
	}
	return checkAlignment(p, name)
}

// checkAlignment is checkPointer for a pointer that may be null.
func checkAlignment[T any](p *T, name string) error {
	if at, align := uintptr(unsafe.Pointer(p)), unsafe.Alignof(*p); at%align != 0 {
		return misaligned(name, at, align)
	}
	return nil
}

func misaligned(name string, at, align uintptr) error {
	return &failure{C.PNM_ERROR_ALIGNMENT, fmt.Sprintf("%s is at %#x, must be at a multiple of %d", name, at, align)}
}

// outside is the error of a field that is out of its range.
func outside(of, name string, value float64, legal string) error {
	return &pnm.ValueError{Of: of, Field: name, Value: value, Legal: legal}
}
