// Package system has the operating system's functions that the engine needs: memory on huge pages, and CPUs for its workers. If a system
// lacks a function, it returns errors.ErrUnsupported.
package system

// HugePage is the size of a huge page, in bytes.
const HugePage = 2 << 20
