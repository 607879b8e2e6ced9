//go:build !purego

#include "textflag.h"

// The kernels for NEON: the loops of update_generic.go, with the same operations on each element in the same order. From the top, this
// file has the instructions, the registers, the units of a loop, the streams, the steps of the equations, the arguments, the
// rules, the loop, the code for streams of 16 and 8 bits, the loop for these, and then the functions: once for each element type, and
// once for mixed formats.

// Instructions that Go 1.26's assembler lacks, with operands in its order and registers by number: VFSUB(m, n, d) is
// d = n − m, VFDIV(m, n, d) is d = n / m. Instructions with sz have the arrangement S4 or D2, by sz; comments give the arrangement of
// the others. internal/inspect checks that each macro encodes the instruction of its name, up to a _. Once the assembler has an
// instruction, it can replace the macro.
#define VFADD(m, n, d)  WORD $(0x4E20D400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFSUB(m, n, d)  WORD $(0x4EA0D400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFMUL(m, n, d)  WORD $(0x6E20DC00 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFDIV(m, n, d)  WORD $(0x6E20FC00 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFMAX(m, n, d)  WORD $(0x4E20F400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFMIN(m, n, d)  WORD $(0x4EA0F400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFMAXNM(m, n, d) WORD $(0x4E20C400 | sz<<22 | (m)<<16 | (n)<<5 | (d)) // m where n is NaN
#define VFMINNM(m, n, d) WORD $(0x4EA0C400 | sz<<22 | (m)<<16 | (n)<<5 | (d)) // the same
#define VFABS(n, d)     WORD $(0x4EA0F800 | sz<<22 | (n)<<5 | (d))
#define VFSQRT(n, d)    WORD $(0x6EA1F800 | sz<<22 | (n)<<5 | (d))
#define VSCVTF(n, d)    WORD $(0x4E21D800 | sz<<22 | (n)<<5 | (d)) // integers as numbers
#define VFCVTL(n, d)    WORD $(0x0E617800 | (n)<<5 | (d)) // the lower two float32 as float64
#define VFCVTL2(n, d)   WORD $(0x4E617800 | (n)<<5 | (d)) // the upper two
#define VDUP_0(n, d)    WORD $(0x4E000400 | size<<16 | (n)<<5 | (d)) // of element 0

// Instructions for elements of 16 bits, between H4 or the upper half of H8 and S4.
#define VFCVTL_H(n, d)    WORD $(0x0E217800 | (n)<<5 | (d)) // the lower four f16 as float32
#define VFCVTL2_H(n, d)   WORD $(0x4E217800 | (n)<<5 | (d)) // the upper four
#define VFCVTN(n, d)      WORD $(0x0E216800 | (n)<<5 | (d)) // float32 to the lower four f16, the upper become zero
#define VFCVTN2(n, d)     WORD $(0x4E216800 | (n)<<5 | (d)) // to the upper four, the lower stay
#define VSHLL(n, d)       WORD $(0x2E613800 | (n)<<5 | (d)) // the lower four as the upper halves of words
#define VSHLL2(n, d)      WORD $(0x6E613800 | (n)<<5 | (d)) // the upper four
#define VADDHN(m, n, d)   WORD $(0x0E604000 | (m)<<16 | (n)<<5 | (d)) // the upper halves of n + m to the lower four
#define VADDHN2(m, n, d)  WORD $(0x4E604000 | (m)<<16 | (n)<<5 | (d)) // to the upper four
#define VRADDHN(m, n, d)  WORD $(0x2E604000 | (m)<<16 | (n)<<5 | (d)) // those of n + m + 0x8000 to the lower four
#define VRADDHN2(m, n, d) WORD $(0x6E604000 | (m)<<16 | (n)<<5 | (d)) // to the upper four
#define VSHRN(n, d)       WORD $(0x0F108400 | (n)<<5 | (d)) // the upper halves of n to the lower four
#define VSHRN2(n, d)      WORD $(0x4F108400 | (n)<<5 | (d)) // to the upper four
#define VRSHRN(n, d)      WORD $(0x0F108C00 | (n)<<5 | (d)) // those of n + 0x8000 to the lower four
#define VRSHRN2(n, d)     WORD $(0x4F108C00 | (n)<<5 | (d)) // to the upper four
#define VUADDW(m, n, d)   WORD $(0x2E601000 | (m)<<16 | (n)<<5 | (d)) // n + the lower four of m
#define VUADDW2(m, n, d)  WORD $(0x6E601000 | (m)<<16 | (n)<<5 | (d)) // n + the upper four
#define VSADDW(m, n, d)   WORD $(0x0E601000 | (m)<<16 | (n)<<5 | (d)) // n + the lower four of m, which have signs
#define VSADDW2(m, n, d)  WORD $(0x4E601000 | (m)<<16 | (n)<<5 | (d)) // n + the upper four
#define VSXTL(n, d)       WORD $(0x0F10A400 | (n)<<5 | (d)) // the lower four, which have signs, as words
#define VSXTL2(n, d)      WORD $(0x4F10A400 | (n)<<5 | (d)) // the upper four
#define VCMEQ_H(m, n, d)  WORD $(0x6E608C00 | (m)<<16 | (n)<<5 | (d)) // −1 where n = m, 0 elsewhere
#define VUZP1(m, n, d)    WORD $(0x4E401800 | (m)<<16 | (n)<<5 | (d)) // the lower halves of words, n's and then m's
#define VUZP2(m, n, d)    WORD $(0x4E405800 | (m)<<16 | (n)<<5 | (d)) // the upper halves

// Instructions for eight elements of 16 bits, H8.
#define VADD_H(m, n, d)   WORD $(0x4E608400 | (m)<<16 | (n)<<5 | (d))
#define VMUL_H(m, n, d)   WORD $(0x4E609C00 | (m)<<16 | (n)<<5 | (d))
#define VUMAX_H(m, n, d)  WORD $(0x6E606400 | (m)<<16 | (n)<<5 | (d)) // without signs
#define VUMAXV_H(n, d)    WORD $(0x6E70A800 | (n)<<5 | (d))           // the largest of all eight, in element 0

// Instructions for bytes, B16.
#define VADD_B(m, n, d)   WORD $(0x4E208400 | (m)<<16 | (n)<<5 | (d))
#define VCMEQ_B(m, n, d)  WORD $(0x6E208C00 | (m)<<16 | (n)<<5 | (d)) // −1 where n = m, 0 elsewhere
#define VSHL_4B(n, d)     WORD $(0x4F0C5400 | (n)<<5 | (d)) // by 4
#define VSSHR_4B(n, d)    WORD $(0x4F0C0400 | (n)<<5 | (d)) // by 4, with its sign
#define VZIP1_B(m, n, d)  WORD $(0x4E003800 | (m)<<16 | (n)<<5 | (d)) // the lower eight of n and m as the lower and upper bytes of H8
#define VZIP2_B(m, n, d)  WORD $(0x4E007800 | (m)<<16 | (n)<<5 | (d)) // the upper eight
#define VUZP2_B(m, n, d)  WORD $(0x4E005800 | (m)<<16 | (n)<<5 | (d)) // the upper bytes of n's H8, and then of m's
#define VSHRN_7B(n, d)    WORD $(0x0F098400 | (n)<<5 | (d)) // of H8, what begins at bit 7, to the lower eight
#define VSHRN2_7B(n, d)   WORD $(0x4F098400 | (n)<<5 | (d)) // to the upper eight

// Instructions for integers, and comparisons, whose result is −1 if they hold and 0 otherwise; all S4. Go has most of them, but not with
// registers by number.
#define VADD(m, n, d)   WORD $(0x4EA08400 | (m)<<16 | (n)<<5 | (d))
#define VSUB(m, n, d)   WORD $(0x6EA08400 | (m)<<16 | (n)<<5 | (d))
#define VMUL(m, n, d)   WORD $(0x4EA09C00 | (m)<<16 | (n)<<5 | (d))
#define VEOR(m, n, d)   WORD $(0x6E201C00 | (m)<<16 | (n)<<5 | (d))
#define VAND(m, n, d)   WORD $(0x4E201C00 | (m)<<16 | (n)<<5 | (d))
#define VORR(m, n, d)   WORD $(0x4EA01C00 | (m)<<16 | (n)<<5 | (d))
#define VSHL(s, n, d)   WORD $(0x4F005400 | (32+(s))<<16 | (n)<<5 | (d)) // by s
#define VUSHR(s, n, d)  WORD $(0x6F000400 | (64-(s))<<16 | (n)<<5 | (d))
#define VADD_D(m, n, d) WORD $(0x4EE08400 | (m)<<16 | (n)<<5 | (d))      // D2
#define VUMLAL(m, n, d)  WORD $(0x2EA08000 | (m)<<16 | (n)<<5 | (d))     // D2: d + the products of the lower two of n and m
#define VUMLAL2(m, n, d) WORD $(0x6EA08000 | (m)<<16 | (n)<<5 | (d))     // of the upper two
#define VADDV(n, d)     WORD $(0x4EB1B800 | (n)<<5 | (d))                // the sum of all four, in element 0
#define VUMAX(m, n, d)  WORD $(0x6EA06400 | (m)<<16 | (n)<<5 | (d))      // without signs
#define VUMAXV(n, d)    WORD $(0x6EB0A800 | (n)<<5 | (d))                // the largest of all four, in element 0
#define VCMGE_0(n, d)   WORD $(0x6EA08800 | (n)<<5 | (d))                // n ≥ 0
#define VFACGE(m, n, d) WORD $(0x6E20EC00 | (m)<<16 | (n)<<5 | (d))      // |n| ≥ |m|
#define VFACGT(m, n, d) WORD $(0x6EA0EC00 | (m)<<16 | (n)<<5 | (d))      // |n| > |m|

// Comparisons in the arrangement that sz selects, and instructions that select by their results.
#define VFCMEQ(m, n, d) WORD $(0x4E20E400 | sz<<22 | (m)<<16 | (n)<<5 | (d)) // n = m
#define VFCMGT_0(n, d)  WORD $(0x4EA0C800 | sz<<22 | (n)<<5 | (d))           // n > 0
#define VFCMLT_0(n, d)  WORD $(0x4EA0E800 | sz<<22 | (n)<<5 | (d))           // n < 0
#define VBIF(m, n, d)   WORD $(0x6EE01C00 | (m)<<16 | (n)<<5 | (d))          // d where m is −1, n where it is 0
#define VBIT(m, n, d)   WORD $(0x6EA01C00 | (m)<<16 | (n)<<5 | (d))          // n where m is −1, d where it is 0

// Addresses: of the coefficients and, in each stream, of the next elements.
#define atC    R0
#define atP    R1
#define atG    R2
#define atM    R3
#define atN    R4
#define atV    R5
#define atX    R6
#define atSums R1
#define atW    R3
#define atCheck R4
#define atKeys0 R5
#define atKeys1 R6
#define left   R7 // elements
#define front  R8 // how far to prefetch in front of the loads, in bytes
#define addr   R9
#define coupled R25 // the bits of l2

// Vectors, four of each stream. Code that takes one at a time uses the first. When a stream is done, another one uses its registers.
// The argument picks a register's number, or a pair for loads and stores: m4(second) is the momentum's second vector.
#define g4(pick) pick(0, 1, 2, 3, (F0, F1), (F2, F3), (F0, F2), (F1, F3))
#define m4(pick) pick(4, 5, 6, 7, (F4, F5), (F6, F7), (F4, F6), (F5, F7))
#define u4(pick) m4(pick) // from which a step is made
#define n4(pick) pick(8, 9, 10, 11, (F8, F9), (F10, F11), (F8, F10), (F9, F11))
#define d4(pick) n4(pick) // Lion's other average
#define v4(pick) n4(pick)
#define p4(pick) n4(pick)
#define t4(pick) pick(12, 13, 14, 15, (F12, F13), (F14, F15), (F12, F14), (F13, F15)) // temporary
#define x4(pick) t4(pick)

#define first(a, b, c, d, ab, cd, ac, bd)  a
#define second(a, b, c, d, ab, cd, ac, bd) b
#define third(a, b, c, d, ab, cd, ac, bd)  c
#define fourth(a, b, c, d, ab, cd, ac, bd) d
#define pair12(a, b, c, d, ab, cd, ac, bd) ab
#define pair34(a, b, c, d, ab, cd, ac, bd) cd
#define pair13(a, b, c, d, ab, cd, ac, bd) ac
#define pair24(a, b, c, d, ab, cd, ac, bd) bd

// The coefficients, each in all elements of one vector.
#define gs(any)     19
#define l2(any)     20
#define keep(any)   21
#define beta1(any)  22
#define alpha1(any) 23
#define beta2(any)  24
#define alpha2(any) 25
#define k1(any)     26
#define k2(any)     27
#define r(any)      28
#define eps(any)    29
#define lo(any)     30
#define hi(any)     31

// COEFFICIENT loads field i of scalars.
#define COEFFICIENT(c, i) \
	FMOV ((i)*size)(atC), F(c(first)) \
	VDUP_0(c(first), c(first))

// COUPLED tests whether l2 is not 0; it is never −0.
#define COUPLED \
	MOVBITS size(atC), coupled

// The units K of a loop: a pass of four vectors, a vector, an element, or a pass through streams of several formats. Each picks its
// own from the variants of a macro, so that a rule is written once.
#define PASS(pass, vector, element, mixed)    pass
#define VECTOR(pass, vector, element, mixed)  vector
#define ELEMENT(pass, vector, element, mixed) element
#define MIXED(pass, vector, element, mixed)   mixed

// EACH is an instruction for each vector, EACH1 an instruction with a single source for each vector.
#define EACH(K, I, a, b, c) K(FOUR, ONE, ONE, FOUR)(I, a, b, c)
#define EACH1(K, I, a, b)   K(FOUR1, ONE1, ONE1, FOUR1)(I, a, b)
#define FOUR(I, a, b, c) \
	I(a(first), b(first), c(first))    \
	I(a(second), b(second), c(second)) \
	I(a(third), b(third), c(third))    \
	I(a(fourth), b(fourth), c(fourth))
#define FOUR1(I, a, b) \
	I(a(first), b(first))   \
	I(a(second), b(second)) \
	I(a(third), b(third))   \
	I(a(fourth), b(fourth))
#define ONE(I, a, b, c) I(a(first), b(first), c(first))
#define ONE1(I, a, b)   I(a(first), b(first))

// The streams S, by the letters of their roles: gradients, state as in internal/equations, and parameters. Each picks its own from the
// variants of a macro.
#define ROLE_G(g, m, n, v, x, p) g
#define ROLE_M(g, m, n, v, x, p) m
#define ROLE_N(g, m, n, v, x, p) n
#define ROLE_V(g, m, n, v, x, p) v
#define ROLE_X(g, m, n, v, x, p) x
#define ROLE_P(g, m, n, v, x, p) p
#define AT(S) S(atG, atM, atN, atV, atX, atP)

// LOAD loads the next elements of a stream into the vectors y, and STORE writes them back and advances. READ loads and advances. PEEK
// loads elements that LOAD will load again later in the pass. They advance by an addition: if a store moved the address itself, the address
// might wait for the stored data, and the next pass for the address. A load of one element sets the rest of the register to zero.
#define LOAD(K, S, y)  K(LOAD_PASS, LOAD_VECTOR, LOAD_ELEMENT, LOAD_MIXED)(S, y)
#define PEEK(K, S, y)  K(LOAD_PASS, LOAD_VECTOR, LOAD_ELEMENT, PEEK_MIXED)(S, y)
#define READ(K, S, y)  K(READ_PASS, READ_VECTOR, READ_ELEMENT, READ_MIXED)(S, y)
#define STORE(K, S, y) K(STORE_PASS, STORE_VECTOR, STORE_ELEMENT, STORE_MIXED)(S, y)
#define LOAD_PASS(S, y) \
	FLDPQ (AT(S)), y(pair12) \
	FLDPQ 32(AT(S)), y(pair34)
#define READ_PASS(S, y) \
	LOAD_PASS(S, y) \
	ADD $64, AT(S)
#define STORE_PASS(S, y) \
	FSTPQ y(pair12), (AT(S))   \
	FSTPQ y(pair34), 32(AT(S)) \
	ADD   $64, AT(S)
#define LOAD_VECTOR(S, y) \
	FMOVQ (AT(S)), F(y(first))
#define READ_VECTOR(S, y) \
	LOAD_VECTOR(S, y) \
	ADD $16, AT(S)
#define STORE_VECTOR(S, y) \
	FMOVQ F(y(first)), (AT(S)) \
	ADD   $16, AT(S)
#define LOAD_ELEMENT(S, y) \
	FMOV (AT(S)), F(y(first))
#define READ_ELEMENT(S, y) \
	LOAD_ELEMENT(S, y) \
	ADD $size, AT(S)
#define STORE_ELEMENT(S, y) \
	FMOV F(y(first)), (AT(S)) \
	ADD  $size, AT(S)

// The steps of the equations, in vectors of the same letters. Each step works on its own stream; but with coupled decay, parameters are
// read early.

// g = gs·g
// g = max(min(g, hi), lo)         NaN if g is
// g = g + l2·p                    if decay is coupled: else 0·∞ would be NaN, and −0 + 0 is +0
#define GRADIENT(K) \
	READ(K, ROLE_G, g4)        \
	EACH(K, VFMUL, g4, gs, g4) \
	EACH(K, VFMIN, hi, g4, g4) \
	EACH(K, VFMAX, lo, g4, g4) \
	CBZ coupled, CLIPPED(K)    \
	PEEK(K, ROLE_P, p4)        \
	EACH(K, VFMUL, p4, l2, p4) \
	EACH(K, VFADD, p4, g4, g4) \
CLIPPED(K):
#define CLIPPED(K) K(passClipped, vectorClipped, elementClipped, mixedClipped)

// m = beta1·m + alpha1·g
#define MOMENTUM(K) \
	LOAD(K, ROLE_M, m4)            \
	EACH(K, VFMUL, m4, beta1, m4)  \
	EACH(K, VFMUL, g4, alpha1, t4) \
	EACH(K, VFADD, t4, m4, m4)     \
	STORE(K, ROLE_M, m4)

// d = beta1·m + alpha1·g
// m = beta2·m + alpha2·g
#define INTERPOLATION(K) \
	LOAD(K, ROLE_M, m4)            \
	EACH(K, VFMUL, m4, beta1, d4)  \
	EACH(K, VFMUL, g4, alpha1, t4) \
	EACH(K, VFADD, t4, d4, d4)     \
	EACH(K, VFMUL, m4, beta2, m4)  \
	EACH(K, VFMUL, g4, alpha2, t4) \
	EACH(K, VFADD, t4, m4, m4)     \
	STORE(K, ROLE_M, m4)

// g = g + beta1·m
#define NESTEROV(K) \
	EACH(K, VFMUL, m4, beta1, t4) \
	EACH(K, VFADD, t4, g4, g4)

// u = sign(d)                     1 or −1, +0 for either zero, NaN for a NaN: (d < 0) − (d > 0), either of which is −1 or 0
#define SIGN(K) \
	EACH1(K, VFCMGT_0, d4, t4)  \
	EACH1(K, VFCMLT_0, d4, u4)  \
	EACH1(K, VSCVTF, t4, t4)    \
	EACH1(K, VSCVTF, u4, u4)    \
	EACH(K, VFSUB, t4, u4, u4)  \
	EACH(K, VFCMEQ, d4, d4, t4) \
	EACH(K, VBIF, t4, d4, u4)

// u = k1·y
#define SCALED(K, y) \
	EACH(K, VFMUL, y, k1, u4)

// u = k1·m − k2·n                 in place of m
#define DIFFERENCE(K) \
	READ(K, ROLE_N, n4)        \
	EACH(K, VFMUL, m4, k1, u4) \
	EACH(K, VFMUL, n4, k2, n4) \
	EACH(K, VFSUB, n4, u4, u4)

// v = beta2·v + (alpha2·g)·g
#define SECOND_MOMENT(K) \
	LOAD(K, ROLE_V, v4)            \
	EACH(K, VFMUL, v4, beta2, v4)  \
	EACH(K, VFMUL, g4, alpha2, t4) \
	EACH(K, VFMUL, g4, t4, t4)     \
	EACH(K, VFADD, t4, v4, v4)     \
	DRAW(K)                        \
	STORE(K, ROLE_V, v4)

// x = max(x, v)                   NaN if either is, +0 of two zeros
#define LARGEST(K) \
	LOAD(K, ROLE_X, x4)        \
	EACH(K, VFMAX, v4, x4, x4) \
	STORE(K, ROLE_X, x4)

// u = u / (√w·r + ε)              in place of w
#define DIVIDE(K, w) \
	EACH1(K, VFSQRT, w, w)    \
	EACH(K, VFMUL, r, w, w)   \
	EACH(K, VFADD, eps, w, w) \
	EACH(K, VFDIV, w, u4, u4)

// p = keep·p − u
#define STEP(K) \
	LOAD(K, ROLE_P, p4)          \
	EACH(K, VFMUL, p4, keep, p4) \
	EACH(K, VFSUB, u4, p4, p4)   \
	STORE(K, ROLE_P, p4)

// DRAW comes before the first store that may be rounded stochastically. It puts random numbers, if needed, in place of the gradients.
#define DRAW(K) K(NONE, NONE, NONE, DRAW_MIXED)(ROLE_G, g4)

// PACK comes where all vectors are free: it stores momenta that had to wait for the rest of their block.
#define PACK(K) K(NONE, NONE, NONE, PACK_MIXED)(ROLE_M, m4)
#define NONE(S, y)

// The arguments of a function, by its streams. None takes ahead: these kernels do not prefetch.

#define ARGUMENTS_PG \
	MOVD c+0(FP), atC     \
	MOVD p+8(FP), atP     \
	MOVD grad+16(FP), atG \
	MOVD count+24(FP), left
#define ARGUMENTS_PGM \
	MOVD c+0(FP), atC     \
	MOVD p+8(FP), atP     \
	MOVD grad+16(FP), atG \
	MOVD m+24(FP), atM    \
	MOVD count+32(FP), left
#define ARGUMENTS_PGMV \
	MOVD c+0(FP), atC     \
	MOVD p+8(FP), atP     \
	MOVD grad+16(FP), atG \
	MOVD m+24(FP), atM    \
	MOVD v+32(FP), atV    \
	MOVD count+40(FP), left
#define ARGUMENTS_PGMVX \
	MOVD c+0(FP), atC     \
	MOVD p+8(FP), atP     \
	MOVD grad+16(FP), atG \
	MOVD m+24(FP), atM    \
	MOVD v+32(FP), atV    \
	MOVD x+40(FP), atX    \
	MOVD count+48(FP), left
#define ARGUMENTS_PGMN \
	MOVD c+0(FP), atC     \
	MOVD p+8(FP), atP     \
	MOVD grad+16(FP), atG \
	MOVD m+24(FP), atM    \
	MOVD n+32(FP), atN    \
	MOVD count+40(FP), left
#define ARGUMENTS_PGMNV \
	MOVD c+0(FP), atC     \
	MOVD p+8(FP), atP     \
	MOVD grad+16(FP), atG \
	MOVD m+24(FP), atM    \
	MOVD n+32(FP), atN    \
	MOVD v+40(FP), atV    \
	MOVD count+48(FP), left
#define ARGUMENTS_PGMNVX \
	MOVD c+0(FP), atC     \
	MOVD p+8(FP), atP     \
	MOVD grad+16(FP), atG \
	MOVD m+24(FP), atM    \
	MOVD n+32(FP), atN    \
	MOVD v+40(FP), atV    \
	MOVD x+48(FP), atX    \
	MOVD count+56(FP), left
#define ARGUMENTS_MIXED \
	MOVD c+0(FP), atC \
	MOVD count+8(FP), left

// The rules, each built from earlier ones. A rule is its coefficients and the steps of its equations, one stream after the other. If a pass
// went through all streams at once, and their arrays had equal offsets within a page, lines of different streams would evict each other.

#define SGD_COEFFICIENTS \
	COEFFICIENT(gs, 0)   \
	COEFFICIENT(l2, 1)   \
	COUPLED              \
	COEFFICIENT(keep, 2) \
	COEFFICIENT(k1, 7)   \
	COEFFICIENT(lo, 11)  \
	COEFFICIENT(hi, 12)
#define SGD(K) \
	GRADIENT(K)   \
	SCALED(K, g4) \
	DRAW(K)       \
	STEP(K)

#define SGD_MOMENTUM_COEFFICIENTS \
	SGD_COEFFICIENTS      \
	COEFFICIENT(beta1, 3) \
	COEFFICIENT(alpha1, 4)
#define SGD_MOMENTUM(K) \
	GRADIENT(K)   \
	MOMENTUM(K)   \
	SCALED(K, m4) \
	DRAW(K)       \
	STEP(K)       \
	PACK(K)

#define SGD_NESTEROV(K) \
	GRADIENT(K)   \
	MOMENTUM(K)   \
	NESTEROV(K)   \
	SCALED(K, g4) \
	DRAW(K)       \
	STEP(K)       \
	PACK(K)

#define ADAM_COEFFICIENTS \
	SGD_MOMENTUM_COEFFICIENTS \
	COEFFICIENT(beta2, 5)     \
	COEFFICIENT(alpha2, 6)    \
	COEFFICIENT(r, 9)         \
	COEFFICIENT(eps, 10)
#define ADAM(K) \
	GRADIENT(K)      \
	MOMENTUM(K)      \
	SCALED(K, m4)    \
	SECOND_MOMENT(K) \
	DIVIDE(K, v4)    \
	STEP(K)          \
	PACK(K)

#define ADAM_AMSGRAD(K) \
	GRADIENT(K)      \
	MOMENTUM(K)      \
	SCALED(K, m4)    \
	SECOND_MOMENT(K) \
	LARGEST(K)       \
	DIVIDE(K, x4)    \
	STEP(K)          \
	PACK(K)

// PNM and AdaPNM are the rules above with a second momentum, which they only read.
#define PNM_COEFFICIENTS \
	SGD_MOMENTUM_COEFFICIENTS \
	COEFFICIENT(k2, 8)
#define PNM(K) \
	GRADIENT(K)   \
	MOMENTUM(K)   \
	DIFFERENCE(K) \
	DRAW(K)       \
	STEP(K)       \
	PACK(K)

#define ADAPNM_COEFFICIENTS \
	ADAM_COEFFICIENTS \
	COEFFICIENT(k2, 8)
#define ADAPNM(K) \
	GRADIENT(K)      \
	MOMENTUM(K)      \
	DIFFERENCE(K)    \
	SECOND_MOMENT(K) \
	DIVIDE(K, v4)    \
	STEP(K)          \
	PACK(K)

#define ADAPNM_AMSGRAD(K) \
	GRADIENT(K)      \
	MOMENTUM(K)      \
	DIFFERENCE(K)    \
	SECOND_MOMENT(K) \
	LARGEST(K)       \
	DIVIDE(K, x4)    \
	STEP(K)          \
	PACK(K)

#define LION_COEFFICIENTS \
	SGD_MOMENTUM_COEFFICIENTS \
	COEFFICIENT(beta2, 5)     \
	COEFFICIENT(alpha2, 6)
#define LION(K) \
	GRADIENT(K)      \
	INTERPOLATION(K) \
	SIGN(K)          \
	SCALED(K, u4)    \
	DRAW(K)          \
	STEP(K)          \
	PACK(K)

// The sum and the difference of the two momenta, each divided by the sum of its weights, go to the streams P and G.
#define NOISE_COEFFICIENTS \
	COEFFICIENT(k1, 7) \
	COEFFICIENT(k2, 8)
#define NOISE(K) \
	READ(K, ROLE_M, m4)        \
	READ(K, ROLE_N, n4)        \
	EACH(K, VFMUL, m4, k1, m4) \
	EACH(K, VFMUL, n4, k2, n4) \
	EACH(K, VFADD, n4, m4, t4) \
	EACH(K, VFSUB, n4, m4, g4) \
	STORE(PASS, ROLE_P, t4)    \
	STORE(PASS, ROLE_G, g4)

// Yardsticks for benchmarks: the rules' streams without arithmetic, by the roles of the state, and the divider without streams.
#define LIMIT(K) \
	READ(K, ROLE_G, g4) \
	MOVE(K, ROLE_P, p4)
#define LIMIT_M(K) \
	READ(K, ROLE_G, g4) \
	MOVE(K, ROLE_M, m4) \
	MOVE(K, ROLE_P, p4)
#define LIMIT_MV(K) \
	READ(K, ROLE_G, g4) \
	MOVE(K, ROLE_M, m4) \
	MOVE(K, ROLE_V, v4) \
	MOVE(K, ROLE_P, p4)
#define LIMIT_MVX(K) \
	READ(K, ROLE_G, g4) \
	MOVE(K, ROLE_M, m4) \
	MOVE(K, ROLE_V, v4) \
	MOVE(K, ROLE_X, x4) \
	MOVE(K, ROLE_P, p4)
#define LIMIT_MN(K) \
	READ(K, ROLE_G, g4) \
	MOVE(K, ROLE_M, m4) \
	READ(K, ROLE_N, n4) \
	MOVE(K, ROLE_P, p4)
#define LIMIT_MNV(K) \
	READ(K, ROLE_G, g4) \
	MOVE(K, ROLE_M, m4) \
	READ(K, ROLE_N, n4) \
	MOVE(K, ROLE_V, v4) \
	MOVE(K, ROLE_P, p4)
#define LIMIT_MNVX(K) \
	READ(K, ROLE_G, g4) \
	MOVE(K, ROLE_M, m4) \
	READ(K, ROLE_N, n4) \
	MOVE(K, ROLE_V, v4) \
	MOVE(K, ROLE_X, x4) \
	MOVE(K, ROLE_P, p4)
#define MOVE(K, S, y) \
	LOAD(K, S, y) \
	STORE(K, S, y)

#define DIVIDER(K) \
	READ(K, ROLE_P, p4)      \
	EACH1(K, VFSQRT, p4, t4) \
	EACH(K, VFDIV, t4, p4, t4)

// LOOP applies a rule to all elements: a cache line of each stream at a time, then a vector, then an element. A single element
// is alone in a vector, so that all elements go through the same instructions.
#define LOOP(RULE) \
	B    enter            \
pass: \
	RULE(PASS)            \
enter: \
	SUBS $(64/size), left \
	BGE  pass             \
	ADD  $(64/size), left \
	B    enterVector      \
vector: \
	RULE(VECTOR)          \
enterVector: \
	SUBS $(16/size), left \
	BGE  vector           \
	ADDS $(16/size), left \
	BEQ  done             \
element: \
	RULE(ELEMENT)         \
	SUBS $1, left         \
	BNE  element          \
done:

// Streams of 16 and 8 bits: loads widen them to float32, so that the steps above do the arithmetic, and stores round. update_mixed.go
// has the formats, and format.go and rounding.go define the rounding.

// The offsets of the fields of mixed after its coefficients, and the bits of its formats.
#define mixed_formats   52
#define mixed_counter   56
#define mixed_key       60
#define mixed_p         64
#define mixed_g         72
#define mixed_m         80
#define mixed_n         88
#define mixed_v         96
#define mixed_x         104
#define mixed_out       112
#define mixed_overflows 120
#define mixed_ms        128
#define mixed_ns        136

#define gradBF16   0
#define gradF16    1
#define paramBF16  2
#define stateBF16  3
#define outBF16    4
#define outF16     5
#define stochastic 7
#define paramLow   8
#define follow     9
#define momentMX   10

// The numbers of rounding.go.
#define slotFactor 0x4f13
#define wordStep   0x9e3779b9
#define STEPS(n)   ((n)*wordStep & 0xffffffff)

// Further registers of a loop for mixed formats. Constants are here until a vector is made from them.
#define formats    R10
#define atOut      R11 // the next element of the copy, or the next upper half
#define overflowed R12 // how many parameters
#define border     R13 // 65520, from which on float32 overflows
#define infinity   R14
#define counter    R15 // of the next word to be drawn
#define atMS       R16 // the scale of m's block, and of n's
#define atNS       R17
#define fourSteps  R19 // of counters, from a word to the one four behind it
#define key        R20
#define factor1    R21
#define factor2    R22
#define atKept     R23 // where the next momenta are kept until their block is packed
#define fpcr       R24 // what FPCR was
#define bits       R26

// The content of its frame, from RSP on: a block's momenta in float32, and the words drawn for it.
#define kept  16
#define words (kept+128)

// Vectors: the steps of counters to the first four words, and two constants. Go's VDUP, which fills a vector from a general
// register, names registers differently.
#define steps   16
#define c0(any) 17
#define c1(any) 18
#define c0S4    V17.S4
#define c1S4    V18.S4
#define c0H8    V17.H8
#define c0B16   V17.B16
#define c1B16   V18.B16
#define tS4     V12.S4

// Shift counts, the same for each vector.
#define by13(any) 13
#define by15(any) 15
#define by16(any) 16
#define by19(any) 19

// y = float32(y)                  eight elements in one as those of two vectors
#define WIDEN_BF16(y, upper) \
	VSHLL2(y, upper) \
	VSHLL(y, y)
#define WIDEN_F16(y, upper) \
	VFCVTL2_H(y, upper) \
	VFCVTL_H(y, y)

// y = draw(counter, key)·slotFactor   in the first half of a block the lower halves of its words, in the second one the upper halves,
//                                     in y's first two vectors; the words themselves stay in the frame
#define DRAW_MIXED(S, y) \
	TBZ   $stochastic, formats, drawn       \
	TBNZ  $4, left, drawUpper               \
	VDUP  counter, tS4                      \
	VDUP  fourSteps, c0S4                   \
	ADDW  fourSteps<<2, counter             \
	VADD(steps, t4(first), t4(first))       \
	VADD(c0(first), t4(first), t4(second))  \
	VADD(c0(first), t4(second), t4(third))  \
	VADD(c0(first), t4(third), t4(fourth))  \
	VDUP  key, c0S4                         \
	FOUR(VEOR, c0, t4, t4)                  \
	VDUP  factor1, c0S4                     \
	FOUR(VUSHR, by13, t4, y)                \
	FOUR(VEOR, y, t4, t4)                   \
	FOUR(VMUL, c0, t4, t4)                  \
	VDUP  factor2, c0S4                     \
	FOUR(VUSHR, by16, t4, y)                \
	FOUR(VEOR, y, t4, t4)                   \
	FOUR(VMUL, c0, t4, t4)                  \
	FOUR(VUSHR, by15, t4, y)                \
	FOUR(VEOR, y, t4, t4)                   \
	FSTPQ t4(pair12), words(RSP)            \
	FSTPQ t4(pair34), (words+32)(RSP)       \
	VUZP1(t4(second), t4(first), y(first))  \
	VUZP1(t4(fourth), t4(third), y(second)) \
	B     draw                              \
drawUpper: \
	FLDPQ words(RSP), t4(pair12)            \
	FLDPQ (words+32)(RSP), t4(pair34)       \
	VUZP2(t4(second), t4(first), y(first))  \
	VUZP2(t4(fourth), t4(third), y(second)) \
draw: \
	NEXT_SLOT(y)                            \
drawn:

// y = y·slotFactor                modulo 1<<16
#define NEXT_SLOT(y) \
	MOVD $slotFactor, bits                \
	VDUP bits, c0H8                       \
	VMUL_H(c0(first), y(first), y(first)) \
	VMUL_H(c0(first), y(second), y(second))

// Rounding takes 16 elements from four vectors y to the first and third of z. To bf16, it adds less than 1<<16 and cuts the lower
// half. START_ROUNDING makes the lower half of a NaN 0, so that nothing carries: a NaN stays a NaN.

// z = (y + 0x8000 − even) >> 16   even = 1 − (y>>16 & 1)
#define ROUND_NEAREST(y, z) \
	FOUR(VSHL, by15, y, z)                   \
	FOUR1(VCMGE_0, z, z)                     \
	VRADDHN(z(first), y(first), z(first))    \
	VRADDHN2(z(second), y(second), z(first)) \
	VRADDHN(z(third), y(third), z(third))    \
	VRADDHN2(z(fourth), y(fourth), z(third))

// z = (y + draw) >> 16            draws as DRAW_MIXED leaves them, of this slot or the next
#define ROUND_STOCHASTIC(y, z) \
	VUADDW(g4(first), y(first), z(first))     \
	VUADDW2(g4(first), y(second), z(second))  \
	VUADDW(g4(second), y(third), z(third))    \
	VUADDW2(g4(second), y(fourth), z(fourth)) \
	VSHRN(z(first), z(first))                 \
	VSHRN2(z(second), z(first))               \
	VSHRN(z(third), z(third))                 \
	VSHRN2(z(fourth), z(third))

// z = f16(y)
#define ROUND_F16(y, z) \
	VFCVTN(y(first), z(first))   \
	VFCVTN2(y(second), z(first)) \
	VFCVTN(y(third), z(third))   \
	VFCVTN2(y(fourth), z(third))

// z = (y + 0x8000) >> 16          in y's first and third vectors y & 0xffff
#define SPLIT(y, z) \
	VRSHRN(y(first), z(first))           \
	VRSHRN2(y(second), z(first))         \
	VRSHRN(y(third), z(third))           \
	VRSHRN2(y(fourth), z(third))         \
	VUZP1(y(second), y(first), y(first)) \
	VUZP1(y(fourth), y(third), y(third))

// y = z + y                       that is, what SPLIT split; but z where the sum has another sign. z is wide, y as SPLIT leaves it
#define JOIN(y, z) \
	VSADDW2(y(first), z(second), y(second)) \
	VSADDW(y(first), z(first), y(first))    \
	VSADDW2(y(third), z(fourth), y(fourth)) \
	VSADDW(y(third), z(third), y(third))    \
	FOUR(KEEP_SIGN, z, y, c0)
#define KEEP_SIGN(z, y, t) \
	VEOR(z, y, t) \
	VCMGE_0(t, t) \
	VBIF(t, z, y)

// y = TO(copy)                    where the copy, in z's second and fourth vectors, is not what y was rounded to in the others
#define FOLLOW(TO, y, z) \
	FOLLOW_EIGHT(TO, y(first), y(second), z(first), z(second)) \
	FOLLOW_EIGHT(TO, y(third), y(fourth), z(third), z(fourth))
#define FOLLOW_EIGHT(TO, y, upper, rounded, copy) \
	VCMEQ_H(copy, rounded, rounded)   \
	TO(copy, c0(first))               \
	VSXTL2(rounded, c1(first))        \
	VSXTL(rounded, rounded)           \
	VBIF(c1(first), c0(first), upper) \
	VBIF(rounded, copy, y)

// overflowed = overflowed + how many have 65520 ≤ |y| < ∞
#define COUNT_OVERFLOWS(y, z, w) \
	VDUP border, c0S4                   \
	VDUP infinity, c1S4                 \
	FOUR(VFACGE, c0, y, z)              \
	FOUR(VFACGE, c1, y, w)              \
	FOUR(VSUB, w, z, z)                 \
	VADD(z(second), z(first), z(first)) \
	VADD(z(fourth), z(third), z(third)) \
	VADD(z(third), z(first), z(first))  \
	VADDV(z(first), z(first))           \
	FMOVS F(z(first)), addr             \
	SUBW  addr, overflowed

// Momenta in mxfp8. A pass is half a block: it keeps its momenta, and the second one packs the block.

// y = E4M3·2^(scale − 127)        of 16 bytes
//
// A byte is made the bf16 of 2⁻¹²⁰ times its value, denormal where E4M3 is, and a NaN where it is one. The scale becomes a float32's
// exponent, and the highest bit of its fraction is set if it is 0 or 255: these are 2⁻¹²⁷ and NaN.
#define READ_MX(S, y, z) \
	FMOVQ (AT(S)), F(y(first))             \
	ADD   $16, AT(S)                       \
	MOVBU (SCALES(S)), addr                \
	ADD   $1, addr, bits                   \
	TST   $0xfe, bits                      \
	CSET  EQ, bits                         \
	ADD   addr<<1, bits                    \
	LSL   $22, bits                        \
	VMOVI $0xfe, c0B16                     \
	VMOVI $0x87, c1B16                     \
	VADD_B(y(first), y(first), z(first))   \
	VCMEQ_B(c0(first), z(first), z(first)) \
	VSSHR_4B(y(first), z(third))           \
	VAND(c1(first), z(third), z(third))    \
	VORR(z(first), z(third), z(third))     \
	VSHL_4B(y(first), z(first))            \
	VZIP1_B(z(third), z(first), y(first))  \
	VZIP2_B(z(third), z(first), y(third))  \
	VDUP  bits, c0S4                       \
	MOVD  $0x7b800000, bits                \
	VDUP  bits, c1S4                       \
	WIDEN(WIDEN_BF16, y)                   \
	FOUR(VFMUL, c1, y, y)                  \
	FOUR(VFMUL, c0, y, y)

// The vectors that pack a block: its elements in a and b, and s and t, which are temporary.
#define a4(pick) g4(pick)
#define b4(pick) m4(pick)
#define s4(pick) n4(pick)

// s, t = |a|, |b|
#define ABSOLUTE \
	FOUR1(VFABS, a4, s4) \
	FOUR1(VFABS, b4, t4)

// addr = max(s, t)                of all bits
#define MOST \
	FOUR(VUMAX, s4, t4, t4)                 \
	VUMAX(t4(second), t4(first), t4(first)) \
	VUMAX(t4(fourth), t4(third), t4(third)) \
	VUMAX(t4(third), t4(first), t4(first))  \
	VUMAXV(t4(first), t4(first))            \
	FMOVS F(t4(first)), addr

// scale = max(((addr + 0x1fffff) >> 23) − 8, 0)
// a, b = a, b·2^(119 − scale)     a power that may be denormal
#define SCALE \
	ADDW  $0x200000, addr             \
	SUBW  $1, addr                    \
	LSRW  $23, addr                   \
	SUBSW $8, addr                    \
	CSEL  GE, addr, ZR, addr          \
	MOVB  addr, (atMS)                \
	MOVD  $(1023+119), bits           \
	SUB   addr, bits                  \
	LSL   $52, bits                   \
	FMOVD bits, F(c0(first))          \
	FCVTDS F(c0(first)), F(c0(first)) \
	VDUP_0(c0(first), c0(first))      \
	FOUR(VFMUL, c0, a4, a4)           \
	FOUR(VFMUL, c0, b4, b4)

// SCALE for a block that is not finite: addr is the largest of what is, or 0, and the rest becomes ±1.875, which no random number
// makes anything else than E4M3's NaN. Without signs, bits less those of infinity are largest for the largest finite number.
#define SCALE_FINITE \
	VDUP  infinity, c0S4      \
	ABSOLUTE                  \
	FOUR(VSUB, c0, s4, s4)    \
	FOUR(VSUB, c0, t4, t4)    \
	MOST                      \
	ADDSW infinity, addr      \
	CSEL  HS, addr, ZR, addr  \
	SCALE                     \
	MOVD  $0x3ff00000, bits   \
	VDUP  bits, c0S4          \
	MOVD  $0xbff00000, bits   \
	VDUP  bits, c1S4          \
	FOUR(VFMINNM, c0, a4, a4) \
	FOUR(VFMINNM, c0, b4, b4) \
	FOUR(VFMAXNM, c1, a4, a4) \
	FOUR(VFMAXNM, c1, b4, b4)

// h = cutF16(y) + draw            of y and upper: rounded to nearest, and one less where that is above
#define CUT(y, upper, h, draw) \
	VFCVTN(y, h)                    \
	VFCVTN2(upper, h)               \
	VFCVTL_H(h, c0(first))          \
	VFCVTL2_H(h, c1(first))         \
	VFACGT(y, c0(first), y)         \
	VFACGT(upper, c1(first), upper) \
	VUZP1(upper, y, y)              \
	VADD_H(y, h, h)                 \
	VADD_H(draw, h, h)

// y = h >> 8 & 0x80 | h >> 7 & 0x7f
#define BYTES(h, upper, y, z) \
	VSHRN_7B(h, y)       \
	VSHRN2_7B(upper, y)  \
	VUZP2_B(upper, h, z) \
	VBIT(c0(first), z, y)

// A block is packed as narrowMX does it: 13 random bits of each element are added before the cut to f16, and seven of another after it.
#define PACK_MIXED(S, y) \
	TBZ   $momentMX, formats, packed                     \
	TBZ   $4, left, packed                               \
	SUB   $128, atKept                                   \
	FLDPQ (atKept), a4(pair12)                           \
	FLDPQ 32(atKept), a4(pair34)                         \
	FLDPQ 64(atKept), b4(pair12)                         \
	FLDPQ 96(atKept), b4(pair34)                         \
	ABSOLUTE                                             \
	MOST                                                 \
	CMPW  infinity, addr                                 \
	BGE   notFinite                                      \
	SCALE                                                \
scaled: \
	FLDPQ words(RSP), s4(pair12)                         \
	FLDPQ (words+32)(RSP), s4(pair34)                    \
	MOVD  $0x1fff, bits                                  \
	VDUP  bits, c0S4                                     \
	FOUR(VAND, c0, s4, t4)                               \
	FOUR(VADD, t4, a4, a4)                               \
	FOUR(VUSHR, by19, s4, t4)                            \
	FOUR(VADD, t4, b4, b4)                               \
	MOVD  $0x7f, bits                                    \
	VDUP  bits, c0H8                                     \
	FOUR(VAND, c0, s4, s4)                               \
	CUT(a4(first), a4(second), t4(first), s4(first))     \
	CUT(a4(third), a4(fourth), t4(second), s4(second))   \
	CUT(b4(first), b4(second), t4(third), s4(third))     \
	CUT(b4(third), b4(fourth), t4(fourth), s4(fourth))   \
	VMOVI $0x80, c0B16                                   \
	BYTES(t4(first), t4(second), a4(first), b4(first))   \
	BYTES(t4(third), t4(fourth), a4(second), b4(second)) \
	FSTPQ a4(pair12), -32(AT(S))                         \
	ADD   $1, atMS                                       \
	ADD   $1, atNS                                       \
	B     packed                                         \
notFinite: \
	SCALE_FINITE                                         \
	B     scaled                                         \
packed:

// Loads and stores of a pass for mixed formats, by branches on the format: four vectors are four of float32 in memory, or two of 16 bits,
// which go through the first and the third.
#define BIT(S) S(gradBF16, stateBF16, stateBF16, stateBF16, stateBF16, paramBF16)
#define NARROW(S) S(gradNarrow, mNarrow, nNarrow, vNarrow, xNarrow, pNarrow) // labels
#define DONE(S)   S(gradDone, mDone, nDone, vDone, xDone, pDone)
#define LOAD_NARROW(S, y) \
	FLDPQ (AT(S)), y(pair13)
#define READ_NARROW(S, y) \
	LOAD_NARROW(S, y) \
	ADD $32, AT(S)
#define STORE_NARROW(S, y) \
	FSTPQ y(pair13), (AT(S)) \
	ADD   $32, AT(S)
#define WIDEN(TO, y) \
	TO(y(first), y(second)) \
	TO(y(third), y(fourth))

#define LOAD_MIXED(S, y) S(NONE, LOAD_MOMENTUM, NONE, LOAD_EITHER, LOAD_EITHER, LOAD_PARAMETERS)(S, y)
#define LOAD_MOMENTUM(S, y) \
	TBNZ $momentMX, formats, LOAD_MX(S) \
	LOAD_EITHER(S, y)                   \
	B    LOADED_MX(S)                   \
LOAD_MX(S): \
	READ_MX(S, y, t4)                   \
LOADED_MX(S):
#define LOAD_MX(S)   S(NONE, loadMX, readMX, NONE, NONE, NONE) // labels
#define LOADED_MX(S) S(NONE, loadedMX, readMXDone, NONE, NONE, NONE)
#define SCALES(S)    S(NONE, atMS, atNS, NONE, NONE, NONE)
#define LOAD_EITHER(S, y) \
	TBNZ $BIT(S), formats, 4(PC) \
	LOAD_PASS(S, y)              \
	B    6(PC)                   \
	LOAD_NARROW(S, y)            \
	WIDEN(WIDEN_BF16, y)

// Parameters are loaded in two places, with different labels. VFMAX turns each NaN into 0x7fc00000, which ROUND_NEAREST can round, and
// changes nothing else.
#define LOAD_PARAMETERS(S, y) PARAMETERS(AT_LOAD, S, y, t4)
#define PEEK_MIXED(S, y)      PARAMETERS(AT_PEEK, S, y, t4)
#define AT_LOAD(load, peek)   load
#define AT_PEEK(load, peek)   peek
#define LOW(PLACE)        PLACE(loadLow, peekLow) // labels
#define FOLLOW_F16(PLACE) PLACE(loadFollowF16, peekFollowF16)
#define LOADED(PLACE)     PLACE(loaded, peeked)
#define PARAMETERS(PLACE, S, y, z) \
	TBNZ  $paramLow, formats, LOW(PLACE)      \
	LOAD_EITHER(S, y)                         \
	TBZ   $follow, formats, LOADED(PLACE)     \
	TBNZ  $outF16, formats, FOLLOW_F16(PLACE) \
	FOUR(VFMAX, y, y, y)                      \
	ROUND_NEAREST(y, z)                       \
	FLDPQ (atOut), z(pair24)                  \
	FOLLOW(WIDEN_BF16, y, z)                  \
	B     LOADED(PLACE)                       \
FOLLOW_F16(PLACE): \
	ROUND_F16(y, z)                           \
	FLDPQ (atOut), z(pair24)                  \
	FOLLOW(WIDEN_F16, y, z)                   \
	B     LOADED(PLACE)                       \
LOW(PLACE): \
	LOAD_NARROW(S, y)                         \
	FLDPQ (atOut), z(pair13)                  \
	WIDEN(WIDEN_BF16, z)                      \
	JOIN(y, z)                                \
LOADED(PLACE):
#define READ_MIXED(S, y) S(READ_GRADIENT, READ_STATE, READ_STATE, NONE, NONE, NONE)(S, y)
#define READ_STATE(S, y) \
	TBNZ $momentMX, formats, LOAD_MX(S) \
	TBNZ $BIT(S), formats, NARROW(S)    \
	READ_PASS(S, y)                     \
	B    DONE(S)                        \
LOAD_MX(S): \
	READ_MX(S, y, t4)                   \
	B    DONE(S)                        \
NARROW(S): \
	READ_NARROW(S, y)                   \
	WIDEN(WIDEN_BF16, y)                \
DONE(S):
#define READ_GRADIENT(S, y) \
	TBNZ $gradBF16, formats, NARROW(S) \
	TBNZ $gradF16, formats, readF16    \
	READ_PASS(S, y)                    \
	B    DONE(S)                       \
NARROW(S): \
	READ_NARROW(S, y)                  \
	WIDEN(WIDEN_BF16, y)               \
	B    DONE(S)                       \
readF16: \
	READ_NARROW(S, y)                  \
	WIDEN(WIDEN_F16, y)                \
DONE(S):

#define STORE_MIXED(S, y)    S(NONE, STORE_MOMENTUM, NONE, STORE_SQUARES, STORE_LARGEST, STORE_PARAMETERS)(S, y)
#define STORE_SQUARES(S, y)  STORE_STATE(S, y, t4, ROUND_STOCHASTIC)
#define STORE_LARGEST(S, y)  STORE_STATE(S, y, v4, ROUND_STOCHASTIC)
#define STORE_MOMENTUM(S, y) \
	TBZ   $momentMX, formats, storeM \
	FSTPQ y(pair12), (atKept)        \
	FSTPQ y(pair34), 32(atKept)      \
	ADD   $64, atKept                \
	B     DONE(S)                    \
storeM: \
	STORE_STATE(S, y, t4, ROUND_NEAREST)
#define STORE_STATE(S, y, z, ROUND) \
	TBNZ $BIT(S), formats, NARROW(S) \
	STORE_PASS(S, y)                 \
	B    DONE(S)                     \
NARROW(S): \
	ROUND(y, z)                      \
	STORE_NARROW(S, z)               \
DONE(S):
#define STORE_PARAMETERS(S, y) \
	TBNZ $BIT(S), formats, NARROW(S) \
	TBNZ $paramLow, formats, split   \
	TBNZ $outBF16, formats, copyBF16 \
	TBZ  $outF16, formats, storeP    \
	COUNT_OVERFLOWS(y, t4, g4)       \
	ROUND_F16(y, t4)                 \
	B    copy                        \
copyBF16: \
	ROUND_NEAREST(y, t4)             \
copy: \
	STORE_COPY(t4)                   \
storeP: \
	STORE_PASS(S, y)                 \
	B    DONE(S)                     \
NARROW(S): \
	NEXT_SLOT(g4)                    \
	ROUND_STOCHASTIC(y, t4)          \
	STORE_NARROW(S, t4)              \
	B    DONE(S)                     \
split: \
	SPLIT(y, t4)                     \
	STORE_COPY(t4)                   \
	STORE_NARROW(S, y)               \
DONE(S):
#define STORE_COPY(y) \
	FSTPQ y(pair13), (atOut) \
	ADD   $32, atOut

// LOOP_MIXED applies a rule to all elements, 16 in a pass. Two passes are a block of 32, and bit 4 of left is set in the second. The
// branches go the same way in every block, by the formats, unless a momentum in mxfp8 is not finite.
// The copy is always written through the caches, even if it should go around them: the effect of STNP could not be measured.
#define LOOP_MIXED(RULE) \
	START_MIXED                     \
	START_ROUNDING                  \
pass: \
	RULE(MIXED)                     \
	SUBS $16, left                  \
	BNE  pass                       \
	MOVD mixed_overflows(atC), addr \
	ADD  overflowed, addr           \
	MOVD addr, mixed_overflows(atC) \
	MSR  fpcr, FPCR

// START_MIXED finds the streams, from the argument atC.
#define START_MIXED \
	MOVD  mixed_p(atC), atP     \
	MOVD  mixed_g(atC), atG     \
	MOVD  mixed_m(atC), atM     \
	MOVD  mixed_n(atC), atN     \
	MOVD  mixed_v(atC), atV     \
	MOVD  mixed_x(atC), atX     \
	MOVD  mixed_out(atC), atOut \
	MOVD  mixed_ms(atC), atMS   \
	MOVD  mixed_ns(atC), atNS   \
	MOVWU mixed_formats(atC), formats

// START_ROUNDING prepares rounding. From there on, arithmetic turns each NaN into 0x7fc00000, and so a rule writes no others. The end
// restores FPCR, which belongs to Go; no other code sees the change.
#define START_ROUNDING \
	ADD   $kept, RSP, atKept          \
	MOVD  $0, overflowed              \
	MOVD  $0x477ff000, border         \
	MOVD  $0x7f800000, infinity       \
	MOVWU mixed_counter(atC), counter \
	MOVD  $STEPS(4), fourSteps        \
	MOVWU mixed_key(atC), key         \
	MOVD  $0x7feb352d, factor1        \
	MOVD  $0x846ca68b, factor2        \
	MOVD  $firstSteps<>(SB), addr     \
	FMOVQ (addr), F(steps)            \
	MRS   FPCR, fpcr                  \
	ORR   $(1<<25), fpcr, addr        \
	MSR   addr, FPCR

DATA firstSteps<>+0(SB)/4, $STEPS(0)
DATA firstSteps<>+4(SB)/4, $STEPS(1)
DATA firstSteps<>+8(SB)/4, $STEPS(2)
DATA firstSteps<>+12(SB)/4, $STEPS(3)
GLOBL firstSteps<>(SB), RODATA|NOPTR, $16

// LOOP_LIMIT is the yardstick of LOOP_MIXED for benchmarks: its streams without arithmetic, as many as there are, in any formats. It loads
// and stores the same number of bytes by the same number of instructions; the data that it copies has no meaning.
#define LOOP_LIMIT \
	START_MIXED                                  \
pass: \
	READ_LIMIT(ROLE_G, g4)                       \
	MX_LIMIT(ROLE_M, m4, MOVE_LIMIT, MOVE_BLOCK) \
	MX_LIMIT(ROLE_N, n4, READ_LIMIT, READ_BLOCK) \
	MOVE_LIMIT(ROLE_V, v4)                       \
	MOVE_LIMIT(ROLE_X, x4)                       \
	MOVE_LIMIT(ROLE_P, p4)                       \
	CBZ   atOut, next                            \
	TST   $(1<<paramLow|1<<follow), formats      \
	BEQ   copy                                   \
	FLDPQ (atOut), p4(pair13)                    \
copy: \
	STORE_COPY(p4)                               \
next: \
	SUBS  $16, left                              \
	BNE   pass

// LOOP_LIMIT's work on a stream: none if its address is 0.
#define BIT2(S) S(gradF16, stateBF16, stateBF16, stateBF16, stateBF16, paramLow)
#define READ_LIMIT(S, y) \
	CBZ  AT(S), DONE(S)               \
	TBNZ $BIT(S), formats, NARROW(S)  \
	TBNZ $BIT2(S), formats, NARROW(S) \
	READ_PASS(S, y)                   \
	B    DONE(S)                      \
NARROW(S): \
	READ_NARROW(S, y)                 \
DONE(S):
#define MOVE_LIMIT(S, y) \
	CBZ  AT(S), DONE(S)               \
	TBNZ $BIT(S), formats, NARROW(S)  \
	TBNZ $BIT2(S), formats, NARROW(S) \
	LOAD_PASS(S, y)                   \
	STORE_PASS(S, y)                  \
	B    DONE(S)                      \
NARROW(S): \
	LOAD_NARROW(S, y)                 \
	STORE_NARROW(S, y)                \
DONE(S):

// The same for a momentum; in mxfp8 it takes whole blocks.
#define MX_LIMIT(S, y, LIMIT, BLOCK) \
	TBNZ $momentMX, formats, LOAD_MX(S) \
	LIMIT(S, y)                         \
	B    LOADED_MX(S)                   \
LOAD_MX(S): \
	CBZ  AT(S), LOADED_MX(S)            \
	TBNZ $4, left, LOADED_MX(S)         \
	BLOCK(S, y)                         \
LOADED_MX(S):
#define READ_BLOCK(S, y) \
	LOAD_BLOCK(S, y) \
	NEXT_BLOCK(S)
#define MOVE_BLOCK(S, y) \
	LOAD_BLOCK(S, y)         \
	FSTPQ y(pair12), (AT(S)) \
	MOVB  addr, (SCALES(S))  \
	NEXT_BLOCK(S)
#define LOAD_BLOCK(S, y) \
	FMOVQ (AT(S)), F(y(first))    \
	FMOVQ 16(AT(S)), F(y(second)) \
	MOVBU (SCALES(S)), bits       \
	MOVBU (SCALES(S)), addr
#define NEXT_BLOCK(S) \
	ADD $32, AT(S) \
	ADD $1, SCALES(S)

// float32

#define size 4 // bytes of an element
#define sz   0 // in the instructions
#define FMOV FMOVS
#define MOVBITS MOVWU

// func pnmF32NEON(c, p, grad, m, n *float32, count, ahead int)
TEXT ·pnmF32NEON(SB), NOSPLIT, $0-56
	ARGUMENTS_PGMN
	PNM_COEFFICIENTS
	LOOP(PNM)
	RET

// func adapnmF32NEON(c, p, grad, m, n, v *float32, count, ahead int)
TEXT ·adapnmF32NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMNV
	ADAPNM_COEFFICIENTS
	LOOP(ADAPNM)
	RET

// func adapnmAMSGradF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·adapnmAMSGradF32NEON(SB), NOSPLIT, $0-72
	ARGUMENTS_PGMNVX
	ADAPNM_COEFFICIENTS
	LOOP(ADAPNM_AMSGRAD)
	RET

// func sgdF32NEON(c, p, grad *float32, count, ahead int)
TEXT ·sgdF32NEON(SB), NOSPLIT, $0-40
	ARGUMENTS_PG
	SGD_COEFFICIENTS
	LOOP(SGD)
	RET

// func sgdMomentumF32NEON(c, p, grad, m *float32, count, ahead int)
TEXT ·sgdMomentumF32NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(SGD_MOMENTUM)
	RET

// func sgdNesterovF32NEON(c, p, grad, m *float32, count, ahead int)
TEXT ·sgdNesterovF32NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(SGD_NESTEROV)
	RET

// func adamF32NEON(c, p, grad, m, v *float32, count, ahead int)
TEXT ·adamF32NEON(SB), NOSPLIT, $0-56
	ARGUMENTS_PGMV
	ADAM_COEFFICIENTS
	LOOP(ADAM)
	RET

// func adamAMSGradF32NEON(c, p, grad, m, v, x *float32, count, ahead int)
TEXT ·adamAMSGradF32NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMVX
	ADAM_COEFFICIENTS
	LOOP(ADAM_AMSGRAD)
	RET

// func lionF32NEON(c, p, grad, m *float32, count, ahead int)
TEXT ·lionF32NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	LION_COEFFICIENTS
	LOOP(LION)
	RET

// func dividerF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·dividerF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD count+56(FP), left
	LOOP(DIVIDER)
	RET

// func limitMNF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMNF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD n+32(FP), atN
	MOVD count+56(FP), left
	LOOP(LIMIT_MN)
	RET

// func limitMNVF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMNVF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD n+32(FP), atN
	MOVD v+40(FP), atV
	MOVD count+56(FP), left
	LOOP(LIMIT_MNV)
	RET

// func limitMNVXF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMNVXF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD n+32(FP), atN
	MOVD v+40(FP), atV
	MOVD x+48(FP), atX
	MOVD count+56(FP), left
	LOOP(LIMIT_MNVX)
	RET

// func limitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD count+56(FP), left
	LOOP(LIMIT)
	RET

// func limitMF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD count+56(FP), left
	LOOP(LIMIT_M)
	RET

// func limitMVF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMVF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD v+40(FP), atV
	MOVD count+56(FP), left
	LOOP(LIMIT_MV)
	RET

// func limitMVXF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMVXF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD v+40(FP), atV
	MOVD x+48(FP), atX
	MOVD count+56(FP), left
	LOOP(LIMIT_MVX)
	RET

// mixed formats: float32, in which they are updated, those of 16 bits, and mxfp8

// func pnmMixedNEON(c *float32, count, ahead int)
TEXT ·pnmMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	PNM_COEFFICIENTS
	LOOP_MIXED(PNM)
	RET

// func adapnmMixedNEON(c *float32, count, ahead int)
TEXT ·adapnmMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	ADAPNM_COEFFICIENTS
	LOOP_MIXED(ADAPNM)
	RET

// func adapnmAMSGradMixedNEON(c *float32, count, ahead int)
TEXT ·adapnmAMSGradMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	ADAPNM_COEFFICIENTS
	LOOP_MIXED(ADAPNM_AMSGRAD)
	RET

// func sgdMixedNEON(c *float32, count, ahead int)
TEXT ·sgdMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	SGD_COEFFICIENTS
	LOOP_MIXED(SGD)
	RET

// func sgdMomentumMixedNEON(c *float32, count, ahead int)
TEXT ·sgdMomentumMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	SGD_MOMENTUM_COEFFICIENTS
	LOOP_MIXED(SGD_MOMENTUM)
	RET

// func sgdNesterovMixedNEON(c *float32, count, ahead int)
TEXT ·sgdNesterovMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	SGD_MOMENTUM_COEFFICIENTS
	LOOP_MIXED(SGD_NESTEROV)
	RET

// func adamMixedNEON(c *float32, count, ahead int)
TEXT ·adamMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	ADAM_COEFFICIENTS
	LOOP_MIXED(ADAM)
	RET

// func adamAMSGradMixedNEON(c *float32, count, ahead int)
TEXT ·adamAMSGradMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	ADAM_COEFFICIENTS
	LOOP_MIXED(ADAM_AMSGRAD)
	RET

// func lionMixedNEON(c *float32, count, ahead int)
TEXT ·lionMixedNEON(SB), NOSPLIT, $200-24
	ARGUMENTS_MIXED
	LION_COEFFICIENTS
	LOOP_MIXED(LION)
	RET

// func mixedLimitNEON(c *float32, count, ahead int)
TEXT ·mixedLimitNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	LOOP_LIMIT
	RET

// func noiseMixedNEON(c *float32, count, ahead int)
TEXT ·noiseMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	NOISE_COEFFICIENTS
	START_MIXED
pass:
	NOISE(MIXED)
	TBZ  $4, left, half // of a block
	ADD  $1, atMS
	ADD  $1, atNS
half:
	SUBS $16, left
	BNE  pass
	RET

// float64

#undef size
#undef sz
#undef FMOV
#undef MOVBITS
#define size 8
#define sz   1
#define FMOV FMOVD
#define MOVBITS MOVD

// func pnmF64NEON(c, p, grad, m, n *float64, count, ahead int)
TEXT ·pnmF64NEON(SB), NOSPLIT, $0-56
	ARGUMENTS_PGMN
	PNM_COEFFICIENTS
	LOOP(PNM)
	RET

// func adapnmF64NEON(c, p, grad, m, n, v *float64, count, ahead int)
TEXT ·adapnmF64NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMNV
	ADAPNM_COEFFICIENTS
	LOOP(ADAPNM)
	RET

// func adapnmAMSGradF64NEON(c, p, grad, m, n, v, x *float64, count, ahead int)
TEXT ·adapnmAMSGradF64NEON(SB), NOSPLIT, $0-72
	ARGUMENTS_PGMNVX
	ADAPNM_COEFFICIENTS
	LOOP(ADAPNM_AMSGRAD)
	RET

// func sgdF64NEON(c, p, grad *float64, count, ahead int)
TEXT ·sgdF64NEON(SB), NOSPLIT, $0-40
	ARGUMENTS_PG
	SGD_COEFFICIENTS
	LOOP(SGD)
	RET

// func sgdMomentumF64NEON(c, p, grad, m *float64, count, ahead int)
TEXT ·sgdMomentumF64NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(SGD_MOMENTUM)
	RET

// func sgdNesterovF64NEON(c, p, grad, m *float64, count, ahead int)
TEXT ·sgdNesterovF64NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(SGD_NESTEROV)
	RET

// func adamF64NEON(c, p, grad, m, v *float64, count, ahead int)
TEXT ·adamF64NEON(SB), NOSPLIT, $0-56
	ARGUMENTS_PGMV
	ADAM_COEFFICIENTS
	LOOP(ADAM)
	RET

// func adamAMSGradF64NEON(c, p, grad, m, v, x *float64, count, ahead int)
TEXT ·adamAMSGradF64NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMVX
	ADAM_COEFFICIENTS
	LOOP(ADAM_AMSGRAD)
	RET

// func lionF64NEON(c, p, grad, m *float64, count, ahead int)
TEXT ·lionF64NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	LION_COEFFICIENTS
	LOOP(LION)
	RET

// func dividerF64NEON(c, p, grad, m, n, v, x *float64, count, ahead int)
TEXT ·dividerF64NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD count+56(FP), left
	LOOP(DIVIDER)
	RET

// func noiseF64NEON(c, plus, minus, m, n *float64, count, ahead int)
TEXT ·noiseF64NEON(SB), NOSPLIT, $0-56
	MOVD c+0(FP), atC
	MOVD plus+8(FP), atP
	MOVD minus+16(FP), atG
	MOVD m+24(FP), atM
	MOVD n+32(FP), atN
	MOVD count+40(FP), left
	NOISE_COEFFICIENTS
pass:
	NOISE(PASS)
	SUBS $8, left
	BNE  pass
	RET

// Sums of squares, of all types in float64. What they are called in asm/norm.go:
#define sumsUpper   0 // and 1
#define sumsLower   2 // and 3
#define anchorUpper 4
#define anchorLower 5
#define largestBits 6
#define absBits     7

// The squares of two float64 in x, to the second of the sums: t = s + x·x, r = x·x − (t − s), sumsLower += anchorLower + r.
#define SQUARES(second, x, s, t, d) \
	VFMUL(x, x, x)                              \
	VFADD(x, s, t)                              \
	VFSUB(s, t, d)                              \
	VFSUB(d, x, x)                              \
	VFADD(anchorLower, x, x)                    \
	VADD_D(x, sumsLower+second, sumsLower+second)

// Those of eight float32 in V(16+i) and the next, four after each other on one anchor.
#define SQUARES_F32(i, second) \
	VFCVTL(16+i, 24+i)                          \
	VFCVTL2(16+i, 16+i)                         \
	VFCVTL(17+i, 25+i)                          \
	VFCVTL2(17+i, 17+i)                         \
	SQUARES(0, 24+i, anchorUpper, 8, 12)        \
	SQUARES(1, 16+i, 8, 9, 13)                  \
	SQUARES(0, 25+i, 9, 10, 14)                 \
	SQUARES(1, 17+i, 10, 11, 15)                \
	VADD_D(11, sumsUpper+second, sumsUpper+second)

// The largest |x| of a vector, as integers of the arrangement that MAX has.
#define LARGEST_BITS(MAX, x, s) \
	VAND(absBits, x, s)      \
	MAX(s, largestBits, largestBits)

// So many elements as there are in a line.
#define LINE_F32 \
	FLDPQ (atG), (F16, F17)   \
	FLDPQ 32(atG), (F18, F19) \
	FLDPQ 64(atG), (F20, F21) \
	FLDPQ 96(atG), (F22, F23) \
	LARGEST_BITS(VUMAX, 16, 8)     \
	LARGEST_BITS(VUMAX, 17, 9)     \
	LARGEST_BITS(VUMAX, 18, 10)    \
	LARGEST_BITS(VUMAX, 19, 11)    \
	LARGEST_BITS(VUMAX, 20, 12)    \
	LARGEST_BITS(VUMAX, 21, 13)    \
	LARGEST_BITS(VUMAX, 22, 14)    \
	LARGEST_BITS(VUMAX, 23, 15)    \
	ALL_SQUARES_F32           \
	ADD $128, atG
#define ALL_SQUARES_F32 \
	SQUARES_F32(0, 0) \
	SQUARES_F32(2, 1) \
	SQUARES_F32(4, 0) \
	SQUARES_F32(6, 1)

// The same where eight elements of 16 bits are loaded at a time, and widened to V(16+i) and the one after it.
#define LINE_16(WIDEN) \
	FLDPQ (atG), (F16, F18)   \
	FLDPQ 32(atG), (F20, F22) \
	LARGEST_BITS(VUMAX_H, 16, 8)   \
	LARGEST_BITS(VUMAX_H, 18, 9)   \
	LARGEST_BITS(VUMAX_H, 20, 10)  \
	LARGEST_BITS(VUMAX_H, 22, 11)  \
	WIDEN(16, 17)             \
	WIDEN(18, 19)             \
	WIDEN(20, 21)             \
	WIDEN(22, 23)             \
	ALL_SQUARES_F32           \
	ADD $64, atG
#define LINE_BF16 LINE_16(WIDEN_BF16)
#define LINE_F16  LINE_16(WIDEN_F16)

// Of float64, the largest upper and the largest lower half.
#define SQUARES_F64(i) \
	LARGEST_BITS(VUMAX, 16+i, 8)                \
	LARGEST_BITS(VUMAX, 17+i, 9)                \
	SQUARES(0, 16+i, anchorUpper, 8, 12)        \
	SQUARES(1, 17+i, anchorUpper, 9, 13)        \
	VADD_D(8, sumsUpper, sumsUpper)             \
	VADD_D(9, sumsUpper+1, sumsUpper+1)
#define LINE_F64 \
	FLDPQ (atG), (F16, F17)    \
	FLDPQ 32(atG), (F18, F19)  \
	FLDPQ 64(atG), (F20, F21)  \
	FLDPQ 96(atG), (F22, F23)  \
	FLDPQ 128(atG), (F24, F25) \
	FLDPQ 160(atG), (F26, F27) \
	FLDPQ 192(atG), (F28, F29) \
	FLDPQ 224(atG), (F30, F31) \
	SQUARES_F64(0)             \
	SQUARES_F64(2)             \
	SQUARES_F64(4)             \
	SQUARES_F64(6)             \
	SQUARES_F64(8)             \
	SQUARES_F64(10)            \
	SQUARES_F64(12)            \
	SQUARES_F64(14)            \
	ADD $256, atG

// The cache lines of a line.
#define PREFETCH_16 \
	ADD  front, atG, addr \
	PRFM (addr), PLDL1KEEP
#define PREFETCH_F32 \
	PREFETCH_16 \
	PRFM 64(addr), PLDL1KEEP
#define PREFETCH_F64 \
	PREFETCH_F32              \
	PRFM 128(addr), PLDL1KEEP \
	PRFM 192(addr), PLDL1KEEP

// The largest of all elements, from the largest of each place.
#define FOLD_16  VUMAXV_H(largestBits, largestBits)
#define FOLD_F32 VUMAXV(largestBits, largestBits)
#define FOLD_F64 \
	VDUP V6.D[1], V8.D2 \
	VUMAX(8, largestBits, largestBits)

// SUM sums up the squares of all elements, a positive multiple of 32, and stores the sums. V7 has the bits but signs.
#define SUM(LINE, PREFETCH_LINE, FOLD) \
	FMOVD (atW), F4                                   \
	FMOVD 8(atW), F5                                  \
	VDUP_0(anchorUpper, anchorUpper)                  \
	VDUP_0(anchorLower, anchorLower)                  \
	VEOR(0, 0, 0)                                     \
	VEOR(1, 1, 1)                                     \
	VEOR(2, 2, 2)                                     \
	VEOR(3, 3, 3)                                     \
	VEOR(6, 6, 6)                                     \
	CBZ   front, plain                                \
ahead: \
	PREFETCH_LINE                                     \
	LINE                                              \
	SUBS  $32, left                                   \
	BNE   ahead                                       \
	B     done                                        \
plain: \
	LINE                                              \
	SUBS  $32, left                                   \
	BNE   plain                                       \
done: \
	VADD_D(1, 0, 0)                                   \
	VADD_D(3, 2, 2)                                   \
	VADDP V0.D2, V0.D2, V0.D2                         \
	VADDP V2.D2, V2.D2, V2.D2                         \
	FOLD                                              \
	FMOVD F0, (atSums)                                \
	FMOVD F2, 8(atSums)                               \
	FMOVD F6, 16(atSums)

// func sumSquaresF32NEON(sums *uint64, w *float64, grad *float32, count, ahead int)
TEXT ·sumSquaresF32NEON(SB), NOSPLIT, $0-40
	MOVD sums+0(FP), atSums
	MOVD w+8(FP), atW
	MOVD grad+16(FP), atG
	MOVD count+24(FP), left
	MOVD ahead+32(FP), front
	MOVD $0x7fffffff, addr
	VDUP addr, V7.S4
	SUM(LINE_F32, PREFETCH_F32, FOLD_F32)
	RET

// func sumSquaresBF16NEON(sums *uint64, w *float64, grad *uint16, count, ahead int)
TEXT ·sumSquaresBF16NEON(SB), NOSPLIT, $0-40
	MOVD sums+0(FP), atSums
	MOVD w+8(FP), atW
	MOVD grad+16(FP), atG
	MOVD count+24(FP), left
	MOVD ahead+32(FP), front
	MOVD $0x7fff, addr
	VDUP addr, V7.H8
	SUM(LINE_BF16, PREFETCH_16, FOLD_16)
	RET

// func sumSquaresF16NEON(sums *uint64, w *float64, grad *uint16, count, ahead int)
TEXT ·sumSquaresF16NEON(SB), NOSPLIT, $0-40
	MOVD sums+0(FP), atSums
	MOVD w+8(FP), atW
	MOVD grad+16(FP), atG
	MOVD count+24(FP), left
	MOVD ahead+32(FP), front
	MOVD $0x7fff, addr
	VDUP addr, V7.H8
	SUM(LINE_F16, PREFETCH_16, FOLD_16)
	RET

// func sumSquaresF64NEON(sums *uint64, w *float64, grad *float64, count, ahead int)
TEXT ·sumSquaresF64NEON(SB), NOSPLIT, $0-40
	MOVD sums+0(FP), atSums
	MOVD w+8(FP), atW
	MOVD grad+16(FP), atG
	MOVD count+24(FP), left
	MOVD ahead+32(FP), front
	MOVD $0x7fffffffffffffff, addr
	VDUP addr, V7.D2
	SUM(LINE_F64, PREFETCH_F64, FOLD_F64)
	RET

// Fingerprints. What the vectors are called in asm/fingerprint.go: products with K_0 in V0 and V1, with K_1 in V2 and V3; then these.
#define checkMask 4
#define checkAdd  5
#define nanBits   6

// Four words in x, with their numbers k0 and k1.
#define HASH(x, k0, k1) \
	VUMLAL(k0, x, 0)           \
	VUMLAL2(k0, x, 1)          \
	VUMLAL(k1, x, 2)           \
	VUMLAL2(k1, x, 3)          \
	VAND(checkMask, x, 7)      \
	VADD_D(checkAdd, 7, 7)     \
	VORR(7, nanBits, nanBits)
#define HASH_32(at) \
	FLDPQ at(atG), (F16, F17)     \
	FLDPQ at(atKeys0), (F18, F19) \
	FLDPQ at(atKeys1), (F20, F21) \
	HASH(16, 18, 20)              \
	HASH(17, 19, 21)
#define HASH_LINE \
	HASH_32(0)         \
	HASH_32(32)        \
	HASH_32(64)        \
	HASH_32(96)        \
	ADD $128, atKeys0  \
	ADD $128, atKeys1  \
	ADD $128, atG

// func hashNEON(sums *uint64, keys *uint32, check *uint64, x *byte, count int)
TEXT ·hashNEON(SB), NOSPLIT, $0-40
	MOVD sums+0(FP), atSums
	MOVD keys+8(FP), atKeys0
	MOVD check+16(FP), atCheck
	MOVD x+24(FP), atG
	MOVD count+32(FP), left
	MOVD $8192, front
	MOVD $4160, atKeys1
	ADD  atKeys0, atKeys1
	FMOVD (atCheck), F4
	FMOVD 8(atCheck), F5
	VDUP_0(checkMask, checkMask)
	VDUP_0(checkAdd, checkAdd)
	VEOR(0, 0, 0)
	VEOR(1, 1, 1)
	VEOR(2, 2, 2)
	VEOR(3, 3, 3)
	VEOR(nanBits, nanBits, nanBits)
line:
	PREFETCH_F32
	HASH_LINE
	SUBS $128, left
	BNE  line
	VADD_D(1, 0, 0)
	VADD_D(3, 2, 2)
	VADDP V0.D2, V0.D2, V0.D2
	VADDP V2.D2, V2.D2, V2.D2
	VDUP  V6.D[1], V7.D2
	VORR(7, nanBits, nanBits)
	FMOVD F0, (atSums)
	FMOVD F2, 8(atSums)
	FMOVD F6, 16(atSums)
	RET

// func pause()
TEXT ·pause(SB), NOSPLIT, $0-0
	YIELD
	ISB $15 // most cores do not wait at YIELD, all do here
	RET
