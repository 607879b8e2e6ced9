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

// SaveOptions tell how [Optimizer.Save] writes a run. The zero value writes all of it.
type SaveOptions struct {
	Shapes    [][]int           // of the tensors, for readers to whom they matter, as PyTorch; a nil one, or nil, is one dimension
	StateOnly bool              // leave the parameters out
	Metadata  map[string]string // the caller's own: epoch, position in the data, loss scale. No key begins with "posneg."
}

// LoadOptions tell what [Optimizer.Load] expects and takes. The zero value takes all of a run.
type LoadOptions struct {
	Shapes     [][]int // as in SaveOptions; a nil one, or nil, is not compared
	StateOnly  bool    // leave the parameters as they are
	KeepRules  bool    // keep the rules that the optimizer has, and the random numbers that it draws, instead of the file's
	Unverified bool    // do not compare checksums: for what is left in a damaged file
}

// CheckpointInfo is what a checkpoint has beside numbers. With it, a program can build the optimizer that the file fits.
type CheckpointInfo struct {
	Groups   []CheckpointGroup // of the optimizer that was saved
	Metadata map[string]string // the caller's own, not nil
	Writer   string            // the library that wrote the file
}

// A CheckpointGroup is a group of the optimizer that was saved.
type CheckpointGroup struct {
	Rule    pnm.Rule
	Tensors []CheckpointTensor
	Other   string // what other programs keep with the group, as a JSON object, as PyTorch's schedulers do; Save does not write it
}

// A CheckpointTensor is a tensor in a checkpoint. Formats are called "float32", "float64", "bf16" and "mxfp8", as by [pnm.Vector.Format].
type CheckpointTensor struct {
	Name     string
	Step     int               // the number of steps done
	Shape    []int             // nil if the file has neither state nor parameters of it
	Buffers  map[string]string // the format of each buffer of its state, under the names of [TensorState]; empty if that is zero, or none
	Row      int               // the length of the rows of its mxfp8 buffers, for [Group].Rows; 0 if these are flat, or if there are none
	Params   string            // the format of its parameters; "" if they are not in the file
	Rounding *pnm.Rounding     // the random numbers that it draws; nil if none
}

// ofCheckpoint returns an error as one of a checkpoint at a path, which may be "".
func ofCheckpoint(path string, err error) error {
	if path == "" {
		return at("optim: checkpoint", err)
	}
	if of, ok := err.(*fs.PathError); ok && of.Path == path {
		return &located{"optim: checkpoint " + path + ": " + of.Err.Error(), err}
	}
	return at("optim: checkpoint "+path, err)
}

// Save writes a run to a file, from which [Optimizer.Load] continues with the same bits: the parameters, the state, the counts of
// steps and the rules. The format is safetensors; docs/checkpoints.md tells what is in it. The file replaces what the path had as a
// whole, once it is on disk: whenever the program or the machine stops, the path has the old file or the new one. Save needs no
// memory for a copy. Parameters in low16 are saved as the float32 numbers that they and their copies are.
//
// The error names the path, unless nothing was tried: for Shapes that do not fit the tensors, a *pnm.LengthError; for a tensor of which
// [Optimizer.StepPart] has done a part, a *PartError; and for a closed optimizer, [ErrClosed]. Metadata and step counts that could not
// be read again are errors, too. After an error the path has what it had, unless it comes from the directory's synchronization, which is
// the last thing done.
func (o *Optimizer) Save(path string, s SaveOptions) error {
	return o.saveBy(path, &s, func(save func(io.Writer) error) error { return atomicfile.Write(path, save) })
}

// SaveTo is [Optimizer.Save] to any writer, whose error is behind the one that is returned.
func (o *Optimizer) SaveTo(w io.Writer, s SaveOptions) error {
	return o.saveBy("", &s, func(save func(io.Writer) error) error { return save(w) })
}

// saveBy checks what is to be saved, and has write save it.
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
		add := func(name string, shape []int, s source) {
			tensors = append(tensors, safetensors.Tensor{Name: name, DType: s.format.dtype, Shape: shape})
			sources = append(sources, s)
		}
		if !s.StateOnly {
			add(paramsName+name, shape, paramsOf(u))
		}
		for k, slot := range u.Rule.State() {
			v := u.State[k]
			add(stateName(name, slot), shape, sourceOf(v))
			if v.Format() == mxfp8Format {
				add(stateName(name, slot+scalesSuffix), scalesShape(v), source{format: &scalesFormat, bytes: v.Scales()})
			}
		}
	}
	blocks := newBlocks()
	sums := checksums(sources, blocks)
	meta := map[string]string{writerKey: writer(), groupsKey: string(o.appendGroups(nil, !s.StateOnly, sums))}
	maps.Copy(meta, s.Metadata)
	meta[layoutKey] = fmt.Sprintf("%s %08x", layout, headerSum(meta, tensors))
	buffered := bufio.NewWriterSize(w, blockSize) // gathers what is small
	err := safetensors.Write(buffered, meta, tensors, func(w io.Writer, i int) error { return sources[i].write(w, blocks[0]) })
	if err == nil {
		err = buffered.Flush()
	}
	return err
}

// Load replaces the parameters and the state of all tensors and the rules of all groups by those in a file that [Optimizer.Save]
// wrote, or the Python package. A run that continues from there gives the bits of one that was not interrupted. Copies of the
// parameters are made anew; with those in low16, they are the halves of what the file has.
//
// The tensors of the file and of the optimizer are matched by name, and must be the same. The groups need not be the same: but all
// tensors of one of the optimizer's groups must come with the same rule, of the type and with the state that the group has (see
// [Optimizer.SetRule]). State and parameters in another format than the optimizer's, or in mxfp8 with other rows, are widened, or rounded
// to nearest even; float64 is not converted. Load needs no memory for a copy.
//
// Errors are as for Save, with a *pnm.TensorError behind them where one tensor is at fault, and with [ErrChecksum] where the file is
// damaged. A file without parameters is an error, unless StateOnly is set. The file is checked as a whole, in a first pass over it, and
// the optimizer is then as it was. If the second pass fails, by an error of the disk, the state and the parameters are of no step any
// more: the optimizer is then closed. What [Optimizer.StepPart] has done of an incomplete step no longer counts.
func (o *Optimizer) Load(path string, l LoadOptions) (CheckpointInfo, error) {
	return o.loadBy(path, &l, func(use func(io.ReaderAt, int64) error) error { return withFile(path, use) })
}

// LoadFrom is [Optimizer.Load] from anything that has so many bytes. It reads from several goroutines at once.
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

	parts, blocks := partsOf(reads), newBlocks()
	if !l.Unverified {
		if err := blocks.each(len(parts), func(i int, block []byte) error { return parts[i].verify(file.r, block) }); err != nil {
			return err
		}
	}
	loaded := false
	defer func() {
		if !loaded {
			o.close() // part of the state is the file's, part is not
		}
	}()
	if err := blocks.each(len(parts), func(i int, block []byte) error { return parts[i].load(file.r, block) }); err != nil {
		return fmt.Errorf("%w; the optimizer has been closed", err)
	}
	loaded = true
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

// checkRoundings reports a tensor that the file has begin within a block of the optimizer's state in mxfp8: no step could follow.
func (o *Optimizer) checkRoundings(saved []*savedTensor) error {
	trial := pnm.List{Updates: slices.Clone(o.list.Updates)}
	for i, s := range saved {
		if s.Rounding != nil {
			trial.Updates[i].Rounding = *s.Rounding
		}
	}
	return named(trial.Check(0), o.names)
}

// rulesOf returns the rules that the groups will have.
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
				return nil, o.inTensor(i, fmt.Errorf("in the file it is of %s, whose state is %s; in the optimizer of %s, whose state is %s",
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
				return nil, o.inTensor(i, fmt.Errorf("in the file it has the rule %#v, but %s of the same group of the optimizer has %#v",
					s.rule, strictjson.Quote(o.names[first]), rules[g]))
			}
		}
	}
	return rules, nil
}

// ReadCheckpoint returns what a checkpoint has beside numbers. It checks all of the file but these as [Optimizer.Load] does, with the same
// errors.
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

// ReadCheckpointFrom is [ReadCheckpoint] for anything that has so many bytes.
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

// checkShapes reports shapes whose number, or whose length, is not that of the tensors.
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
			return nil, s.fault(errors.New("it is in the file, but the optimizer has none of this name"))
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

// reads returns what must be read for a tensor, if it fits.
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

// check reports elements that a vector of a shape, which may be nil, cannot have.
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
