//go:build !(arm64 || loong64 || ppc64 || ppc64le || riscv64 || s390x || amd64.v3)

package pnm

// compilerFuses tells whether Go's compiler turns x*y + z into one fused operation here.
const compilerFuses = false
