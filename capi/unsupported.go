//go:build cgo && !linux && !darwin && !windows

package main

// Without this, a build on another system would make a library that has no functions. The linker refuses it, and not the compiler,
// so that go vet ./... and go test ./... go on to work there.
func init() { the_C_library_of_pnm_needs_Linux_macOS_or_Windows() }

func the_C_library_of_pnm_needs_Linux_macOS_or_Windows() // which nothing defines
