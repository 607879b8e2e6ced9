// Package limit gives the programs of this repository what they measure steps against. It is no part of the engine's interface.
package limit

// Pass returns a function that reads and writes the memory of a step, on a pool, by kernels without arithmetic: it bounds the speed of the
// step from above. It changes nothing but copies of parameters, and leaves out the last elements of a tensor, up to 1023. Pass returns nil
// where the active tier has no such kernels, for momenta in mxfp8 with rows, and for a list that its Check refuses.
//
// list is a *pnm.List, pool a *pnm.Pool. Package pnm sets Pass and imports this package, which thus cannot name their types. Pass is nil
// where pnm is built without assembly.
var Pass func(list, pool any) func()
