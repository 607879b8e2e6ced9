package optim

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"math/bits"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/floatmode"
	"github.com/posneg/pnm/internal/safetensors"
	"github.com/posneg/pnm/internal/strictjson"
)

// Names in a checkpoint, which is a safetensors file: docs/checkpoints.md explains them.
const (
	layout = "1" // the version of the layout; if the header has a checksum, a space and its 8 digits follow

	reserved       = "posneg." // the caller's metadata must not begin with it
	layoutKey      = reserved + "checkpoint"
	writerKey      = reserved + "writer"
	groupsKey      = reserved + "groups"
	fingerprintKey = reserved + "fingerprint"
	paramsName     = "params."
	paramsSum      = "params"

	scalesSuffix = ".scales" // after the name of a slot, in the file and in checksums: the scales of its elements

	mostSteps = math.MaxInt - 1 // since another step follows
)

func stateName(tensor, slot string) string { return "state." + tensor + "." + slot }

// A blob is the elements, or the scales, of a vector in a file.
type blob struct {
	name   string
	format *format
	shape  []int
	at     int64  // offset in the file
	n      int64  // elements
	sum    *sum   // nil if the file has none
	first  uint64 // the number of the first element in the whole tensor

	scales *blob // of mxfp8
	rows   rows
}

// A sum is the CRC-32 of a blob.
type sum struct {
	of    string // "params", the name of a slot, or that of its scales
	value uint32
}

// blobOf returns a tensor of the file, which must have one of the legal formats, as a blob.
func blobOf(t *safetensors.Tensor, legal []format) (*blob, error) {
	var dtypes []string
	for i := range legal {
		f := &legal[i]
		if f.dtype == t.DType {
			return &blob{name: t.Name, format: f, shape: t.Shape, at: t.Begin, n: (t.End - t.Begin) / int64(f.size)}, nil
		}
		dtypes = append(dtypes, f.dtype)
	}
	return nil, fmt.Errorf("%s is %s, must be one of %s", strictjson.Quote(t.Name), t.DType, strings.Join(dtypes, ", "))
}

// countOf returns the number of elements of a shape, or -1 if no memory could hold them.
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

// hasShape reports whether a vector in a file fits a tensor: it has the tensor's shape, or one dimension of the same length.
func hasShape(file, shape []int) bool {
	return slices.Equal(file, shape) || len(file) == 1 && int64(file[0]) == countOf(shape)
}

// A savedTensor is a tensor in a checkpoint.
type savedTensor struct {
	*CheckpointTensor
	number int // of the tensor in the file
	rule   pnm.Rule
	state  []*blob // in the order of the rule's slots; nil if it is zero
	params *blob   // nil if they were not saved
	sums   []sum   // of state and params; nil in files of other writers
}

// fault returns err as an error of the tensor.
func (t *savedTensor) fault(err error) error {
	return &pnm.TensorError{Tensor: t.number, Name: t.Name, Err: err}
}

// A checkpointFile is a checkpoint whose header has been read.
type checkpointFile struct {
	r       io.ReaderAt
	info    CheckpointInfo
	tensors map[string]*savedTensor
}

// withFile opens a file for a function.
func withFile(path string, use func(r io.ReaderAt, size int64) error) error {
	info, err := os.Stat(path) // before opening it: opening a pipe would wait for its writer
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return err
	}
	return use(f, info.Size())
}

// readCheckpoint reads and checks a file, except for the numbers in its tensors.
func readCheckpoint(r io.ReaderAt, size int64, verify bool) (*checkpointFile, error) {
	h, err := safetensors.ReadHeader(r, size)
	if err != nil {
		return nil, err
	}
	written, ok := h.Metadata[layoutKey]
	delete(h.Metadata, layoutKey)
	version, digits, summed := strings.Cut(written, " ")
	switch {
	case !ok:
		return nil, fmt.Errorf("it is a safetensors file, but not a checkpoint: its metadata lacks %s", layoutKey)
	case version != layout:
		return nil, fmt.Errorf("it was written by a newer version: its %s is %s, and this version reads %s",
			layoutKey, strictjson.Quote(written), layout)
	case verify && summed && digits != fmt.Sprintf("%08x", headerSum(h.Metadata, h.Tensors)):
		return nil, fmt.Errorf("its header: %w", ErrChecksum)
	}
	c := &checkpointFile{r: r, tensors: make(map[string]*savedTensor)}
	groups, sums, err := parseGroups(h.Metadata[groupsKey])
	if err != nil {
		return nil, err
	}
	c.info.Groups = groups
	c.info.Writer = h.Metadata[writerKey]
	c.info.Metadata = h.Metadata
	if text, ok := h.Metadata[fingerprintKey]; ok {
		f, err := pnm.ParseFingerprint(text)
		if err != nil {
			return nil, at("metadata "+fingerprintKey, err)
		}
		c.info.Fingerprint = &f
	}
	delete(h.Metadata, fingerprintKey)
	delete(h.Metadata, groupsKey)
	delete(h.Metadata, writerKey)
	for key := range h.Metadata {
		if strings.HasPrefix(key, reserved) {
			return nil, fmt.Errorf("unknown metadata %s", strictjson.Quote(key))
		}
	}
	if err := c.find(h.Tensors, sums); err != nil {
		return nil, err
	}
	return c, nil
}

// headerSum is the CRC-32 of the content of a header: of metadata without the layout, and of tensors without their offsets.
func headerSum(meta map[string]string, tensors []safetensors.Tensor) uint32 {
	sum := uint32(0)
	add := func(text string) {
		sum = crc32.Update(crc32.Update(sum, crc32.IEEETable, unsafe.Slice(unsafe.StringData(text), len(text))), crc32.IEEETable, []byte{0})
	}
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		add(key)
		add(meta[key])
	}
	byName := make([]*safetensors.Tensor, len(tensors))
	for i := range tensors {
		byName[i] = &tensors[i]
	}
	slices.SortFunc(byName, func(a, b *safetensors.Tensor) int { return strings.Compare(a.Name, b.Name) })
	var shape []byte
	for _, t := range byName {
		add(t.Name)
		add(t.DType)
		shape = shape[:0]
		for _, n := range t.Shape {
			shape = append(strconv.AppendInt(shape, int64(n), 10), ',')
		}
		add(string(shape))
	}
	return sum
}

// find finds the groups' tensors in the file, which must have no others.
func (c *checkpointFile) find(stored []safetensors.Tensor, all [][]sum) error {
	sums := all
	rest := make(map[string]*safetensors.Tensor, len(stored))
	for i := range stored {
		rest[stored[i].Name] = &stored[i]
	}
	for g := range c.info.Groups {
		group := &c.info.Groups[g]
		for i := range group.Tensors {
			t := &savedTensor{CheckpointTensor: &group.Tensors[i], number: len(all) - len(sums), rule: group.Rule, sums: sums[0]}
			sums = sums[1:]
			err := t.find(rest)
			if c.tensors[t.Name] != nil {
				err = errors.New("two tensors have this name")
			}
			if err != nil {
				return t.fault(err)
			}
			c.tensors[t.Name] = t
		}
	}
	for i := range stored {
		if name := stored[i].Name; rest[name] != nil {
			return fmt.Errorf("%s belongs to no tensor that %s lists, by its rule", strictjson.Quote(name), groupsKey)
		}
	}
	for _, t := range c.tensors {
		if err := t.checkSums(); err != nil {
			return t.fault(err)
		}
	}
	return nil
}

// find takes a tensor's parameters and state from the rest of the file.
func (t *savedTensor) find(rest map[string]*safetensors.Tensor) error {
	take := func(name, of string, legal []format) (*blob, error) {
		b, err := t.take(rest, name, of, legal)
		switch {
		case b == nil:
			return nil, err
		case t.Shape == nil || hasShape(t.Shape, b.shape): // the first shape, or one with more dimensions
			t.Shape = b.shape
		case !hasShape(b.shape, t.Shape):
			return nil, fmt.Errorf("%s has shape %v, others of its tensor have %v", strictjson.Quote(name), b.shape, t.Shape)
		}
		return b, nil
	}
	var err error
	if t.params, err = take(paramsName+t.Name, paramsSum, formats[:paramsFormats]); err != nil {
		return err
	}
	if t.params != nil {
		t.Params = t.params.format.name
	}
	missing := ""
	t.Buffers = make(map[string]string)
	for _, slot := range t.rule.State() {
		b, err := take(stateName(t.Name, slot), slot, formats[:])
		if b != nil {
			err = t.findScales(rest, b, slot)
		}
		switch {
		case err != nil:
			return err
		case b != nil:
			t.state = append(t.state, b)
			t.Buffers[slot] = b.format.name
		case missing == "":
			missing = slot
		}
	}
	if missing != "" && (t.Step > 0 || t.state != nil) {
		return fmt.Errorf("%s is missing, the state of the rule is %s", missing, joined(t.rule.State()))
	}
	for _, b := range t.blobs() {
		b.first = t.first()
		if b.scales != nil {
			b.scales.first = b.rows.scale(b.first)
		}
	}
	return nil
}

// blobs returns the state and the parameters that are in the file; the scales of an mxfp8 blob are in it.
func (t *savedTensor) blobs() []*blob {
	if t.params == nil {
		return t.state
	}
	return append(t.state[:len(t.state):len(t.state)], t.params)
}

// first returns the number of the first element in the whole tensor.
func (t *savedTensor) first() uint64 {
	if t.Rounding == nil {
		return 0
	}
	return t.Rounding.First
}

// take takes a blob in one of the legal formats from rest, with its checksum, which is called of. It returns nil if there is none.
func (t *savedTensor) take(rest map[string]*safetensors.Tensor, name, of string, legal []format) (*blob, error) {
	s := rest[name]
	if s == nil {
		return nil, nil
	}
	delete(rest, name)
	b, err := blobOf(s, legal)
	if err != nil {
		return nil, err
	}
	if k := slices.IndexFunc(t.sums, func(s sum) bool { return s.of == of }); k >= 0 {
		b.sum = &t.sums[k]
	}
	return b, nil
}

// findScales finds the scales of a slot in mxfp8. Slots in other formats must have none.
func (t *savedTensor) findScales(rest map[string]*safetensors.Tensor, b *blob, slot string) (err error) {
	name := b.name + scalesSuffix
	if b.scales, err = t.take(rest, name, slot+scalesSuffix, []format{scalesFormat}); err != nil {
		return err
	}
	mx := b.format.name == mxfp8Format
	switch {
	case mx && b.scales == nil:
		return fmt.Errorf("%s is missing, the scales of %s", strictjson.Quote(name), strictjson.Quote(b.name))
	case !mx && b.scales != nil:
		return fmt.Errorf("%s is there, but %s is %s, which has no scales", strictjson.Quote(name), strictjson.Quote(b.name), b.format.dtype)
	case !mx:
		return nil
	}
	var ok bool
	if b.rows, ok = rowsIn(b.n, b.scales.shape); !ok {
		return fmt.Errorf("%s has shape %v, must have one of %d elements: [blocks of %d], or [rows, blocks of %[4]d in each]",
			strictjson.Quote(name), b.scales.shape, b.n, mxBlock)
	}
	for _, other := range t.state {
		if other.scales != nil && other.rows != b.rows {
			return fmt.Errorf("%s has rows of %d, %s has rows of %d", strictjson.Quote(b.name), b.rows, strictjson.Quote(other.name), other.rows)
		}
	}
	t.Row = int(b.rows)
	return nil
}

// checkSums reports a tensor with checksums that do not match its blobs one to one.
func (t *savedTensor) checkSums() error {
	blobs := make([]*blob, 0, mostSums)
	for _, b := range t.blobs() {
		for ; b != nil; b = b.scales {
			blobs = append(blobs, b)
		}
	}
	for _, b := range blobs {
		if t.sums != nil && b.sum == nil {
			return fmt.Errorf("%s has no checksum, but others of its tensor have one", strictjson.Quote(b.name))
		}
	}
	if len(t.sums) > len(blobs) {
		return errors.New("it has checksums of parts that are not in the file")
	}
	return nil
}

// parseGroups reads the groups' JSON. sums has the checksums of each of their tensors.
func parseGroups(text string) (groups []CheckpointGroup, sums [][]sum, err error) {
	var h floatmode.Hold // for denormal numbers in decimal, and for Validate
	defer h.Take().Release()
	d, err := strictjson.New(text)
	if err != nil {
		return nil, nil, fmt.Errorf("metadata %s: %w", groupsKey, err)
	}
	var bad error // of a group
	err = d.Array(func() error {
		g, err := parseGroup(d, &sums)
		if err != nil {
			bad = at(fmt.Sprintf("group %d", len(groups)), err)
			return bad
		}
		groups = append(groups, g)
		return nil
	})
	if err == nil {
		err = d.End()
	}
	if bad == nil && err != nil {
		err = fmt.Errorf("metadata %s: %w", groupsKey, err)
	}
	return groups, sums, err
}

// No rule has more. More in a file is refused before it takes memory.
const (
	mostHyperparameters = 16
	mostSums            = 9 // of state and its scales, and that of the parameters
)

func parseGroup(d *strictjson.Decoder, sums *[][]sum) (g CheckpointGroup, err error) {
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
				t, s, err := parseTensor(d)
				g.Tensors, *sums = append(g.Tensors, t), append(*sums, s)
				return err
			})
		case "other": // Python's
			g.Other, err = parseOther(d)
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

// parseOther returns the text of an object.
func parseOther(d *strictjson.Decoder) (string, error) {
	o, err := d.Later()
	if err != nil {
		return "", err
	}
	if text := o.Text(); text[0] == '{' {
		return text, nil
	}
	return "", d.Errorf("other is not an object")
}

func parseTensor(d *strictjson.Decoder) (t CheckpointTensor, sums []sum, err error) {
	t.Step = -1
	err = d.Object(func(name string) error {
		switch name {
		case "name":
			t.Name, err = d.String()
			return err
		case "step":
			n, err := d.Uint(mostSteps)
			t.Step = int(n)
			return err
		case "rounding":
			t.Rounding, err = parseRounding(d)
			return err
		case "crc32":
			sums, err = parseSums(d)
			return err
		}
		return d.Errorf("unknown %s, a tensor has name, step, rounding and crc32", strictjson.Quote(name))
	})
	if err == nil && (t.Name == "" || t.Step < 0) {
		err = d.Errorf("a tensor must have a name and a step")
	}
	return t, sums, err
}

func parseRounding(d *strictjson.Decoder) (*pnm.Rounding, error) {
	var numbers [3]uint64
	k := 0
	err := d.Array(func() (err error) {
		if k == len(numbers) {
			return d.Errorf("rounding has more than 3 numbers: seed, tensor, first")
		}
		numbers[k], err = d.Uint(math.MaxUint64)
		k++
		return err
	})
	if err == nil && k < len(numbers) {
		err = fmt.Errorf("rounding has %d numbers, must have 3: seed, tensor, first", k)
	}
	return &pnm.Rounding{Seed: numbers[0], Tensor: numbers[1], First: numbers[2]}, err
}

func parseSums(d *strictjson.Decoder) ([]sum, error) {
	sums := make([]sum, 0, mostSums)
	err := d.Object(func(of string) error {
		if len(sums) == cap(sums) {
			return d.Errorf("crc32 has more than %d numbers", cap(sums))
		}
		value, err := d.Uint(math.MaxUint32)
		sums = append(sums, sum{of, uint32(value)})
		return err
	})
	return sums, err
}

// appendGroups appends the groups' JSON. sums has the checksums of each tensor, first that of the parameters if they are saved.
func (o *Optimizer) appendGroups(b []byte, params bool, sums []uint32) []byte {
	comma := func() {
		if last := b[len(b)-1]; last != '[' && last != '{' {
			b = append(b, ',')
		}
	}
	b = append(b, '[')
	for g := range o.groups {
		comma()
		b = append(appendRule(append(b, '{'), o.groups[g].rule), `,"tensors":[`...)
		for i, end := o.members(g); i < end; i++ {
			u := &o.list.Updates[i]
			name, _ := json.Marshal(o.names[i])
			comma()
			b = append(append(append(b, `{"name":`...), name...), `,"step":`...)
			b = strconv.AppendInt(b, int64(u.Step-1), 10)
			if r := u.Rounding; u.Draws() || r.First > 0 {
				b = fmt.Appendf(b, `,"rounding":[%d,%d,%d]`, r.Seed, r.Tensor, r.First)
			}
			b = append(b, `,"crc32":{`...)
			add := func(of string) {
				comma()
				b = append(append(append(b, '"'), of...), `":`...)
				b = strconv.AppendUint(b, uint64(sums[0]), 10)
				sums = sums[1:]
			}
			if params {
				add(paramsSum)
			}
			for k, slot := range u.Rule.State() {
				if add(slot); u.State[k].Format() == mxfp8Format {
					add(slot + scalesSuffix)
				}
			}
			b = append(b, "}}"...)
		}
		b = append(b, "]}"...)
	}
	return append(b, ']')
}

// writer names this library, its version and the platform.
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
