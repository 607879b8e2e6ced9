package asm

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
)

// EmitPause emits the instruction that a worker executes between two polls.
func EmitPause() {
	TEXT("pause", attr.NOSPLIT, "func()")
	Doc("pause takes some hundred cycles, and leaves the core to its other thread.")
	for range 4 {
		PAUSE()
	}
	RET()
}
