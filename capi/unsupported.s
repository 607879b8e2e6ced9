//go:build cgo && !linux

// With a file in assembly, the compiler lets a function be without a body.
