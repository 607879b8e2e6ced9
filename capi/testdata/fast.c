/* A library whose constructor has the thread that loads it flush denormals, and so all threads that this one starts: what gcc adds
 * to each library that it links with -Ofast, up to version 12. */
int fast(void);

int fast(void) { return 1; }

static void __attribute__((constructor)) set_fast_math(void) {
#if defined(__x86_64__)
	__builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);
#elif defined(__aarch64__)
	__asm__ volatile("msr fpcr, %0" : : "r"(1ul << 24));
#endif
}
