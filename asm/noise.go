package asm

// Noise makes of the two momenta the numbers whose squares measure the gradient and its noise. The order of the elements of a pass does not
// matter. What it writes is float32 or float64; the momenta have any format of state.
var Noise = Kernel{
	Name:    "noise",
	Streams: []string{"plus", "minus", "m", "n"},
	Writes:  []string{"plus", "minus"},
	Scalars: []string{"k1", "k2"},
	Alive:   3,
	Body: func(v *Vectors) {
		x := v.Mul(v.C("k1"), v.Load("m"))
		y := v.Mul(v.C("k2"), v.Load("n"))
		v.Store(v.Add(x, y), "plus")
		v.Store(v.Sub(x, y), "minus")
	},
	Doc:   "works like noiseTerms",
	Whole: true,
}

// mixedNoise is the same for momenta in float32, bf16 and mxfp8.
var mixedNoise = Kernel{Name: Noise.Name + "Mixed", Streams: Noise.Streams, Scalars: Noise.Scalars, Body: Noise.Body, Doc: Noise.Doc}

// noiseFields are the fields of the engine's mixed that have what mixedNoise writes.
var noiseFields = map[string]string{"plus": "p", "minus": "grad"}
