//go:build !purego

#include "textflag.h"

// The kernels for NEON: the loops of update_generic.go, with the same operations in the same order. Read from the top, these
// are the instructions, the registers, the steps of the equations, the streams, the rules, the loop, what streams of 16 bits need,
// the loop for these, and then the functions: once for each element type, and once for mixed formats.

// Instructions that Go 1.26's assembler lacks, with their operands in its order but registers by number: VFSUB(m, n, d) is
// d = n − m, VFDIV(m, n, d) is d = n / m. The arrangement of those with sz is S4 or D2, by that; of the others see their
// comments. internal/inspect checks that each is the instruction of its name, up to a _; where the assembler has that, a macro
// may become it.
#define VFADD(m, n, d)  WORD $(0x4E20D400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFSUB(m, n, d)  WORD $(0x4EA0D400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFMUL(m, n, d)  WORD $(0x6E20DC00 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFDIV(m, n, d)  WORD $(0x6E20FC00 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFMAX(m, n, d)  WORD $(0x4E20F400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFMIN(m, n, d)  WORD $(0x4EA0F400 | sz<<22 | (m)<<16 | (n)<<5 | (d))
#define VFSQRT(n, d)    WORD $(0x6EA1F800 | sz<<22 | (n)<<5 | (d))
#define VSCVTF(n, d)    WORD $(0x4E21D800 | sz<<22 | (n)<<5 | (d)) // integers as numbers
#define VFCVTL(n, d)    WORD $(0x0E617800 | (n)<<5 | (d)) // the lower two float32 as float64
#define VFCVTL2(n, d)   WORD $(0x4E617800 | (n)<<5 | (d)) // the upper two
#define VDUP(n, d)      WORD $(0x4E000400 | size<<16 | (n)<<5 | (d)) // of element 0; Go has it, but not by number

// Those for elements of 16 bits, between H4 or the upper half of H8 and S4.
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

// Those for integers, and comparisons, whose result is −1 where they hold and 0 elsewhere; all S4. Go has most, but not by
// number.
#define VADD(m, n, d)   WORD $(0x4EA08400 | (m)<<16 | (n)<<5 | (d))
#define VSUB(m, n, d)   WORD $(0x6EA08400 | (m)<<16 | (n)<<5 | (d))
#define VMUL(m, n, d)   WORD $(0x4EA09C00 | (m)<<16 | (n)<<5 | (d))
#define VEOR(m, n, d)   WORD $(0x6E201C00 | (m)<<16 | (n)<<5 | (d))
#define VSHL(s, n, d)   WORD $(0x4F005400 | (32+(s))<<16 | (n)<<5 | (d)) // by s
#define VUSHR(s, n, d)  WORD $(0x6F000400 | (64-(s))<<16 | (n)<<5 | (d))
#define VADDV(n, d)     WORD $(0x4EB1B800 | (n)<<5 | (d))                // the sum of all four, in element 0
#define VCMGE_0(n, d)   WORD $(0x6EA08800 | (n)<<5 | (d))                // n ≥ 0
#define VFACGE(m, n, d) WORD $(0x6E20EC00 | (m)<<16 | (n)<<5 | (d))      // |n| ≥ |m|

// Comparisons of the arrangement that sz selects, and what chooses by them.
#define VFCMEQ(m, n, d) WORD $(0x4E20E400 | sz<<22 | (m)<<16 | (n)<<5 | (d)) // n = m
#define VFCMGT_0(n, d)  WORD $(0x4EA0C800 | sz<<22 | (n)<<5 | (d))           // n > 0
#define VFCMLT_0(n, d)  WORD $(0x4EA0E800 | sz<<22 | (n)<<5 | (d))           // n < 0
#define VBIF(m, n, d)   WORD $(0x6EE01C00 | (m)<<16 | (n)<<5 | (d))          // d where m is −1, n where it is 0

// Addresses: of the coefficients and, in each stream, of what comes next.
#define atC    R0
#define atP    R1
#define atG    R2
#define atM    R3
#define atN    R4
#define atV    R5
#define atX    R6
#define atSums R1
#define left   R7 // elements
#define front  R8 // how far to prefetch in front of the loads, in bytes
#define addr   R9
#define coupled R25 // the bits of l2

// Two vectors of each stream: their numbers, and the pair for loads and stores.
#define p0  0
#define p1  1
#define p01 (F0, F1)
#define g0  2
#define g1  3
#define g01 (F2, F3)
#define m0  4
#define m1  5
#define m01 (F4, F5)
#define n0  6
#define n1  7
#define n01 (F6, F7)
#define v0  8
#define v1  9
#define v01 (F8, F9)
#define x0  10
#define x1  11
#define x01 (F10, F11)
#define t0  12 // temporary
#define t1  13

// The coefficients, each in all elements of a vector.
#define gs     19
#define l2     20
#define keep   21
#define beta1  22
#define alpha1 23
#define beta2  24
#define alpha2 25
#define k1     26
#define k2     27
#define r      28
#define eps    29
#define lo     30
#define hi     31

// COEFFICIENT loads field i of scalars.
#define COEFFICIENT(d, i) \
	FMOV ((i)*size)(atC), F(d) \
	VDUP(d, d)

// COUPLED tells whether l2 is not 0; it is never −0.
#define COUPLED \
	MOVBITS size(atC), coupled

// g = gs·g
// g = max(min(g, hi), lo)         NaN if g is
// g = g + l2·p                    if decay is coupled: else 0·∞ would be NaN, and −0 + 0 is +0
#define GRADIENT(p, g, t) \
	VFMUL(g, gs, g)    \
	VFMIN(hi, g, g)    \
	VFMAX(lo, g, g)    \
	CBZ coupled, 3(PC) \
	VFMUL(p, l2, t)    \
	VFADD(t, g, g)

// m = beta1·m + alpha1·g
#define MOMENTUM(m, g, t) \
	VFMUL(m, beta1, m)  \
	VFMUL(g, alpha1, t) \
	VFADD(t, m, m)

// d = beta1·m + alpha1·g
// m = beta2·m + alpha2·g
#define INTERPOLATION(m, g, d, t) \
	VFMUL(m, beta1, d)  \
	VFMUL(g, alpha1, t) \
	VFADD(t, d, d)      \
	VFMUL(m, beta2, m)  \
	VFMUL(g, alpha2, t) \
	VFADD(t, m, m)

// v = beta2·v + (alpha2·g)·g
#define SECOND_MOMENT(v, g, t) \
	VFMUL(v, beta2, v)  \
	VFMUL(g, alpha2, t) \
	VFMUL(g, t, t)      \
	VFADD(t, v, v)

// x = max(x, v)                   NaN if either is, +0 of two zeros
#define LARGEST(v, x) \
	VFMAX(v, x, x)

// g = g + beta1·m
#define NESTEROV(m, g, t) \
	VFMUL(m, beta1, t) \
	VFADD(t, g, g)

// s = sign(d)                     1 or −1, +0 for either zero, NaN for a NaN: (d < 0) − (d > 0), either of which is −1 or 0
#define SIGN(d, s, t) \
	VFCMGT_0(d, t)  \
	VFCMLT_0(d, s)  \
	VSCVTF(t, t)    \
	VSCVTF(s, s)    \
	VFSUB(t, s, s)  \
	VFCMEQ(d, d, t) \
	VBIF(t, d, s)

// u = k1·d
#define SCALED(d, u) \
	VFMUL(d, k1, u)

// u = k1·m − k2·n                 in place of n
#define DIFFERENCE(m, n, t) \
	VFMUL(m, k1, t) \
	VFMUL(n, k2, n) \
	VFSUB(n, t, n)

// u = u / (√w·r + ε)
#define DIVIDE(u, w, t) \
	VFSQRT(w, t)     \
	VFMUL(r, t, t)   \
	VFADD(eps, t, t) \
	VFDIV(t, u, u)

// p = keep·p − u
#define STEP(p, u) \
	VFMUL(p, keep, p) \
	VFSUB(u, p, p)

// The streams of kernels, by the letters of their roles: parameters, gradients and state as in internal/equations. First all of
// them, to be passed to a macro one by one, then those that are written, then the arguments of a function.

// A role picks its own of what is said for parameters, gradients, momenta, and averages of squares with the largest so far.
#define ROLE_P(p, g, m, v) p
#define ROLE_G(p, g, m, v) g
#define ROLE_M(p, g, m, v) m
#define ROLE_V(p, g, m, v) v

#define STREAMS_PG(DO) \
	DO(ROLE_P, atP, p0, p01) \
	DO(ROLE_G, atG, g0, g01)
#define STREAMS_PGM(DO) \
	STREAMS_PG(DO) \
	DO(ROLE_M, atM, m0, m01)
#define STREAMS_PGMV(DO) \
	STREAMS_PGM(DO) \
	DO(ROLE_V, atV, v0, v01)
#define STREAMS_PGMVX(DO) \
	STREAMS_PGMV(DO) \
	DO(ROLE_V, atX, x0, x01)
#define STREAMS_PGMN(DO) \
	STREAMS_PGM(DO) \
	DO(ROLE_M, atN, n0, n01)
#define STREAMS_PGMNV(DO) \
	STREAMS_PGMN(DO) \
	DO(ROLE_V, atV, v0, v01)
#define STREAMS_PGMNVX(DO) \
	STREAMS_PGMNV(DO) \
	DO(ROLE_V, atX, x0, x01)

#define WRITES_P(DO) \
	DO(ROLE_P, atP, p0, p01)
#define WRITES_PM(DO) \
	WRITES_P(DO) \
	DO(ROLE_M, atM, m0, m01)
#define WRITES_PMV(DO) \
	WRITES_PM(DO) \
	DO(ROLE_V, atV, v0, v01)
#define WRITES_PMVX(DO) \
	WRITES_PMV(DO) \
	DO(ROLE_V, atX, x0, x01)

#define ARGUMENTS_PG \
	MOVD c+0(FP), atC       \
	MOVD p+8(FP), atP       \
	MOVD grad+16(FP), atG   \
	MOVD count+24(FP), left \
	MOVD ahead+32(FP), front
#define ARGUMENTS_PGM \
	MOVD c+0(FP), atC       \
	MOVD p+8(FP), atP       \
	MOVD grad+16(FP), atG   \
	MOVD m+24(FP), atM      \
	MOVD count+32(FP), left \
	MOVD ahead+40(FP), front
#define ARGUMENTS_PGMV \
	MOVD c+0(FP), atC       \
	MOVD p+8(FP), atP       \
	MOVD grad+16(FP), atG   \
	MOVD m+24(FP), atM      \
	MOVD v+32(FP), atV      \
	MOVD count+40(FP), left \
	MOVD ahead+48(FP), front
#define ARGUMENTS_PGMVX \
	MOVD c+0(FP), atC       \
	MOVD p+8(FP), atP       \
	MOVD grad+16(FP), atG   \
	MOVD m+24(FP), atM      \
	MOVD v+32(FP), atV      \
	MOVD x+40(FP), atX      \
	MOVD count+48(FP), left \
	MOVD ahead+56(FP), front
#define ARGUMENTS_PGMN \
	MOVD c+0(FP), atC       \
	MOVD p+8(FP), atP       \
	MOVD grad+16(FP), atG   \
	MOVD m+24(FP), atM      \
	MOVD n+32(FP), atN      \
	MOVD count+40(FP), left \
	MOVD ahead+48(FP), front
#define ARGUMENTS_PGMNV \
	MOVD c+0(FP), atC       \
	MOVD p+8(FP), atP       \
	MOVD grad+16(FP), atG   \
	MOVD m+24(FP), atM      \
	MOVD n+32(FP), atN      \
	MOVD v+40(FP), atV      \
	MOVD count+48(FP), left \
	MOVD ahead+56(FP), front
#define ARGUMENTS_PGMNVX \
	MOVD c+0(FP), atC       \
	MOVD p+8(FP), atP       \
	MOVD grad+16(FP), atG   \
	MOVD m+24(FP), atM      \
	MOVD n+32(FP), atN      \
	MOVD v+40(FP), atV      \
	MOVD x+48(FP), atX      \
	MOVD count+56(FP), left \
	MOVD ahead+64(FP), front
#define ARGUMENTS_MIXED \
	MOVD c+0(FP), atC      \
	MOVD count+8(FP), left \
	MOVD ahead+16(FP), front

// The rules, each from those before it: a rule is its coefficients, and what it does to one vector of each stream.

#define SGD_COEFFICIENTS \
	COEFFICIENT(gs, 0)   \
	COEFFICIENT(l2, 1)   \
	COUPLED              \
	COEFFICIENT(keep, 2) \
	COEFFICIENT(k1, 7)   \
	COEFFICIENT(lo, 11)  \
	COEFFICIENT(hi, 12)
#define SGD(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t) \
	SCALED(g, g)      \
	STEP(p, g)

#define SGD_MOMENTUM_COEFFICIENTS \
	SGD_COEFFICIENTS      \
	COEFFICIENT(beta1, 3) \
	COEFFICIENT(alpha1, 4)
#define SGD_MOMENTUM(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t) \
	MOMENTUM(m, g, t) \
	SCALED(m, g)      \
	STEP(p, g)

#define SGD_NESTEROV(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t) \
	MOMENTUM(m, g, t) \
	NESTEROV(m, g, t) \
	SCALED(g, g)      \
	STEP(p, g)

#define ADAM_COEFFICIENTS \
	SGD_MOMENTUM_COEFFICIENTS \
	COEFFICIENT(beta2, 5)     \
	COEFFICIENT(alpha2, 6)    \
	COEFFICIENT(r, 9)         \
	COEFFICIENT(eps, 10)
#define ADAM(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t)      \
	MOMENTUM(m, g, t)      \
	SECOND_MOMENT(v, g, t) \
	SCALED(m, g)           \
	DIVIDE(g, v, t)        \
	STEP(p, g)

#define ADAM_AMSGRAD(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t)      \
	MOMENTUM(m, g, t)      \
	SECOND_MOMENT(v, g, t) \
	LARGEST(v, x)          \
	SCALED(m, g)           \
	DIVIDE(g, x, t)        \
	STEP(p, g)

// PNM and AdaPNM are these with a second momentum, which they only read.
#define PNM_COEFFICIENTS \
	SGD_MOMENTUM_COEFFICIENTS \
	COEFFICIENT(k2, 8)
#define PNM(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t)   \
	MOMENTUM(m, g, t)   \
	DIFFERENCE(m, n, t) \
	STEP(p, n)

#define ADAPNM_COEFFICIENTS \
	ADAM_COEFFICIENTS \
	COEFFICIENT(k2, 8)
#define ADAPNM(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t)      \
	MOMENTUM(m, g, t)      \
	SECOND_MOMENT(v, g, t) \
	DIFFERENCE(m, n, t)    \
	DIVIDE(n, v, t)        \
	STEP(p, n)

#define ADAPNM_AMSGRAD(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t)      \
	MOMENTUM(m, g, t)      \
	SECOND_MOMENT(v, g, t) \
	LARGEST(v, x)          \
	DIFFERENCE(m, n, t)    \
	DIVIDE(n, x, t)        \
	STEP(p, n)

// Lion's state is a momentum alone: the registers of the other one serve for the average that the step is made of.
#define LION_COEFFICIENTS \
	SGD_MOMENTUM_COEFFICIENTS \
	COEFFICIENT(beta2, 5)     \
	COEFFICIENT(alpha2, 6)
#define LION(p, g, m, n, v, x, t) \
	GRADIENT(p, g, t)         \
	INTERPOLATION(m, g, n, t) \
	SIGN(n, g, t)             \
	SCALED(g, g)              \
	STEP(p, g)

// What benchmarks measure the rules against: their streams without arithmetic, and the divider without streams.
#define NOTHING(p, g, m, n, v, x, t)
#define DIVIDER_STREAMS(DO) \
	DO(ROLE_P, atP, p0, p01)
#define DIVIDER_WRITES(DO)
#define DIVIDER(p, g, m, n, v, x, t) \
	VFSQRT(p, t) \
	VFDIV(t, p, t)

// LOOP applies a rule to all elements: a cache line of each stream at a time, then a vector, then an element. An element
// is alone in its vector, so that all go through the same instructions.
#define LOOP(STREAMS, WRITES, RULE) \
	CBZ  front, enterPlain           \
	B    enterAhead                  \
ahead: \
	STREAMS(PREFETCH)                \
	LINE(STREAMS, WRITES, RULE)      \
enterAhead: \
	SUBS $(64/size), left            \
	BGE  ahead                       \
	B    rest                        \
plain: \
	LINE(STREAMS, WRITES, RULE)      \
enterPlain: \
	SUBS $(64/size), left            \
	BGE  plain                       \
rest: \
	ADD  $(64/size), left            \
	B    enterVector                 \
vector: \
	STREAMS(LOAD_VECTOR)             \
	RULE(p0, g0, m0, n0, v0, x0, t0) \
	WRITES(STORE_VECTOR)             \
	STREAMS(NEXT_VECTOR)             \
enterVector: \
	SUBS $(16/size), left            \
	BGE  vector                      \
	ADDS $(16/size), left            \
	BEQ  done                        \
element: \
	STREAMS(LOAD_ELEMENT)            \
	RULE(p0, g0, m0, n0, v0, x0, t0) \
	WRITES(STORE_ELEMENT)            \
	STREAMS(NEXT_ELEMENT)            \
	SUBS $1, left                    \
	BNE  element                     \
done:

#define LINE(STREAMS, WRITES, RULE) \
	STREAMS(LOAD_LOWER)              \
	RULE(p0, g0, m0, n0, v0, x0, t0) \
	RULE(p1, g1, m1, n1, v1, x1, t1) \
	WRITES(STORE_LOWER)              \
	STREAMS(LOAD_UPPER)              \
	RULE(p0, g0, m0, n0, v0, x0, t0) \
	RULE(p1, g1, m1, n1, v1, x1, t1) \
	WRITES(STORE_UPPER)              \
	STREAMS(NEXT_LINE)

// What LOOP does to a stream. A load of one element sets the rest of the register to zero.
#define PREFETCH(role, at, one, two) \
	ADD  front, at, addr \
	PRFM (addr), PLDL1KEEP
#define LOAD_LOWER(role, at, one, two)    FLDPQ (at), two
#define LOAD_UPPER(role, at, one, two)    FLDPQ 32(at), two
#define LOAD_VECTOR(role, at, one, two)   FMOVQ (at), F(one)
#define LOAD_ELEMENT(role, at, one, two)  FMOV  (at), F(one)
#define STORE_LOWER(role, at, one, two)   FSTPQ two, (at)
#define STORE_UPPER(role, at, one, two)   FSTPQ two, 32(at)
#define STORE_VECTOR(role, at, one, two)  FMOVQ F(one), (at)
#define STORE_ELEMENT(role, at, one, two) FMOV  F(one), (at)
#define NEXT_LINE(role, at, one, two)     ADD   $64, at
#define NEXT_VECTOR(role, at, one, two)   ADD   $16, at
#define NEXT_ELEMENT(role, at, one, two)  ADD   $size, at

// Streams of 16 bits: widened to float32 as they are loaded, so that the rules above do the arithmetic, and rounded as they are
// stored. update_mixed.go says what the formats are, format.go and rounding.go how numbers are rounded.

// Where the fields of mixed are that follow its coefficients, and the bits of its formats.
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

#define gradBF16   0
#define gradF16    1
#define paramBF16  2
#define stateBF16  3
#define outBF16    4
#define outF16     5
#define stochastic 7

// What a loop for mixed formats has beside the registers above: for parameters, gradients and state the bytes of a pass and how
// far to prefetch, which for 16 bits are half of what they are for 32.
#define formats    R10
#define atOut      R11 // the next element of the copy
#define bytesP     R12
#define bytesG     R13
#define bytesS     R14
#define frontP     R15
#define frontG     R19
#define frontS     R20
#define overflowed R21 // how many parameters
#define border     R22 // 65520, from which on float32 overflows
#define infinity   R23
#define fpcr       R24 // what FPCR was

// Vectors: what rounding needs in the place of gradients and of the momentum that is only read, which are of no use any more
// after the rule; and what draws need all the time.
#define u0      2 // parameters draw its upper half
#define u1      3
#define w0      6 // state draws this
#define w1      7
#define counter 14 // of the next four elements
#define four    15
#define key     16
#define factor1 17
#define factor2 18

// SPLAT loads the 32 bits of a register into all elements of a vector.
#define SPLAT(register, d) \
	FMOVS register, F(d) \
	VDUP(d, d)
#define CONSTANT(value, d) \
	MOVD  $value, addr \
	SPLAT(addr, d)

// y = float32(y)                  eight elements in one as those of the vectors one and one+1
#define WIDEN_BF16(one) \
	VSHLL2(one, (one)+1) \
	VSHLL(one, one)
#define WIDEN_F16(one) \
	VFCVTL2_H(one, (one)+1) \
	VFCVTL_H(one, one)

// u = draw(counter, key)          in its upper half
// w = u & 0xffff                  for the next four elements
#define DRAW(u, w, t) \
	VUSHR(16, counter, u) \
	VEOR(counter, u, u)   \
	VMUL(factor1, u, u)   \
	VEOR(key, u, u)       \
	VUSHR(15, u, t)       \
	VEOR(t, u, u)         \
	VMUL(factor2, u, u)   \
	VSHL(16, u, w)        \
	VEOR(u, w, w)         \
	VUSHR(16, w, w)       \
	VADD(four, counter, counter)

// Rounding takes eight elements from the vectors one and one+1 to one. To bf16, it adds less than 1<<16 and cuts the lower half.
// That of a NaN is 0, DEFAULT_NAN sees to it, so that nothing carries: a NaN stays one.

// y = (y + 0x8000 − even) >> 16   even = 1 − (y>>16 & 1)
#define ROUND_NEAREST(one) \
	VSHL(15, one, t0)     \
	VSHL(15, (one)+1, t1) \
	VCMGE_0(t0, t0)       \
	VCMGE_0(t1, t1)       \
	VRADDHN(t0, one, one) \
	VRADDHN2(t1, (one)+1, one)

// y = (y + w) >> 16
#define ROUND_LOWER(one) \
	VADDHN(w0, one, one) \
	VADDHN2(w1, (one)+1, one)

// y = (y + u>>16) >> 16
#define ROUND_UPPER(one) \
	VUSHR(16, u0, u0)    \
	VUSHR(16, u1, u1)    \
	VADDHN(u0, one, one) \
	VADDHN2(u1, (one)+1, one)

// y = f16(y)
#define ROUND_F16(one) \
	VFCVTN(one, one) \
	VFCVTN2((one)+1, one)

// overflowed = overflowed + how many of both vectors have 65520 ≤ |y| < ∞, in place of what was drawn
#define COUNT_OVERFLOWS(y0, y1) \
	SPLAT(border, w0)   \
	VFACGE(w0, y0, t0)  \
	VFACGE(w0, y1, t1)  \
	VADD(t1, t0, t0)    \
	SPLAT(infinity, w1) \
	VFACGE(w1, y0, t1)  \
	VSUB(t1, t0, t0)    \
	VFACGE(w1, y1, t1)  \
	VSUB(t1, t0, t0)    \
	VADDV(t0, t0)       \
	FMOVS F(t0), addr   \
	SUBW  addr, overflowed

// LOOP_MIXED applies a rule to all elements, a positive multiple of 16: two vectors of each stream at a time. Its branches go
// the same way in every pass, by the formats; but every other pass prefetches, a cache line of a stream of float32. The copy is
// written like everything else, whether it is to go around the caches or not: what STNP does for it could not be measured.
#define LOOP_MIXED(STREAMS, WRITES, RULE) \
	START_MIXED                              \
	DEFAULT_NAN                              \
	TBZ  $stochastic, formats, pass          \
	FIRST_COUNTERS                           \
pass: \
	CBZ  front, load                         \
	TBNZ $3, left, load                      \
	STREAMS(PREFETCH_MIXED)                  \
load: \
	TBNZ $paramBF16, formats, loadParamBF16  \
	LOAD_LOWER(ROLE_P, atP, p0, p01)         \
	B    loadGrad                            \
loadParamBF16: \
	LOAD_BF16(ROLE_P, atP, p0, p01)          \
loadGrad: \
	TBNZ $gradBF16, formats, loadGradBF16    \
	TBNZ $gradF16, formats, loadGradF16      \
	LOAD_LOWER(ROLE_G, atG, g0, g01)         \
	B    loadState                           \
loadGradBF16: \
	LOAD_BF16(ROLE_G, atG, g0, g01)          \
	B    loadState                           \
loadGradF16: \
	LOAD_F16(ROLE_G, atG, g0, g01)           \
loadState: \
	TBNZ $stateBF16, formats, loadStateBF16  \
	STREAMS(LOAD_STATE)                      \
	B    update                              \
loadStateBF16: \
	STREAMS(LOAD_STATE_BF16)                 \
update: \
	RULE(p0, g0, m0, n0, v0, x0, t0)         \
	RULE(p1, g1, m1, n1, v1, x1, t1)         \
	TBZ  $stochastic, formats, storeState    \
	DRAW(u0, w0, t0)                         \
	DRAW(u1, w1, t1)                         \
storeState: \
	TBNZ $stateBF16, formats, storeStateBF16 \
	WRITES(STORE_STATE)                      \
	B    storeParam                          \
storeStateBF16: \
	WRITES(STORE_STATE_BF16)                 \
storeParam: \
	TBNZ $paramBF16, formats, storeParamBF16 \
	STORE_LOWER(ROLE_P, atP, p0, p01)        \
	TBNZ $outBF16, formats, copyBF16         \
	TBZ  $outF16, formats, next              \
	COUNT_OVERFLOWS(p0, p1)                  \
	ROUND_F16(p0)                            \
	FMOVQ.P F(p0), 16(atOut)                 \
	B    next                                \
copyBF16: \
	ROUND_NEAREST(p0)                        \
	FMOVQ.P F(p0), 16(atOut)                 \
	B    next                                \
storeParamBF16: \
	STORE_BF16(ROLE_P, atP, p0, p01)         \
next: \
	STREAMS(NEXT_MIXED)                      \
	SUBS $8, left                            \
	BNE  pass                                \
	MOVD mixed_overflows(atC), addr          \
	ADD  overflowed, addr                    \
	MOVD addr, mixed_overflows(atC)          \
	MSR  fpcr, FPCR

// START_MIXED gives all registers but the vectors their first values, from the argument atC and front.
#define START_MIXED \
	MOVD  mixed_p(atC), atP              \
	MOVD  mixed_g(atC), atG              \
	MOVD  mixed_m(atC), atM              \
	MOVD  mixed_n(atC), atN              \
	MOVD  mixed_v(atC), atV              \
	MOVD  mixed_x(atC), atX              \
	MOVD  mixed_out(atC), atOut          \
	MOVWU mixed_formats(atC), formats    \
	UBFX  $paramBF16, formats, $1, addr  \
	WIDTH(addr, bytesP, frontP)          \
	UBFX  $stateBF16, formats, $1, addr  \
	WIDTH(addr, bytesS, frontS)          \
	UBFX  $gradBF16, formats, $1, bytesG \
	UBFX  $gradF16, formats, $1, addr    \
	ORR   bytesG, addr                   \
	WIDTH(addr, bytesG, frontG)          \
	MOVD  $0, overflowed                 \
	MOVD  $0x477ff000, border            \
	MOVD  $0x7f800000, infinity

// Those of float32 if narrow is 0, half of them if it is 1.
#define WIDTH(narrow, bytes, ahead) \
	MOVD $32, bytes    \
	LSR  narrow, bytes \
	LSR  narrow, front, ahead

// DEFAULT_NAN makes 0x7fc00000 of each NaN that arithmetic gives, which is each that a rule writes. It is undone at the end:
// FPCR is Go's to choose, but nobody else sees it until then.
#define DEFAULT_NAN \
	MRS FPCR, fpcr           \
	ORR $(1<<25), fpcr, addr \
	MSR addr, FPCR

// FIRST_COUNTERS gives the vectors that draws need theirs.
#define FIRST_COUNTERS \
	MOVD  $firstFour<>(SB), addr    \
	FMOVQ (addr), F(counter)        \
	FMOVS mixed_counter(atC), F(t0) \
	VDUP(t0, t0)                    \
	VADD(t0, counter, counter)      \
	FMOVS mixed_key(atC), F(key)    \
	VDUP(key, key)                  \
	CONSTANT(4, four)               \
	CONSTANT(0x7feb352d, factor1)   \
	CONSTANT(0x846ca68b, factor2)

DATA firstFour<>+0(SB)/4, $0
DATA firstFour<>+4(SB)/4, $1
DATA firstFour<>+8(SB)/4, $2
DATA firstFour<>+12(SB)/4, $3
GLOBL firstFour<>(SB), RODATA|NOPTR, $16

// What LOOP_MIXED does to a stream. It loads parameters and gradients by themselves, and stores parameters so.
#define PREFETCH_MIXED(role, at, one, two) \
	ADD  role(frontP, frontG, frontS, frontS), at, addr \
	PRFM (addr), PLDL1KEEP
#define LOAD_STATE(role, at, one, two)       role(NONE, NONE, LOAD_LOWER, LOAD_LOWER)(role, at, one, two)
#define LOAD_STATE_BF16(role, at, one, two)  role(NONE, NONE, LOAD_BF16, LOAD_BF16)(role, at, one, two)
#define STORE_STATE(role, at, one, two)      role(NONE, NONE, STORE_LOWER, STORE_LOWER)(role, at, one, two)
#define STORE_STATE_BF16(role, at, one, two) role(NONE, NONE, STORE_BF16, STORE_BF16)(role, at, one, two)
#define NEXT_MIXED(role, at, one, two)       ADD role(bytesP, bytesG, bytesS, bytesS), at
#define NONE(role, at, one, two)
#define LOAD_BF16(role, at, one, two) \
	FMOVQ (at), F(one) \
	WIDEN_BF16(one)
#define LOAD_F16(role, at, one, two) \
	FMOVQ (at), F(one) \
	WIDEN_F16(one)
#define STORE_BF16(role, at, one, two) \
	role(ROUND_UPPER, NONE, ROUND_NEAREST, ROUND_LOWER)(one) \
	FMOVQ F(one), (at)

// LOOP_LIMIT is what benchmarks measure LOOP_MIXED against: its streams without arithmetic, those that there are, in any
// formats. It loads and stores as many bytes in as many instructions; what it copies is no parameter.
#define LOOP_LIMIT(STREAMS, WRITES) \
	START_MIXED              \
pass: \
	CBZ  front, load         \
	TBNZ $3, left, load      \
	STREAMS(PREFETCH_LIMIT)  \
load: \
	STREAMS(LOAD_LIMIT)      \
	WRITES(STORE_LIMIT)      \
	CBZ  atOut, next         \
	FMOVQ.P F(p0), 16(atOut) \
next: \
	STREAMS(NEXT_LIMIT)      \
	SUBS $8, left            \
	BNE  pass

// What LOOP_LIMIT does to a stream: nothing if its address is 0. A pass takes 32 bytes or 16.
#define PREFETCH_LIMIT(role, at, one, two) \
	CBZ at, 3(PC) \
	PREFETCH_MIXED(role, at, one, two)
#define LOAD_LIMIT(role, at, one, two) \
	CBZ   at, 5(PC)          \
	TBZ   $5, role(bytesP, bytesG, bytesS, bytesS), 3(PC) \
	FLDPQ (at), two          \
	B     2(PC)              \
	FMOVQ (at), F(one)
#define STORE_LIMIT(role, at, one, two) \
	CBZ   at, 5(PC)          \
	TBZ   $5, role(bytesP, bytesG, bytesS, bytesS), 3(PC) \
	FSTPQ two, (at)          \
	B     2(PC)              \
	FMOVQ F(one), (at)
#define NEXT_LIMIT(role, at, one, two) \
	CBZ at, 2(PC) \
	NEXT_MIXED(role, at, one, two)

// float32

#define size 4 // bytes of an element
#define sz   0 // in the instructions
#define FMOV FMOVS
#define MOVBITS MOVWU

// func pnmF32NEON(c, p, grad, m, n *float32, count, ahead int)
TEXT ·pnmF32NEON(SB), NOSPLIT, $0-56
	ARGUMENTS_PGMN
	PNM_COEFFICIENTS
	LOOP(STREAMS_PGMN, WRITES_PM, PNM)
	RET

// func adapnmF32NEON(c, p, grad, m, n, v *float32, count, ahead int)
TEXT ·adapnmF32NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMNV
	ADAPNM_COEFFICIENTS
	LOOP(STREAMS_PGMNV, WRITES_PMV, ADAPNM)
	RET

// func adapnmAMSGradF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·adapnmAMSGradF32NEON(SB), NOSPLIT, $0-72
	ARGUMENTS_PGMNVX
	ADAPNM_COEFFICIENTS
	LOOP(STREAMS_PGMNVX, WRITES_PMVX, ADAPNM_AMSGRAD)
	RET

// func sgdF32NEON(c, p, grad *float32, count, ahead int)
TEXT ·sgdF32NEON(SB), NOSPLIT, $0-40
	ARGUMENTS_PG
	SGD_COEFFICIENTS
	LOOP(STREAMS_PG, WRITES_P, SGD)
	RET

// func sgdMomentumF32NEON(c, p, grad, m *float32, count, ahead int)
TEXT ·sgdMomentumF32NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(STREAMS_PGM, WRITES_PM, SGD_MOMENTUM)
	RET

// func sgdNesterovF32NEON(c, p, grad, m *float32, count, ahead int)
TEXT ·sgdNesterovF32NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(STREAMS_PGM, WRITES_PM, SGD_NESTEROV)
	RET

// func adamF32NEON(c, p, grad, m, v *float32, count, ahead int)
TEXT ·adamF32NEON(SB), NOSPLIT, $0-56
	ARGUMENTS_PGMV
	ADAM_COEFFICIENTS
	LOOP(STREAMS_PGMV, WRITES_PMV, ADAM)
	RET

// func adamAMSGradF32NEON(c, p, grad, m, v, x *float32, count, ahead int)
TEXT ·adamAMSGradF32NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMVX
	ADAM_COEFFICIENTS
	LOOP(STREAMS_PGMVX, WRITES_PMVX, ADAM_AMSGRAD)
	RET

// func lionF32NEON(c, p, grad, m *float32, count, ahead int)
TEXT ·lionF32NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	LION_COEFFICIENTS
	LOOP(STREAMS_PGM, WRITES_PM, LION)
	RET

// func dividerF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·dividerF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(DIVIDER_STREAMS, DIVIDER_WRITES, DIVIDER)
	RET

// func limitMNF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMNF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD n+32(FP), atN
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(STREAMS_PGMN, WRITES_PM, NOTHING)
	RET

// func limitMNVF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMNVF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD n+32(FP), atN
	MOVD v+40(FP), atV
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(STREAMS_PGMNV, WRITES_PMV, NOTHING)
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
	MOVD ahead+64(FP), front
	LOOP(STREAMS_PGMNVX, WRITES_PMVX, NOTHING)
	RET

// func limitF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(STREAMS_PG, WRITES_P, NOTHING)
	RET

// func limitMF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(STREAMS_PGM, WRITES_PM, NOTHING)
	RET

// func limitMVF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMVF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD v+40(FP), atV
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(STREAMS_PGMV, WRITES_PMV, NOTHING)
	RET

// func limitMVXF32NEON(c, p, grad, m, n, v, x *float32, count, ahead int)
TEXT ·limitMVXF32NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD grad+16(FP), atG
	MOVD m+24(FP), atM
	MOVD v+40(FP), atV
	MOVD x+48(FP), atX
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(STREAMS_PGMVX, WRITES_PMVX, NOTHING)
	RET

// mixed formats: float32, in which they are updated, and those of 16 bits

// func pnmMixedNEON(c *float32, count, ahead int)
TEXT ·pnmMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	PNM_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGMN, WRITES_PM, PNM)
	RET

// func adapnmMixedNEON(c *float32, count, ahead int)
TEXT ·adapnmMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	ADAPNM_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGMNV, WRITES_PMV, ADAPNM)
	RET

// func adapnmAMSGradMixedNEON(c *float32, count, ahead int)
TEXT ·adapnmAMSGradMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	ADAPNM_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGMNVX, WRITES_PMVX, ADAPNM_AMSGRAD)
	RET

// func sgdMixedNEON(c *float32, count, ahead int)
TEXT ·sgdMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	SGD_COEFFICIENTS
	LOOP_MIXED(STREAMS_PG, WRITES_P, SGD)
	RET

// func sgdMomentumMixedNEON(c *float32, count, ahead int)
TEXT ·sgdMomentumMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	SGD_MOMENTUM_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGM, WRITES_PM, SGD_MOMENTUM)
	RET

// func sgdNesterovMixedNEON(c *float32, count, ahead int)
TEXT ·sgdNesterovMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	SGD_MOMENTUM_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGM, WRITES_PM, SGD_NESTEROV)
	RET

// func adamMixedNEON(c *float32, count, ahead int)
TEXT ·adamMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	ADAM_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGMV, WRITES_PMV, ADAM)
	RET

// func adamAMSGradMixedNEON(c *float32, count, ahead int)
TEXT ·adamAMSGradMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	ADAM_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGMVX, WRITES_PMVX, ADAM_AMSGRAD)
	RET

// func lionMixedNEON(c *float32, count, ahead int)
TEXT ·lionMixedNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	LION_COEFFICIENTS
	LOOP_MIXED(STREAMS_PGM, WRITES_PM, LION)
	RET

// func mixedLimitNEON(c *float32, count, ahead int)
TEXT ·mixedLimitNEON(SB), NOSPLIT, $0-24
	ARGUMENTS_MIXED
	LOOP_LIMIT(STREAMS_PGMNVX, WRITES_PMVX)
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
	LOOP(STREAMS_PGMN, WRITES_PM, PNM)
	RET

// func adapnmF64NEON(c, p, grad, m, n, v *float64, count, ahead int)
TEXT ·adapnmF64NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMNV
	ADAPNM_COEFFICIENTS
	LOOP(STREAMS_PGMNV, WRITES_PMV, ADAPNM)
	RET

// func adapnmAMSGradF64NEON(c, p, grad, m, n, v, x *float64, count, ahead int)
TEXT ·adapnmAMSGradF64NEON(SB), NOSPLIT, $0-72
	ARGUMENTS_PGMNVX
	ADAPNM_COEFFICIENTS
	LOOP(STREAMS_PGMNVX, WRITES_PMVX, ADAPNM_AMSGRAD)
	RET

// func sgdF64NEON(c, p, grad *float64, count, ahead int)
TEXT ·sgdF64NEON(SB), NOSPLIT, $0-40
	ARGUMENTS_PG
	SGD_COEFFICIENTS
	LOOP(STREAMS_PG, WRITES_P, SGD)
	RET

// func sgdMomentumF64NEON(c, p, grad, m *float64, count, ahead int)
TEXT ·sgdMomentumF64NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(STREAMS_PGM, WRITES_PM, SGD_MOMENTUM)
	RET

// func sgdNesterovF64NEON(c, p, grad, m *float64, count, ahead int)
TEXT ·sgdNesterovF64NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	SGD_MOMENTUM_COEFFICIENTS
	LOOP(STREAMS_PGM, WRITES_PM, SGD_NESTEROV)
	RET

// func adamF64NEON(c, p, grad, m, v *float64, count, ahead int)
TEXT ·adamF64NEON(SB), NOSPLIT, $0-56
	ARGUMENTS_PGMV
	ADAM_COEFFICIENTS
	LOOP(STREAMS_PGMV, WRITES_PMV, ADAM)
	RET

// func adamAMSGradF64NEON(c, p, grad, m, v, x *float64, count, ahead int)
TEXT ·adamAMSGradF64NEON(SB), NOSPLIT, $0-64
	ARGUMENTS_PGMVX
	ADAM_COEFFICIENTS
	LOOP(STREAMS_PGMVX, WRITES_PMVX, ADAM_AMSGRAD)
	RET

// func lionF64NEON(c, p, grad, m *float64, count, ahead int)
TEXT ·lionF64NEON(SB), NOSPLIT, $0-48
	ARGUMENTS_PGM
	LION_COEFFICIENTS
	LOOP(STREAMS_PGM, WRITES_PM, LION)
	RET

// func dividerF64NEON(c, p, grad, m, n, v, x *float64, count, ahead int)
TEXT ·dividerF64NEON(SB), NOSPLIT, $0-72
	MOVD p+8(FP), atP
	MOVD count+56(FP), left
	MOVD ahead+64(FP), front
	LOOP(DIVIDER_STREAMS, DIVIDER_WRITES, DIVIDER)
	RET

// The sums of squares are float64 for both types: lane i is element i mod 2 of V(i/2).

// The squares of four float32 in V(16+i), added to lanes 4·i … 4·i+3.
#define SQUARES_F32(i) \
	VFCVTL(16+i, 24+i)      \
	VFCVTL2(16+i, 16+i)     \
	VFMUL(24+i, 24+i, 24+i) \
	VFMUL(16+i, 16+i, 16+i) \
	VFADD(24+i, 2*i, 2*i)   \
	VFADD(16+i, 2*i+1, 2*i+1)

// The squares of two float64 in V(16+i), added to lanes 2·i and 2·i+1.
#define SQUARES_F64(i) \
	VFMUL(16+i, 16+i, 16+i) \
	VFADD(16+i, i, i)

// One element for each lane.
#define LANES_F32 \
	FLDPQ (atG), (F16, F17)   \
	FLDPQ 32(atG), (F18, F19) \
	FLDPQ 64(atG), (F20, F21) \
	FLDPQ 96(atG), (F22, F23) \
	ALL_SQUARES_F32           \
	ADD $128, atG
#define ALL_SQUARES_F32 \
	SQUARES_F32(0) \
	SQUARES_F32(1) \
	SQUARES_F32(2) \
	SQUARES_F32(3) \
	SQUARES_F32(4) \
	SQUARES_F32(5) \
	SQUARES_F32(6) \
	SQUARES_F32(7)

// The same where eight elements of 16 bits are loaded at a time, and widened to V(16+i) and the one after it.
#define LANES_16(WIDEN) \
	FLDPQ (atG), (F16, F18)   \
	FLDPQ 32(atG), (F20, F22) \
	WIDEN(16)                 \
	WIDEN(18)                 \
	WIDEN(20)                 \
	WIDEN(22)                 \
	ALL_SQUARES_F32           \
	ADD $64, atG
#define LANES_BF16 LANES_16(WIDEN_BF16)
#define LANES_F16  LANES_16(WIDEN_F16)

#define LANES_F64 \
	FLDPQ (atG), (F16, F17)    \
	FLDPQ 32(atG), (F18, F19)  \
	FLDPQ 64(atG), (F20, F21)  \
	FLDPQ 96(atG), (F22, F23)  \
	FLDPQ 128(atG), (F24, F25) \
	FLDPQ 160(atG), (F26, F27) \
	FLDPQ 192(atG), (F28, F29) \
	FLDPQ 224(atG), (F30, F31) \
	SQUARES_F64(0)             \
	SQUARES_F64(1)             \
	SQUARES_F64(2)             \
	SQUARES_F64(3)             \
	SQUARES_F64(4)             \
	SQUARES_F64(5)             \
	SQUARES_F64(6)             \
	SQUARES_F64(7)             \
	SQUARES_F64(8)             \
	SQUARES_F64(9)             \
	SQUARES_F64(10)            \
	SQUARES_F64(11)            \
	SQUARES_F64(12)            \
	SQUARES_F64(13)            \
	SQUARES_F64(14)            \
	SQUARES_F64(15)            \
	ADD $256, atG

// The cache lines that LANES reads.
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

// SUM adds the squares of all elements, a positive multiple of 32, to the sums.
#define SUM(LANES, PREFETCH_LANES) \
	MOVD atSums, addr                                 \
	VLD1.P 64(addr), [V0.D2, V1.D2, V2.D2, V3.D2]     \
	VLD1.P 64(addr), [V4.D2, V5.D2, V6.D2, V7.D2]     \
	VLD1.P 64(addr), [V8.D2, V9.D2, V10.D2, V11.D2]   \
	VLD1.P 64(addr), [V12.D2, V13.D2, V14.D2, V15.D2] \
	CBZ  front, plain                                 \
ahead: \
	PREFETCH_LANES                                    \
	LANES                                             \
	SUBS $32, left                                    \
	BNE  ahead                                        \
	B    done                                         \
plain: \
	LANES                                             \
	SUBS $32, left                                    \
	BNE  plain                                        \
done: \
	VST1.P [V0.D2, V1.D2, V2.D2, V3.D2], 64(atSums)   \
	VST1.P [V4.D2, V5.D2, V6.D2, V7.D2], 64(atSums)   \
	VST1.P [V8.D2, V9.D2, V10.D2, V11.D2], 64(atSums) \
	VST1.P [V12.D2, V13.D2, V14.D2, V15.D2], 64(atSums)

// func sumSquaresF32NEON(sums *float64, grad *float32, count, ahead int)
TEXT ·sumSquaresF32NEON(SB), NOSPLIT, $0-32
	MOVD sums+0(FP), atSums
	MOVD grad+8(FP), atG
	MOVD count+16(FP), left
	MOVD ahead+24(FP), front
	SUM(LANES_F32, PREFETCH_F32)
	RET

// func sumSquaresBF16NEON(sums *float64, grad *uint16, count, ahead int)
TEXT ·sumSquaresBF16NEON(SB), NOSPLIT, $0-32
	MOVD sums+0(FP), atSums
	MOVD grad+8(FP), atG
	MOVD count+16(FP), left
	MOVD ahead+24(FP), front
	SUM(LANES_BF16, PREFETCH_16)
	RET

// func sumSquaresF16NEON(sums *float64, grad *uint16, count, ahead int)
TEXT ·sumSquaresF16NEON(SB), NOSPLIT, $0-32
	MOVD sums+0(FP), atSums
	MOVD grad+8(FP), atG
	MOVD count+16(FP), left
	MOVD ahead+24(FP), front
	SUM(LANES_F16, PREFETCH_16)
	RET

// func sumSquaresF64NEON(sums *float64, grad *float64, count, ahead int)
TEXT ·sumSquaresF64NEON(SB), NOSPLIT, $0-32
	MOVD sums+0(FP), atSums
	MOVD grad+8(FP), atG
	MOVD count+16(FP), left
	MOVD ahead+24(FP), front
	SUM(LANES_F64, PREFETCH_F64)
	RET

// func pause()
TEXT ·pause(SB), NOSPLIT, $0-0
	YIELD
	ISB $15 // most cores do not wait at YIELD, all do here
	RET
