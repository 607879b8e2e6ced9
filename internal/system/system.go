// Package system is what the engine asks of the operating system: memory on huge pages, and CPUs for its workers. What a system does
// not have gives errors.ErrUnsupported.
package system

// HugePage is the size of a huge page, in bytes.
const HugePage = 2 << 20
