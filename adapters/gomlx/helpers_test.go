package pnmgomlx

import (
	"errors"
	"iter"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/layers"
	"github.com/gomlx/gomlx/ml/layers/activation"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train"
	"github.com/gomlx/gomlx/ml/train/loss"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/posneg/pnm"
)

var backend = sync.OnceValue(func() compute.Backend {
	b, err := gobackend.New("")
	if err != nil {
		panic(err)
	}
	return b
})

// A device is the Go backend as if its buffers were out of Go's reach, as those of a GPU are.
type device struct{ compute.Backend }

type (
	deviceBuffer struct {
		compute.Buffer
		device
	}
	deviceBuilder struct {
		compute.Builder
		device
	}
	deviceExecutable struct {
		compute.Executable
		device
	}
)

var errDevice = errors.New("the memory is the device's")

func (device) HasSharedBuffers() bool { return false }

func (device) NewSharedBuffer(compute.DeviceNum, shapes.Shape) (compute.Buffer, any, error) {
	return nil, nil, errDevice
}

func (d device) BufferFromFlatData(n compute.DeviceNum, flat any, s shapes.Shape) (compute.Buffer, error) {
	b, err := d.Backend.BufferFromFlatData(n, flat, s)
	return deviceBuffer{b, d}, err
}

func (d device) Builder(name string) compute.Builder {
	return deviceBuilder{d.Backend.Builder(name), d}
}

func (b deviceBuffer) Backend() compute.Backend { return b.device }

func (deviceBuffer) Data() (any, error) { return nil, errDevice }

func (b deviceBuilder) Compile() (compute.Executable, error) {
	e, err := b.Builder.Compile()
	return deviceExecutable{e, b.device}, err
}

func (e deviceExecutable) Execute(in []compute.Buffer, donate []bool, n compute.DeviceNum) ([]compute.Buffer, error) {
	theirs := make([]compute.Buffer, len(in))
	for i, b := range in {
		theirs[i] = b.(deviceBuffer).Buffer
	}
	out, err := e.Executable.Execute(theirs, donate, n)
	for i, b := range out {
		out[i] = deviceBuffer{b, e.device}
	}
	return out, err
}

// cnn is the network of GoMLX's MNIST example, with a quarter of its filters: two convolutions, pooling, dropout, a dense layer.
// GoMLX's Go backend has no gradients of the example's max pooling, nor of batch normalization: a moving average of the pixels
// stands for variables that the graph itself sets.
func cnn(scope *model.Scope, images *graph.Node) *graph.Node {
	scope = scope.In("model")
	mean := scope.VariableWithValue("mean", shapes.CastAsDType(0, images.DType())).SetTrainable(false)
	mean.SetNodeValue(graph.Add(graph.MulScalar(mean.NodeValue(images), 0.9), graph.MulScalar(graph.ReduceAllMean(images), 0.1)))
	images = graph.Sub(images, mean.NodeValue(images))
	for i, filters := range []int{8, 16} {
		images = layers.Convolution(scope.In("conv%d", i), images).Channels(filters).KernelSize(3).PadSame().Done()
		images = activation.Relu(images)
		images = graph.MeanPool(images).Window(2).Done()
	}
	if rate := model.GetParamOr(scope, "cnn_dropout_rate", 0.0); rate > 0 {
		images = layers.DropoutNormalize(scope.In("dropout"), images, graph.Scalar(images.Graph(), images.DType(), rate), true)
	}
	images = graph.Reshape(images, images.Shape().Dimensions[0], -1)
	return layers.Dense(scope, images, true, classes)
}

// linear is the other network of that example.
func linear(scope *model.Scope, images *graph.Node) *graph.Node {
	images = graph.Reshape(images, images.Shape().Dimensions[0], -1)
	return layers.DenseWithBias(scope.In("model"), images, classes)
}

// Images have as many pixels and classes as those of the example.
const (
	classes = 10
	side    = 28
)

// batches are n batches of images, from batch first on.
type batches struct {
	first, n, size int
	dtype          dtypes.DType // float32 or float64; zero is float32
}

func (d batches) Name() string { return "stripes" }

func (d batches) Iter() iter.Seq2[train.Batch, error] {
	return func(yield func(train.Batch, error) bool) {
		for i := range d.n {
			if !yield(d.batch(d.first+i), nil) {
				return
			}
		}
	}
}

func (d batches) batch(i int) train.Batch {
	var images []float64
	var labels []int32
	for k := range d.size {
		image, label := stripes(i*d.size + k)
		images, labels = append(images, image...), append(labels, label)
	}
	x := tensors.FromFlatDataAndDimensions(images, d.size, side, side, 1)
	if d.dtype != dtypes.Float64 {
		narrow := make([]float32, len(images))
		for k, p := range images {
			narrow[k] = float32(p)
		}
		x = tensors.FromFlatDataAndDimensions(narrow, d.size, side, side, 1)
	}
	return train.Batch{Inputs: []*tensors.Tensor{x}, Labels: []*tensors.Tensor{tensors.FromFlatDataAndDimensions(labels, d.size, 1)}}
}

// stripes returns image i and its class, which says where in the noise there are two bright rows.
func stripes(i int) ([]float64, int32) {
	random := rand.New(rand.NewPCG(uint64(i), 0))
	image, label := make([]float64, side*side), random.IntN(classes)
	for k := range image {
		image[k] = random.NormFloat64()
		if k/side/2 == label+2 {
			image[k] += 4
		}
	}
	return image, int32(label)
}

func newStore(t testing.TB, params map[string]any) *model.Store {
	store := model.NewStore()
	store.SetParams(params)
	if err := store.SetRNGStateFromSeed(1); err != nil {
		t.Fatal(err)
	}
	return store
}

type modelFn = func(*model.Scope, *graph.Node) *graph.Node

func newTrainer(store *model.Store, f modelFn, o optimizer.Interface) *train.Trainer {
	return train.NewTrainer(backend(), store, f, cross, o, nil, nil)
}

func newOptimizer(t testing.TB, store *model.Store, groups ...Group) *Optimizer {
	o, err := New(backend(), store, groups...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// run has the loop take all batches, and returns their losses.
func run(t testing.TB, loop *train.Loop, d batches) (losses []float64) {
	t.Helper()
	loop.OnStep("losses", 0, func(_ *train.Loop, metrics []*tensors.Tensor) error {
		losses = append(losses, scalar(metrics[0]))
		return nil
	})
	if _, err := loop.RunSteps(d, d.n); err != nil {
		t.Fatal(err)
	}
	return losses
}

// values is a copy of all trainable variables.
func values(t testing.TB, store *model.Store) map[string][]float32 {
	t.Helper()
	all := make(map[string][]float32)
	for v := range store.IterVariables() {
		if v.Trainable && v.DType() == dtypes.Float32 {
			x, err := tensors.CopyFlatData[float32](v.MustValue())
			if err != nil {
				t.Fatal(err)
			}
			all[v.Path()] = x
		}
	}
	return all
}

func sameBits(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i, x := range a {
		if math.Float32bits(x) != math.Float32bits(b[i]) {
			return false
		}
	}
	return true
}

func says(err error, want string) bool { return err != nil && strings.Contains(err.Error(), want) }

var adapnm = Group{Rule: pnm.NewAdaPNM()}

var cross = loss.SparseCategoricalCrossEntropyLogits
