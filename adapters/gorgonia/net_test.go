package pnmgorgonia

import (
	"math/rand/v2"
	"testing"

	"github.com/posneg/pnm"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// A net is a small convolutional network with its loss on a batch: images of 8×8 pixels, 10 classes.
type net struct {
	vm     gorgonia.VM
	nodes  gorgonia.Nodes
	model  []gorgonia.ValueGrad
	x, y   *gorgonia.Node
	cost   *gorgonia.Node
	rng    *rand.Rand // of the images
	blank  []float64  // the mean image of each class
	images []float64
}

const (
	side    = 8
	classes = 10
	batch   = 8
)

// newNet returns a network whose weights and images depend on nothing but seed. It binds dual values, as Gorgonia's examples do,
// or has the gradients in memory that changes at every step.
func newNet[T pnm.Float](t testing.TB, seed uint64, bind bool) *net {
	rng := rand.New(rand.NewPCG(seed, 1))
	g := gorgonia.NewGraph()
	dt := dtypeOf[T]()
	weights := func(name string, scale float64, shape ...int) *gorgonia.Node {
		x := make([]float64, tensor.Shape(shape).TotalSize())
		for i := range x {
			x[i] = scale * rng.NormFloat64()
		}
		return gorgonia.NewTensor(g, dt, len(shape), gorgonia.WithShape(shape...), gorgonia.WithName(name),
			gorgonia.WithValue(tensor.New(tensor.WithShape(shape...), tensor.WithBacking(as[T](x)))))
	}
	conv, filters := weights("conv", 0.3, 4, 1, 3, 3), 4
	w1, b1 := weights("w1", 0.2, filters*side*side/4, 24), weights("b1", 0.1, 1, 24)
	w2, b2 := weights("w2", 0.3, 24, classes), weights("b2", 0.1, 1, classes)

	n := &net{nodes: gorgonia.Nodes{conv, w1, b1, w2, b2}, rng: rng}
	n.model = gorgonia.NodesToValueGrads(n.nodes)
	n.x = gorgonia.NewTensor(g, dt, 4, gorgonia.WithShape(batch, 1, side, side), gorgonia.WithName("x"))
	n.y = gorgonia.NewMatrix(g, dt, gorgonia.WithShape(batch, classes), gorgonia.WithName("y"))
	must := gorgonia.Must
	h := must(gorgonia.Rectify(must(gorgonia.Conv2d(n.x, conv, tensor.Shape{3, 3}, []int{1, 1}, []int{1, 1}, []int{1, 1}))))
	h = must(gorgonia.MaxPool2D(h, tensor.Shape{2, 2}, []int{0, 0}, []int{2, 2}))
	h = must(gorgonia.Reshape(h, tensor.Shape{batch, filters * side * side / 4}))
	h = must(gorgonia.Rectify(must(gorgonia.BroadcastAdd(must(gorgonia.Mul(h, w1)), b1, nil, []byte{0}))))
	h = must(gorgonia.SoftMax(must(gorgonia.BroadcastAdd(must(gorgonia.Mul(h, w2)), b2, nil, []byte{0}))))
	n.cost = must(gorgonia.Neg(must(gorgonia.Mean(must(gorgonia.Sum(must(gorgonia.HadamardProd(must(gorgonia.Log(h)), n.y)), 1))))))
	if _, err := gorgonia.Grad(n.cost, n.nodes...); err != nil {
		t.Fatal(err)
	}
	var opts []gorgonia.VMOpt
	if bind {
		opts = append(opts, gorgonia.BindDualValues(n.nodes...))
	}
	n.vm = gorgonia.NewTapeMachine(g, opts...)
	t.Cleanup(func() { n.vm.Close() })

	n.blank = make([]float64, classes*side*side)
	for i := range n.blank {
		n.blank[i] = rng.NormFloat64()
	}
	n.images = make([]float64, batch*side*side)
	return n
}

// as converts numbers to the element type.
func as[T pnm.Float](x []float64) []T {
	y := make([]T, len(x))
	for i := range x {
		y[i] = T(x[i])
	}
	return y
}

// backward computes loss and gradients on the next images.
func backward[T pnm.Float](t testing.TB, n *net) (loss float64) {
	labels := make([]float64, batch*classes)
	for i := range batch {
		c := n.rng.IntN(classes)
		labels[i*classes+c] = 1
		for p := range side * side {
			n.images[i*side*side+p] = n.blank[c*side*side+p] + n.rng.NormFloat64()
		}
	}
	x := tensor.New(tensor.WithShape(batch, 1, side, side), tensor.WithBacking(as[T](n.images)))
	y := tensor.New(tensor.WithShape(batch, classes), tensor.WithBacking(as[T](labels)))
	if err := gorgonia.Let(n.x, x); err != nil {
		t.Fatal(err)
	}
	if err := gorgonia.Let(n.y, y); err != nil {
		t.Fatal(err)
	}
	if err := n.vm.RunAll(); err != nil {
		t.Fatal(err)
	}
	switch loss := n.cost.Value().Data().(type) {
	case float32:
		return float64(loss)
	case float64:
		return loss
	}
	t.Fatalf("the loss is a %T", n.cost.Value().Data())
	return 0
}

// train trains for some steps and returns their losses.
func train[T pnm.Float](t testing.TB, n *net, solver gorgonia.Solver, steps int) []float64 {
	losses := make([]float64, steps)
	for i := range losses {
		losses[i] = backward[T](t, n)
		if err := solver.Step(n.model); err != nil {
			t.Fatal(err)
		}
		n.vm.Reset()
	}
	return losses
}

// values returns the nodes' own memory.
func values[T pnm.Float](t testing.TB, model []gorgonia.ValueGrad) (all [][]T) {
	for _, n := range model {
		x, err := valueOf(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sliceOf[T](x.elements))
	}
	return all
}

// grads is the same for the gradients.
func grads[T pnm.Float](t testing.TB, model []gorgonia.ValueGrad) (all [][]T) {
	for _, n := range model {
		g, err := n.Grad()
		if err != nil {
			t.Fatal(err)
		}
		x, err := memoryOf(g)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sliceOf[T](x.elements))
	}
	return all
}

func sliceOf[T pnm.Float](v pnm.Vector) []T {
	if x, ok := any(v.Float32()).([]T); ok {
		return x
	}
	return any(v.Float64()).([]T)
}

func dtypeOf[T pnm.Float]() tensor.Dtype {
	if _, ok := any(*new(T)).(float32); ok {
		return tensor.Float32
	}
	return tensor.Float64
}
