package optim

import (
	"math"
	"slices"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/internal/floatmode"
)

// A NoiseReport has a reading of the gradient noise of each tensor. The numbers of a group, and those of Total, are the sums over their
// tensors, rounded once. Where there is nothing to read, both numbers are NaN, which encoding/json refuses to write.
type NoiseReport struct {
	Total   pnm.Noise
	Groups  []pnm.Noise
	Tensors []pnm.Noise
}

// NoiseEstimates are averages of the readings of each tensor, of each group's sums, and of the sums over all tensors.
type NoiseEstimates struct {
	Total   NoiseEstimate
	Groups  []NoiseEstimate
	Tensors []NoiseEstimate
}

// NoiseScale reads the gradient noise from the momenta of PNM and AdaPNM: see [pnm.Noise]. It reads these momenta once, and changes nothing.
// Tensors with another rule, and tensors that have done fewer than two steps, have nothing to read, and are left out of the sums.
//
// A single reading is inexact: [Optimizer.ReadNoise] averages readings. docs/noise.md says what the numbers mean, and what distorts them.
//
// NoiseScale returns a *PartError while a step of [Optimizer.StepPart] is incomplete, and [ErrClosed] after Close.
func (o *Optimizer) NoiseScale() (NoiseReport, error) {
	if err := o.calls.beginReading(); err != nil {
		return NoiseReport{}, err
	}
	defer o.calls.endReading()
	if o.closed {
		return NoiseReport{}, ErrClosed
	}
	if err := o.wholeSteps(0, len(o.names)); err != nil {
		return NoiseReport{}, err
	}
	updates := slices.Clone(o.list.Updates)
	for i := range updates {
		updates[i].Step--
		updates[i].Skip = false
	}
	sums, err := pnm.SumNoise(o.config.Pool, updates)
	if err != nil {
		return NoiseReport{}, named(err, o.names)
	}
	r := newReadings(len(o.groups), len(o.names))
	o.readings(r, updates, sums, 1)
	return NoiseReport{r.total.orNaN(), orNaN(r.groups), orNaN(r.tensors)}, nil
}

// ReadNoise makes every every-th call of [Optimizer.Step] and [Optimizer.StepNamed] read the gradient noise, in the same pass over memory.
// [Optimizer.NoiseAverages] returns the averages of these readings. With 0, the initial setting, steps do not read. decay is that of
// [NoiseAverage].
//
// Skipped steps do not count. Neither do steps of [Optimizer.StepPart], which are not read: call [Optimizer.NoiseScale] after these. A
// tensor without a gradient in a step is not read in this step, and is left out of the sums.
//
// The averages, and the count of steps until the next reading, begin anew with each call of ReadNoise, and when tensors, states or counts
// of steps change: by [Optimizer.AddGroup], [Optimizer.SetState], [Optimizer.SetSteps], [Optimizer.Load] and [Optimizer.LoadFrom].
// Checkpoints do not contain them. Each tensor takes about 6 KiB of memory.
//
// ReadNoise returns a *pnm.ValueError for a number below 0 or for a decay outside [0, 1]. It has then changed nothing.
func (o *Optimizer) ReadNoise(every int, decay float64) error {
	if err := o.calls.begin(); err != nil {
		return err
	}
	defer o.calls.end()
	switch {
	case o.closed:
		return ErrClosed
	case every < 0:
		return &pnm.ValueError{Of: "ReadNoise", Field: "every", Value: float64(every), Legal: "≥ 0"}
	case !(decay >= 0 && decay <= 1):
		return &pnm.ValueError{Of: "ReadNoise", Field: "decay", Value: decay, Legal: "in [0, 1]"}
	}
	o.noise = noise{every: every, decay: decay}
	o.restartNoise()
	return nil
}

// NoiseAverages returns the averages of what steps have read: see [Optimizer.ReadNoise]. If steps do not read, the lists are empty.
func (o *Optimizer) NoiseAverages() NoiseEstimates {
	o.calls.RLock()
	defer o.calls.RUnlock()
	a := &o.noise.averages
	return NoiseEstimates{a.total.Estimate(), estimates(a.groups), estimates(a.tensors)}
}

// A noise is what steps read.
type noise struct {
	every, steps int // steps: those since the averages began; they are the clock of groups and of the total
	decay        float64
	sums         []pnm.NoiseSums
	last         *readings
	averages     struct {
		total           NoiseAverage
		groups, tensors []NoiseAverage
	}
}

// restartNoise begins the averages anew, for the tensors that are there now.
func (o *Optimizer) restartNoise() {
	n := &o.noise
	if n.every == 0 {
		return
	}
	n.steps = 0
	n.sums = make([]pnm.NoiseSums, len(o.names))
	n.last = newReadings(len(o.groups), len(o.names))
	fresh := NoiseAverage{Decay: n.decay}
	n.averages.total = fresh
	n.averages.groups = slices.Repeat([]NoiseAverage{fresh}, len(o.groups))
	n.averages.tensors = slices.Repeat([]NoiseAverage{fresh}, len(o.names))
}

// due reports whether to read the next step.
func (n *noise) due() bool { return n.every > 0 && (n.steps+1)%n.every == 0 }

// stepDone counts a step, whose updates are still set, and averages what it has read.
func (o *Optimizer) stepDone(sums []pnm.NoiseSums) {
	n := &o.noise
	due := n.due()
	n.steps++
	if due {
		var h floatmode.Hold
		defer h.Take().Release()
		o.readings(n.last, o.list.Updates, sums, n.steps)
		n.last.total.addTo(&n.averages.total)
		for g, r := range n.last.groups {
			r.addTo(&n.averages.groups[g])
		}
		for i, r := range n.last.tensors {
			r.addTo(&n.averages.tensors[i])
		}
	}
}

// A reading is one of a tensor, or the sum of those of several.
type reading struct {
	pnm.Noise
	at    int     // the tensor's steps, or those of the optimizer for a sum: the tensors of a sum may have had different ones; 0: no reading
	beta1 float64 // the largest one of its tensors
}

func (r *reading) addTo(a *NoiseAverage) {
	if r.at > 0 {
		a.add(r.Noise, r.at, r.beta1)
	}
}

func (r *reading) orNaN() pnm.Noise {
	if r.at == 0 {
		return pnm.Noise{Signal: math.NaN(), Variance: math.NaN()}
	}
	return r.Noise
}

// readings are those of all tensors at one time.
type readings struct {
	total           reading
	groups, tensors []reading
	sum             exactSum
}

func newReadings(groups, tensors int) *readings {
	return &readings{groups: make([]reading, groups), tensors: make([]reading, tensors)}
}

// sumOf returns the sum of the readings of some tensors, as one at a time of the optimizer.
func (r *readings) sumOf(tensors []reading, at int) reading {
	var sum reading
	for i := range tensors {
		if tensors[i].at > 0 {
			sum.at, sum.beta1 = at, max(sum.beta1, tensors[i].beta1)
		}
	}
	sum.Signal = r.sum.of(len(tensors), func(i int) float64 { return tensors[i].Signal })
	sum.Variance = r.sum.of(len(tensors), func(i int) float64 { return tensors[i].Variance })
	return sum
}

// readings sets r to the readings of the tensors that are not skipped, at a time of the optimizer. Step of an update is the number of the
// tensor's last step.
func (o *Optimizer) readings(r *readings, updates []pnm.Update, sums []pnm.NoiseSums, at int) {
	var h floatmode.Hold
	defer h.Take().Release()
	for g := range o.groups {
		beta1, ok := decayOf(o.groups[g].rule)
		first, end := o.members(g)
		for i := first; i < end; i++ {
			r.tensors[i] = reading{}
			u := &updates[i]
			if !ok || u.Skip || u.Step < 2 {
				continue
			}
			n, err := sums[i].Noise(u.Rule, u.Step)
			if err != nil {
				panic(err) // the rule and the step have been checked
			}
			r.tensors[i] = reading{n, u.Step, beta1}
		}
		r.groups[g] = r.sumOf(r.tensors[first:end], at)
	}
	r.total = r.sumOf(r.tensors, at)
}

// decayOf returns β1 of a rule with two momenta.
func decayOf(r pnm.Rule) (beta1 float64, ok bool) {
	switch r := r.(type) {
	case pnm.PNM:
		return r.Beta1, true
	case pnm.AdaPNM:
		return r.Beta1, true
	}
	return 0, false
}

func orNaN(readings []reading) []pnm.Noise {
	all := make([]pnm.Noise, len(readings))
	for i := range readings {
		all[i] = readings[i].orNaN()
	}
	return all
}

func estimates(averages []NoiseAverage) []NoiseEstimate {
	all := make([]NoiseEstimate, len(averages))
	for i := range averages {
		all[i] = averages[i].Estimate()
	}
	return all
}
