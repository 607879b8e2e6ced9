//go:build linux && cgo

#include <features.h>

// Other C libraries start and load Go's libraries in ways that crash (golang.org/issue/13492).
#ifndef __GLIBC__
#error "the C library of pnm needs Linux with glibc"
#endif
