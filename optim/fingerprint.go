package optim

import (
	"encoding/binary"

	"github.com/posneg/pnm"
)

// Fingerprint returns 128 bits that identify the run: its parameters, its state and its counts of steps. They are the same on every machine,
// for any number of workers and for any placement in memory, and change with each bit of the numbers; all NaNs of a format are one. Rules,
// seeds, groups and copies that the parameters do not follow do not count. [Optimizer.Save] records the same fingerprint in a file, unless it
// leaves out the parameters.
//
// Optimizers that own parts of tensors have fingerprints that add up to that of the whole run, if the parts have the names of their tensors,
// and Rounding.First says where they begin. The count of steps of a tensor belongs to its element 0: where First is greater, it does not
// count.
//
// Fingerprint returns a *PartError while a step of [Optimizer.StepPart] is incomplete, and [ErrClosed] after Close.
func (o *Optimizer) Fingerprint() (pnm.Fingerprint, error) {
	if err := o.calls.beginReading(); err != nil {
		return pnm.Fingerprint{}, err
	}
	defer o.calls.endReading()
	if o.closed {
		return pnm.Fingerprint{}, ErrClosed
	}
	if err := o.wholeSteps(0, len(o.names)); err != nil {
		return pnm.Fingerprint{}, err
	}
	var portions []pnm.Portion
	for i, name := range o.names {
		u := &o.list.Updates[i]
		first := u.Rounding.First
		portions = append(portions, pnm.Portion{Name: paramsName + name, First: first, Vector: u.Params, Copy: followed(u)})
		for k, slot := range u.Rule.State() {
			portions = append(portions, pnm.Portion{Name: stateName(name, slot), First: first, Vector: u.State[k]})
		}
	}
	sum, err := pnm.SumFingerprint(o.config.Pool, portions...)
	if err != nil {
		return pnm.Fingerprint{}, err
	}
	sum.Add(o.ofCounts())
	return sum, nil
}

// fingerprintOf returns the fingerprint of elements in little-endian order. first is the number of the first one.
func fingerprintOf(name string, f *format, first uint64, b []byte) pnm.Fingerprint {
	sum, err := pnm.BytesFingerprint(name, f.name, first, b)
	if err != nil {
		panic(err)
	}
	return sum
}

func totalOf(parts []pnm.Fingerprint) (sum pnm.Fingerprint) {
	for _, f := range parts {
		sum.Add(f)
	}
	return sum
}

// ofCounts returns the fingerprint of all counts of steps.
func (o *Optimizer) ofCounts() (sum pnm.Fingerprint) {
	for i, name := range o.names {
		u := &o.list.Updates[i]
		sum.Add(ofCount(name, u.Rounding.First, u.Step-1))
	}
	return sum
}

// ofCount returns the fingerprint of the count of steps of a tensor, or of a part of it that begins with element first.
func ofCount(tensor string, first uint64, steps int) pnm.Fingerprint {
	if first > 0 { // the part with element 0 has it
		return pnm.Fingerprint{}
	}
	return fingerprintOf("step."+tensor, &scalesFormat, 0, binary.LittleEndian.AppendUint64(nil, uint64(steps)))
}
