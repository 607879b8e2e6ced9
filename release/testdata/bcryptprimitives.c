/* What Go needs of bcryptprimitives.dll, which Wine has from version 8.6 on. It goes into system32 of older ones. */
#include <stddef.h>

__declspec(dllimport) unsigned char __stdcall SystemFunction036(void *to, unsigned long length); /* RtlGenRandom */

__declspec(dllexport) int __stdcall ProcessPrng(void *to, size_t length) { return SystemFunction036(to, (unsigned long)length); }
