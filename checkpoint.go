package pnm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/posneg/pnm/internal/atomicfile"
	"github.com/posneg/pnm/internal/safetensors"
	"github.com/posneg/pnm/internal/strictjson"

	"github.com/posneg/pnm/internal/floatmode"
)

// SaveOptions tell how [Optimizer.Save] writes a run. The zero value writes all of it, with tensors called by their numbers.
type SaveOptions struct {
	Names     []string          // of the tensors, in the optimizer's order, all different; nil stands for "0", "1", …
	Shapes    [][]int           // of the tensors, for readers to whom they matter, as PyTorch; a nil one, or nil, is one dimension
	StateOnly bool              // leave the parameters out
	Metadata  map[string]string // the caller's own: epoch, position in the data, loss scale. No key begins with "posneg."
}

// LoadOptions tell what [Optimizer.Load] expects and takes. The zero value takes all of a run of tensors without names.
type LoadOptions struct {
	Names      []string // as in SaveOptions
	Shapes     [][]int  // as in SaveOptions; a nil one, or nil, is not compared
	StateOnly  bool     // leave the parameters as they are
	KeepRules  bool     // keep the rules that the optimizer has, and the random numbers that it draws, instead of the file's
	Unverified bool     // do not compare checksums: for what is left in a damaged file
}

// CheckpointInfo is what a checkpoint has beside numbers. With it, a program can build the optimizer that the file fits.
type CheckpointInfo struct {
	Groups   []CheckpointGroup // of the optimizer that was saved
	Metadata map[string]string // the caller's own, not nil
	Writer   string            // the library that wrote the file
}

// A CheckpointGroup is a group of the optimizer that was saved.
type CheckpointGroup struct {
	Rule    Rule
	Tensors []CheckpointTensor
	Other   string // what other programs keep with the group, as a JSON object, as PyTorch's schedulers do; Save does not write it
}

// A CheckpointTensor is a tensor in a checkpoint. Formats are called "float32", "float64" and "bf16", as by [Vector.Format].
type CheckpointTensor struct {
	Name     string
	Step     int               // the number of steps done
	Shape    []int             // nil if the file has neither state nor parameters of it
	Buffers  map[string]string // the format of each buffer of its state, under the names of [TensorState]; empty if that is zero, or none
	Params   string            // the format of its parameters; "" if they are not in the file
	Rounding *Rounding         // the random numbers that it draws; nil if none
}

// ErrChecksum is behind the [CheckpointError] of a file that is damaged: what it has differs from what was written.
var ErrChecksum = errors.New("the checksum differs: the file is damaged")

// A CheckpointError reports a checkpoint that cannot be written, or cannot be read, or does not fit the optimizer.
type CheckpointError struct {
	Path   string // "" where there is none
	Tensor string // the name of the tensor at fault; "" if it is no single one
	Err    error
}

func (e *CheckpointError) Error() string {
	tensor, problem := "", withoutPrefix(e.Err)
	if e.Tensor != "" {
		tensor = "tensor " + strictjson.Quote(e.Tensor) + ": "
	}
	if of, ok := e.Err.(*fs.PathError); ok && of.Path == e.Path {
		problem = of.Err.Error()
	}
	path := ""
	if e.Path != "" {
		path = " " + e.Path
	}
	return fmt.Sprintf("pnm: checkpoint%s: %s%s", path, tensor, problem)
}

func (e *CheckpointError) Unwrap() error { return e.Err }

// checkpointError returns err as a *CheckpointError of a path.
func checkpointError(path string, err error) error {
	e, ok := err.(*CheckpointError)
	if !ok {
		e = &CheckpointError{Err: err}
	}
	e.Path = path
	return e
}

// Save writes a run to a file, from which [Optimizer.Load] continues with the same bits: the parameters, the state, the counts of
// steps and the rules. The format is safetensors; docs/checkpoints.md tells what is in it. The file replaces what the path had as a
// whole, once it is on disk: whenever the program or the machine stops, the path has the old file or the new one. Save needs no
// memory for a copy.
//
// It fails with a *CheckpointError, also for names, metadata and step counts that could not be read again; with a *LengthError for
// Names and Shapes that do not fit the tensors; with a *RangeError while [Optimizer.StepPart] has done a part of a step; with
// [ErrClosed] after Close. The path then has what it had, unless the error comes from the directory's synchronization, which is the
// last thing done.
func (o *optimizer) Save(path string, s SaveOptions) error {
	return o.saveBy(path, &s, func(save func(io.Writer) error) error { return atomicfile.Write(path, save) })
}

// SaveTo is [Optimizer.Save] to any writer. An error of the writer is behind the *CheckpointError.
func (o *optimizer) SaveTo(w io.Writer, s SaveOptions) error {
	return o.saveBy("", &s, func(save func(io.Writer) error) error { return save(w) })
}

// saveBy checks what is to be saved, and has write save it.
func (o *optimizer) saveBy(path string, s *SaveOptions, write func(save func(io.Writer) error) error) error {
	if err := o.calls.beginReading(); err != nil {
		return err
	}
	defer o.calls.endReading()
	if o.closed {
		return ErrClosed
	}
	if err := o.wholeSteps(-1); err != nil {
		return err
	}
	if err := o.checkLists(s.Names, s.Shapes); err != nil {
		return err
	}
	names, err := o.names(s.Names)
	if err != nil {
		return checkpointError(path, err)
	}
	for i := range o.batch.tensors {
		if o.batch.tensors[i].step < 1 { // the count has overflowed
			return checkpointError(path, &CheckpointError{Tensor: names[i], Err: fmt.Errorf("it has done more than %d steps", mostSteps)})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Metadata)) {
		if strings.HasPrefix(key, reserved) {
			return checkpointError(path, fmt.Errorf("metadata %s: keys that begin with %s are reserved", strictjson.Quote(key), reserved))
		}
	}
	if err := write(func(w io.Writer) error { return o.save(w, names, s) }); err != nil {
		return checkpointError(path, err)
	}
	return nil
}

func (o *optimizer) save(w io.Writer, names []string, s *SaveOptions) error {
	var tensors []safetensors.Tensor
	var vectors []Vector
	for i := range o.batch.tensors {
		t := &o.batch.tensors[i]
		shape := []int{t.p.n}
		if s.Shapes != nil && s.Shapes[i] != nil {
			shape = s.Shapes[i]
		}
		add := func(name string, v Vector) {
			tensors = append(tensors, safetensors.Tensor{Name: name, DType: dtypes[v.format], Shape: shape})
			vectors = append(vectors, v)
		}
		if !s.StateOnly {
			add(paramsName+names[i], t.p)
		}
		for k, slot := range forms[t.form].slots {
			add(stateName(names[i], slot), t.s[k])
		}
	}
	blocks := newBlocks()
	sums := checksums(vectors, blocks)
	meta := map[string]string{writerKey: writer(), groupsKey: string(o.appendGroups(nil, names, !s.StateOnly, sums))}
	maps.Copy(meta, s.Metadata)
	meta[layoutKey] = fmt.Sprintf("%s %08x", layout, headerSum(meta, tensors))
	buffered := bufio.NewWriterSize(w, blockSize) // gathers what is small
	err := safetensors.Write(buffered, meta, tensors, func(w io.Writer, i int) error { return writeVector(w, vectors[i], blocks[0]) })
	if err == nil {
		err = buffered.Flush()
	}
	return err
}

// Load replaces the parameters and the state of all tensors and the rules of all groups by those in a file that [Optimizer.Save]
// wrote, or the Python package. A run that continues from there gives the bits of one that was not interrupted. The copies of a
// [MixedOptimizer]'s parameters are made anew.
//
// The tensors of the file and of the optimizer are matched by name, and must be the same. Without Names they are matched by their
// numbers, and a file with names is refused. The groups need not be the same: but all tensors of one of the optimizer's groups must
// come with the same rule, of the type and with the state that the group has (see [Optimizer.SetRule]). State and parameters in
// another format than the optimizer's are widened, or rounded to nearest even; float64 is not converted. Load needs no memory for a copy.
//
// It fails with a *CheckpointError, also for a file without parameters unless StateOnly is set, and, with [ErrChecksum] behind it, for
// a damaged one; with a *LengthError for Names and Shapes that do not fit the tensors; with [ErrClosed] after Close. The file is checked
// as a whole, in a first pass over it, and the optimizer is then as it was. If the second pass fails, by an error of the disk, the state
// and the parameters are of no step any more: the optimizer is then closed. What [Optimizer.StepPart] has done of an incomplete step
// no longer counts.
func (o *optimizer) Load(path string, l LoadOptions) (CheckpointInfo, error) {
	return o.loadBy(path, &l, func(use func(io.ReaderAt, int64) error) error { return withFile(path, use) })
}

// LoadFrom is [Optimizer.Load] from anything that has so many bytes. It reads from several goroutines at once.
func (o *optimizer) LoadFrom(r io.ReaderAt, size int64, l LoadOptions) (CheckpointInfo, error) {
	return o.loadBy("", &l, func(use func(io.ReaderAt, int64) error) error { return use(r, size) })
}

func (o *optimizer) loadBy(path string, l *LoadOptions, read func(use func(io.ReaderAt, int64) error) error) (CheckpointInfo, error) {
	if err := o.calls.begin(); err != nil {
		return CheckpointInfo{}, err
	}
	defer o.calls.end()
	if o.closed {
		return CheckpointInfo{}, ErrClosed
	}
	if err := o.checkLists(l.Names, l.Shapes); err != nil {
		return CheckpointInfo{}, err
	}
	names, err := o.names(l.Names)
	if err != nil {
		return CheckpointInfo{}, checkpointError(path, err)
	}
	var info CheckpointInfo
	err = read(func(r io.ReaderAt, size int64) error {
		c, err := readCheckpoint(r, size, !l.Unverified)
		if err != nil {
			return err
		}
		info = c.info
		return o.load(c, names, l)
	})
	if err != nil {
		return CheckpointInfo{}, checkpointError(path, err)
	}
	return info, nil
}

func (o *optimizer) load(file *checkpointFile, names []string, l *LoadOptions) error {
	saved, err := file.take(names)
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
		r, err := s.reads(&o.batch.tensors[i], shape, !l.StateOnly)
		if err != nil {
			return &CheckpointError{Tensor: s.Name, Err: err}
		}
		reads = append(reads, r...)
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
		t := &o.batch.tensors[i]
		t.step = s.Step + 1
		o.parts.drop(i)
		if s.state == nil {
			for k := range forms[t.form].slots {
				t.s[k].clear()
			}
		}
		if s.Rounding != nil && !l.KeepRules {
			t.rounding = *s.Rounding
		}
		if !l.StateOnly && t.out.at != nil {
			convert(t.out, t.p)
		}
	}
	return nil
}

// rulesOf returns the rules that the groups will have.
func (o *optimizer) rulesOf(saved []*savedTensor, keep bool) ([]Rule, error) {
	var h floatmode.Hold
	defer h.Take().Release()
	rules := slices.Clone(o.groups)
	first := make([]*savedTensor, len(rules)) // of each group
	for i, s := range saved {
		g := o.batch.tensors[i].group
		if has, was := o.groups[g].form(), s.rule.form(); !has.sameState(was) {
			return nil, &CheckpointError{Tensor: s.Name, Err: fmt.Errorf(
				"in the file it is of %s, whose state is %s; in the optimizer of %s, whose state is %s",
				s.rule.Name(), was.state(), o.groups[g].Name(), has.state())}
		}
		switch {
		case keep:
		case first[g] == nil:
			if err := checkRule(g, s.rule, o.wide); err != nil {
				return nil, err
			}
			rules[g], first[g] = s.rule, s
		case rules[g] != s.rule:
			return nil, &CheckpointError{Tensor: s.Name, Err: fmt.Errorf(
				"in the file it has the rule %#v, but %s of the same group of the optimizer has %#v",
				s.rule, strictjson.Quote(first[g].Name), rules[g])}
		}
	}
	return rules, nil
}

// ReadCheckpoint returns what a checkpoint has beside numbers. It checks all of the file but these as [Optimizer.Load] does, and fails
// with a *CheckpointError.
func ReadCheckpoint(path string) (info CheckpointInfo, err error) {
	err = withFile(path, func(r io.ReaderAt, size int64) error {
		info, err = readInfo(r, size)
		return err
	})
	if err != nil {
		return CheckpointInfo{}, checkpointError(path, err)
	}
	return info, nil
}

// ReadCheckpointFrom is [ReadCheckpoint] for anything that has so many bytes.
func ReadCheckpointFrom(r io.ReaderAt, size int64) (CheckpointInfo, error) {
	info, err := readInfo(r, size)
	if err != nil {
		return CheckpointInfo{}, checkpointError("", err)
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

// names checks the tensors' names, or returns their numbers.
func (o *optimizer) names(names []string) ([]string, error) {
	n := len(o.batch.tensors)
	if names == nil {
		names = make([]string, n)
		for i := range names {
			names[i] = strconv.Itoa(i)
		}
	}
	number := make(map[string]int, n)
	for i, name := range names {
		switch other, taken := number[name]; {
		case name == "" || !utf8.ValidString(name):
			return nil, fmt.Errorf("the name of tensor %d is %s, must not be empty and be UTF-8", i, strictjson.Quote(name))
		case taken:
			return nil, &CheckpointError{Tensor: name, Err: fmt.Errorf("the name is that of tensors %d and %d", other, i)}
		}
		number[name] = i
	}
	return names, nil
}

// checkLists reports names and shapes whose number, or whose length, is not that of the tensors.
func (o *optimizer) checkLists(names []string, shapes [][]int) error {
	if names != nil && len(names) != len(o.batch.tensors) {
		return &LengthError{-1, "names", len(names), len(o.batch.tensors)}
	}
	if shapes != nil && len(shapes) != len(o.batch.tensors) {
		return &LengthError{-1, "shapes", len(shapes), len(o.batch.tensors)}
	}
	for i, s := range shapes {
		if n := countOf(s); s != nil && n != int64(o.batch.tensors[i].p.n) {
			return &LengthError{i, fmt.Sprintf("shape %v", s), int(n), o.batch.tensors[i].p.n}
		}
	}
	return nil
}

// take takes the tensors of some names, which must be all.
func (c *checkpointFile) take(names []string) ([]*savedTensor, error) {
	saved := make([]*savedTensor, len(names))
	for i, name := range names {
		if saved[i] = c.tensors[name]; saved[i] == nil {
			return nil, &CheckpointError{Tensor: name, Err: fmt.Errorf("it is not in the file, which has %s", c.list())}
		}
	}
	for _, name := range names {
		delete(c.tensors, name)
	}
	for name := range c.tensors {
		return nil, &CheckpointError{Tensor: name, Err: errors.New("it is in the file, but the optimizer has none of this name")}
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
func (s *savedTensor) reads(t *tensor, shape []int, params bool) (reads []read, err error) {
	for k, b := range s.state {
		reads = append(reads, read{t.s[k], b})
	}
	if params {
		if s.params == nil {
			return nil, errors.New("the file does not have its parameters, only its state")
		}
		reads = append(reads, read{t.p, s.params})
	}
	for _, r := range reads {
		name := strictjson.Quote(r.from.name)
		switch {
		case r.from.n != int64(r.to.n):
			return nil, fmt.Errorf("%s has %d elements, must have %d", name, r.from.n, r.to.n)
		case shape != nil && !hasShape(r.from.shape, shape):
			return nil, fmt.Errorf("%s has shape %v, must have %v", name, r.from.shape, shape)
		case (r.from.format == f64) != t.wide():
			return nil, fmt.Errorf("%s is %s, the optimizer has %s: float64 is not converted", name, r.from.format, r.to.format)
		}
	}
	return reads, nil
}
