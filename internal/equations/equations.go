// Package equations is the table of forms. The engine, its kernels and their generator take from it all properties of each set of update
// equations, except its arithmetic.
package equations

import "strings"

// A form is one set of update equations, over one set of state buffers: its rule, and the options that choose between the
// buffers or the operations.
const (
	PNM = iota
	AdaPNM
	AdaPNMAMSGrad
	SGD
	SGDMomentum
	SGDNesterov
	Adam
	AdamAMSGrad
	Lion
)

// Forms has a row for each form.
var Forms = [...]Form{
	PNM:           {Rule: "PNM", Roles: "mn", Slots: []string{"pos_momentum", "neg_momentum"}},
	AdaPNM:        {Rule: "AdaPNM", Roles: "mnv", Slots: []string{"exp_avg", "neg_exp_avg", "exp_avg_sq"}},
	AdaPNMAMSGrad: {Rule: "AdaPNM", Variant: "AMSGrad", Roles: "mnvx", Slots: []string{"exp_avg", "neg_exp_avg", "exp_avg_sq", "max_exp_avg_sq"}},
	SGD:           {Rule: "SGD"},
	SGDMomentum:   {Rule: "SGD", Variant: "Momentum", Roles: "m", Slots: []string{"momentum_buffer"}, Starts: true},
	SGDNesterov:   {Rule: "SGD", Variant: "Nesterov", Roles: "m", Slots: []string{"momentum_buffer"}, Starts: true},
	Adam:          {Rule: "Adam", Roles: "mv", Slots: []string{"exp_avg", "exp_avg_sq"}},
	AdamAMSGrad:   {Rule: "Adam", Variant: "AMSGrad", Roles: "mvx", Slots: []string{"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}},
	Lion:          {Rule: "Lion", Roles: "m", Slots: []string{"exp_avg"}},
}

// A Form describes a form.
type Form struct {
	Rule    string   // the Go type of the rule
	Variant string   // tells it from the rule's other forms; Rule and Variant together are its constant's name
	Roles   string   // of the state in the equations, in the order of the drop-in call: letters of AllRoles
	Slots   []string // what the official implementation calls the state, in the same order
	Starts  bool     // the momentum of step 1 is the gradient itself
}

// AllRoles are the roles of state in the equations: m is the momentum that a step updates, n the other momentum, v the
// average of squared gradients, x the largest v so far. If there is an n, m and n swap at each step. A step reads all state, and
// writes all but n.
const AllRoles = "mnvx"

// Kernel is the first part of the names of the form's functions: adamAMSGrad of adamAMSGradGeneric and adamAMSGradF32AVX2.
func (f Form) Kernel() string { return strings.ToLower(f.Rule) + f.Variant }

// Limit is the first part of the name of the kernel that moves the form's streams without arithmetic, the yardstick for benchmarks: limitMV
// of limitMVF32AVX2. Forms with the same roles share it.
func (f Form) Limit() string { return "limit" + strings.ToUpper(f.Roles) }

// Constant is the name of the form's constant.
func (f Form) Constant() string { return f.Rule + f.Variant }

// Has reports whether the state has a role.
func (f Form) Has(role string) bool { return strings.Contains(f.Roles, role) }

// Streams are the slices that a step reads, in the order of the kernels' arguments: parameters, gradients and state.
func (f Form) Streams() []string {
	return append([]string{"p", "grad"}, strings.Split(f.Roles, "")...)
}

// Writes are the slices that a step writes.
func (f Form) Writes() []string {
	return append([]string{"p"}, strings.Split(strings.ReplaceAll(f.Roles, "n", ""), "")...)
}
