package optim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/atomicfile"
	"github.com/posneg/pnm/internal/floatmode"
	"github.com/posneg/pnm/internal/safetensors"
	"github.com/posneg/pnm/internal/strictjson"
)

// SaveOptions are the options of [Optimizer.Save]. The zero value saves a whole run.
type SaveOptions struct {
	Shapes    [][]int           // the tensors' shapes, for readers such as PyTorch; nil, or a nil shape, means one dimension
	StateOnly bool              // leave out the parameters
	Metadata  map[string]string // the caller's own, such as epoch, position in the data and loss scale. Keys must not begin with "posneg."
}

// LoadOptions are the options of [Optimizer.Load]. The zero value loads a whole run.
type LoadOptions struct {
	Shapes      [][]int          // the tensors' shapes, which the file must have; nil, or a nil shape, is not compared
	StateOnly   bool             // leave the parameters as they are
	KeepRules   bool             // keep the rules and the random numbers (Rounding) of the optimizer instead of the file's
	Unverified  bool             // do not compare checksums, to load a damaged file
	Fingerprint *pnm.Fingerprint // load only a file whose content has this fingerprint; nil means any
}

// CheckpointInfo describes a checkpoint without the numbers in its tensors. From it, a program can build an optimizer for the file.
type CheckpointInfo struct {
	Groups   []CheckpointGroup // the groups of the optimizer that was saved
	Metadata map[string]string // SaveOptions.Metadata; not nil
	Writer   string            // the library that wrote the file

	// Fingerprint is the fingerprint of the file's content, as its writer recorded it; nil if it did not. It equals [Optimizer.Fingerprint] of
	// the optimizer that was saved, unless SaveOptions.StateOnly left the parameters out. To check that the content still has it, set
	// LoadOptions.Fingerprint.
	Fingerprint *pnm.Fingerprint
}

// A CheckpointGroup is a group of the optimizer that was saved.
type CheckpointGroup struct {
	Rule    pnm.Rule
	Tensors []CheckpointTensor
	Other   string // a JSON object with what other programs, such as PyTorch's schedulers, keep with the group; Save does not write it
}

// A CheckpointTensor is a tensor in a checkpoint. Its formats are "float32", "float64", "bf16" and "mxfp8", as in [pnm.Vector.Format].
type CheckpointTensor struct {
	Name     string
	Step     int               // the number of steps done
	Shape    []int             // nil if the file has neither its state nor its parameters
	Buffers  map[string]string // the format of each buffer in [TensorState]; empty if the state is zero, or if there is none
	Row      int               // the row of its mxfp8 buffers, for [Group].Rows; 0 if these are flat, or if there are none
	Params   string            // the format of its parameters; "" if they are not in the file
	Rounding *pnm.Rounding     // the random numbers that it draws, and its first element in the whole; nil if it is whole and draws none
}

// ofCheckpoint returns an error as an error of the checkpoint at path, which may be "".
func ofCheckpoint(path string, err error) error {
	if path == "" {
		return at("optim: checkpoint", err)
	}
	if of, ok := err.(*fs.PathError); ok && of.Path == path {
		return &located{"optim: checkpoint " + path + ": " + of.Err.Error(), err}
	}
	return at("optim: checkpoint "+path, err)
}

// Save writes a checkpoint of a run to a file: the parameters, the state, the counts of steps and the rules. A run that [Optimizer.Load]
// continues from it gives bit-identical results to an uninterrupted one. The position in the data, the loss scale and schedules are not
// saved: put them in Metadata. The format is safetensors: docs/checkpoints.md describes the content. Parameters in low16 are saved as the
// float32 numbers that they form with their copies.
//
// The new file replaces the old one as a whole, once it is on disk: if the program or the machine stops, the path has the old file or the
// new one. Save needs no memory for a copy of the tensors.
//
// Save returns a *pnm.LengthError for Shapes that do not fit the tensors, a *PartError while a step of [Optimizer.StepPart] is
// incomplete, and [ErrClosed] for a closed optimizer. All other errors name the path; reserved keys in Metadata, and a count of steps
// that has overflowed, are among them. After an error the path has its old content, with one exception: the last operation is to
// synchronize the directory, and if that fails, the path has the new content.
func (o *Optimizer) Save(path string, s SaveOptions) error {
	return o.saveBy(path, &s, func(save func(io.Writer) error) error { return atomicfile.Write(path, save) })
}

// SaveTo is [Optimizer.Save] to any writer. The error that it returns wraps the writer's error.
func (o *Optimizer) SaveTo(w io.Writer, s SaveOptions) error {
	return o.saveBy("", &s, func(save func(io.Writer) error) error { return save(w) })
}

// saveBy checks the optimizer and the options, and has write save them.
func (o *Optimizer) saveBy(path string, s *SaveOptions, write func(save func(io.Writer) error) error) error {
	if err := o.calls.beginReading(); err != nil {
		return err
	}
	defer o.calls.endReading()
	if o.closed {
		return ErrClosed
	}
	if err := o.wholeSteps(0, len(o.names)); err != nil {
		return err
	}
	if err := o.checkShapes(s.Shapes); err != nil {
		return err
	}
	for i := range o.names {
		if o.list.Updates[i].Step < 1 { // the count has overflowed
			return ofCheckpoint(path, o.inTensor(i, fmt.Errorf("it has done more than %d steps", mostSteps)))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Metadata)) {
		if strings.HasPrefix(key, reserved) {
			return ofCheckpoint(path, fmt.Errorf("metadata %s: keys that begin with %s are reserved", strictjson.Quote(key), reserved))
		}
	}
	if err := write(func(w io.Writer) error { return o.save(w, s) }); err != nil {
		return ofCheckpoint(path, err)
	}
	return nil
}

func (o *Optimizer) save(w io.Writer, s *SaveOptions) error {
	var tensors []safetensors.Tensor
	var sources []source
	for i, name := range o.names {
		u := &o.list.Updates[i]
		shape := []int{u.Params.Len()}
		if s.Shapes != nil && s.Shapes[i] != nil {
			shape = s.Shapes[i]
		}
		add := func(shape []int, s source) {
			tensors = append(tensors, safetensors.Tensor{Name: s.name, DType: s.format.dtype, Shape: shape})
			sources = append(sources, s)
		}
		if !s.StateOnly {
			add(shape, paramsOf(name, u))
		}
		for k, slot := range u.Rule.State() {
			v, first := u.State[k], u.Rounding.First
			add(shape, sourceOf(stateName(name, slot), first, v))
			if v.Format() == mxfp8Format {
				name, first := stateName(name, slot+scalesSuffix), rowsOf(v).scale(first)
				add(scalesShape(v), source{name: name, first: first, format: &scalesFormat, bytes: v.Scales()})
			}
		}
	}
	blocks := newBlocks()
	sums, fingerprint := checksums(sources, blocks)
	fingerprint.Add(o.ofCounts())
	meta := map[string]string{
		writerKey: writer(), groupsKey: string(o.appendGroups(nil, !s.StateOnly, sums)), fingerprintKey: fingerprint.String(),
	}
	maps.Copy(meta, s.Metadata)
	meta[layoutKey] = fmt.Sprintf("%s %08x", layout, headerSum(meta, tensors))
	buffered := bufio.NewWriterSize(w, blockSize) // gathers small writes
	err := safetensors.Write(buffered, meta, tensors, func(w io.Writer, i int) error { return sources[i].write(w, blocks[0]) })
	if err == nil {
		err = buffered.Flush()
	}
	return err
}

// Load replaces the parameters and the state of all tensors, and the rules of all groups, by those in a file that [Optimizer.Save] or the
// Python package wrote. A run that continues from there gives bit-identical results to an uninterrupted one. Load also sets the copies of
// the parameters: for Params in low16, parameters and copies become the halves of the numbers in the file. It drops an incomplete step of
// [Optimizer.StepPart]. It needs no memory for a second copy of the tensors.
//
// Load matches tensors by name: the file and the optimizer must have the same names. They may be grouped differently, but in the file all
// tensors of one of the optimizer's groups must have the same rule, with the type and the state of the group's rule (see
// [Optimizer.SetRule]). State and parameters in another format, or in mxfp8 with other rows, are widened or rounded to nearest even;
// float64 is not converted.
//
// The errors are those of Save. They wrap a *pnm.TensorError if one tensor is at fault, [ErrChecksum] if the file is damaged, and
// [ErrFingerprint] if its content does not have the fingerprint asked for. A file without parameters is an error, unless StateOnly is
// set. A first pass checks the whole file; if it finds an error, the optimizer is unchanged. If a read fails after that, for example
// because of the disk, state and parameters are a mixture: Load closes the optimizer.
func (o *Optimizer) Load(path string, l LoadOptions) (CheckpointInfo, error) {
	return o.loadBy(path, &l, func(use func(io.ReaderAt, int64) error) error { return withFile(path, use) })
}

// LoadFrom is [Optimizer.Load] from r, which has size bytes. It reads from several goroutines at once.
func (o *Optimizer) LoadFrom(r io.ReaderAt, size int64, l LoadOptions) (CheckpointInfo, error) {
	return o.loadBy("", &l, func(use func(io.ReaderAt, int64) error) error { return use(r, size) })
}

func (o *Optimizer) loadBy(path string, l *LoadOptions, read func(use func(io.ReaderAt, int64) error) error) (CheckpointInfo, error) {
	if err := o.calls.begin(); err != nil {
		return CheckpointInfo{}, err
	}
	defer o.calls.end()
	if o.closed {
		return CheckpointInfo{}, ErrClosed
	}
	if err := o.checkShapes(l.Shapes); err != nil {
		return CheckpointInfo{}, err
	}
	var info CheckpointInfo
	err := read(func(r io.ReaderAt, size int64) error {
		c, err := readCheckpoint(r, size, !l.Unverified)
		if err != nil {
			return err
		}
		info = c.info
		return o.load(c, l)
	})
	if err != nil {
		return CheckpointInfo{}, ofCheckpoint(path, err)
	}
	return info, nil
}

func (o *Optimizer) load(file *checkpointFile, l *LoadOptions) error {
	saved, err := o.take(file)
	if err != nil {
		return err
	}
	rules, err := o.rulesOf(saved, l.KeepRules)
	if err != nil {
		return err
	}
	var reads []read
	for i, s := range saved {
		var shape []int
		if l.Shapes != nil {
			shape = l.Shapes[i]
		}
		r, err := s.reads(&o.list.Updates[i], shape, !l.StateOnly)
		if err != nil {
			return o.inTensor(i, err)
		}
		reads = append(reads, r...)
	}
	if !l.KeepRules {
		if err := o.checkRoundings(saved); err != nil {
			return err
		}
	}

	blocks := newBlocks()
	if !l.Unverified || l.Fingerprint != nil {
		if err := file.verify(saved, reads, l, blocks); err != nil {
			return err
		}
	}
	parts := partsOf(reads)
	loaded := false
	defer func() {
		if !loaded {
			o.close() // a part of the state is the file's, another part is not
		}
	}()
	if err := blocks.each(len(parts), func(i int, block []byte) error { return parts[i].load(file.r, block) }); err != nil {
		return fmt.Errorf("%w; the optimizer has been closed", err)
	}
	loaded = true
	o.restartNoise()
	for g, r := range rules {
		o.setRule(g, r)
	}
	for i, s := range saved {
		u := &o.list.Updates[i]
		u.Step = s.Step + 1
		o.parts.drop(i)
		if s.state == nil {
			for _, v := range u.State {
				v.Clear()
			}
		}
		if s.Rounding != nil && !l.KeepRules {
			u.Rounding = *s.Rounding
		}
		if !l.StateOnly && !u.Copy.IsNil() && u.Params.Format() != low16Format {
			set(u.Copy, u.Params)
		}
	}
	return nil
}

// checkRoundings reports a tensor whose Rounding.First in the file is within a block of the optimizer's mxfp8 state: no step could follow.
func (o *Optimizer) checkRoundings(saved []*savedTensor) error {
	trial := pnm.List{Updates: slices.Clone(o.list.Updates)}
	for i, s := range saved {
		if s.Rounding != nil {
			trial.Updates[i].Rounding = *s.Rounding
		}
	}
	return named(trial.Check(0), o.names)
}

// rulesOf returns the groups' rules after Load.
func (o *Optimizer) rulesOf(saved []*savedTensor, keep bool) ([]pnm.Rule, error) {
	var h floatmode.Hold
	defer h.Take().Release()
	rules := make([]pnm.Rule, len(o.groups))
	for g := range o.groups {
		rules[g] = o.groups[g].rule
		first, end := o.members(g)
		for i := first; i < end; i++ {
			s := saved[i]
			if has := o.groups[g].rule; !sameState(has, s.rule) {
				return nil, o.inTensor(i, fmt.Errorf("in the file its rule is %s with state %s, in the optimizer %s with state %s",
					s.rule.Name(), joined(s.rule.State()), has.Name(), joined(has.State())))
			}
			switch {
			case keep:
			case i == first:
				if err := o.checkRule(s.rule, o.groups[g].wide); err != nil {
					return nil, at(fmt.Sprintf("group %d", g), err)
				}
				rules[g] = s.rule
			case rules[g] != s.rule:
				return nil, o.inTensor(i, fmt.Errorf("in the file its rule is %#v, but that of %s, in the same group of the optimizer, is %#v",
					s.rule, strictjson.Quote(o.names[first]), rules[g]))
			}
		}
	}
	return rules, nil
}

// ReadCheckpoint returns the description of a checkpoint. It does not read the numbers in the tensors, but checks all the rest, with the
// errors of [Optimizer.Load].
func ReadCheckpoint(path string) (info CheckpointInfo, err error) {
	err = withFile(path, func(r io.ReaderAt, size int64) error {
		info, err = readInfo(r, size)
		return err
	})
	if err != nil {
		return CheckpointInfo{}, ofCheckpoint(path, err)
	}
	return info, nil
}

// ReadCheckpointFrom is [ReadCheckpoint] from r, which has size bytes.
func ReadCheckpointFrom(r io.ReaderAt, size int64) (CheckpointInfo, error) {
	info, err := readInfo(r, size)
	if err != nil {
		return CheckpointInfo{}, ofCheckpoint("", err)
	}
	return info, nil
}

func readInfo(r io.ReaderAt, size int64) (CheckpointInfo, error) {
	c, err := readCheckpoint(r, size, true)
	if err != nil {
		return CheckpointInfo{}, err
	}
	return c.info, nil
}

// checkShapes reports shapes that are not as many as the tensors, or do not have as many elements.
func (o *Optimizer) checkShapes(shapes [][]int) error {
	if shapes == nil {
		return nil
	}
	if err := o.checkLength("shapes", len(shapes)); err != nil {
		return err
	}
	for i, s := range shapes {
		want := o.list.Updates[i].Params.Len()
		if n := countOf(s); s != nil && n != int64(want) {
			return o.inTensor(i, &pnm.LengthError{Arg: fmt.Sprintf("shape %v", s), Len: int(n), Want: want})
		}
	}
	return nil
}

// take returns the file's tensors in the order of the optimizer's, which must have the same names.
func (o *Optimizer) take(c *checkpointFile) ([]*savedTensor, error) {
	saved := make([]*savedTensor, len(o.names))
	for i, name := range o.names {
		if saved[i] = c.tensors[name]; saved[i] == nil {
			return nil, o.inTensor(i, fmt.Errorf("it is not in the file, which has %s", c.list()))
		}
	}
	for name, s := range c.tensors {
		if _, ok := o.number[name]; !ok {
			return nil, s.fault(errors.New("it is in the file, but the optimizer has no tensor of this name"))
		}
	}
	return saved, nil
}

// list names some of the file's tensors.
func (c *checkpointFile) list() string {
	var some []string
	for _, g := range c.info.Groups {
		for _, t := range g.Tensors {
			if len(some) == 3 {
				return fmt.Sprintf("%s and %d others", strings.Join(some, ", "), len(c.tensors)-len(some))
			}
			some = append(some, strictjson.Quote(t.Name))
		}
	}
	if some == nil {
		return "none"
	}
	return strings.Join(some, ", ")
}

// reads returns the reads of a tensor, or an error if it does not fit.
func (s *savedTensor) reads(u *pnm.Update, shape []int, params bool) ([]read, error) {
	reads := make([]read, 0, mostSums)
	for k, b := range s.state {
		if err := b.check(u.State[k], shape); err != nil {
			return nil, err
		}
		reads = appendReads(reads, b, u.State[k], pnm.Vector{})
	}
	if !params {
		return reads, nil
	}
	if s.params == nil {
		return nil, errors.New("the file does not have its parameters, only its state")
	}
	if err := s.params.check(u.Params, shape); err != nil {
		return nil, err
	}
	return appendReads(reads, s.params, u.Params, u.Copy), nil
}

// check reports elements that do not fit a vector and its shape, which may be nil.
func (b *blob) check(to pnm.Vector, shape []int) error {
	name := strictjson.Quote(b.name)
	switch {
	case b.n != int64(to.Len()):
		return fmt.Errorf("%s has %d elements, must have %d", name, b.n, to.Len())
	case shape != nil && !hasShape(b.shape, shape):
		return fmt.Errorf("%s has shape %v, must have %v", name, b.shape, shape)
	case (b.format.name == float64Format) != isWide(to):
		return fmt.Errorf("%s is %s, the optimizer has %s: float64 is not converted", name, b.format.name, to.Format())
	}
	return nil
}
