package main

import (
	"math"
	"math/rand/v2"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/posneg/pnm/internal/fashionmnist"
)

// A network classifies a batch of images: two convolutions, each with max-pooling over 2×2 pixels, and two dense layers.
type network struct {
	vm      gorgonia.VM
	weights gorgonia.Nodes
	images  *tensor.Dense // of the batch
	labels  *tensor.Dense // of the batch, a row of zeros and a one for each; nil if the network does not train
	logProb *gorgonia.Node
	loss    *gorgonia.Node // the mean over the batch
}

const side = 28

// The weights' names and shapes. Biases have a row, as gorgonia.BroadcastAdd wants them.
var layers = []struct {
	name  string
	shape tensor.Shape
}{
	{"conv1", tensor.Shape{8, 1, 3, 3}},
	{"conv2", tensor.Shape{16, 8, 3, 3}},
	{"dense1.weight", tensor.Shape{16 * side / 4 * side / 4, 64}},
	{"dense1.bias", tensor.Shape{1, 64}},
	{"dense2.weight", tensor.Shape{64, fashionmnist.Classes}},
	{"dense2.bias", tensor.Shape{1, fashionmnist.Classes}},
}

// newWeights returns weights for rectified units (He et al., 2015), and biases of zero.
func newWeights(rng *rand.Rand) []*tensor.Dense {
	var weights []*tensor.Dense
	for _, l := range layers {
		x := make([]float32, l.shape.TotalSize())
		inputs := l.shape[0]
		if len(l.shape) == 4 {
			inputs = l.shape[1] * l.shape[2] * l.shape[3]
		}
		if l.shape[0] != 1 { // else a bias
			for i := range x {
				x[i] = float32(rng.NormFloat64() * math.Sqrt(2/float64(inputs)))
			}
		}
		weights = append(weights, tensor.New(tensor.WithShape(l.shape...), tensor.WithBacking(x)))
	}
	return weights
}

// newNetwork returns a network with the given weights, which several networks may share. Only a network for training computes
// gradients.
func newNetwork(weights []*tensor.Dense, batch int, trains bool) (*network, error) {
	g := gorgonia.NewGraph()
	n := &network{images: tensor.New(tensor.Of(tensor.Float32), tensor.WithShape(batch, 1, side, side))}
	for i, l := range layers {
		n.weights = append(n.weights, gorgonia.NewTensor(g, gorgonia.Float32, len(l.shape), gorgonia.WithShape(l.shape...),
			gorgonia.WithName(l.name), gorgonia.WithValue(weights[i])))
	}
	must := gorgonia.Must // the shapes are known to fit
	convolved := func(x, filters *gorgonia.Node) *gorgonia.Node {
		c := must(gorgonia.Conv2d(x, filters, tensor.Shape{3, 3}, []int{1, 1}, []int{1, 1}, []int{1, 1}))
		return must(gorgonia.MaxPool2D(must(gorgonia.Rectify(c)), tensor.Shape{2, 2}, []int{0, 0}, []int{2, 2}))
	}
	dense := func(x, weight, bias *gorgonia.Node) *gorgonia.Node {
		return must(gorgonia.BroadcastAdd(must(gorgonia.Mul(x, weight)), bias, nil, []byte{0}))
	}
	w := n.weights
	x := gorgonia.NewTensor(g, gorgonia.Float32, 4, gorgonia.WithShape(batch, 1, side, side), gorgonia.WithName("images"), gorgonia.WithValue(n.images))
	x = convolved(convolved(x, w[0]), w[1])
	x = must(gorgonia.Reshape(x, tensor.Shape{batch, layers[2].shape[0]}))
	x = dense(must(gorgonia.Rectify(dense(x, w[2], w[3]))), w[4], w[5])
	n.logProb = must(gorgonia.LogSoftMax(x))
	if !trains {
		n.vm = gorgonia.NewTapeMachine(g)
		return n, nil
	}

	n.labels = tensor.New(tensor.Of(tensor.Float32), tensor.WithShape(batch, fashionmnist.Classes))
	y := gorgonia.NewMatrix(g, gorgonia.Float32, gorgonia.WithShape(batch, fashionmnist.Classes), gorgonia.WithName("labels"), gorgonia.WithValue(n.labels))
	n.loss = must(gorgonia.Neg(must(gorgonia.Mean(must(gorgonia.Sum(must(gorgonia.HadamardProd(n.logProb, y)), 1))))))
	if _, err := gorgonia.Grad(n.loss, w...); err != nil {
		return nil, err
	}
	n.vm = gorgonia.NewTapeMachine(g, gorgonia.BindDualValues(w...))
	return n, nil
}

// run computes the log-probabilities and, if the network trains, loss and gradients.
func (n *network) run(labels []uint8) error {
	if n.labels != nil {
		y := n.labels.Float32s()
		clear(y)
		for i, l := range labels {
			y[i*fashionmnist.Classes+int(l)] = 1
		}
	}
	return n.vm.RunAll()
}

// wrong counts the images that the network classifies wrongly.
func (n *network) wrong(labels []uint8) (count int) {
	p := n.logProb.Value().(*tensor.Dense).Float32s()
	for i, l := range labels {
		row := p[i*fashionmnist.Classes:][:fashionmnist.Classes]
		best := 0
		for c := range row {
			if row[c] > row[best] {
				best = c
			}
		}
		if best != int(l) {
			count++
		}
	}
	return count
}
