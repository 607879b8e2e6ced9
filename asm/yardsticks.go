package asm

import (
	"fmt"
	"slices"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// Yardsticks are what benchmarks measure the rules against; nothing else calls them. Each gets the coefficients and all
// streams, whichever it uses.
func Yardsticks(t Type) []Kernel {
	all := []Kernel{divider}
	if t.Name == Float32.Name {
		for _, rule := range Rules {
			all = append(all, limit(rule))
		}
	}
	return all
}

var anyStreams = []string{"p", "grad", "m", "n", "v", "x"}

// limit is the kernel with the streams and the prefetch of a rule but no arithmetic: every vector is loaded, and those of
// the streams that the rule writes are stored again, unchanged. It bounds the rule's speed from above, and since it moves
// bytes and not numbers, the one for float32 serves for all types.
func limit(rule Kernel) Kernel {
	return Kernel{
		Name:    rule.Name + "Limit",
		Args:    anyStreams,
		Streams: rule.Streams,
		Body: func(v *Vector) {
			for _, name := range rule.Streams {
				if x := v.Load(name); slices.Contains(rule.Writes, name) {
					v.Store(x, name)
				}
			}
		},
		Doc: "reads and writes the memory that " + rule.Name + " does, and changes nothing",
	}
}

// divider does what of an element of AdaPNM or Adam needs the divider, a square root and a division, and no more.
var divider = Kernel{
	Name:    "divider",
	Args:    anyStreams,
	Streams: []string{"p"},
	Body: func(v *Vector) {
		p := v.Load("p")
		v.Div(p, v.Sqrt(p))
	},
	Doc: "takes the square roots of p, divides by them, and writes nothing",
}

// mixedLimit is the same for all rules and formats at once. It takes a stream that is nil for one that the rule does not have,
// and copies from p what is copied out.
var mixedLimit = Kernel{
	Name:    "mixedLimit",
	Streams: anyStreams,
	Writes:  []string{"p", "m", "v", "x"},
	Body:    func(v *Vector) { v.mixed.move(anyStreams, []string{"p", "m", "v", "x"}) },
	Doc:     "reads and writes the memory that any rule does, and changes nothing but the copy of the parameters",
}

func (m *mixed) move(reads, writes []string) {
	for _, stream := range reads {
		x := m.vec()
		m.unlessNil(stream, func() {
			m.either(narrow[stream], func() {
				VMOVUPS(m.mem(stream, 2), m.half(x))
				m.prefetch(stream, 2)
				if slices.Contains(writes, stream) {
					m.storeHalf(x, stream)
				}
			}, func() {
				VMOVUPS(m.mem(stream, 4), x)
				m.prefetch(stream, 4)
				if slices.Contains(writes, stream) {
					VMOVUPS(x, m.mem(stream, 4))
				}
			})
		})
		if stream == "p" {
			m.unlessNil("out", func() { m.storeOut(x) })
		}
	}
}

func (m *mixed) unlessNil(stream string, do func()) {
	Comment(stream)
	m.branches++
	end := fmt.Sprintf("nil%d", m.branches)
	TESTQ(m.streams[stream], m.streams[stream])
	JZ(LabelRef(end))
	do()
	Label(end)
}
