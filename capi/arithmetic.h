// How a thread computes, and what Go expects.
#ifndef PNM_ARITHMETIC_H
#define PNM_ARITHMETIC_H

#include <stdint.h>

// MODE_BITS leaves out the flags of exceptions that there have been.
#if defined(__x86_64__)

enum { IEEE754 = 0x1f80, MODE_BITS = 0xffc0 }; // MXCSR: to nearest, all exceptions masked

static inline uint64_t arithmetic(void) { return __builtin_ia32_stmxcsr(); }

static inline void set_arithmetic(uint64_t mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }

#elif defined(__aarch64__)

enum { IEEE754 = 0, MODE_BITS = 0x7fffffff }; // FPCR

static inline uint64_t arithmetic(void) {
	uint64_t mode;
	__asm__ volatile("mrs %0, fpcr" : "=r"(mode));
	return mode;
}

static inline void set_arithmetic(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }

#else

enum { IEEE754 = 0, MODE_BITS = 0 };

static inline uint64_t arithmetic(void) { return 0; }

static inline void set_arithmetic(uint64_t mode) { (void)mode; }

#endif

#endif
