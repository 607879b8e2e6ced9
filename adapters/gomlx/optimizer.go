package pnmgomlx

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/distributed"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/train"
	"github.com/gomlx/gomlx/ml/train/optimizer"
	"github.com/gomlx/gomlx/support/exceptions"
	"github.com/posneg/pnm"
	"github.com/posneg/pnm/optim"
	"k8s.io/klog/v2"
)

// A Group is a rule and the variables that follow it.
type Group struct {
	Rule  pnm.Rule                     // a rule of pnm: a value, not a pointer
	Match func(v *model.Variable) bool // whether v belongs to the group, unless an earlier group has taken it; nil takes all
}

// An Optimizer updates the trainable variables of a GoMLX model in place, with the engine of package pnm. It is an [optimizer.Interface]
// for [train.NewTrainer]. Attach it to the training loop with [Optimizer.Attach]; in your own loop, call [Optimizer.TrainStep] instead.
//
// Only one goroutine at a time may use an Optimizer.
type Optimizer struct {
	backend compute.Backend
	store   *model.Store
	groups  []Group
	options pnm.Options

	engine    *optim.Optimizer // its tensors are named by the variables' paths
	variables []*binding       // its tensors, in its order
	closed    bool

	attached map[*train.Trainer]bool
	seen     int64 // GoMLX's global step before the trainer's step
	pending  *gradients
	report   pnm.Report
}

var (
	_ optimizer.Interface         = (*Optimizer)(nil)
	_ train.OptimizeWithGradients = (*Optimizer)(nil)
)

// New returns an optimizer for the variables of store, which are on the first device of backend. Each variable belongs to the
// first group that takes it; the variables of a group have one type. The errors are those of [optim.New], for example for a rule that is
// missing or has a bad hyperparameter.
func New(backend compute.Backend, store *model.Store, groups ...Group) (*Optimizer, error) {
	if backend == nil || store == nil {
		return nil, errors.New("pnmgomlx: New: backend or store is nil, must be those of the trainer")
	}
	// Until variables are there, an engine without tensors holds the rules.
	rules := make([]optim.Group, len(groups))
	for i, g := range groups {
		rules[i].Rule = g.Rule
	}
	e, err := optim.New(rules...)
	if err != nil {
		return nil, err
	}
	return &Optimizer{backend: backend, store: store, groups: slices.Clone(groups), engine: e, attached: make(map[*train.Trainer]bool)}, nil
}

// Attach makes each step of the loop update the variables, before any other hook with a priority above −1000. The loop
// returns the errors. Attach resets the trainer's computation graphs. Call it after anything else that sets the trainer's node loggers,
// such as GoMLX's nanlogger.
func (o *Optimizer) Attach(loop *train.Loop) {
	o.attach(loop.Trainer)
	loop.OnStart("pnm", math.MaxInt, func(*train.Loop, train.Dataset) error {
		o.pending = nil // of a run that failed within a step
		return o.begin()
	})
	loop.OnStep("pnm", -1000, func(_ *train.Loop, metrics []*tensors.Tensor) error { return o.apply(metrics) })
	loop.OnStep("pnm", math.MaxInt, func(*train.Loop, []*tensors.Tensor) error { return o.begin() })
}

// TrainStep performs a step in your own loop: it calls the trainer's TrainStep, which owns the batch from then on, and updates the
// variables. After an error, such as a panic of the model function or a loss that is NaN or infinite, parameters and state are unchanged;
// with SkipNonFinite such a loss is not an error. The first call attaches the trainer, as [Optimizer.Attach] does.
func (o *Optimizer) TrainStep(trainer *train.Trainer, batch train.Batch) (metrics []*tensors.Tensor, err error) {
	if trainer == nil {
		return nil, errors.New("pnmgomlx: TrainStep: the trainer is nil")
	}
	o.attach(trainer)
	if err := o.begin(); err != nil {
		return nil, err
	}
	if caught := exceptions.TryCatch[error](func() { metrics, err = trainer.TrainStep(batch) }); caught != nil {
		err = caught
	}
	if err != nil {
		o.pending = nil
		return nil, err
	}
	return metrics, o.apply(metrics)
}

// A graph knows only the name of its executor: this suffix marks the graphs whose gradients the optimizer gets.
const attachedName = ", with pnm"

// attach catches the gradients of all graphs that the trainer will build.
func (o *Optimizer) attach(trainer *train.Trainer) {
	if o.attached[trainer] {
		return
	}
	o.attached[trainer] = true
	trainer.ResetComputationGraphs() // the gradients of existing graphs cannot be caught
	trainer.OnExecCreation(func(exec *model.Exec, kind train.GraphType) {
		if kind != train.TrainType {
			return
		}
		// GoMLX's checkpoint handler loads this variable as trainable, and no layer changes that.
		if rng := o.store.GetVariable(model.RNGStateVariableName); rng != nil {
			rng.SetTrainable(false)
		}
		exec.WithName(exec.Name() + attachedName)
		next := exec.GetNodeLogger()
		exec.SetNodeLogger(func(g *graph.Graph, messages []string, values []*tensors.Tensor, nodes []graph.NodeId) {
			messages, values, nodes = o.catch(g, messages, values, nodes)
			if next != nil {
				next(g, messages, values, nodes)
			}
		})
	})
}

// begin comes before each step of a trainer.
func (o *Optimizer) begin() (err error) {
	o.lose()
	if o.seen, err = o.globalStep(); err != nil {
		return err
	}
	return o.scaleLoss()
}

func (o *Optimizer) globalStep() (step int64, err error) {
	err = exceptions.TryCatch[error](func() { step = optimizer.GetGlobalStep(o.store) })
	return step, err
}

// The message that marks a gradient among a graph's logged nodes.
const gradientMessage = "#pnm gradient"

// trained has the variables that a graph computes gradients of.
type trained struct {
	variables   []*model.Variable
	nodes       []graph.NodeId  // their gradients
	lossScale   *model.Variable // nil if the graph has none
	lr          *model.Variable // nil unless the graph computes the learning rate
	accumulated bool            // the gradients are of several batches
}

// gradients are the gradients of a step that is due.
type gradients struct {
	*trained
	graph     *graph.Graph
	values    []*tensors.Tensor // as trained.variables
	lossScale float64           // 0 for none
	err       error             // the gradients that arrived are not the graph's
}

// UpdateGraph builds the gradients of the loss, and the count of GoMLX's global step. It implements [optimizer.Interface].
func (o *Optimizer) UpdateGraph(scope *model.Scope, g *graph.Graph, loss *graph.Node) {
	if !loss.Shape().IsScalar() {
		exceptions.Panicf("pnmgomlx: the shape of the loss is %s, must be that of a scalar", loss.Shape())
	}
	t := &trained{}
	if o.options.LossScale != 0 {
		t.lossScale = o.lossScaleVariable(loss.DType())
		loss = graph.Mul(loss, t.lossScale.NodeValue(g))
	}
	o.checkTrainable(scope, g)
	o.emit(scope, g, t, scope.BuildTrainableVariablesGradientsGraph(loss))
}

// UpdateGraphWithGradients is [Optimizer.UpdateGraph] for gradients that a trainer has accumulated: see
// [train.Trainer.AccumulateGradients]. It uses no loss scale.
func (o *Optimizer) UpdateGraphWithGradients(scope *model.Scope, grads []*graph.Node, _ dtypes.DType) {
	if o.options.LossScale != 0 {
		exceptions.Panicf("pnmgomlx: Options.LossScale is %g, but gradients that the trainer accumulates cannot be scaled",
			o.options.LossScale)
	}
	if len(grads) == 0 {
		panic(errNoVariable)
	}
	g := grads[0].Graph()
	o.checkTrainable(scope, g)
	o.emit(scope, g, &trained{accumulated: true}, grads)
}

// checkTrainable panics, as functions that build graphs do, if the engine cannot update the graph's trainable variables.
func (o *Optimizer) checkTrainable(scope *model.Scope, g *graph.Graph) {
	if !strings.Contains(g.Name(), attachedName) {
		exceptions.Panicf("pnmgomlx: the optimizer is not attached to the trainer: call its Attach with the loop, or its TrainStep")
	}
	if model.GetStore(g) != o.store {
		exceptions.Panicf("pnmgomlx: the trainer's store is not the optimizer's")
	}
	if s := g.DistributedStrategy(); s != distributed.None {
		exceptions.Panicf("pnmgomlx: the graph is distributed (%s), must run on one device", s)
	}
	for _, p := range []struct {
		name, instead string
		set           bool
	}{
		{optimizer.ParamClipStepByValue, "which bounds steps; pnm.Options bound gradients, see SetOptions",
			model.GetParamOr(scope, optimizer.ParamClipStepByValue, 0.0) != 0},
		{optimizer.ParamClipNaN, "set pnm.Options.SkipNonFinite by SetOptions", model.GetParamOr(scope, optimizer.ParamClipNaN, false)},
	} {
		if p.set {
			exceptions.Panicf("pnmgomlx: the hyperparameter %q is set, and not supported: %s", p.name, p.instead)
		}
	}
	variables := slices.Collect(trainable(scope, g))
	if len(variables) == 0 {
		panic(errNoVariable)
	}
	for _, v := range variables {
		if v.ChangedInGraph(g) {
			panic(setByGraph(v))
		}
	}
	if err := o.check(o.with(variables)); err != nil {
		panic(err)
	}
}

var errNoVariable = errors.New("pnmgomlx: there is no trainable variable")

func setByGraph(v *model.Variable) error {
	return ofVariable(v.Path(), errors.New("is to be trained, and also set by the graph itself"))
}

// trainable yields the variables that GoMLX takes gradients of, in its order.
func trainable(scope *model.Scope, g *graph.Graph) iter.Seq[*model.Variable] {
	return func(yield func(*model.Variable) bool) {
		for v := range scope.IterVariables() {
			if v.Trainable && v.InUseByGraph(g) && !yield(v) {
				return
			}
		}
	}
}

// emit makes the gradients outputs of the graph, as logged nodes. Variables would be outputs, too, but the store would keep
// them, and GoMLX's checkpoints would save them.
func (o *Optimizer) emit(scope *model.Scope, g *graph.Graph, t *trained, grads []*graph.Node) {
	for v := range trainable(scope, g) {
		t.variables = append(t.variables, v)
	}
	if len(t.variables) != len(grads) {
		exceptions.Panicf("pnmgomlx: there are %d gradients of %d trainable variables", len(grads), len(t.variables))
	}
	for i, v := range t.variables {
		optimizer.TraceNaNInGradients(scope, v, grads[i])
		node := graph.Identity(grads[i]) // a new node: variables may share a gradient, and others may log it
		node.SetLogged(gradientMessage)
		t.nodes = append(t.nodes, node.Id())
	}
	lr := o.store.GetVariable(model.JoinPath("/", optimizer.Scope, optimizer.ParamLearningRate))
	if lr != nil && lr.ChangedInGraph(g) {
		t.lr = lr
	}
	optimizer.IncrementGlobalStep(g, dtypes.Int64)
	g.AttachState(o, t)
}

// catch takes the gradients out of the nodes that a graph has logged.
func (o *Optimizer) catch(g *graph.Graph, messages []string, values []*tensors.Tensor, nodes []graph.NodeId) (
	[]string, []*tensors.Tensor, []graph.NodeId) {
	t, ok := g.State(o).(*trained)
	if !ok {
		return messages, values, nodes
	}
	p := &gradients{trained: t, graph: g}
	var m []string
	var rest []*tensors.Tensor
	var n, ours []graph.NodeId
	for i, message := range messages {
		if message == gradientMessage {
			p.values, ours = append(p.values, values[i]), append(ours, nodes[i])
		} else {
			m, rest, n = append(m, message), append(rest, values[i]), append(n, nodes[i])
		}
	}
	// A panic here would leave variables without a value: GoMLX has taken the old values and not set the new ones.
	if !slices.Equal(ours, t.nodes) { // GoMLX's nanlogger passes on several lists, parts, and wrong numbers
		p.err = fmt.Errorf("pnmgomlx: %d gradients reached the optimizer, must be the %d of this step in the graph's order: %s",
			len(ours), len(t.nodes), order)
	} else {
		o.lose()
	}
	if t.lossScale != nil {
		p.lossScale = scalar(t.lossScale.MustValue())
	}
	o.pending = p
	return m, rest, n
}

const order = "the trainer must have this optimizer, and other node loggers, such as GoMLX's nanlogger, must be attached " +
	"before it; parameters and state are as before this step"

// lose logs and drops gradients that were never applied.
func (o *Optimizer) lose() {
	if o.pending != nil {
		klog.Errorf("pnmgomlx: the gradients of a step were never applied: run the attached loop, or call the optimizer's TrainStep")
		o.pending.free()
		o.pending = nil
	}
}

func scalar(t *tensors.Tensor) float64 { return shapes.ConvertTo[float64](t.Value()) }

// apply performs the step whose gradients the last graph has computed, if it has.
func (o *Optimizer) apply(metrics []*tensors.Tensor) error {
	p := o.pending
	o.pending = nil
	if p != nil {
		defer p.free()
	}
	before := o.seen
	var err error
	if o.seen, err = o.globalStep(); err != nil {
		return err
	}
	switch loss := scalar(metrics[0]); {
	case p != nil && p.err != nil:
		return p.err
	case p == nil && o.seen != before: // a graph with gradients for the optimizer counts this step
		return errors.New("pnmgomlx: the gradients of this step have not reached the optimizer: " + order)
	case !math.IsNaN(loss) && !math.IsInf(loss, 0):
	case !o.options.SkipNonFinite:
		return fmt.Errorf("pnmgomlx: the loss is %v; parameters and state are as before this step", loss)
	case p != nil:
		o.report = pnm.Report{GradNorm: math.NaN(), Skipped: true}
		return nil
	}
	if p == nil { // a batch whose gradients are accumulated
		return nil
	}
	if p.lossScale == 0 && o.options.LossScale != 0 {
		return fmt.Errorf("pnmgomlx: Options.LossScale is %g, but the graph was built without one: "+
			"call the trainer's ResetComputationGraphs", o.options.LossScale)
	}
	for _, v := range p.variables {
		if v.ChangedInGraph(p.graph) { // after UpdateGraph, by train.AddPerStepUpdateGraphFn
			return setByGraph(v)
		}
	}
	if err := o.bind(p.variables); err != nil {
		return err
	}
	if p.lr != nil {
		value, err := p.lr.Value()
		if err != nil {
			return err
		}
		if err := o.engine.SetLR(scalar(value)); err != nil {
			return ofVariable(p.lr.Path(), err)
		}
	}
	grads := make(map[string]pnm.Vector, len(p.variables)) // variables that this graph does not use have none
	for i, v := range p.variables {
		if s := p.values[i].Shape(); !s.Equal(v.Shape()) {
			return ofVariable(v.Path(), fmt.Errorf("is %s, must be %s as its gradient is", v.Shape(), s))
		}
		// The backend has written the gradient, which does not change until free.
		if err := p.values[i].ConstFlatData(func(flat any) { grads[v.Path()] = vectorOf(flat) }); err != nil {
			return ofVariable(v.Path(), fmt.Errorf("the gradient: %w", err))
		}
	}
	options := o.options
	options.LossScale = p.lossScale
	options.SkipNonFinite = options.SkipNonFinite || p.accumulated // a failed batch has left its NaN there
	report, err := o.engine.StepNamed(options, grads)
	if err != nil {
		return err
	}
	o.report = report
	if report.Skipped && !o.options.SkipNonFinite {
		return errors.New("pnmgomlx: the accumulated gradients are not finite; parameters and state are as before this step")
	}
	return nil
}

// free gives the gradients' memory back now.
func (p *gradients) free() {
	for _, t := range p.values {
		_ = t.FinalizeAll() // it is garbage in any case
	}
}

// SetOptions sets the options of each step, from the next step on. ZeroGrads has no effect. If LossScale is not 0 when a graph
// is built, the graph multiplies its loss by it; LossScale may change later without a new graph. SkipNonFinite also skips steps
// whose loss is not finite. The next step returns an error for an option out of its range.
func (o *Optimizer) SetOptions(options pnm.Options) error {
	options.ZeroGrads = false
	o.options = options
	return o.scaleLoss()
}

// scaleLoss sets the variable by which graphs multiply the loss. A checkpoint of GoMLX may have loaded another value.
func (o *Optimizer) scaleLoss() error {
	v := o.store.GetVariable(lossScalePath)
	if v == nil {
		return nil
	}
	scale := o.lossScaleTensor(v.DType())
	if v.HasValue() && scalar(v.MustValue()) == scalar(scale) {
		return nil
	}
	return v.SetValue(scale)
}

// Options returns the options of the last SetOptions.
func (o *Optimizer) Options() pnm.Options { return o.options }

var lossScalePath = model.JoinPath("/", optimizer.Scope, "pnm_loss_scale")

func (o *Optimizer) lossScaleVariable(dtype dtypes.DType) *model.Variable {
	return o.store.VariableWithValue(lossScalePath, o.lossScaleTensor(dtype)).SetTrainable(false)
}

func (o *Optimizer) lossScaleTensor(dtype dtypes.DType) *tensors.Tensor {
	scale := o.options.LossScale
	if scale == 0 {
		scale = 1
	}
	return tensors.MustFromAnyValue(shapes.CastAsDType(scale, dtype))
}

// Report returns the report of the last step. If its loss was not finite, GradNorm is NaN.
func (o *Optimizer) Report() pnm.Report { return o.report }

// Rule returns the rule of a group, or nil if there is no such group.
func (o *Optimizer) Rule(group int) pnm.Rule { return o.engine.Rule(group) }

// SetRule replaces the rule of a group from the next step on, as [optim.Optimizer.SetRule] does.
func (o *Optimizer) SetRule(group int, r pnm.Rule) error { return o.engine.SetRule(group, r) }

// LR returns the learning rate of a group, or 0 if there is no such group.
func (o *Optimizer) LR(group int) float64 { return o.engine.LR(group) }

// SetLR sets the learning rate of all groups from the next step on. If the graph sets GoMLX's own learning-rate variable, as
// GoMLX's cosine schedule does, all groups use that variable instead.
func (o *Optimizer) SetLR(lr float64) error { return o.engine.SetLR(lr) }

// SetGroupLR is [optim.Optimizer.SetGroupLR].
func (o *Optimizer) SetGroupLR(group int, lr float64) error { return o.engine.SetGroupLR(group, lr) }

// Clear drops the state: the next step is step 1. It implements [optimizer.Interface].
func (o *Optimizer) Clear(*model.Scope) error {
	o.pending = nil
	return o.rebuild(nil, nil)
}

// Close gives the memory of the state back to the system. The variables keep their values. Later steps, Clear and Load return
// [optim.ErrClosed].
func (o *Optimizer) Close() {
	o.closed = true
	o.engine.Close()
}
