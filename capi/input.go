//go:build linux && cgo

package main

// #include "internal.h"
import "C"

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/posneg/pnm"
)

// An input is a call's tensors as the engine wants them. It is used again, so that a call allocates nothing.
type input struct {
	updates []pnm.Update
	vectors []pnm.Vector // all state or, of a norm, the gradients
	rules   ruleCache
}

// spare are inputs of calls that are over.
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

// add appends a tensor.
func (in *input) add(u *C.pnm_update) (err error) {
	var to pnm.Update
	if u.rule == nil {
		return &failure{C.PNM_ERROR_NULL, "rule is null"}
	}
	if to.Rule, err = in.rules.get(u.rule); err != nil {
		return err
	}
	if to.Step, err = intOf(u.step, "step"); err != nil {
		return err
	}
	if to.Params, err = vectorOf(&u.params, "params"); err != nil {
		return err
	}
	if to.Grads, err = vectorOf(&u.grads, "grads"); err != nil {
		return err
	}
	first, slots := len(in.vectors), slotsOf(to.Rule)
	for k := range u.state {
		name := stateNames[k]
		if k >= slots {
			if u.state[k] != (C.pnm_vector{}) {
				return &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("%s is given, but the rule has %d", name, slots)}
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
	if u.copy != (C.pnm_vector{}) {
		if to.Copy, err = vectorOf(&u.copy, "copy"); err != nil {
			return err
		}
		if u.copy.length != u.params.length { // the engine would take a copy that is null for none
			return &pnm.LengthError{Tensor: -1, Arg: "copy", Len: int(u.copy.length), Want: int(u.params.length)}
		}
	}
	to.Rounding = pnm.Rounding{Seed: uint64(u.seed), Tensor: uint64(u.tensor)}
	if u.first < 0 {
		return outside("update", "first", float64(u.first), "≥ 0")
	}
	to.Rounding.First = uint64(u.first)
	for _, r := range u.reserved {
		if r != 0 {
			return outside("update", "reserved", float64(r), "0")
		}
	}
	in.updates = append(in.updates, to)
	return nil
}

var stateNames = [...]string{"state[0]", "state[1]", "state[2]", "state[3]"}

// slotsOf is how much state a rule has.
func slotsOf(r pnm.Rule) int {
	switch r := r.(type) {
	case pnm.PNM:
		return 2
	case pnm.AdaPNM:
		return 3 + count(r.AMSGrad)
	case pnm.SGD:
		return count(r.Momentum != 0)
	case pnm.Adam:
		return 2 + count(r.AMSGrad)
	}
	panic(fmt.Sprintf("capi: %T", r))
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// vectorOf is a caller's array.
func vectorOf(v *C.pnm_vector, name string) (pnm.Vector, error) {
	if v.dtype < C.PNM_FLOAT32 || v.dtype > C.PNM_F16 {
		return pnm.Vector{}, &failure{C.PNM_ERROR_DTYPE, fmt.Sprintf("dtype of %s is %d, must be a pnm_dtype", name, v.dtype)}
	}
	if v.reserved != 0 {
		return pnm.Vector{}, outside(name, "reserved", float64(v.reserved), "0")
	}
	size := [...]uintptr{C.PNM_FLOAT32: 4, C.PNM_FLOAT64: 8, C.PNM_BF16: 2, C.PNM_F16: 2}[v.dtype]
	align := min(size, unsafe.Alignof(float64(0)))
	if most := math.MaxInt / int64(size); v.length < 0 || int64(v.length) > most {
		return pnm.Vector{}, &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("length of %s is %d, must be in [0, %d]", name, v.length, most)}
	}
	if at, bytes := uintptr(v.data), uintptr(v.length)*size; at+bytes < at {
		return pnm.Vector{}, &failure{C.PNM_ERROR_LENGTH, fmt.Sprintf("length of %s is %d, which no memory at %#x has", name, v.length, at)}
	}
	if v.data == nil && v.length > 0 {
		return pnm.Vector{}, &failure{C.PNM_ERROR_NULL, fmt.Sprintf("%s is null, but its length is %d", name, v.length)}
	}
	if uintptr(v.data)%align != 0 && v.length > 0 {
		return pnm.Vector{}, &failure{C.PNM_ERROR_ALIGNMENT, fmt.Sprintf("%s is at %#x, must be at a multiple of %d", name, uintptr(v.data), align)}
	}
	n := int(v.length)
	switch v.dtype {
	case C.PNM_FLOAT32:
		return pnm.Float32(unsafe.Slice((*float32)(v.data), n)), nil
	case C.PNM_FLOAT64:
		return pnm.Float64(unsafe.Slice((*float64)(v.data), n)), nil
	case C.PNM_BF16:
		return pnm.BF16(unsafe.Slice((*uint16)(v.data), n)), nil
	}
	return pnm.F16(unsafe.Slice((*uint16)(v.data), n)), nil
}

// optionsOf are a caller's options, which may be null.
func optionsOf(c *C.pnm_options) (o pnm.Options, err error) {
	if c == nil {
		c = new(C.pnm_options)
	}
	o.LossScale, o.ClipNorm, o.ClipValue = float64(c.loss_scale), float64(c.clip_norm), float64(c.clip_value)
	if o.SkipNonFinite, err = boolOf(c.skip_non_finite, "Options", "skip_non_finite"); err != nil {
		return o, err
	}
	if o.ZeroGrads, err = boolOf(c.zero_grads, "Options", "zero_grads"); err != nil {
		return o, err
	}
	for _, r := range c.reserved {
		if r != 0 {
			return o, outside("Options", "reserved", float64(r), "0")
		}
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

// intOf is a number as an int, which has 32 bits on some machines.
func intOf(x C.int64_t, name string) (int, error) {
	if int64(int(x)) != int64(x) {
		return 0, outside("update", name, float64(x), fmt.Sprintf("≤ %d on this machine", math.MaxInt))
	}
	return int(x), nil
}

// outside is the error of a field that is out of its range.
func outside(of, name string, value float64, legal string) error {
	return &pnm.HyperparameterError{Rule: of, Field: name, Value: value, Legal: legal}
}
