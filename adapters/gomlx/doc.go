// Package pnmgomlx trains models of GoMLX with the rules of package pnm, such as PNM and AdaPNM.
//
// A GoMLX optimizer builds graph nodes, and the graph updates the variables. An [Optimizer] builds only the gradients, as outputs
// of the graph; when a step's graph has run, the engine updates the variables' memory in place. Trainers, loops, metrics, data
// sets, progress bars, gradient accumulation and checkpoints are GoMLX's own.
package pnmgomlx
