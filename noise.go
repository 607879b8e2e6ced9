package pnm

import (
	"fmt"
	"math"
	"unsafe"

)

// The two momenta of PNM and AdaPNM are averages of disjoint sets of gradients. So their product measures the gradient, and their
// difference the noise. Let b = β1², and let the momenta m and n have had k and l updates: m is slot 0, k = ⌈t/2⌉ and l = ⌊t/2⌋ after step t.
// The sums of the weights in the two averages are 1−b^k and 1−b^l. In the type in which the rule computes,
//
//	p = (m/(1−b^k)) + (n/(1−b^l))           the inverses of the weights are rounded once, and then each operation
//	d = (m/(1−b^k)) − (n/(1−b^l))
//
// and Plus and Minus are the sums of the squares of all p and of all d, as norm.go defines them.

// NoiseSums are what [SumNoise] and [Options].Noise read of the two momenta of a tensor: the sums of the squares of their sum, Plus, and
// of their difference, Minus, each momentum divided by the sum of its weights. They are 0 if there is nothing to read: after step 1, when
// one momentum is still 0, and for rules without two momenta.
//
// [NoiseSums.Add] puts the parts of a tensor together. The words may also be added up by anything that adds int64, such as an all-reduce
// (see [Squares]): the result depends neither on how a tensor is cut nor on the order of the parts. Do not add the sums of different
// tensors: add their estimates.
type NoiseSums struct{ Plus, Minus Squares }

// Add adds the sums of another part of the tensor to s.
func (s *NoiseSums) Add(others *NoiseSums) {
	s.Plus.Add(&others.Plus)
	s.Minus.Add(&others.Minus)
}

// Noise is an estimate of a tensor's gradient and of its noise, from a single pair of momenta. Add up the fields over tensors to get those
// of a group or a model, and average them over steps: one reading is noisy. docs/noise.md derives the estimates.
type Noise struct {
	// Signal estimates |G|², where G is the mean of the gradients that the momenta averaged. It has no bias, so that it is negative
	// now and then where |G|² is small.
	Signal float64

	// Variance estimates tr Σ, the sum over all elements of the variance of one minibatch's gradient.
	Variance float64
}

// Scale returns Variance/Signal, the simple noise scale of McCandlish and others (arXiv 1812.06162), in minibatches: multiply it by the
// size of a minibatch to get it in samples. It is negative if Signal is. Average Signal and Variance, and not Scale.
func (n Noise) Scale() float64 { return n.Variance / n.Signal }

// Noise returns the estimates after so many steps of the tensor: step is the number of the step after which s was read. Before step 2 both
// are NaN. It returns an error for a rule without two momenta, an illegal rule, or a negative step.
func (s *NoiseSums) Noise(rule Rule, step int) (Noise, error) {
	if err := checkNoise(rule, step); err != nil {
		return Noise{}, err
	}
	if !hasTwoMomenta(rule) {
		return Noise{}, fmt.Errorf("pnm: %s does not keep two momenta, whose difference is the noise", rule.Name())
	}
	if step < 2 {
		return Noise{math.NaN(), math.NaN()}, nil
	}
	scratch := takeList() // coefficients in a local variable would be allocated
	defer scratch.putBack()
	b := &scratch.batch
	defer b.held.Take().Release()
	b.tensors = append(b.tensors, tensor{})
	rule.scalars(step, &b.tensors[0].c64)
	beta := b.tensors[0].c64.beta1
	k, l := updatesOf(step)
	plus, minus := s.Plus.value(), s.Minus.value()
	return Noise{(plus - minus) / 4, minus / (noiseLeft(beta, k) + noiseLeft(beta, l))}, nil
}

func checkNoise(rule Rule, step int) error {
	if err := checkRule(rule); err != nil {
		return err
	}
	if step < 0 {
		return &ValueError{"Noise", "Step", float64(step), "≥ 0, the number of steps performed"}
	}
	return nil
}

// hasNoise reports whether there is something to read of t's momenta after the step.
func (t *tensor) hasNoise() bool { return forms[t.form].Has("n") && t.step >= 2 }

func hasTwoMomenta(r Rule) bool { return forms[r.form()].Has("n") }

// updatesOf returns how many updates the momenta in slots 0 and 1 have had after a step.
func updatesOf(step int) (k, l int) { return step - step/2, step / 2 }

// noiseLeft is the variance of an average with decay b of k gradients, divided by that of one gradient: the sum of the squares of the
// weights (1−b)·b^i/(1−b^k), i < k.
func noiseLeft(b float64, k int) float64 {
	mass := emaMass(b, k)
	return (1 - b) * (2 - mass) / float64((1+b)*mass)
}

// value returns the sum of the squares, rounded to float64.
func (s *Squares) value() float64 {
	switch sum := s.sum(); {
	case sum.nan:
		return math.NaN()
	case sum.inf:
		return math.Inf(1)
	case sum.top == 0:
		return 0
	default:
		return math.Ldexp(sum.total(), 52*(sum.top-1+lowestBin))
	}
}

// SumNoise reads the momenta of all updates, shared among the workers of the pool (nil means the default pool), and returns the sums of each.
// It uses Rule, State and Skip of an update, and Step, which is here the number of the tensor's last step: the count of steps performed. The
// sums of tensors with Skip, of rules without two momenta, and of tensors before step 2 are 0.
//
// An error of one tensor is a *[TensorError], as in [UpdateAll]. A step that Options.Noise asks to read the momenta returns the same sums
// for less than a pass over the momenta costs.
func SumNoise(pool *Pool, updates []Update) ([]NoiseSums, error) {
	l := takeList()
	defer l.putBack()
	b := &l.batch
	defer b.held.Take().Release()
	for i := range updates {
		b.tensors = append(b.tensors, tensor{})
		if err := b.tensors[i].setMomenta(&updates[i]); err != nil {
			return nil, atTensor(i, err)
		}
	}
	b.plan(momenta)
	b.far = isFar(b.bytes())
	sums := make([]NoiseSums, len(updates))
	b.beginNoise()
	b.do(pool, measuring, b.bytes())
	b.endNoise(sums)
	return sums, nil
}

// setMomenta sets t to the momenta of an update; it stays empty if there is nothing to read.
func (t *tensor) setMomenta(u *Update) error {
	if u.Skip {
		return nil
	}
	if err := checkNoise(u.Rule, u.Step); err != nil {
		return err
	}
	if !hasTwoMomenta(u.Rule) {
		return nil
	}
	t.form = u.Rule.form()
	if err := t.checkSlots(u); err != nil {
		return err
	}
	t.p, t.s[0], t.s[1] = u.State[0], u.State[0], u.State[1] // the length and the type are those of the parameters
	for k := range 2 {
		if t.s[k].n != t.p.n {
			return t.wrongLength(2 + k)
		}
		if err := t.checkState(k); err != nil {
			return err
		}
	}
	if u.Step < 2 {
		*t = tensor{}
		return nil
	}
	t.step = u.Step
	u.Rule.scalars(u.Step, &t.c64)
	return nil
}

// A noiseSum are the sums of a tensor or of a part of it.
type noiseSum struct{ plus, minus sum }

// beginNoise clears the sums of all tensors.
func (b *batch) beginNoise() {
	b.noise = b.noise[:0]
	for range b.tensors {
		b.noise = append(b.noise, noiseSum{})
	}
}

// endNoise sets sums, which are 0, to those of all tensors.
func (b *batch) endNoise(sums []NoiseSums) {
	for i := range sums {
		sums[i].Plus.set(&b.noise[i].plus)
		sums[i].Minus.set(&b.noise[i].minus)
	}
}

// noiseLen is the number of elements whose p and d are kept in the L1 cache; lanes divides it.
const noiseLen = 1024

// A noiseReader reads the momenta of a part of a tensor.
type noiseReader struct {
	t   *tensor
	far bool       // the momenta come from memory
	w   [2]float64 // the inverse sums of the weights
	w32 [2]float32
	noiseSum
	room [2][noiseLen]float64 // p and d; float32 numbers use the first half
}

// readNoise reads the elements lo … hi−1 of tensor i. If it is a part of a step, it performs the step first, piece by piece, and reads each
// piece from the cache.
func (b *batch) readNoise(i, lo, hi int) (overflows int) {
	t := &b.tensors[i]
	r := noiseReader{t: t, far: b.far}
	k, l := updatesOf(t.step)
	r.w = [2]float64{1 / emaMass(t.c64.beta1, k), 1 / emaMass(t.c64.beta1, l)}
	r.w32 = [2]float32{float32(r.w[0]), float32(r.w[1])}
	for end := lo; lo < hi; lo = end {
		if end = hi; hi-lo > noiseLen {
			end = lo + noiseLen
			if t.isMixed() {
				end = t.blockBorder(end)
			}
		}
		if b.phase == updating {
			overflows += t.update(lo, end, b.far, b.zero)
		}
		r.read(lo, end)
	}
	b.adding.Lock()
	defer b.adding.Unlock()
	b.noise[i].plus.merge(&r.plus)
	b.noise[i].minus.merge(&r.minus)
	return overflows
}

// read adds at most noiseLen elements to the sums.
func (r *noiseReader) read(lo, hi int) {
	p, d := r.terms(lo, hi)
	r.plus.add(p, 0)
	r.minus.add(d, 0)
}

// terms computes p and d.
func (r *noiseReader) terms(lo, hi int) (p, d Vector) {
	m, n := &r.t.s[0], &r.t.s[1]
	for _, v := range [...]*Vector{m, n} {
		raceRead(v.cut(lo, hi).Bytes())
		raceRead(v.scalesOf(lo, hi))
	}
	f := f32
	if m.format == f64 {
		f = f64
	}
	p = Vector{at: unsafe.Pointer(&r.room[0]), n: hi - lo, layout: layout{format: f}}
	d = Vector{at: unsafe.Pointer(&r.room[1]), n: hi - lo, layout: layout{format: f}}
	switch m.format {
	case f64:
		noiseTerms(sliceOf[float64](p), sliceOf[float64](d), sliceOf[float64](m.cut(lo, hi)), sliceOf[float64](n.cut(lo, hi)), &r.w)
	case f32:
		noiseTerms(sliceOf[float32](p), sliceOf[float32](d), sliceOf[float32](m.cut(lo, hi)), sliceOf[float32](n.cut(lo, hi)), &r.w32)
	default:
		m.widen(sliceOf[float32](p), lo)
		n.widen(sliceOf[float32](d), lo)
		noiseTerms(sliceOf[float32](p), sliceOf[float32](d), sliceOf[float32](p), sliceOf[float32](d), &r.w32)
	}
	return p, d
}

// noiseTerms is the reference; m and n may be p and d.
func noiseTerms[T Float](p, d, m, n []T, w *[2]T) {
	d, m, n = d[:len(p)], m[:len(p)], n[:len(p)]
	for i := range p {
		x, y := T(w[0]*m[i]), T(w[1]*n[i])
		p[i], d[i] = x+y, x-y
	}
}
