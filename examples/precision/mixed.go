package main

import (
	"fmt"
	"slices"

	"github.com/posneg/pnm"
	"github.com/posneg/pnm/examples/internal/mlp"
	"github.com/posneg/pnm/optim"
)

// A mixed is an optimizer in mixed precision for a network that computes in float32. It rounds gradients before a step and widens
// parameters after it.
type mixed struct {
	*optim.Optimizer
	format format
	scaler optim.LossScaler

	net    []pnm.Vector // parameters that the network runs on
	params []pnm.Vector // those that steps update: the same, if they are float32 and have no copy
	copies []pnm.Vector // of params, or nil
	grads  []pnm.Vector

	skipped int // steps whose gradients were not finite
}

func newMixed(f format, rule pnm.Rule, seed uint64, net *mlp.Net) (*mixed, error) {
	m := &mixed{format: f, scaler: optim.NewLossScaler()}
	params, copies := f.params, f.copy
	if f.nearest { // the engine rounds copies to nearest, but not parameters
		params, copies = f32, f.params
	}
	for _, p := range slices.Concat(net.Weights(), net.Biases()) {
		if err := f.start.round(p); err != nil {
			return nil, err
		}
		m.net = append(m.net, pnm.Float32(p))
		m.grads = append(m.grads, f.grads.vector(len(p)))
		if copies != f32 {
			m.copies = append(m.copies, copies.vector(len(p)))
		}
		if params != f32 || copies != f32 {
			m.params = append(m.params, params.vector(len(p)))
		}
	}
	if m.params == nil {
		m.params = m.net
	} else if err := setAll(m.params, m.net); err != nil {
		return nil, err
	}
	if err := setAll(m.copies, m.params); err != nil {
		return nil, err
	}
	if err := m.widen(); err != nil {
		return nil, err
	}
	var err error
	m.Optimizer, err = optim.Config{Seed: seed}.New(optim.Group{Rule: rule, Params: m.params, Copies: m.copies, State: f.state.String()})
	return m, err
}

// Step makes a step with float32 gradients and implements [training.Optimizer].
func (m *mixed) Step(grads [][]float32) error {
	var o pnm.Options
	if m.format.scales() {
		o.LossScale, o.SkipNonFinite = m.scaler.Scale, true
	}
	for i, g := range grads {
		if m.format.scales() {
			scale(g, float32(o.LossScale))
		}
		if _, err := m.grads[i].Set(pnm.Float32(g)); err != nil { // what overflows, SkipNonFinite sees
			return err
		}
	}
	report, err := m.Optimizer.Step(o, m.grads)
	if err != nil {
		return err
	}
	if report.Overflows > 0 {
		return fmt.Errorf("%d parameters are too large for f16", report.Overflows)
	}
	if m.format.scales() {
		if report.Skipped {
			m.skipped++
		}
		if err := m.scaler.Update(report.Skipped); err != nil {
			return err
		}
	}
	return m.widen()
}

// widen copies the stored parameters to the network, as float32.
func (m *mixed) widen() error {
	stored := m.params
	if m.copies != nil {
		stored = m.copies
	}
	if m.format.nearest { // there is nothing but what is stored
		if err := setAll(m.params, stored); err != nil {
			return err
		}
	}
	if m.params[0] == m.net[0] {
		return nil
	}
	return setAll(m.net, stored)
}

// setAll copies one list of vectors to another, except empty ones.
func setAll(to, from []pnm.Vector) error {
	for i := range to {
		if _, err := to[i].Set(from[i]); err != nil {
			return err
		}
	}
	return nil
}

// scale multiplies gradients by a power of two. Multiplying the loss by it would have the same effect.
func scale(g []float32, by float32) {
	for i := range g {
		g[i] *= by
	}
}
