//go:build cgo

// Command capi is the engine as a C library, with the interface of pnm.h:
//
//	go build -buildmode=c-shared -o libpnm.so ./capi
//
// docs/c.md says how to use it. It needs cgo, and Linux with glibc, macOS or Windows; elsewhere it cannot be built.
package main

import (
	"fmt"
	"os"
)

// main is not run in a library.
func main() {
	fmt.Fprintln(os.Stderr, "capi is a library: go build -buildmode=c-shared -o libpnm.so ./capi")
	os.Exit(2)
}
