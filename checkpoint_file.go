package pnm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/bits"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/posneg/pnm/internal/safetensors"
	"github.com/posneg/pnm/internal/strictjson"
)

// What a checkpoint has beyond a safetensors file: docs/checkpoints.md explains it.
const (
	layout = "1" // the version of what follows

	reserved   = "posneg." // what the caller's own metadata must not begin with
	layoutKey  = reserved + "checkpoint"
	writerKey  = reserved + "writer"
	groupsKey  = reserved + "groups"
	paramsName = "params."
)

func stateName(tensor, slot string) string { return "state." + tensor + "." + slot }

// dtypes are what a file calls the formats of state and parameters.
var dtypes = [...]string{f32: "F32", f64: "F64", bf16: "BF16"}

// A blob is the elements of a vector in a file.
type blob struct {
	name   string
	format format
	shape  []int
	at     int64 // offset in the file
	n      int64 // elements
}

func blobOf(t *safetensors.Tensor) (*blob, error) {
	f := slices.Index(dtypes[:], t.DType)
	if f < 0 {
		return nil, fmt.Errorf("%s is %s, must be one of %s", strictjson.Quote(t.Name), t.DType, strings.Join(dtypes[:], ", "))
	}
	return &blob{t.Name, format(f), t.Shape, t.Begin, (t.End - t.Begin) / int64(format(f).size())}, nil
}

// countOf returns how many elements a shape has, or -1 if it is none that can be in memory.
func countOf(shape []int) int64 {
	n := uint64(1)
	for _, k := range shape {
		high, low := bits.Mul64(n, uint64(k))
		if k < 0 || high != 0 || low > math.MaxInt {
			return -1
		}
		n = low
	}
	return int64(n)
}

// hasShape reports whether a vector in a file can be a tensor of a shape: it has the same, or one dimension of the same length.
func hasShape(file, shape []int) bool {
	return slices.Equal(file, shape) || len(file) == 1 && int64(file[0]) == countOf(shape)
}

// A savedTensor is a tensor in a checkpoint.
type savedTensor struct {
	*CheckpointTensor
	rule   Rule
	state  []*blob // in the order of the rule's slots; nil where it is zero
	params *blob   // nil where they were not saved
}

// A checkpointFile is a checkpoint whose header has been read.
type checkpointFile struct {
	r       io.ReaderAt
	info    CheckpointInfo
	tensors map[string]*savedTensor
}

// withCheckpoint opens a file for a function. All errors are a *CheckpointError.
func withCheckpoint(path string, use func(*checkpointFile) error) error {
	info, err := os.Stat(path) // before it is opened, since a pipe would wait for its writer
	switch {
	case err != nil:
		return checkpointError(path, err)
	case !info.Mode().IsRegular():
		return checkpointError(path, errors.New("it is not a regular file"))
	}
	f, err := os.Open(path)
	if err != nil {
		return checkpointError(path, err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return checkpointError(path, err)
	}
	c, err := readCheckpoint(f, info.Size())
	if err == nil {
		err = use(c)
	}
	if err != nil {
		return checkpointError(path, err)
	}
	return nil
}

// readCheckpoint reads and checks all of a file but the numbers in its tensors.
func readCheckpoint(r io.ReaderAt, size int64) (*checkpointFile, error) {
	h, err := safetensors.ReadHeader(r, size)
	if err != nil {
		return nil, err
	}
	switch version, ok := h.Metadata[layoutKey]; {
	case !ok:
		return nil, fmt.Errorf("it is a safetensors file, but no checkpoint: its metadata lacks %s", layoutKey)
	case version != layout:
		return nil, fmt.Errorf("it was written by a newer version: its %s is %s, and this version reads %s",
			layoutKey, strictjson.Quote(version), layout)
	}
	c := &checkpointFile{r: r, tensors: make(map[string]*savedTensor)}
	if c.info.Groups, err = parseGroups(h.Metadata[groupsKey]); err != nil {
		return nil, err
	}
	c.info.Writer = h.Metadata[writerKey]
	c.info.Metadata = h.Metadata
	maps.DeleteFunc(c.info.Metadata, func(key, _ string) bool { return strings.HasPrefix(key, reserved) })
	if err := c.find(h.Tensors); err != nil {
		return nil, err
	}
	return c, nil
}

// find finds the groups' tensors in the file, which must have nothing else.
func (c *checkpointFile) find(stored []safetensors.Tensor) error {
	rest := make(map[string]*safetensors.Tensor, len(stored))
	for i := range stored {
		rest[stored[i].Name] = &stored[i]
	}
	for g := range c.info.Groups {
		group := &c.info.Groups[g]
		for i := range group.Tensors {
			t := &savedTensor{CheckpointTensor: &group.Tensors[i], rule: group.Rule}
			err := t.find(rest)
			if c.tensors[t.Name] != nil {
				err = errors.New("there are two of this name")
			}
			if err != nil {
				return &CheckpointError{Tensor: t.Name, Err: err}
			}
			c.tensors[t.Name] = t
		}
	}
	for i := range stored {
		if name := stored[i].Name; rest[name] != nil {
			return fmt.Errorf("%s belongs to no tensor that %s lists, by its rule", strictjson.Quote(name), groupsKey)
		}
	}
	return nil
}

// find takes what belongs to a tensor from the rest of what is in the file.
func (t *savedTensor) find(rest map[string]*safetensors.Tensor) error {
	take := func(name string) (*blob, error) {
		s := rest[name]
		if s == nil {
			return nil, nil
		}
		delete(rest, name)
		b, err := blobOf(s)
		switch {
		case err != nil:
			return nil, err
		case t.Shape == nil || hasShape(t.Shape, b.shape): // the first one, or one that tells more
			t.Shape = b.shape
		case !hasShape(b.shape, t.Shape):
			return nil, fmt.Errorf("%s has shape %v, others have %v", strictjson.Quote(name), b.shape, t.Shape)
		}
		return b, nil
	}
	var err error
	if t.params, err = take(paramsName + t.Name); err != nil {
		return err
	}
	if t.params != nil {
		t.Params = t.params.format.String()
	}
	missing := ""
	t.Buffers = make(map[string]string)
	for _, slot := range forms[t.rule.form()].slots {
		switch b, err := take(stateName(t.Name, slot)); {
		case err != nil:
			return err
		case b != nil:
			t.state = append(t.state, b)
			t.Buffers[slot] = b.format.String()
		case missing == "":
			missing = slot
		}
	}
	if missing != "" && (t.Step > 0 || t.state != nil) {
		return fmt.Errorf("%s is missing, the state of the rule is %s", missing, t.rule.form().state())
	}
	return nil
}

// parseGroups reads the groups' JSON.
func parseGroups(text string) (groups []CheckpointGroup, err error) {
	d, err := strictjson.New(text)
	if err != nil {
		return nil, fmt.Errorf("metadata %s: %w", groupsKey, err)
	}
	err = d.Array(func() error {
		g, err := parseGroup(d)
		if err != nil {
			return &GroupError{len(groups), err}
		}
		groups = append(groups, g)
		return nil
	})
	if err == nil {
		err = d.End()
	}
	if group := (*GroupError)(nil); err != nil && !errors.As(err, &group) {
		err = fmt.Errorf("metadata %s: %w", groupsKey, err)
	}
	return groups, err
}

// No rule has more: what else is there is refused before it takes memory.
const mostHyperparameters = 16

func parseGroup(d *strictjson.Decoder) (g CheckpointGroup, err error) {
	var rule string
	listed := false
	hyperparameters := make(map[string]*strictjson.Decoder)
	err = d.Object(func(name string) error {
		switch name {
		case "rule":
			rule, err = d.String()
		case "tensors":
			listed = true
			err = d.Array(func() error {
				t, err := parseTensor(d)
				g.Tensors = append(g.Tensors, t)
				return err
			})
		case "other": // Python's
			_, err = d.Later()
		default:
			if len(hyperparameters) == mostHyperparameters {
				return d.Errorf("a group has more than %d hyperparameters", mostHyperparameters)
			}
			hyperparameters[name], err = d.Later()
		}
		return err
	})
	switch {
	case err != nil:
		return g, err
	case rule == "" || !listed:
		return g, errors.New("it must have a rule and tensors")
	}
	g.Rule, err = parseRule(rule, hyperparameters)
	return g, err
}

func parseTensor(d *strictjson.Decoder) (t CheckpointTensor, err error) {
	t.Step = -1
	err = d.Object(func(name string) error {
		switch name {
		case "name":
			t.Name, err = d.String()
			return err
		case "step":
			n, err := d.Uint(math.MaxInt - 1) // one less, since another step follows
			t.Step = int(n)
			return err
		case "rounding":
			var numbers []uint64
			err := d.Array(func() error {
				if len(numbers) == 3 {
					return d.Errorf("rounding has more than 3 numbers: seed, tensor, first")
				}
				n, err := d.Uint(math.MaxUint64)
				numbers = append(numbers, n)
				return err
			})
			if err == nil && len(numbers) != 3 {
				err = fmt.Errorf("rounding has %d numbers, must have 3: seed, tensor, first", len(numbers))
			}
			if err == nil {
				t.Rounding = &Rounding{numbers[0], numbers[1], numbers[2]}
			}
			return err
		}
		return d.Errorf("%s is unknown, a tensor has name, step and rounding", strictjson.Quote(name))
	})
	if err == nil && (t.Name == "" || t.Step < 0) {
		err = d.Errorf("a tensor must have a name and a step")
	}
	return t, err
}

// appendGroups appends the groups' JSON.
func (o *optimizer) appendGroups(b []byte, names []string) []byte {
	b = append(b, '[')
	i := 0
	for g, rule := range o.groups {
		b = append(appendRule(append(b, ","[:min(g, 1)]+"{"...), rule), `,"tensors":[`...)
		for first := i; i < len(names) && o.batch.tensors[i].group == g; i++ {
			t := &o.batch.tensors[i]
			name, _ := json.Marshal(names[i])
			b = fmt.Appendf(b, `%s{"name":%s,"step":%d`, ","[:min(i-first, 1)], name, t.step-1)
			if r := t.rounding; t.formats()&stochastic != 0 {
				b = fmt.Appendf(b, `,"rounding":[%d,%d,%d]`, r.Seed, r.Tensor, r.First)
			}
			b = append(b, '}')
		}
		b = append(b, "]}"...)
	}
	return append(b, ']')
}

// writer tells who writes.
func writer() string {
	module, version := "github.com/posneg/pnm", "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == module {
				version = m.Version
			}
		}
	}
	return fmt.Sprintf("%s %s, %s, %s/%s", module, version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
