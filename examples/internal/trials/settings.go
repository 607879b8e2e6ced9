package trials

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/posneg/pnm/examples/internal/training"
	"github.com/posneg/pnm/internal/fashionmnist"
)

// Settings are shared by all runs of an experiment: training, data, output files.
type Settings struct {
	Data   string // folder of the whole set; empty for the embedded subset
	Out    string // prefix of the files to write
	Images int    // of the training set, 0 for all
	Raw    bool   // pixels from 0 to 1

	Epochs, Batch, Hidden, Seeds int
	Seed                         uint64 // the first one
}

// A Size has the defaults of an experiment's size.
type Size struct{ Epochs, Seeds int }

// Parse defines the flags of the experiment with this name, and parses the command line. seedOf lists what the seed determines.
func (s *Settings) Parse(name, seedOf string, embedded, whole Size) {
	full := flag.Bool("full", false, "train on the whole set; the default -data is then the folder of Debian's package dataset-fashion-mnist")
	flag.StringVar(&s.Data, "data", "", "`folder` with the four IDX files of the whole set (default: the embedded subset)")
	flag.IntVar(&s.Images, "images", 0, "train on the first `n` images only (default all)")
	flag.BoolVar(&s.Raw, "raw", false, "use pixels from 0 to 1 instead of standardized ones")
	flag.IntVar(&s.Epochs, "epochs", 0, fmt.Sprintf("passes over the training images (default %d, %d with -full)", embedded.Epochs, whole.Epochs))
	flag.IntVar(&s.Seeds, "seeds", 0, fmt.Sprintf("runs per optimizer, with consecutive seeds (default %d, %d with -full)", embedded.Seeds, whole.Seeds))
	flag.Uint64Var(&s.Seed, "seed", 1, "first seed; determines "+seedOf)
	flag.StringVar(&s.Out, "out", name, "`prefix` of the files to write: .csv, and the figures as .svg and .png")
	flag.Parse()

	size := embedded
	if *full {
		size = whole
		s.Data = cmp.Or(s.Data, "/usr/share/datasets/fashion-mnist")
	}
	s.Epochs, s.Seeds = cmp.Or(s.Epochs, size.Epochs), cmp.Or(s.Seeds, size.Seeds)
}

// Load checks the settings before any work is done, and loads the images.
func (s Settings) Load() (train, test fashionmnist.Set, err error) {
	if flag.NArg() > 0 {
		return train, test, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if min(s.Epochs, s.Seeds) < 1 {
		return train, test, errors.New("-epochs and -seeds must be at least 1")
	}
	if info, err := os.Stat(filepath.Dir(s.Out)); err != nil || !info.IsDir() {
		return train, test, fmt.Errorf("-out %s: there is no folder %s", s.Out, filepath.Dir(s.Out))
	}
	if train, test, err = fashionmnist.Load(s.Data); err != nil {
		return train, test, err
	}
	if s.Images < 0 || s.Images > train.Len() {
		return train, test, fmt.Errorf("-images is %d, must be in [0, %d]", s.Images, train.Len())
	}
	if s.Images > 0 {
		train = train.Head(s.Images)
	}
	if !s.Raw {
		fashionmnist.Standardize(train, test)
	}
	return train, test, nil
}

// Describe describes the network and the runs.
func (s Settings) Describe() string {
	return fmt.Sprintf("network %d-%d-%d; %d epochs; %d seeds from %d",
		fashionmnist.Pixels, s.Hidden, fashionmnist.Classes, s.Epochs, s.Seeds, s.Seed)
}

// Steps returns the number of steps of a run.
func (s Settings) Steps(images int) int { return s.Epochs * training.Steps(images, s.Batch) }
