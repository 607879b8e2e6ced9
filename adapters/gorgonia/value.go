package pnmgorgonia

import (
	"errors"
	"fmt"
	"strconv"
	"unsafe"

	"github.com/posneg/pnm"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// A value is the memory of a gorgonia.Value.
type value struct {
	elements pnm.Vector
	shape    tensor.Shape
}

// valueOf returns the value of a node of the model.
func valueOf(v gorgonia.ValueGrad) (value, error) {
	if n, isNode := v.(*gorgonia.Node); v == nil || isNode && n == nil {
		return value{}, errors.New("is nil")
	}
	bound := v.Value()
	if isNil(bound) {
		return value{}, errors.New("has no value yet: give it one by gorgonia.WithInit, WithValue or Let")
	}
	x, err := memoryOf(bound)
	if err != nil {
		return x, fmt.Errorf("its value %w", err)
	}
	return x, nil
}

// gradOf returns the gradient of a node, and whether it may be written. Without dual values, a gradient can be an input of the graph, or
// a constant that all of Gorgonia's graphs share.
func gradOf(n *node) (elements pnm.Vector, writable bool, err error) {
	const hint = "it must be among the nodes given to gorgonia.Grad, and the machine must have run"
	grad, err := n.Grad()
	if err != nil {
		return pnm.Vector{}, false, fmt.Errorf("has no gradient (%w): %s", err, hint)
	}
	if isNil(grad) {
		return pnm.Vector{}, false, fmt.Errorf("its gradient is nil: %s", hint)
	}
	g, err := memoryOf(grad)
	if err != nil {
		return pnm.Vector{}, false, fmt.Errorf("its gradient %w", err)
	}
	if one := g.elements.Len() == 1 && n.shape.TotalSize() == 1; !one && !g.shape.Eq(n.shape) {
		return pnm.Vector{}, false, fmt.Errorf("the shape of its gradient is %v, must be %v", g.shape, n.shape)
	}
	writable = true
	if x, isNode := n.ValueGrad.(*gorgonia.Node); isNode {
		if d := x.Deriv(); d != nil && (d.Op() == nil || d.Op().Arity() == 0) {
			writable = d.Value() != grad
		}
	}
	return g.elements, writable, nil
}

func isNil(v gorgonia.Value) bool {
	switch v := v.(type) {
	case nil:
		return true
	case *tensor.Dense:
		return v == nil
	case *gorgonia.F32:
		return v == nil
	case *gorgonia.F64:
		return v == nil
	}
	return false
}

// memoryOf returns the memory of a value, if its elements are float32 or float64, in row-major order without gaps.
func memoryOf(v gorgonia.Value) (value, error) {
	switch v := v.(type) {
	case *gorgonia.F32:
		return value{pnm.Float32(unsafe.Slice((*float32)(v), 1)), v.Shape()}, nil
	case *gorgonia.F64:
		return value{pnm.Float64(unsafe.Slice((*float64)(v), 1)), v.Shape()}, nil
	case *tensor.Dense:
		return denseMemory(v)
	}
	return value{}, fmt.Errorf("is a %T of %v, must be a *tensor.Dense or a scalar of float32 or float64", v, v.Dtype())
}

func denseMemory(v *tensor.Dense) (value, error) {
	shape := v.Shape()
	switch {
	case v.Dtype() != tensor.Float32 && v.Dtype() != tensor.Float64:
		return value{}, fmt.Errorf("is of %v, must be of float32 or float64", v.Dtype())
	case !v.IsNativelyAccessible():
		return value{}, fmt.Errorf("lies in memory of %T, which Go cannot reach", v.Engine())
	case v.IsMasked() && shape.TotalSize() > 0:
		return value{}, errors.New("is masked")
	case !isRowMajor(shape, v.Strides()):
		return value{}, fmt.Errorf("has shape %v and strides %v, must be in row-major order: see tensor.Materialize", shape, v.Strides())
	}
	var elements pnm.Vector
	if v.Dtype() == tensor.Float32 {
		elements = pnm.Float32(v.Float32s())
	} else {
		elements = pnm.Float64(v.Float64s())
	}
	if elements.Len() != shape.TotalSize() {
		return value{}, fmt.Errorf("has %d elements in memory, and shape %v", elements.Len(), shape)
	}
	return value{elements, shape}, nil
}

// isRowMajor reports whether strides are those of row-major order, ignoring dimensions of one element. The tensor's own flags do not
// tell: after the elements of a transposed matrix have been moved into order, they still say that it is transposed.
func isRowMajor(shape tensor.Shape, strides []int) bool {
	if len(strides) != len(shape) {
		return shape.TotalSize() <= 1
	}
	want := 1
	for d := len(shape) - 1; d >= 0; d-- {
		if shape[d] != 1 && strides[d] != want {
			return false
		}
		want *= shape[d]
	}
	return true
}

// nameOf returns the name of the i-th node of a model, or its number.
func nameOf(v gorgonia.ValueGrad, i int) string {
	if n, isNode := v.(*gorgonia.Node); isNode && (n == nil || n.Op() == nil && n.Name() == new(gorgonia.Node).Name()) {
		return strconv.Itoa(i) // an input without a name
	}
	if n, ok := v.(gorgonia.Namer); ok && n.Name() != "" {
		return n.Name()
	}
	return strconv.Itoa(i)
}

// nameIn returns the name of v, now the i-th node of a model. It avoids Gorgonia's Name, which builds the string at each call.
func (n *node) nameIn(v gorgonia.ValueGrad, i int) string {
	if now, isNode := v.(*gorgonia.Node); isNode {
		if before, wasNode := n.ValueGrad.(*gorgonia.Node); wasNode && now == before {
			return n.name
		}
	}
	return nameOf(v, i)
}
