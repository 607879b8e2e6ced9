package main

import "github.com/posneg/pnm"

// A kind is a format of numbers.
type kind uint8

const (
	f32 kind = iota
	bf16
	f16
	mxfp8 // of momenta only: averages of squares are then bf16
)

// String returns the engine's name of the format.
func (k kind) String() string {
	return [...]string{f32: "float32", bf16: "bf16", f16: "f16", mxfp8: "mxfp8"}[k]
}

// bytes returns the bytes per number. A block of 32 numbers in MXFP8 has a scale of a byte.
func (k kind) bytes() float64 { return [...]float64{f32: 4, bf16: 2, f16: 2, mxfp8: 33. / 32}[k] }

// ofAverages returns the kind of averages of squares that goes with momenta of kind k.
func (k kind) ofAverages() kind {
	if k == mxfp8 {
		return bf16
	}
	return k
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

// A format says how the data of a step are stored. The zero kind is float32.
type format struct {
	name                 string
	params, grads, state kind
	copy                 kind // of float32 parameters, which forward and backward run on; f32 for none

	nearest bool // store parameters by rounding to nearest, which the engine does not do; see [mixed]
	start   kind // what the first weights are rounded to, before anything else
}

// formats are those of the experiment. All are compared with the first. The second shows the effect of chance: it computes as the
// first, but starts from weights rounded to bf16.
var formats = []format{
	{name: "float32"},
	{name: "float32, start rounded to bf16", start: bf16},
	{name: "bf16 gradients", grads: bf16},
	{name: "f16 gradients", grads: f16},
	{name: "bf16 gradients and copy", grads: bf16, copy: bf16},
	{name: "f16 gradients and copy", grads: f16, copy: f16},
	{name: "bf16 state", state: bf16},
	{name: "mxfp8 momenta", state: mxfp8},
	{name: "bf16 parameters and gradients", params: bf16, grads: bf16},
	{name: "the same, to nearest", params: bf16, grads: bf16, nearest: true},
	{name: "all bf16", params: bf16, grads: bf16, state: bf16},
	{name: "all bf16, mxfp8 momenta", params: bf16, grads: bf16, state: mxfp8},
}

// stateFormats are float32 and the formats that change only the state.
func stateFormats() (list []format) {
	for _, f := range formats {
		if f.params == f32 && f.grads == f32 && f.copy == f32 {
			list = append(list, f)
		}
	}
	return list
}

// hasCopy reports whether a step writes a copy of the parameters.
func (f format) hasCopy() bool { return f.copy != f32 }

// scales reports whether gradients need a loss scale: f16 has a small exponent range.
func (f format) scales() bool { return f.grads == f16 }

// memory returns the bytes per parameter, for a state with these numbers of momenta and averages of squares.
func (f format) memory(momenta, averages int) float64 {
	return f.params.bytes() + f.grads.bytes() + f.copied() + f.stateBytes(momenta, averages)
}

// traffic returns the bytes that a step reads and writes per parameter. If there are two momenta, it updates one and only reads
// the other. Gradients with a loss scale are read twice, first to check that they are finite.
func (f format) traffic(momenta, averages int) float64 {
	n := 2*f.params.bytes() + f.grads.bytes() + f.copied() + f.stateBytes(momenta+1, 2*averages)
	if f.scales() {
		n += f.grads.bytes()
	}
	return n
}

func (f format) stateBytes(momenta, averages int) float64 {
	return float64(momenta)*f.state.bytes() + float64(averages)*f.state.ofAverages().bytes()
}

func (f format) copied() float64 {
	if f.hasCopy() {
		return f.copy.bytes()
	}
	return 0
}
