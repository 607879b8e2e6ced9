// Command example trains a GoMLX network on Fashion-MNIST, once with GoMLX's own Adam and once with pnm's AdaPNM.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"os"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/dataset"
	"github.com/gomlx/gomlx/ml/layers"
	"github.com/gomlx/gomlx/ml/layers/activation"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train"
	"github.com/gomlx/gomlx/ml/train/loss"
	"github.com/gomlx/gomlx/ml/train/metric"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/posneg/pnm"
	pnmgomlx "github.com/posneg/pnm/adapters/gomlx"
	"github.com/posneg/pnm/internal/fashionmnist"
)

const (
	batch      = 50
	allImages  = 6000 // those that package fashionmnist has
	testImages = 2000
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:], os.Stdout); err != nil && err != flag.ErrHelp {
		log.Fatal("example: ", err)
	}
}

func network(scope *model.Scope, images *graph.Node) *graph.Node {
	x := activation.Relu(layers.DenseWithBias(scope.In("hidden"), images, 256))
	return layers.DenseWithBias(scope.In("out"), x, fashionmnist.Classes)
}

// run prints a line for each epoch to w.
func run(args []string, w io.Writer) error {
	flags := flag.NewFlagSet("example", flag.ContinueOnError)
	epochs := flags.Int("epochs", 5, "passes over the training images")
	n := flags.Int("images", allImages, "training images, at most 6000")
	tests := flags.Int("test-images", testImages, "test images, at most 2000")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *epochs < 1 || *n < batch || *n > allImages:
		return fmt.Errorf("-epochs is %d, must be at least 1, and -images is %d, must be from %d to %d", *epochs, *n, batch, allImages)
	case *tests < 1 || *tests > testImages:
		return fmt.Errorf("-test-images is %d, must be from 1 to %d", *tests, testImages)
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	images, test, err := fashionmnist.Load("")
	if err != nil {
		return err
	}
	images, test = images.Head(*n), test.Head(*tests)
	fashionmnist.Standardize(images, test)
	backend := gobackend.GetBackend()
	for _, name := range []string{"GoMLX's Adam", "AdaPNM"} {
		store := model.NewStore()
		if err := store.SetRNGStateFromSeed(1); err != nil {
			return err
		}
		var theirs optimizer.Interface
		var ours *pnmgomlx.Optimizer
		if name == "AdaPNM" {
			if ours, err = pnmgomlx.New(backend, store, pnmgomlx.Group{Rule: pnm.NewAdaPNM()}); err != nil {
				return err
			}
			defer ours.Close()
			theirs = ours
		} else {
			theirs = optimizer.Adam().LearningRate(1e-3).Done()
		}
		trainer := train.NewTrainer(backend, store, network, loss.SparseCategoricalCrossEntropyLogits, theirs,
			nil, []metric.Interface{metric.NewSparseCategoricalAccuracy("accuracy", "acc")})
		loop := train.NewLoop(trainer)
		if ours != nil {
			ours.Attach(loop)
		}
		batches, err := inMemory(backend, images)
		if err != nil {
			return err
		}
		batches.WithRand(rand.New(rand.NewSource(1))).Shuffle().BatchSize(batch, true)
		all, err := inMemory(backend, test)
		if err != nil {
			return err
		}
		all.BatchSize(500, false)
		fmt.Fprintln(w, name)
		for epoch := range *epochs {
			start := time.Now()
			metrics, err := loop.RunEpochs(batches, 1)
			if err != nil {
				return err
			}
			took := time.Since(start)
			of, err := trainer.Eval(all)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "epoch %2d: loss %.3f, test error %4.1f %%, %v\n", epoch+1,
				metrics[1].Value(), 100*(1-of[1].Value().(float32)), took.Round(time.Millisecond))
		}
	}
	return nil
}

// inMemory is a data set of images, flat, with labels.
func inMemory(backend compute.Backend, set fashionmnist.Set) (*dataset.InMemoryDataset, error) {
	labels := make([]int32, set.Len())
	for i, l := range set.Labels {
		labels[i] = int32(l)
	}
	return dataset.InMemoryFromData(backend, "Fashion-MNIST",
		[]any{tensors.FromFlatDataAndDimensions(set.Images, set.Len(), fashionmnist.Pixels)},
		[]any{tensors.FromFlatDataAndDimensions(labels, set.Len(), 1)})
}
