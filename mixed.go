package pnm

// MixedOptions are the options of a step in mixed precision, by UpdatePNMMixed and its like, whose vectors may be
//
//	params    float32, or bf16 that is stored by stochastic rounding
//	grads     float32, bf16 or f16
//	state     float32, or bf16: all momenta rounded to nearest even, averages of squares (and their largest) stochastically
//
// in any combination; or all are float64, with no copy. Each step widens to float32, does what it does to float32, and rounds once, where it stores.
//
// Stochastic rounding takes one of the two neighbours of a number, the nearer one more often, so that the mean is the number.
// Steps too small for the nearest bf16 are not lost that way: parameters keep moving, at the right rate, and averages of
// squares decay, which to the nearest they would not with β2 = 0.999. What is unbiased is not free of noise: AMSGrad keeps the largest
// average, and so the noise of one in bf16, which makes steps some 3 % shorter in the long run. docs/precision.md has measured all this.
type MixedOptions struct {
	Options

	// Copy, if it is not nil, gets a copy of the updated parameters in bf16 or f16, rounded to nearest even, for float32
	// parameters: as many elements as they have. It is written and not read.
	Copy Vector

	Rounding Rounding // which random numbers stochastic rounding draws: give each tensor a number of its own
}

// A MixedGroup is a list of tensors that share a rule, for a [MixedOptimizer].
type MixedGroup struct {
	Rule      Rule     // PNM, AdaPNM, SGD or Adam, as a value
	Params    []Vector // float32 or bf16, updated in place by Step; may be empty
	BF16State bool     // keep the state in bf16; default float32

	// Copies has a copy for each tensor, nil where there is to be none, or is nil as a whole: see [MixedOptions]. A step writes
	// it for tensors that have a gradient; [Convert] makes the first one.
	Copies []Vector

	// Rounding tells which random numbers each tensor draws. If it is nil, they are those of Config.Seed and of the tensor's
	// number in the optimizer. A process that owns parts of tensors names, for each, the tensor and the part's first element.
	Rounding []Rounding
}

// A MixedOptimizer is an [Optimizer] over vectors of several formats: parameters in float32 or bf16, gradients in float32, bf16
// or f16, state in float32 or bf16, copies of float32 parameters in bf16 or f16. See [MixedOptions] for what is rounded, and how.
// All that is said of Optimizer holds here.
type MixedOptimizer struct{ optimizer }

// Close is [Optimizer.Close].
func (o *MixedOptimizer) Close() {
	if o != nil {
		o.calls.Lock()
		defer o.calls.Unlock()
		o.close()
	}
}

// NewMixedOptimizer returns an optimizer over the groups' tensors, with state zero. It keeps the vectors of parameters and
// copies, copies nothing of them, and fails as [MixedOptimizer.AddGroup] does.
func NewMixedOptimizer(c Config, groups ...MixedGroup) (*MixedOptimizer, error) {
	o := &MixedOptimizer{optimizer{config: c}}
	if err := extend(&o.optimizer, groups, mixedGroup); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// AddGroup adds the tensors of a group behind those that the optimizer has. It fails as [Optimizer.AddGroup] does, with a
// *FormatError for a vector in a format that is not for its place, and a *LengthError for Copies or Rounding of a wrong length.
func (o *MixedOptimizer) AddGroup(g MixedGroup) error {
	return extend(&o.optimizer, []MixedGroup{g}, mixedGroup)
}

func mixedGroup(o *optimizer, g MixedGroup) (group, error) {
	first := len(o.batch.tensors)
	tensors := make([]tensor, len(g.Params))
	if g.Copies != nil && len(g.Copies) != len(g.Params) {
		return group{}, &LengthError{-1, "copies", len(g.Copies), len(g.Params)}
	}
	if g.Rounding != nil && len(g.Rounding) != len(g.Params) {
		return group{}, &LengthError{-1, "roundings", len(g.Rounding), len(g.Params)}
	}
	for i, p := range g.Params {
		t := &tensors[i]
		if p.format == f64 {
			return group{}, &FormatError{first + i, "params", p.format.String(), "float32 or bf16"}
		}
		t.p, t.g = p, Vector{format: f32}
		t.rounding = Rounding{Seed: o.config.Seed, Tensor: uint64(first + i)}
		if g.Copies != nil {
			t.out = g.Copies[i]
		}
		if g.Rounding != nil {
			t.rounding = g.Rounding[i]
		}
	}
	state := f32
	if g.BF16State {
		state = bf16
	}
	return group{g.Rule, state, tensors}, nil
}

// SetParams is [Optimizer.SetParams]: the parameters keep their formats. Copies is for all tensors as in a [MixedGroup]: without
// them none is written any more.
func (o *MixedOptimizer) SetParams(params, copies []Vector) error { return o.setParams(params, copies) }

// Step is [Optimizer.Step]: grads has one vector for each tensor, in float32, bf16 or f16; a nil one is no gradient.
func (o *MixedOptimizer) Step(grads []Vector) error {
	_, err := o.StepWith(Options{}, grads)
	return err
}

// StepWith is [Optimizer.StepWith].
func (o *MixedOptimizer) StepWith(opts Options, grads []Vector) (Report, error) {
	if err := o.calls.begin(); err != nil {
		return Report{}, err
	}
	defer o.calls.end()
	return o.stepWith(&opts, grads)
}

// A MixedPart is a [Part] of a step in mixed precision.
type MixedPart struct {
	Tensor int    // index of the tensor in its optimizer
	Step   int    // the number of the step: [Optimizer.Steps] + 1
	Lo     int    // the first element
	Grads  Vector // the gradients of the elements Lo, Lo+1, …
}

// StepPart is [Optimizer.StepPart]. The report has the overflows of this part's copy.
func (o *MixedOptimizer) StepPart(opts Options, part MixedPart) (Report, error) {
	return o.stepPart(&opts, part)
}

// A MixedTensorState is a [TensorState] whose buffers have the formats of the optimizer's state.
type MixedTensorState struct {
	Step    int
	Buffers map[string]Vector // of float32 or bf16
}

// State is [Optimizer.State]: the buffers are copies, in the format that the optimizer keeps. Stochastic rounding needs nothing
// but the seed and the count of steps to go on as before.
func (o *MixedOptimizer) State() ([]MixedTensorState, error) { return o.state() }

// SetState is [Optimizer.SetState]. A buffer in another format than the optimizer's is widened, or rounded to nearest even.
func (o *MixedOptimizer) SetState(states []MixedTensorState) error { return o.setState(states) }

// GradNormMixed is [GradNorm] for gradients in float32, bf16 or f16.
func GradNormMixed(pool *Pool, grads ...Vector) float64 {
	b := takeBatch()
	defer b.putBack()
	defer b.held.Take().Release()
	for _, g := range grads {
		b.tensors = append(b.tensors, tensor{g: g})
	}
	return b.normAlone(pool)
}
