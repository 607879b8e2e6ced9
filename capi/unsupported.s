//go:build cgo && !linux && !darwin && !windows

// With a file in assembly, the compiler lets a function be without a body.
