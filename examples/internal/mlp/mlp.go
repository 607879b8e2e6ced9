// Package mlp is a small image classifier for the examples: one hidden layer of rectified linear units, softmax, and
// cross-entropy. Its matrix products are gonum's.
package mlp

import (
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// A Net is a network with its gradients and with room for the activations of one batch.
type Net struct {
	in, hidden, classes int

	w1, b1, w2, b2     []float32 // w1 is in × hidden, w2 is hidden × classes, row by row
	gw1, gb1, gw2, gb2 []float32 // their gradients

	h, logits []float32 // of the last batch
	dh        []float32
}

// New returns a network with weights drawn from a normal distribution with variance 2/fan-in (He et al. 2015) and zero
// biases.
func New(in, hidden, classes int, rng *rand.Rand) *Net {
	normal := func(fanIn, fanOut int) []float32 {
		w := make([]float32, fanIn*fanOut)
		sigma := math.Sqrt(2 / float64(fanIn))
		for i := range w {
			w[i] = float32(sigma * rng.NormFloat64())
		}
		return w
	}
	return &Net{
		in: in, hidden: hidden, classes: classes,
		w1: normal(in, hidden), b1: make([]float32, hidden),
		w2: normal(hidden, classes), b2: make([]float32, classes),
		gw1: make([]float32, in*hidden), gb1: make([]float32, hidden),
		gw2: make([]float32, hidden*classes), gb2: make([]float32, classes),
	}
}

// Weights and Biases are the parameters; Grads are their gradients, those of the weights first.
func (n *Net) Weights() [][]float32 { return [][]float32{n.w1, n.w2} }
func (n *Net) Biases() [][]float32  { return [][]float32{n.b1, n.b2} }
func (n *Net) Grads() [][]float32   { return [][]float32{n.gw1, n.gw2, n.gb1, n.gb2} }

// Loss returns the mean cross-entropy of a batch of images, one after the other in x, and sets the gradients to that of
// the loss.
func (n *Net) Loss(x []float32, labels []uint8) float64 {
	batch := len(labels)
	n.forward(x, batch)

	// In place: the logits become their gradient, (softmax − one-hot)/batch.
	loss := 0.0
	for i, label := range labels {
		row := n.logits[i*n.classes : (i+1)*n.classes]
		top := row[0]
		for _, z := range row {
			top = max(top, z)
		}
		sum := 0.0
		for _, z := range row {
			sum += math.Exp(float64(z - top))
		}
		loss += math.Log(sum) - float64(row[label]-top)
		for k, z := range row {
			row[k] = float32(math.Exp(float64(z-top)) / sum / float64(batch))
		}
		row[label] -= 1 / float32(batch)
	}

	x1, h := matrix(batch, n.in, x), matrix(batch, n.hidden, n.h)
	dz := matrix(batch, n.classes, n.logits)
	dh := matrix(batch, n.hidden, n.dh)
	blas32.Gemm(blas.Trans, blas.NoTrans, 1, h, dz, 0, matrix(n.hidden, n.classes, n.gw2))
	sumRows(n.gb2, dz)
	blas32.Gemm(blas.NoTrans, blas.Trans, 1, dz, matrix(n.hidden, n.classes, n.w2), 0, dh)
	for i, a := range h.Data {
		if a <= 0 {
			dh.Data[i] = 0
		}
	}
	blas32.Gemm(blas.Trans, blas.NoTrans, 1, x1, dh, 0, matrix(n.in, n.hidden, n.gw1))
	sumRows(n.gb1, dh)
	return loss / float64(batch)
}

// Errors returns the number of images of a batch that the network classifies wrongly.
func (n *Net) Errors(x []float32, labels []uint8) int {
	n.forward(x, len(labels))
	wrong := 0
	for i, label := range labels {
		row := n.logits[i*n.classes : (i+1)*n.classes]
		best := 0
		for k, z := range row {
			if z > row[best] {
				best = k
			}
		}
		if best != int(label) {
			wrong++
		}
	}
	return wrong
}

// forward computes the hidden layer and the logits of a batch.
func (n *Net) forward(x []float32, batch int) {
	if len(n.h) < batch*n.hidden {
		n.h = make([]float32, batch*n.hidden)
		n.dh = make([]float32, batch*n.hidden)
		n.logits = make([]float32, batch*n.classes)
	}
	h, logits := matrix(batch, n.hidden, n.h), matrix(batch, n.classes, n.logits)
	fillRows(h, n.b1)
	blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, matrix(batch, n.in, x), matrix(n.in, n.hidden, n.w1), 1, h)
	for i, a := range h.Data {
		h.Data[i] = max(a, 0)
	}
	fillRows(logits, n.b2)
	blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, h, matrix(n.hidden, n.classes, n.w2), 1, logits)
}

// matrix is the first rows of data as a matrix.
func matrix(rows, cols int, data []float32) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: data[:rows*cols]}
}

func fillRows(m blas32.General, row []float32) {
	for i := range m.Rows {
		copy(m.Data[i*m.Stride:], row)
	}
}

func sumRows(sum []float32, m blas32.General) {
	clear(sum)
	for i := range m.Rows {
		for k, a := range m.Data[i*m.Stride : i*m.Stride+m.Cols] {
			sum[k] += a
		}
	}
}
