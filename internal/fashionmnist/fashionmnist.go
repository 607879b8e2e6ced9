// Package fashionmnist reads Fashion-MNIST: a subset that is embedded in the program, or the whole set from files.
package fashionmnist

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const (
	Pixels  = 28 * 28 // of an image
	Classes = 10
)

// A Set is a list of labelled images.
type Set struct {
	Images []float32 // Pixels for each image, row by row, from 0 (white) to 1 (black)
	Labels []uint8   // below Classes
}

// Len returns the number of images.
func (s Set) Len() int { return len(s.Labels) }

// Head returns the first n images.
func (s Set) Head(n int) Set { return Set{s.Images[:n*Pixels], s.Labels[:n]} }

// Gather copies the images and the labels with the given indices to the beginnings of images and labels.
func (s Set) Gather(indices []int, images []float32, labels []uint8) {
	for i, k := range indices {
		copy(images[i*Pixels:], s.Images[k*Pixels:(k+1)*Pixels])
		labels[i] = s.Labels[k]
	}
}

// Select returns a copy of the images with the given indices.
func (s Set) Select(indices []int) Set {
	c := Set{make([]float32, len(indices)*Pixels), make([]uint8, len(indices))}
	s.Gather(indices, c.Images, c.Labels)
	return c
}

//go:embed data
var embedded embed.FS

// Load returns the training and the test set from the four IDX files in dir, gzip-compressed (.gz) or not. An empty dir
// means the embedded subset: the first 6,000 and the first 2,000 images.
func Load(dir string) (train, test Set, err error) {
	files, err := fs.Sub(embedded, "data")
	if dir != "" {
		files = os.DirFS(dir)
	}
	if err == nil {
		train, err = load(files, "train")
	}
	if err == nil {
		test, err = load(files, "t10k")
	}
	if err != nil && dir != "" {
		err = fmt.Errorf("%w\n%s must hold train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "+
			"t10k-labels-idx1-ubyte, each with .gz or without: the files of https://github.com/zalandoresearch/fashion-mnist, "+
			"which Debian's package dataset-fashion-mnist puts into /usr/share/datasets/fashion-mnist", err, dir)
	}
	return train, test, err
}

func load(files fs.FS, name string) (Set, error) {
	images, err := readFile(files, name+"-images-idx3-ubyte", 28, 28)
	if err != nil {
		return Set{}, err
	}
	labels, err := readFile(files, name+"-labels-idx1-ubyte")
	if err != nil {
		return Set{}, err
	}
	if len(images) != Pixels*len(labels) {
		return Set{}, fmt.Errorf("%s: %d images, but %d labels", name, len(images)/Pixels, len(labels))
	}
	if len(labels) == 0 {
		return Set{}, fmt.Errorf("%s: there are no images", name)
	}
	set := Set{make([]float32, len(images)), labels}
	for i, b := range images {
		set.Images[i] = float32(b) / 255
	}
	for i, l := range labels {
		if l >= Classes {
			return Set{}, fmt.Errorf("%s: label %d is %d, must be below %d", name, i, l, Classes)
		}
	}
	return set, nil
}

// readFile reads the IDX file of that name, or else that name with .gz, whose items have the given dimensions.
func readFile(files fs.FS, name string, item ...int) ([]byte, error) {
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		name += ".gz"
		f, err = files.Open(name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readIDX(f, item...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}
