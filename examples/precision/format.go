package main

import "github.com/posneg/pnm"

// A kind is how numbers are stored.
type kind uint8

const (
	f32 kind = iota
	bf16
	f16
)

// String is what the engine calls the format.
func (k kind) String() string { return [...]string{f32: "float32", bf16: "bf16", f16: "f16"}[k] }

func (k kind) bytes() int {
	if k == f32 {
		return 4
	}
	return 2
}

// vector returns n zeros.
func (k kind) vector(n int) pnm.Vector {
	switch k {
	case bf16:
		return pnm.BF16(make([]uint16, n))
	case f16:
		return pnm.F16(make([]uint16, n))
	}
	return pnm.Float32(make([]float32, n))
}

// round rounds numbers to those that k can store.
func (k kind) round(x []float32) error {
	stored := k.vector(len(x))
	_, err := stored.Set(pnm.Float32(x))
	if err == nil {
		_, err = pnm.Float32(x).Set(stored)
	}
	return err
}

// A format is how what a step reads and writes is stored. What it does not name is float32.
type format struct {
	name                 string
	params, grads, state kind
	copy                 kind // of float32 parameters, which forward and backward run on; f32 for none

	nearest bool // store parameters by rounding to nearest, which the engine does not do; see [mixed]
	start   kind // what the first weights are rounded to, before anything else
}

// formats are those of the experiment, first what the others are compared with. The second shows what chance does: it computes
// as the first, from a start that is another by as much as bf16 rounds.
var formats = []format{
	{name: "float32"},
	{name: "float32, start rounded to bf16", start: bf16},
	{name: "bf16 gradients", grads: bf16},
	{name: "f16 gradients", grads: f16},
	{name: "bf16 gradients and copy", grads: bf16, copy: bf16},
	{name: "f16 gradients and copy", grads: f16, copy: f16},
	{name: "bf16 state", state: bf16},
	{name: "bf16 parameters and gradients", params: bf16, grads: bf16},
	{name: "the same, to nearest", params: bf16, grads: bf16, nearest: true},
	{name: "all bf16", params: bf16, grads: bf16, state: bf16},
}

// hasCopy reports whether a step writes a copy of the parameters.
func (f format) hasCopy() bool { return f.copy != f32 }

// scales reports whether gradients need a loss scale: f16 has little room for small ones.
func (f format) scales() bool { return f.grads == f16 }

// memory is how many bytes a parameter takes, of an optimizer with so many buffers.
func (f format) memory(buffers int) int {
	n := f.params.bytes() + f.grads.bytes() + buffers*f.state.bytes()
	if f.hasCopy() {
		n += f.copy.bytes()
	}
	return n
}

// traffic is how many bytes a step reads and writes for each parameter, of an optimizer that does so with so many buffers.
// Gradients with a loss scale are read twice, first to see whether they are finite.
func (f format) traffic(buffers int) int {
	n := 2*f.params.bytes() + f.grads.bytes() + buffers*f.state.bytes()
	if f.hasCopy() {
		n += f.copy.bytes()
	}
	if f.scales() {
		n += f.grads.bytes()
	}
	return n
}
