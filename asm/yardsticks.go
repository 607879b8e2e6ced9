package asm

import "slices"

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
